"""The files of an artefact: written and compared with their source weight by weight, opened, or the source's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from compressor import encodings
from compressor.compilation.describe import TARGET
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


class FailedError(CompressorError):
    """Some weights are not stored as they were planned to be. failures: one for each."""

    def __init__(self, failures: Sequence[InexactError]) -> None:
        super().__init__(f"{failures[0]}. Nothing was published.")
        self.failures = failures


def write_all(
    fitted: Fitted,
    choices: Sequence[Choice],
    directory: Path,
    progress: Progress | None,
    metadata: Mapping[str, str],
    run: Run = stream,
) -> None:
    """Encodes the weights, and writes each at its place.

    run: what maps this over the weights.

    Raises:
        FailedError: some are not what they were planned to be.
    """
    target, weights = fitted.target, fitted.model.weights
    layout = target.layout(fitted.model, {choice.name: choice.legal for choice in choices}, metadata)
    task = partial(failure, partial(write, target.legalize, directory))
    failed: list[InexactError] = []
    for part, told in zip(layout.parts, _shares(layout.parts, weights, progress), strict=True):
        part.begin(directory)
        chosen = [pair for pair in zip(weights, choices, strict=True) if pair[0].name in part.places]
        own = [weight for weight, _ in chosen]
        written = run(task, own, [choice for _, choice in chosen], [part.places[weight.name] for weight in own])
        failed += filter(None, watched(written, own, "compress", told))
        if not failed:
            part.check(directory)
    if failed:
        raise FailedError(failed)


def _shares(parts: Sequence[Part], weights: Sequence[Weight], progress: Progress | None) -> Iterator[Progress | None]:
    """What is told of each part: the bytes that are done of all of them."""
    sizes = {weight.name: encodings.nbytes(weight.encoding) for weight in weights}
    total, before = sum(sizes.values()), 0
    for part in parts:
        yield None if progress is None else partial(_shifted, progress, before, total)
        before += sum(sizes[name] for name in part.places)


def _shifted(progress: Progress, before: int, total: int, phase: str, done: int, _: int) -> None:
    progress(phase, before + done, total)


def verify_all(
    fitted: Fitted, choices: Sequence[Choice], directory: Path, progress: Progress | None, run: Run = stream
) -> None:
    """Reads every weight back from the files and compares it with its source.

    run: what maps this over the weights.

    Raises:
        FailedError: some are not as they were.
    """
    weights = fitted.model.weights
    read = {weight.name: weight.encoding for weight in fitted.target.read(directory).weights}
    if missing := [weight.name for weight in weights if weight.name not in read]:
        raise CompressorError(f"{len(missing)} weights are missing from the artefact, the first one is {missing[0]}")
    compared = run(
        partial(failure, verify),
        weights,
        (read[weight.name] for weight in weights),
        (choice.form.loss for choice in choices),
    )
    if failed := [*filter(None, watched(compared, weights, "verify", progress))]:
        raise FailedError(failed)


def put_source(model: Model, target: Target, chosen: Plan, directory: Path) -> Plan | None:
    """Puts the source's files in the place of an artefact that is larger; the plan that they are."""
    source, made = _nbytes(model.files), _nbytes(contents(directory))
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
