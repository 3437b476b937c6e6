"""The files of an artefact: written and compared with their source weight by weight, opened, or the source's own."""

from __future__ import annotations

import functools
import itertools
import shutil
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from compressor import encodings, specs
from compressor.compilation import describe
from compressor.compilation.describe import TARGET
from compressor.compilation.digests import Digests
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
from compressor.weight import Weight

_DIGESTS = 4
"""Files whose digests are computed at a time."""

Steps = Generator[None, None, list[InexactError]]
"""Work that pauses each time workers have something to do; the weights that are not what they were planned to be."""


_FOLLOWED = 16 << 20
"""Bytes from which on the digest of a file is not left for later."""


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
    abreast: the weights whose files are written at a time; a file of more is alone.
    digests: what computes those of large files while they are written.
    """

    fitted: Fitted
    choices: Sequence[Choice]
    directory: Path
    progress: Progress | None
    run: Run = stream
    abreast: int = 1
    digests: Digests | None = None

    def write(self, part: Part) -> Steps:
        """Encodes the weights of a part, and writes each at its place; those that are not what was planned."""
        part.begin(self.directory)
        names = [weight.name for weight in self.fitted.model.weights]
        places = [part.places[name] for name in names]
        task = partial(failure, partial(write, self.fitted.target.legalize, self.directory))
        followed = part.followed
        if self.digests is None or followed is None or followed.nbytes < _FOLLOWED or not names:
            failed = yield from self._each("compress", task, self.choices, places)
        else:
            with self.digests.following(self.directory, followed.file) as complete:
                done = map(complete, followed.complete(names))
                failed = yield from self._each("compress", task, self.choices, places, done=done)
        if not failed:
            part.check(self.directory)
        return failed

    def verify(self, file: str = "") -> Steps:
        """Reads the weights back from the artefact, or a file of it, and compares each with its source.

        Raises:
            CompressorError: one is missing.
        """
        read = {one.name: one.encoding for one in self.fitted.target.read(self.directory / file).weights}
        names = [weight.name for weight in self.fitted.model.weights]
        if missing := [name for name in names if name not in read]:
            raise CompressorError(f"{len(missing)} weights are missing from the artefact, the first is {missing[0]}")
        losses = (choice.form.loss for choice in self.choices)
        return (yield from self._each("verify", partial(failure, verify), (read[name] for name in names), losses))

    def _each(
        self,
        phase: str,
        task: Callable[..., InexactError | None],
        *others: Iterable[Any],
        done: Iterator[None] = itertools.repeat(None),  # noqa: B008 - it has no state
    ) -> Steps:
        """The failures of a task that is done with each weight. done: what steps on after each."""
        weights = self.fitted.model.weights
        results = (result for result, _ in zip(self.run(task, weights, *others), done, strict=False))
        yield
        return [*filter(None, watched(results, weights, phase, self.progress))]

    def skip(self) -> None:
        """Tells that all of it is done."""
        if self.progress is not None:
            nbytes = sum(encodings.nbytes(weight.encoding) for weight in self.fitted.model.weights)
            for phase in ("compress", "verify"):
                self.progress(phase, nbytes, nbytes)

    @functools.cached_property
    def _by_name(self) -> Mapping[str, tuple[Weight, Choice]]:
        return {one[0].name: one for one in zip(self.fitted.model.weights, self.choices, strict=True)}

    def of(self, part: Part, progress: Progress | None) -> Work:
        """The same for the weights of a part."""
        pairs = [self._by_name[name] for name in part.places]
        model = replace(self.fitted.model, weights=[weight for weight, _ in pairs])
        chosen = [choice for _, choice in pairs]
        return replace(self, fitted=replace(self.fitted, model=model), choices=chosen, progress=progress)


def write_all(work: Work, metadata: Mapping[str, str], kept: Journal | None = None) -> Mapping[str, FileFacts]:
    """Writes the parts, some of them abreast. One with a file of its own is read back, compared and kept.

    Returns the facts of the files that are kept; the others are in the directory.

    Raises:
        FailedError: some weights are not what they were planned to be, or not read back as they were.
    """
    layout = work.fitted.target.layout(work.fitted.model, {one.name: one.legal for one in work.choices}, metadata)
    told = _together(work.progress, sum(encodings.nbytes(one.encoding) for one in work.fitted.model.weights))
    with _keeping(kept, work.directory) as keep:

        def whole(some: Work, part: Part) -> Steps:
            """A part from its first weight to its place among those that are kept."""
            if not part.file or kept is None:
                return (yield from some.write(part))
            content = _key(some, metadata)
            if kept.has(part.file, content):
                some.skip()
                return []
            wrong = (yield from some.write(part)) or (yield from some.verify(part.file))
            if not wrong:
                keep(part.file, content)
            return wrong

        parts = ((part, work.of(part, told())) for part in layout.parts)
        steps = ((len(some.choices), whole(some, part)) for part, some in parts)
        failed = [*chain.from_iterable(_abreast(steps, work.abreast))]
    if failed:
        raise FailedError(failed)
    return {} if kept is None else {part.file: kept.parts[part.file][1] for part in layout.parts if part.file}


def finished(steps: Steps) -> list[InexactError]:
    """What comes of some work once all of its steps are done."""
    return [*chain.from_iterable(_abreast([(1, steps)], 1))]


def _abreast(begun: Iterable[tuple[int, Steps]], most: int) -> Iterator[list[InexactError]]:
    """What comes of each work, all of whose steps are done, of as many weights at a time as may be, or of one work.

    Each is begun as soon as it may, then they go on in turn: while one waits for its weights, workers have others.
    """
    at_work: deque[tuple[int, Steps]] = deque()

    def turn(weights: int, steps: Steps) -> Iterator[list[InexactError]]:
        try:
            next(steps)
        except StopIteration as end:
            yield end.value
        else:
            at_work.append((weights, steps))

    try:
        for weights, steps in begun:
            while at_work and weights + sum(others for others, _ in at_work) > most:
                yield from turn(*at_work.popleft())
            yield from turn(weights, steps)
        while at_work:
            yield from turn(*at_work.popleft())
    finally:
        for _, steps in at_work:
            steps.close()


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


def _together(progress: Progress | None, total: int) -> Callable[[], Progress | None]:
    """What makes for each part what is told of it: the bytes that are done of all of them."""
    done: Counter[str] = Counter()

    def one() -> Progress | None:
        before: Counter[str] = Counter()

        def told(phase: str, now: int, _: int) -> None:
            done[phase] += now - before[phase]
            before[phase] = now
            assert progress is not None
            progress(phase, done[phase], total)

        return None if progress is None else told

    return one


def put_source(
    model: Model, target: Target, chosen: Plan, directory: Path, digests: Digests, beside: int = 0
) -> Plan | None:
    """Puts the source's files in the place of an artefact that is larger; the plan that they are.

    digests: of what is replaced then. beside: the bytes of what lies elsewhere yet.
    """
    source, made = _nbytes(model.files), _nbytes(contents(directory)) + beside
    if made <= source:
        return None
    untrue = TARGET if model.metadata.get(TARGET, target.name) != target.name else ""
    with TemporaryDirectory(prefix=".", dir=directory) as name:
        folder = Path(name)
        if not target.copy(model, folder, untrue) or (copied := _nbytes(contents(folder))) >= made:
            return None
        digests.settle()
        digests.found.clear()
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
