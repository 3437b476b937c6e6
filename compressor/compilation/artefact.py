"""The files of an artefact: written and compared with their source weight by weight, opened, or the source's own."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from compressor import encodings, specs
from compressor.compilation import describe
from compressor.compilation.describe import TARGET
from compressor.compilation.journal import Journal, key
from compressor.compilation.manifest import FileFacts
from compressor.compilation.plan import Choice, Plan
from compressor.compilation.planning import Progress, as_it_was, watched
from compressor.compilation.stream import InexactError, Run, failure, stream
from compressor.compilation.verify import verify
from compressor.compilation.write import write
from compressor.errors import CompressorError
from compressor.formats.layout import Part
from compressor.model import Model
from compressor.targets import Fitted, Target

_DIGESTS = 4
"""Files whose digests are computed at a time."""


class FailedError(CompressorError):
    """Some weights are not stored as they were planned to be. failures: one for each."""

    def __init__(self, failures: Sequence[InexactError]) -> None:
        super().__init__(f"{failures[0]}. Nothing was published.")
        self.failures = failures


@dataclass(frozen=True)
class Work:
    """What is done with the weights of a model.

    fitted, choices: the model as the target has it, and what its weights become.
    directory: where the artefact is written.
    run: what maps a function over weights.
    progress: what is told.
    """

    fitted: Fitted
    choices: Sequence[Choice]
    directory: Path
    progress: Progress | None
    run: Run = stream

    def write(self, part: Part) -> list[InexactError]:
        """Encodes the weights of a part, and writes each at its place; those that are not what was planned."""
        part.begin(self.directory)
        places = [part.places[weight.name] for weight in self.fitted.model.weights]
        task = partial(failure, partial(write, self.fitted.target.legalize, self.directory))
        failed = self._each("compress", task, self.choices, places)
        if not failed:
            part.check(self.directory)
        return failed

    def verify(self, file: str = "") -> list[InexactError]:
        """Reads the weights back from the artefact, or a file of it, and compares each with its source.

        Raises:
            CompressorError: one is missing.
        """
        read = {one.name: one.encoding for one in self.fitted.target.read(self.directory / file).weights}
        names = [weight.name for weight in self.fitted.model.weights]
        if missing := [name for name in names if name not in read]:
            raise CompressorError(f"{len(missing)} weights are missing from the artefact, the first is {missing[0]}")
        losses = (choice.form.loss for choice in self.choices)
        return self._each("verify", partial(failure, verify), (read[name] for name in names), losses)

    def _each(self, phase: str, task: Callable[..., InexactError | None], *others: Iterable[Any]) -> list[InexactError]:
        weights = self.fitted.model.weights
        return [*filter(None, watched(self.run(task, weights, *others), weights, phase, self.progress))]

    def of(self, part: Part, progress: Progress | None) -> Work:
        """The same for the weights of a part."""
        pairs = [
            (weight, choice)
            for weight, choice in zip(self.fitted.model.weights, self.choices, strict=True)
            if weight.name in part.places
        ]
        model = replace(self.fitted.model, weights=[weight for weight, _ in pairs])
        chosen = [choice for _, choice in pairs]
        return replace(self, fitted=replace(self.fitted, model=model), choices=chosen, progress=progress)


def write_all(work: Work, metadata: Mapping[str, str], kept: Journal | None = None) -> Mapping[str, FileFacts]:
    """Writes the parts one by one. One with a file of its own is read back, compared and kept before the next.

    Returns the facts of the files that are kept; the others are in the directory.

    Raises:
        FailedError: some weights are not what they were planned to be, or not read back as they were.
    """
    layout = work.fitted.target.layout(work.fitted.model, {one.name: one.legal for one in work.choices}, metadata)
    failed: list[InexactError] = []
    files: list[str] = []
    with _keeping(kept, work.directory) as keep:
        for part, told in zip(layout.parts, _shares(layout.parts, work), strict=True):
            some = work.of(part, told)
            if not part.file or kept is None:
                failed += some.write(part)
                continue
            content = _key(some, metadata)
            files.append(part.file)
            if not kept.has(part.file, content):
                wrong = some.write(part) or some.verify(part.file)
                failed += wrong
                if not wrong:
                    keep(part.file, content)
    if failed:
        raise FailedError(failed)
    return {} if kept is None else {file: kept.parts[file][1] for file in files}


@contextmanager
def _keeping(kept: Journal | None, directory: Path) -> Iterator[Callable[[str, str], None]]:
    """A function that keeps a verified file, with the key of what it holds, once its digest is known.

    That is computed while the next ones are written, by a few threads: workers do not wait for it. All are kept when
    the block ends, however it does.
    """
    pending: deque[tuple[str, str, Future[tuple[FileFacts, ...]]]] = deque()

    def settle(*, all_of_them: bool) -> None:
        while pending and kept is not None and (all_of_them or pending[0][2].done()):
            file, content, found = pending.popleft()
            (facts,) = found.result()
            kept.keep(file, content, facts, directory)

    with ThreadPoolExecutor(_DIGESTS) as pool:

        def keep(file: str, content: str) -> None:
            pending.append((file, content, pool.submit(describe.files, [directory / file], directory)))
            settle(all_of_them=False)

        try:
            yield keep
        finally:
            settle(all_of_them=True)


def _key(work: Work, metadata: Mapping[str, str]) -> str:
    """What tells a part from others of the same state: the form of each weight."""
    forms = [(one.name, specs.to_json(one.legal), vars(one.form.loss)) for one in work.choices]
    return key([forms, dict(metadata)])


def _shares(parts: Sequence[Part], work: Work) -> Iterator[Progress | None]:
    """What is told of each part: the bytes that are done of all of them."""
    sizes = {weight.name: encodings.nbytes(weight.encoding) for weight in work.fitted.model.weights}
    total, before = sum(sizes.values()), 0
    for part in parts:
        yield None if work.progress is None else partial(_shifted, work.progress, before, total)
        before += sum(sizes[name] for name in part.places)


def _shifted(progress: Progress, before: int, total: int, phase: str, done: int, _: int) -> None:
    progress(phase, before + done, total)


def put_source(model: Model, target: Target, chosen: Plan, directory: Path, beside: int = 0) -> Plan | None:
    """Puts the source's files in the place of an artefact that is larger; the plan that they are.

    beside: the bytes of what lies elsewhere yet.
    """
    source, made = _nbytes(model.files), _nbytes(contents(directory)) + beside
    if made <= source:
        return None
    untrue = TARGET if model.metadata.get(TARGET, target.name) != target.name else ""
    with TemporaryDirectory(prefix=".", dir=directory) as name:
        folder = Path(name)
        if not target.copy(model, folder, untrue) or (copied := _nbytes(contents(folder))) >= made:
            return None
        for old in (entry for entry in directory.iterdir() if entry != folder):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        for new in folder.iterdir():
            new.rename(directory / new.name)
    told = f"the smallest artefact that was found takes {made:,} bytes, the source {copied:,}"
    return as_it_was(model, chosen, told)


def opened(model: Model, target: Target, directory: Path) -> tuple[str, ...]:
    """Opens an artefact in the target's runtime; what there is to say where neither it nor its source opens.

    Raises:
        CompressorError: it opens the source, and not the artefact.
    """
    reason = target.refusal(directory)
    if reason and not target.refusal(model.path):
        raise CompressorError(
            f"the artefact of {model.path} would not open: {reason}. Nothing was published. Leave out what "
            "caused it, by another --pipeline for example, and report it."
        )
    return (f"neither the artefact nor its source opens here: {reason}",) if reason else ()


def contents(directory: Path) -> Iterator[Path]:
    """The files in a directory, in no order."""
    return (path for path in directory.rglob("*") if path.is_file())


def _nbytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)
