"""What there is to report, read from where the stages have written it: metrics, manifests, detection, parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.compilation import describe, publish
from compressor.compilation.manifest import Manifest
from compressor.errors import CompressorError, UsageError, located
from compressor.evaluation import metrics
from compressor.evaluation.metrics import MADE_FOR
from compressor.recognition.findings import Detection

from .. import files, gate, latency, params, revisions, yaml
from ..given import Given
from ..given import file as params_file
from ..groups import Evaluate
from ..revisions import Revision
from . import facts, history
from .facts import Past, Report, Run, Values, Variant

METRICS, ARTEFACT = Path("compression/metrics.json"), Path("models/compressed")
TIMES = "latency.json"  # beside the metrics, where the settings or the user have it measured
DETECTION = Path("compression/detection.json")


@dataclass(frozen=True)
class Place:
    """Where one artefact and its metrics lie. name: of its folder, where there are several."""

    artefact: Path
    metrics: Path
    name: str = ""

    @property
    def manifest(self) -> Path:
        return self.artefact / publish.MANIFEST

    @property
    def times(self) -> Path:
        return self.metrics.with_name(TIMES)


def places(targets: Sequence[str] = ()) -> tuple[Place, ...]:
    """Those of the training repository in the current folder: of its one target, or of each.

    targets: as the settings name them, where there are several; what has not been made yet is among them.
    """
    one = Place(ARTEFACT, METRICS)
    if not targets and (one.metrics.is_file() or one.manifest.is_file()):
        return (one,)
    found = (*METRICS.parent.glob(f"*/{METRICS.name}"), *ARTEFACT.glob(f"*/{publish.MANIFEST}"))
    names = targets or sorted({path.parent.name for path in found})
    return tuple(Place(ARTEFACT / name, METRICS.parent / name / METRICS.name, name) for name in names)


def read() -> tuple[Path, ...]:
    """The files that a report of the repository is made of, and that it must not replace."""
    made = [file for place in places() for file in (place.metrics, place.manifest, place.times)]
    return (*made, DETECTION, params_file(None))


def of_artefacts(paths: Sequence[Path]) -> Report:
    """The report of artefacts or model files by themselves.

    Raises:
        CompressorError: one cannot be read.
    """
    made = [_manifest(path) or describe.inspect(path) for path in paths]
    names = [manifest.target for manifest in made]
    labels = names if len(set(names)) == len(names) and all(names) else [str(path) for path in paths]
    variants = tuple(Variant(name, path, {}, one) for name, path, one in zip(labels, paths, made, strict=True))
    return Report(paths[0].resolve().name if len(paths) == 1 else f"{len(paths)} artefacts", variants)


def of_repository(given: Given, against: str | None) -> Report:
    """The report of the training repository in the current folder.

    Raises:
        UsageError: there is no such revision, the settings are wrong, or there is nothing to report.
        CompressorError: a file is not what it must be.
    """
    own = params.load(params.CheckParams, given)
    then = revisions.find(against) if against is not None else None
    variants = tuple(_variant(place, own.evaluate, then) for place in places(own.targets))
    detection = _detection()
    if detection is None and not any(variant.metrics or variant.manifest for variant in variants):
        raise UsageError(
            f"nothing to report: {Path.cwd()} has no {METRICS}, no {ARTEFACT / publish.MANIFEST} and no {DETECTION}. "
            "Run `dvc repro` there first, or name an artefact: `compressor report OUT_DIR`."
        )
    (runs, no_runs), head, settings = history.runs(), history.head(), _settings(given.file)
    now = tuple(_workspace(variants, settings))
    return Report(
        title=Path.cwd().name,
        variants=variants,
        revision=head.revision,
        subject=head.subject,
        dirty=head.dirty,
        found={finding.name: finding for finding in detection.findings} if detection else {},
        runs=(*now, *(run for run in runs if run.origin != "commit" or not _repeats(run, now))),
        no_runs=no_runs,
        params=settings,
        against=against or "",
        notes=tuple(_notes(variants, then)),
    )


def _variant(place: Place, own: Evaluate, then: Revision | None) -> Variant:
    values = gate.values(files.read_text(place.metrics), str(place.metrics)) if place.metrics.is_file() else {}
    manifest = _manifest(place.artefact)
    name = values.get(MADE_FOR) or (manifest.target if manifest else "") or place.name
    held = facts.limits(values, own.limits, metrics.key(own.metric)) if values else ()
    past = _past(place, then) if then is not None else None
    return Variant(str(name) or facts.NAMELESS, place.artefact, values, manifest, held, past, *_times(place.times))


def _times(path: Path) -> tuple[tuple[tuple[str, str, str], ...], str]:
    """What was timed, if anything was.

    Raises:
        CompressorError: something else is there.
    """
    if not path.is_file():
        return (), ""
    try:
        found = json.loads(files.read_text(path))
        return tuple(latency.rows(found)), latency.told(found)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise CompressorError(
            f"{path}: expected what `compressor evaluate --latency` writes, got {error!r}. Run it again."
        ) from error


def _past(place: Place, then: Revision) -> Past:
    """What a revision has of an artefact; what it lacks is said, for the first report of a repository has no past."""
    try:
        values: Values = gate.values(then.text(place.metrics), f"{then.name}:{place.metrics}")
    except UsageError as error:
        return Past({}, None, str(error))
    try:
        return Past(values, _parsed(then.text(place.manifest), f"{then.name}:{place.manifest}").weights)
    except UsageError as error:
        return Past(values, None, str(error))


def _manifest(folder: Path) -> Manifest | None:
    """What a folder says of the artefact in it; None where it says nothing.

    Raises:
        CompressorError: it says something else.
    """
    path = folder / publish.MANIFEST
    return _parsed(files.read_text(path), str(path)) if path.is_file() else None


def _parsed(text: str, where: str) -> Manifest:
    try:
        return Manifest.from_json(text)
    except CompressorError as error:
        raise located(Path(where), error) from error


def _detection() -> Detection | None:
    if not DETECTION.is_file():
        return None
    try:
        return Detection.from_json(files.read_text(DETECTION))
    except CompressorError as error:
        raise located(DETECTION, error) from error


def _settings(file: Path | None) -> Mapping[str, str]:
    """Everything in the params file, which is known to be one."""
    path = params_file(file)
    return history.flat(yaml.read(files.read_text(path), str(path))) if path.is_file() else {}


def _workspace(variants: Sequence[Variant], settings: Mapping[str, str]) -> Iterator[Run]:
    """What lies here, as runs."""
    for variant in variants:
        if variant.metrics:
            yield Run("workspace", "", 0, "workspace", variant.name, variant.metrics, settings)


def _repeats(run: Run, others: Sequence[Run]) -> bool:
    return any((run.target, run.metrics) == (other.target, other.metrics) for other in others)


def _notes(variants: Sequence[Variant], then: Revision | None) -> Iterator[str]:
    """What a reader must know of what is missing, or does not belong together."""
    for variant in variants:
        where = f" of {variant.name}" if len(variants) > 1 else ""
        if not variant.metrics:
            yield f"The artefact{where} has not been measured: `compressor evaluate` writes its metrics."
        if variant.manifest is None:
            yield f"{variant.path} is not here, so its weights are not shown: `dvc pull`, or `dvc repro`."
        elif variant.metrics and round(size := variant.manifest.nbytes / 1e6, 3) != variant.metrics["size_mb"]:
            told = f"{variant.path} takes {size:.3f} MB, and they say {variant.metrics['size_mb']}"
            yield f"The metrics{where} are of another artefact: {told}. `dvc repro` measures what is here."
        if then is not None and variant.past is not None and variant.manifest is not None:
            was = variant.past.metrics.get(MADE_FOR, variant.name)
            if variant.past.missing:
                yield f"Not compared with {then.name}: {variant.past.missing}"
            elif was != variant.name:
                yield f"Two targets are compared: at {then.name} the artefact was made for {was}."
