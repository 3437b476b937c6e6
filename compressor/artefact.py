"""From a model to a verified artefact: detect, plan, encode, legalize, write, read back, compare, publish."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from compressor import encodings, publish, sources, targets
from compressor.arrays import ArraySpec
from compressor.detection import Detection, Finding, Settings, find
from compressor.encodings import Dense, Encoding
from compressor.errors import CompressorError
from compressor.manifest import FileFacts, Manifest, WeightFacts
from compressor.model import Model, Weight
from compressor.passes import InexactError, run, stream
from compressor.passes.encode import encode
from compressor.passes.legalize import legalize
from compressor.passes.pack import pack
from compressor.passes.verify import Allowed, verify
from compressor.pipelines import PassPipeline
from compressor.pipelines import get as get_pipeline
from compressor.plan import Choice, Plan, choose, plan
from compressor.schemes import Candidate, linear_quantize, palettize
from compressor.sessions import HAS_CORE_ML
from compressor.targets import Target

MANIFEST = "manifest.json"

_TARGET, _PIPELINE, _VERSION = "compressor.target", "compressor.pipeline", "compressor.version"
"""What an artefact says about itself."""

_LITTLE = 1.01
"""A table that takes so much more than a scale is not worth rounding the scale."""

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""(phase: `detect`, `compress` or `verify`; dense bytes done; dense bytes in all)."""


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
    return Detection(settings, tuple(_findings(_model(model), settings, progress, sampled=False)))


def dry_run(
    model: Model | Path | str,
    *,
    target: str | Target = "onnxruntime",
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
    settings = detection.settings if detection else settings
    asked = _Request(_target(target), get_pipeline(pipeline), settings, progress)
    model = _model(model)
    if detection is None:
        detection = detect(model, settings, progress=progress)
    if not model.graphs:  # weights alone: what the target would make of them in a graph is not known
        return plan(_matching(detection.findings, model), asked.target, asked.pipeline)
    return _planned(model, _matching(detection.findings, model), asked, sampled=False)[1]


def compress(
    model: Model | Path | str,
    out: Path | str,
    *,
    target: str | Target = "onnxruntime",
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
    model, asked = _whole(model), _Request(_target(target), get_pipeline(pipeline), settings, progress)
    publish.check_directory(Path(out), (model.path, *model.stamps))
    if detection is None:
        # Every weight is compared with its source before anything is published, so a sample of each is enough to plan
        # by; where it missed a value, which the comparison shows, the weights are looked at as a whole.
        try:
            findings = _findings(model, settings, progress, sampled=True)
            return _publish(*_planned(model, findings, asked, sampled=True), asked, Path(out))
        except InexactError:
            detection = detect(model, settings, progress=progress)
    return _publish(*_planned(model, _matching(detection.findings, model), asked, sampled=False), asked, Path(out))


def write_baseline(model: Model | Path | str, out: Path | str, *, target: str | Target = "onnxruntime") -> None:
    """Writes the same model for the same target with every weight dense: what a compressed one is compared with.

    Raises:
        UsageError: no such target, or `out` holds what this package has not written.
        CompressorError: the model cannot be read, or the disk is full.
    """
    model, chosen = _whole(model), _target(target)
    publish.check_directory(Path(out), (model.path, *model.stamps))
    model = chosen.prepare(model, lambda _: 0)
    with publish.directory(Path(out)) as directory:
        choices = [_dense(weight) for weight in model.weights]
        _write(model, chosen, choices, directory, None, {})
        _verify(model, chosen, choices, directory, None)


def runnable(model: Model | Path | str, artefact: Path, folder: Path, *, target: str | Target) -> Path:
    """A file that this machine can run and that computes what an artefact does: the artefact's own if it can.

    Where the target's runtime is not here, it is `model` as ONNX in `folder`, uncompressed, its weights with the values
    that the artefact has, and computes in float32.

    Raises:
        CompressorError: the artefact cannot be read, or was made from another model.
    """
    chosen, stored = _target(target), sources.read(artefact)
    if not chosen.precision or (HAS_CORE_ML and "coreml" in stored.graphs):
        return stored.path
    model = _model(model)
    restored = chosen.restored(model, stored)
    upcoming = next(restored, None)
    weights: list[Weight] = []
    for weight in model.weights:
        if upcoming is not None and upcoming[0] == weight.name:
            weights.append(replace(weight, encoding=Dense(upcoming[1].astype(encodings.dtype(weight.encoding)))))
            upcoming = next(restored, None)
        else:
            weights.append(weight)
    plain = targets.get("onnxruntime")
    plain.write(model, {weight.name: encodings.spec(weight.encoding) for weight in weights}, weights, folder)
    return sources.read(folder).path


def inspect(path: Path | str) -> Manifest:
    """What an artefact or any model file holds, read from the file itself and not from a manifest.

    Raises:
        CompressorError: it cannot be read.
    """
    model = sources.read(Path(path))
    weights = tuple(_inspected(weight) for weight in model.weights)
    folder = model.path if model.path.is_dir() and "coreml" not in model.graphs else model.path.parent
    files = tuple(_file(file, folder) for file in model.files)
    total = sum(file.nbytes for file in files)
    stored, dense = sum(weight.nbytes for weight in weights), sum(weight.dense_nbytes for weight in weights)
    said = model.metadata
    made_for = targets.get(said[_TARGET]) if said.get(_TARGET) in targets.names() else None
    whole = total - stored + dense if made_for is None else _dense_nbytes(model, made_for)
    versions = {"compressor": said[_VERSION]} if _VERSION in said else {}
    return Manifest(
        said.get(_TARGET, ""), said.get(_PIPELINE, ""), versions, files, total, whole, 0, stored, dense, (), weights
    )


def _findings(model: Model, settings: Settings, progress: Progress | None, *, sampled: bool) -> Iterator[Finding]:
    # A look at a sample is many short calls that hold the interpreter's lock: threads would wait for each other.
    executor = map if sampled else stream
    findings = executor(lambda weight: find(weight, settings, sampled=sampled), model.weights)
    return _watched(findings, model.weights, "detect", progress)


@dataclass(frozen=True)
class _Request:
    """What is asked of a model."""

    target: Target
    pipeline: PassPipeline
    settings: Settings
    progress: Progress | None


def _planned(model: Model, findings: Iterable[Finding], asked: _Request, *, sampled: bool) -> tuple[Model, Plan]:
    """The model as the target has it, and what its weights become.

    A target that rounds weights gets the codes of those that lie on a grid, which rounded values do not show, and what
    it has made of the weights is looked at anew.
    """
    target = asked.target
    if not target.precision:
        return target.prepare(model, lambda _: 0), plan(findings, target, asked.pipeline)

    def smallest(weight: Weight) -> int:
        return encodings.nbytes(choose(find(weight, asked.settings, sampled=True), target, asked.pipeline).legal)

    recovered: dict[str, str] = {}
    if linear_quantize.NAME in asked.pipeline.schemes:
        pairs = [(weight, _grid(weight, finding)) for weight, finding in zip(model.weights, findings, strict=True)]
        recovered = {weight.name: grid.evidence for weight, grid in pairs if grid is not None}
        weights = [weight if grid is None else _with_codes(weight, grid) for weight, grid in pairs]
        model = replace(model, weights=weights)
    prepared = target.prepare(model, smallest)
    again = _findings(prepared, asked.settings, asked.progress, sampled=sampled)
    planned = plan(again, target, asked.pipeline)
    notes = {weight.name: weight.note for weight in prepared.weights}
    choices = (
        replace(choice, evidence=recovered[choice.name]) if choice.declared and choice.name in recovered else choice
        for choice in planned.choices
    )
    told = (replace(one, evidence="; ".join(filter(None, (one.evidence, notes[one.name])))) for one in choices)
    return prepared, replace(planned, choices=tuple(told))


def _grid(weight: Weight, finding: Finding) -> Candidate | None:
    """The grid that a dense weight lies on, unless a palette, which rounds to itself, takes no more."""
    exact = [one for one in finding.candidates if not one.max_error]
    grids = [one for one in exact if one.schemes == (linear_quantize.NAME,)]
    tables = [encodings.nbytes(one.spec) for one in exact if one.schemes == (palettize.NAME,)]
    if not grids or not isinstance(weight.encoding, Dense):
        return None
    grid = min(grids, key=lambda one: encodings.nbytes(one.spec))
    return None if any(table <= encodings.nbytes(grid.spec) * _LITTLE for table in tables) else grid


def _with_codes(weight: Weight, grid: Candidate) -> Weight:
    """A weight as the codes that it was trained with.

    Raises:
        InexactError: it does not lie on the grid.
    """
    return encode({weight.name: grid.spec}, {}, {})(weight)


def _publish(model: Model, chosen: Plan, asked: _Request, out: Path) -> Manifest:
    """Writes, reads back, compares; the files' digests are computed meanwhile. Then the directory takes its name."""
    target, progress = asked.target, asked.progress
    with publish.directory(out) as directory, ThreadPoolExecutor(1) as executor:
        said = {_TARGET: chosen.target, _PIPELINE: chosen.pipeline, _VERSION: version("compressor")}
        _write(model, target, chosen.choices, directory, progress, said)
        written = sorted(path for path in directory.rglob("*") if path.is_file())
        files = executor.submit(lambda: tuple(_file(file, directory) for file in written))
        _verify(model, target, chosen.choices, directory, progress)
        notes = _opened(model, target, directory, out)
        manifest = _manifest(model, chosen, files.result(), _dense_nbytes(model, target), notes)
        publish.text(directory / MANIFEST, manifest.to_json())
    return manifest


def _write(
    model: Model,
    target: Target,
    choices: Sequence[Choice],
    directory: Path,
    progress: Progress | None,
    metadata: Mapping[str, str],
) -> None:
    """Encodes the weights and writes them, one after the other."""
    specs = {choice.name: choice.spec for choice in choices}
    thresholds = {choice.name: choice.threshold for choice in choices}
    max_errors = {choice.name: choice.max_error for choice in choices}
    legal = {choice.name: choice.legal for choice in choices}
    encoded = run([encode(specs, thresholds, max_errors), legalize(target.legalize), pack], model.weights)
    target.write(model, legal, _watched(encoded, model.weights, "compress", progress), directory, metadata)


def _verify(
    model: Model, target: Target, choices: Sequence[Choice], directory: Path, progress: Progress | None
) -> None:
    """Reads every weight back from the files and compares it with its source."""
    stored = {weight.name: weight.encoding for weight in target.read(directory).weights}
    if missing := [weight.name for weight in model.weights if weight.name not in stored]:
        raise CompressorError(f"{len(missing)} weights are missing from the artefact, the first one is {missing[0]}")
    allowed = {choice.name: Allowed(choice.threshold, choice.changed, choice.max_error) for choice in choices}
    compared = run([verify(stored, allowed)], model.weights)
    for _ in _watched(compared, model.weights, "verify", progress):
        pass


def _opened(model: Model, target: Target, directory: Path, out: Path) -> tuple[str, ...]:
    """Opens an artefact in the target's runtime; what there is to say where neither it nor its source opens.

    Raises:
        CompressorError: it opens the source, and not the artefact.
    """
    reason = target.refusal(directory)
    if reason and not target.refusal(model.path):
        raise CompressorError(
            f"{out}: the artefact of {model.path} would not open: {reason}. Nothing was published. Leave out what "
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
    if not model.graphs:
        raise CompressorError(
            f"{model.path}: holds weights without a graph; first run `compressor export {model.path} DIRECTORY`, with "
            "export.factory in params.yaml for a state dict, or with transformers installed for its folders."
        )
    return model


def _matching(findings: Sequence[Finding], model: Model) -> Iterator[Finding]:
    """The findings in the model's order, each of a weight that has the name, shape and dtype that was looked at."""
    by_name = {finding.name: finding for finding in findings}
    for weight in model.weights:
        finding = by_name.get(weight.name)
        have = (encodings.dtype(weight.encoding).name, encodings.shape(weight.encoding))
        if finding is None or (finding.dtype, finding.shape) != have:
            found = "nothing" if finding is None else f"{finding.dtype}{list(finding.shape)}"
            raise CompressorError(
                f"the detection is of another model: weight {weight.name} is {have[0]}{list(have[1])}, "
                f"the detection has {found}. Run `compressor detect` again."
            )
        yield finding


def _dense_nbytes(model: Model, target: Target) -> int:
    """The bytes of the baseline's files."""
    choices = [_dense(weight) for weight in model.weights]
    return target.size(model, {choice.name: choice.legal for choice in choices})


def _dense(weight: Weight) -> Choice:
    """A weight as values: the choice of the baseline. What is pinned stays as it is."""
    shape, dtype = encodings.shape(weight.encoding), encodings.dtype(weight.encoding)
    spec: Encoding = Dense(ArraySpec(shape, dtype))
    if weight.pinned:
        spec = encodings.spec(weight.encoding)
    return Choice(weight.name, shape, dtype.name, spec, spec, 0.0, "", encodings.nbytes(spec), 0, ())


def _watched(items: Iterable[T], weights: Sequence[Weight], phase: str, progress: Progress | None) -> Iterator[T]:
    """The items, one for each weight, with the dense bytes behind them reported on the way."""
    sizes = [encodings.nbytes(weight.encoding) for weight in weights]
    done, total = 0, sum(sizes)
    for item, size in zip(items, sizes, strict=True):
        yield item
        done += size
        if progress is not None:
            progress(phase, done, total)


def _manifest(model: Model, chosen: Plan, files: tuple[FileFacts, ...], dense: int, notes: tuple[str, ...]) -> Manifest:
    weights = tuple(
        WeightFacts(
            choice.name,
            choice.shape,
            choice.dtype,
            encodings.name(choice.legal),
            encodings.nbytes(choice.legal),
            choice.dense_nbytes,
            choice.evidence,
            choice.changed == 0,
            choice.changed,
            tuple((rejected.encoding, rejected.reason) for rejected in choice.rejected),
            choice.max_error,
        )
        for choice in chosen.choices
    )
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
        weights=weights,
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
    for package in ("compressor", "coremltools", "ml-dtypes", "numpy", "onnx", "onnxruntime"):
        with suppress(PackageNotFoundError):  # a runtime may be installed under another name
            found[package] = version(package)
    return found
