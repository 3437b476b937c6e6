"""From a model to a verified artefact: detect, plan, encode, legalize, write, read back, compare, publish."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
from compressor.passes.verify import verify
from compressor.pipelines import get as get_pipeline
from compressor.plan import Choice, Plan, plan
from compressor.targets import Target

MANIFEST = "manifest.json"

_TARGET, _PIPELINE, _VERSION = "compressor.target", "compressor.pipeline", "compressor.version"
"""What an artefact says about itself."""

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
    target: str = "onnxruntime",
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
    chosen_target, chosen_pipeline = targets.get(target), get_pipeline(pipeline)
    model = _model(model)
    if detection is None:
        detection = detect(model, settings, progress=progress)
    return plan(_matching(detection.findings, model), chosen_target, chosen_pipeline)


def compress(
    model: Model | Path | str,
    out: Path | str,
    *,
    target: str = "onnxruntime",
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
    model, chosen_target, chosen_pipeline = _model(model), targets.get(target), get_pipeline(pipeline)
    publish.check_directory(Path(out), model.path)
    if detection is None:
        # Every weight is compared with its source before anything is published, so a sample of each is enough to plan
        # by; where it missed a value, which the comparison shows, the weights are looked at as a whole.
        try:
            findings = _findings(model, settings, progress, sampled=True)
            return _publish(model, plan(findings, chosen_target, chosen_pipeline), chosen_target, Path(out), progress)
        except InexactError:
            detection = detect(model, settings, progress=progress)
    chosen = plan(_matching(detection.findings, model), chosen_target, chosen_pipeline)
    return _publish(model, chosen, chosen_target, Path(out), progress)


def write_baseline(model: Model | Path | str, out: Path | str, *, target: str = "onnxruntime") -> None:
    """Writes the same model for the same target with every weight dense: what a compressed one is compared with.

    Raises:
        UsageError: no such target, or `out` holds what this package has not written.
        CompressorError: the model cannot be read, or the disk is full.
    """
    model = _model(model)
    publish.check_directory(Path(out), model.path)
    with publish.directory(Path(out)) as directory:
        choices = [_dense(weight) for weight in model.weights]
        _write(model, targets.get(target), choices, directory, None, {})
        _verify(model, targets.get(target), choices, directory, None)


def inspect(path: Path | str) -> Manifest:
    """What an artefact or any model file holds, read from the file itself and not from a manifest.

    Raises:
        CompressorError: it cannot be read.
    """
    model = sources.read(Path(path))
    weights = tuple(_inspected(weight) for weight in model.weights)
    files = tuple(_file(file) for file in model.files)
    total = sum(file.nbytes for file in files)
    stored, dense = sum(weight.nbytes for weight in weights), sum(weight.dense_nbytes for weight in weights)
    said = model.metadata
    made_for = targets.get(said[_TARGET]) if said.get(_TARGET) in targets.names() else None
    whole = total - stored + dense if made_for is None else _dense_nbytes(model, made_for)
    versions = {"compressor": said[_VERSION]} if _VERSION in said else {}
    return Manifest(
        said.get(_TARGET, ""), said.get(_PIPELINE, ""), versions, files, total, whole, stored, dense, weights
    )


def _findings(model: Model, settings: Settings, progress: Progress | None, *, sampled: bool) -> Iterator[Finding]:
    # A look at a sample is many short calls that hold the interpreter's lock: threads would wait for each other.
    executor = map if sampled else stream
    findings = executor(lambda weight: find(weight, settings, sampled=sampled), model.weights)
    return _watched(findings, model.weights, "detect", progress)


def _publish(model: Model, chosen: Plan, target: Target, out: Path, progress: Progress | None) -> Manifest:
    """Writes, reads back, compares; the files' digests are computed meanwhile. Then the directory takes its name."""
    with publish.directory(out) as directory, ThreadPoolExecutor(1) as executor:
        said = {_TARGET: chosen.target, _PIPELINE: chosen.pipeline, _VERSION: version("compressor")}
        _write(model, target, chosen.choices, directory, progress, said)
        files = executor.submit(lambda: tuple(_file(file) for file in sorted(directory.iterdir())))
        _verify(model, target, chosen.choices, directory, progress)
        manifest = _manifest(chosen, files.result(), _dense_nbytes(model, target))
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
    legal = {choice.name: choice.legal for choice in choices}
    encoded = run([encode(specs, thresholds), legalize(target.legalize), pack], model.weights)
    target.write(model, legal, _watched(encoded, model.weights, "compress", progress), directory, metadata)


def _verify(
    model: Model, target: Target, choices: Sequence[Choice], directory: Path, progress: Progress | None
) -> None:
    """Reads every weight back from the files and compares it with its source."""
    stored = {weight.name: weight.encoding for weight in target.read(directory).weights}
    if missing := [weight.name for weight in model.weights if weight.name not in stored]:
        raise CompressorError(f"{len(missing)} weights are missing from the artefact, the first one is {missing[0]}")
    allowed = {choice.name: (choice.threshold, choice.changed) for choice in choices}
    compared = run([verify(stored, allowed)], model.weights)
    for _ in _watched(compared, model.weights, "verify", progress):
        pass


def _model(model: Model | Path | str) -> Model:
    return model if isinstance(model, Model) else sources.read(Path(model))


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


def _manifest(chosen: Plan, files: tuple[FileFacts, ...], dense: int) -> Manifest:
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
        )
        for choice in chosen.choices
    )
    total = sum(file.nbytes for file in files)
    return Manifest(
        chosen.target, chosen.pipeline, _versions(), files, total, dense, chosen.nbytes, chosen.dense_nbytes, weights
    )


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


def _file(path: Path) -> FileFacts:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileFacts(path.name, path.stat().st_size, digest)


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in ("compressor", "ml-dtypes", "numpy", "onnx", "onnxruntime"):
        with suppress(PackageNotFoundError):  # a runtime may be installed under another name
            found[package] = version(package)
    return found
