"""What artefacts and models are, in the words of manifests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path

from compressor import encodings, sources, targets
from compressor.arrays import ArraySpec
from compressor.compilation.manifest import FileFacts, Manifest, WeightFacts
from compressor.compilation.plan import Choice, Plan, as_values
from compressor.compilation.versions import versions
from compressor.encodings import Dense
from compressor.model import Model
from compressor.recognition.find import as_declared, unlooked
from compressor.targets import Fitted, Target
from compressor.weight import Weight

TARGET, PIPELINE, VERSION = "compressor.target", "compressor.pipeline", "compressor.version"
"""What an artefact says about itself."""


def said(chosen: Plan) -> dict[str, str]:
    """What an artefact says about itself, in its metadata."""
    return {TARGET: chosen.target, PIPELINE: chosen.pipeline, **written()}


def written() -> dict[str, str]:
    """What every file says that this package writes of a model: constants that it computes are not folded again."""
    return {VERSION: version("compressor")}


def inspect(path: Path | str) -> Manifest:
    """What an artefact or any model file holds, read from the file itself and not from a manifest.

    path: a directory that `compress` wrote, or any file or folder that a source reads.

    Raises:
        CompressorError: it cannot be read.
    """
    model = sources.weights(Path(path))
    weights = tuple(_inspected(weight) for weight in model.weights)
    found = files(model.files, model.path if model.graph is None and model.path.is_dir() else model.path.parent)
    total = sum(file.nbytes for file in found)
    stored, dense = sum(weight.nbytes for weight in weights), sum(weight.dense_nbytes for weight in weights)
    told = model.metadata
    made_for = targets.get(told[TARGET]) if told.get(TARGET) in targets.names() else None
    return Manifest(
        target=told.get(TARGET, ""),
        pipeline=told.get(PIPELINE, ""),
        versions={"compressor": told[VERSION]} if VERSION in told else {},
        files=found,
        nbytes=total,
        dense_nbytes=total - stored + dense if made_for is None else _dense_nbytes(model, made_for),
        source_nbytes=0,
        weights_nbytes=stored,
        weights_dense_nbytes=dense,
        notes=model.notes,
        weights=weights,
    )


def manifest(fitted: Fitted, chosen: Plan, files: tuple[FileFacts, ...], notes: tuple[str, ...]) -> Manifest:
    """The manifest of an artefact of these files."""
    nbytes, dense = sum(file.nbytes for file in files), _dense_nbytes(fitted.model, fitted.target)
    if chosen.nbytes == chosen.dense_nbytes:  # nothing was compressed: the source's own files are no smaller form
        dense = min(dense, nbytes)
    return Manifest(
        target=chosen.target,
        pipeline=chosen.pipeline,
        versions=versions(),
        files=tuple(sorted(files, key=lambda file: file.name.split("/"))),
        nbytes=nbytes,
        dense_nbytes=dense,
        source_nbytes=sum(file.stat().st_size for file in fitted.model.files),
        weights_nbytes=chosen.nbytes,
        weights_dense_nbytes=chosen.dense_nbytes,
        notes=notes,
        weights=tuple(choice.facts for choice in chosen.choices),
    )


def _dense_nbytes(model: Model, target: Target) -> int:
    """The bytes of the baseline's files."""
    choices = [as_dense(weight) for weight in model.weights]
    return target.layout(model, {choice.name: choice.legal for choice in choices}, written()).nbytes


def as_dense(weight: Weight) -> Choice:
    """A weight as values: the choice of the baseline. What is pinned stays as it is."""
    found = unlooked(weight)
    form = as_declared(weight) if weight.pinned else as_values(found)
    return Choice(found, form, form.spec)


def files(paths: Iterable[Path], folder: Path, known: Mapping[str, Future[str]] = {}) -> tuple[FileFacts, ...]:
    """The facts of files, named from `folder` on; one elsewhere by its own name.

    known: digests that are being computed, by these names.
    """
    return tuple(_file(path, _name(path, folder), known) for path in paths)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _file(path: Path, name: str, known: Mapping[str, Future[str]]) -> FileFacts:
    return FileFacts(name, path.stat().st_size, _digest(path, known.get(name)))


def _digest(path: Path, known: Future[str] | None) -> str:
    if known is not None:
        return known.result()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inspected(weight: Weight) -> WeightFacts:
    encoding = weight.as_stored
    shape, dtype = encodings.shape(encoding), encodings.dtype(encoding)
    return WeightFacts(
        weight.name,
        shape,
        dtype.name,
        encodings.name(encoding),
        encodings.nbytes(encoding),
        encodings.nbytes(Dense(ArraySpec(shape, dtype))),
    )
