"""From a model to a verified artefact: fit, look, plan, encode, write, read back, compare, publish."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from compressor import encodings, sources, targets
from compressor.arrays import ArraySpec
from compressor.compilation import publish
from compressor.compilation.manifest import FileFacts, Manifest, WeightFacts
from compressor.compilation.pipelines import UNCOMPRESSED
from compressor.compilation.pipelines import get as get_pipeline
from compressor.compilation.plan import Choice, Plan, as_values, plan
from compressor.compilation.planning import (
    Progress,
    Request,
    Taken,
    as_it_was,
    found,
    look,
    mended,
    planned,
    take,
    watched,
)
from compressor.compilation.stream import InexactError, failure, stream
from compressor.compilation.verify import verify
from compressor.compilation.write import write
from compressor.encodings import Dense
from compressor.errors import CompressorError
from compressor.model import Model, unchanged
from compressor.recognition import schemes
from compressor.recognition.find import as_declared, unlooked
from compressor.recognition.findings import Detection, Settings
from compressor.targets import Fitted, Target
from compressor.weight import Weight

_TARGET, _PIPELINE, _VERSION = "compressor.target", "compressor.pipeline", "compressor.version"
"""What an artefact says about itself."""


def detect(
    model: Model | Path | str,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    *,
    progress: Progress | None = None,
) -> Detection:
    """What every weight of a model is, and the ways to store it.

    Raises:
        CompressorError: the model cannot be read.
    """
    model = _model(model)
    with unchanged(model.stamps):
        return Detection(settings, tuple(look(model, settings, progress, sampled=False)))


def dry_run(
    model: Model | Path | str,
    *,
    target: str | Target = targets.DEFAULT,
    pipeline: str = "auto",
    detection: Detection | None = None,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> Plan:
    """What `compress` would do: the form of every weight on a target, its size, and every refusal with its reason.

    Raises:
        UsageError: no such target or pipeline.
        CompressorError: the model cannot be read, or `detection` is of another one.
    """
    model = _model(model)
    asked = _request(_target(target), pipeline, detection, settings, progress)
    with unchanged(model.stamps):
        if model.graph is None:  # weights alone: what the target would make of them in a graph is not known
            return plan(found(model, asked), asked.target, asked.pipeline)
        return planned(take(model, asked), asked)


def compress(
    model: Model | Path | str,
    out: Path | str,
    *,
    target: str | Target = targets.DEFAULT,
    pipeline: str = "auto",
    detection: Detection | None = None,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> Manifest:
    """Writes the artefact and its manifest to the directory `out`, verified before it appears there.

    Raises:
        UsageError: no such target or pipeline, or `out` holds what this package has not written.
        CompressorError: the model cannot be read, a weight read back differs, or the disk is full.
    """
    model = _whole(model)
    # Every weight is compared with its source before anything is published, so a sample of each is enough to plan by;
    # where it missed a value, which the comparison shows, the weight is looked at as a whole.
    asked = _request(_target(target), pipeline, detection, settings, progress, sampled=True)
    publish.check_directory(Path(out), (model.path, *model.stamps))
    with publish.directory(Path(out)) as directory, unchanged(model.stamps):
        return _settled(take(model, asked), asked, directory)


def write_baseline(model: Model | Path | str, out: Path | str, *, target: str | Target = targets.DEFAULT) -> Model:
    """Writes the same model for the same target with every weight dense: what a compressed one is compared with.

    Returns the model as the target has it, by which a session of this one and of compressed ones can be opened.

    Raises:
        UsageError: no such target, or `out` holds what this package has not written.
        CompressorError: the model cannot be read, or the disk is full.
    """
    model, chosen = _whole(model), _target(target)
    publish.check_directory(Path(out), (model.path, *model.stamps))
    with publish.directory(Path(out)) as directory, unchanged(model.stamps):
        fitted = chosen.fit(model, Request(chosen, UNCOMPRESSED, Settings()))
        choices = [_dense(weight) for weight in fitted.model.weights]
        _write(fitted, choices, directory, None, {})
        _verify(fitted, choices, directory, None)
    return fitted.model


def inspect(path: Path | str) -> Manifest:
    """What an artefact or any model file holds, read from the file itself and not from a manifest.

    Raises:
        CompressorError: it cannot be read.
    """
    model = sources.read(Path(path))
    weights = tuple(_inspected(weight) for weight in model.weights)
    folder = model.path if model.graph is None and model.path.is_dir() else model.path.parent
    files = tuple(_file(file, folder) for file in model.files)
    total = sum(file.nbytes for file in files)
    stored, dense = sum(weight.nbytes for weight in weights), sum(weight.dense_nbytes for weight in weights)
    said = model.metadata
    made_for = targets.get(said[_TARGET]) if said.get(_TARGET) in targets.names() else None
    whole = total - stored + dense if made_for is None else _dense_nbytes(model, made_for)
    versions = {"compressor": said[_VERSION]} if _VERSION in said else {}
    return Manifest(
        said.get(_TARGET, ""),
        said.get(_PIPELINE, ""),
        versions,
        files,
        total,
        whole,
        0,
        stored,
        dense,
        model.notes,
        weights,
    )


def _request(
    target: Target,
    pipeline: str,
    detection: Detection | None,
    settings: Settings,
    progress: Progress | None,
    *,
    sampled: bool = False,
) -> Request:
    settings = detection.settings if detection else settings
    return Request(target, get_pipeline(pipeline, settings.threshold), settings, progress, detection, sampled)


class _FailedError(CompressorError):
    """Some weights are not stored as they were planned to be. failures: one for each."""

    def __init__(self, failures: Sequence[InexactError]) -> None:
        super().__init__(f"{failures[0]}. Nothing was published.")
        self.failures = failures


def _settled(taken: Taken, asked: Request, directory: Path) -> Manifest:
    """Writes, reads back and compares; a form that fails costs its weight that form, and all is written again.

    It ends: each time some weight is looked at as a whole for the first time, or has a form less.
    """
    while True:
        chosen = planned(taken, asked)
        try:
            return _written(taken.fitted, chosen, asked.progress, directory)
        except _FailedError as error:
            publish.empty(directory)
            taken = mended(taken, chosen, error.failures, asked)


def _written(fitted: Fitted, chosen: Plan, progress: Progress | None, directory: Path) -> Manifest:
    """Writes, reads back, compares; the files' digests are computed meanwhile.

    Raises:
        _FailedError: some weights cannot be stored so, or are not read back as they were.
    """
    target, model = fitted.target, fitted.model
    with ThreadPoolExecutor(1) as executor:
        said = {_TARGET: chosen.target, _PIPELINE: chosen.pipeline, _VERSION: version("compressor")}
        _write(fitted, chosen.choices, directory, progress, said)
        chosen = _as_it_was(model, target, chosen, directory) or chosen
        written = _files(directory)
        files = executor.submit(lambda: tuple(_file(file, directory) for file in written))
        _verify(fitted, chosen.choices, directory, progress)
        notes = (*chosen.notes, *_opened(model, target, directory))
        manifest = _manifest(model, chosen, files.result(), _dense_nbytes(model, target), notes)
        (directory / publish.MANIFEST).write_text(manifest.to_json(), encoding="utf-8", newline="\n")
    return manifest


def _as_it_was(model: Model, target: Target, chosen: Plan, directory: Path) -> Plan | None:
    """Puts the source's files in the place of an artefact that is larger; the plan that they are."""
    source, made = _nbytes(model.files), _nbytes(_files(directory))
    if made <= source:
        return None
    untrue = _TARGET if model.metadata.get(_TARGET, target.name) != target.name else ""
    with TemporaryDirectory(prefix=".", dir=directory) as name:
        folder = Path(name)
        if not target.copy(model, folder, untrue) or (copied := _nbytes(_files(folder))) >= made:
            return None
        for old in (entry for entry in directory.iterdir() if entry != folder):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        for new in folder.iterdir():
            new.rename(directory / new.name)
    told = f"the smallest artefact that was found takes {made:,} bytes, the source {copied:,}"
    return as_it_was(model, chosen, told)


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _write(
    fitted: Fitted,
    choices: Sequence[Choice],
    directory: Path,
    progress: Progress | None,
    metadata: Mapping[str, str],
) -> None:
    """Encodes the weights, and writes each at its place.

    Raises:
        _FailedError: some are not what they were planned to be.
    """
    target, weights = fitted.target, fitted.model.weights
    layout = target.layout(fitted.model, {choice.name: choice.legal for choice in choices}, metadata)
    layout.begin(directory)
    task = partial(failure, partial(write, target.legalize, directory))
    written = stream(task, weights, choices, (layout.places[weight.name] for weight in weights))
    if failed := [*filter(None, watched(written, weights, "compress", progress))]:
        raise _FailedError(failed)
    layout.check(directory)


def _verify(fitted: Fitted, choices: Sequence[Choice], directory: Path, progress: Progress | None) -> None:
    """Reads every weight back from the files and compares it with its source.

    Raises:
        _FailedError: some are not as they were.
    """
    weights = fitted.model.weights
    read = {weight.name: weight.encoding for weight in fitted.target.read(directory).weights}
    if missing := [weight.name for weight in weights if weight.name not in read]:
        raise CompressorError(f"{len(missing)} weights are missing from the artefact, the first one is {missing[0]}")
    compared = stream(
        partial(failure, verify),
        weights,
        (read[weight.name] for weight in weights),
        (choice.form.loss for choice in choices),
    )
    if failed := [*filter(None, watched(compared, weights, "verify", progress))]:
        raise _FailedError(failed)


def _opened(model: Model, target: Target, directory: Path) -> tuple[str, ...]:
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


def _target(target: str | Target) -> Target:
    return targets.get(target) if isinstance(target, str) else target


def _model(model: Model | Path | str) -> Model:
    return model if isinstance(model, Model) else sources.read(Path(model))


def _whole(model: Model | Path | str) -> Model:
    """A model with its graph.

    Raises:
        CompressorError: the file holds weights alone, which detect, inspect and dry_run need no more of.
    """
    model = _model(model)
    if model.graph is None:
        raise CompressorError(
            f"{model.path}: holds weights without a graph; first run `compressor export {model.path} DIRECTORY`, with "
            "export.factory in params.yaml for a state dict, or with transformers installed for its folders."
        )
    return model


def _dense_nbytes(model: Model, target: Target) -> int:
    """The bytes of the baseline's files."""
    choices = [_dense(weight) for weight in model.weights]
    return target.layout(model, {choice.name: choice.legal for choice in choices}).nbytes


def _dense(weight: Weight) -> Choice:
    """A weight as values: the choice of the baseline. What is pinned stays as it is."""
    found = unlooked(weight)
    form = as_declared(weight) if weight.pinned else as_values(found)
    return Choice(found, form, form.spec)


def _manifest(model: Model, chosen: Plan, files: tuple[FileFacts, ...], dense: int, notes: tuple[str, ...]) -> Manifest:
    return Manifest(
        target=chosen.target,
        pipeline=chosen.pipeline,
        versions=_versions(),
        files=files,
        nbytes=sum(file.nbytes for file in files),
        dense_nbytes=dense,
        source_nbytes=_nbytes(model.files),
        weights_nbytes=chosen.nbytes,
        weights_dense_nbytes=chosen.dense_nbytes,
        notes=notes,
        weights=tuple(choice.facts for choice in chosen.choices),
    )


def _nbytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _inspected(weight: Weight) -> WeightFacts:
    encoding = weight.encoding
    shape, dtype = encodings.shape(encoding), encodings.dtype(encoding)
    return WeightFacts(
        weight.name,
        shape,
        dtype.name,
        encodings.name(encoding),
        encodings.nbytes(encoding),
        encodings.nbytes(Dense(ArraySpec(shape, dtype))),
    )


def _file(path: Path, folder: Path) -> FileFacts:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
    return FileFacts(name, path.stat().st_size, digest)


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in sorted({"compressor", "ml-dtypes", "numpy", *targets.packages(), *schemes.packages()}):
        with suppress(PackageNotFoundError):  # a runtime may be installed under another name
            found[package] = version(package)
    return found
