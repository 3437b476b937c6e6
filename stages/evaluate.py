"""`compressor evaluate`: size and accuracy of an artefact as it lies on disk, beside the uncompressed model."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from .options import AsJson, ModelPath, Overrides, ParamsFile, Strict, TargetName

if TYPE_CHECKING:
    from rich.console import RenderableType

    from compressor.compilation.manifest import Manifest
    from compressor.evaluation.compare import Comparison, Settings
    from compressor.evaluation.metrics import Size, Values
    from compressor.targets import Target

    from .given import Given
    from .groups import Evaluate, Export
    from .latency import Document
    from .params import EvaluateParams


ACCURACY_SIZE, CONFUSION = "accuracy_size.csv", "confusion.csv"
"""What is written to the directory of the plots."""

ACCURACY_SIZE_COLUMNS = ("size_mb", "score")
"""As dvc.yaml names them: the same whatever the metric is."""


Artefact = Annotated[Path, typer.Argument(metavar="ARTEFACT", help="What compress wrote.", show_default=False)]
Metrics = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the metrics to this .json.", show_default=False)
]
PlotsDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write accuracy_size.csv and confusion.csv for dvc plots.", show_default=False),
]
LatencyFile = Annotated[
    Path | None,
    typer.Option("--latency", metavar="FILE", help="Time both models; write it to this .json.", show_default=False),
]


def evaluate(
    model: ModelPath,
    artefact: Artefact,
    target: TargetName = None,
    out: Metrics = None,
    plots_dir: PlotsDir = None,
    latency: LatencyFile = None,
    params: ParamsFile = None,
    settings: Overrides = None,
    *,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Measure ARTEFACT beside its model.

    Sizes and accuracy are those of the files in ARTEFACT, compared with MODEL written for the same target without
    compression. Without evaluate.data in the settings only sizes are measured. A limit that is broken is recorded as
    passed: false, and is no failure: for that there is `compressor check`.

    Examples:
        compressor evaluate models/exported models/compressed
        compressor evaluate model.onnx out --out compression/metrics.json
        compressor evaluate model.onnx out -S evaluate.data=test.npz
        compressor evaluate model.onnx out --latency compression/latency.json
    """
    from compressor.compilation import publish
    from compressor.errors import CompressorError, UsageError

    from . import display, files, toolchain
    from .given import Given

    toolchain.check("evaluate", params, strict=strict)
    files.check_json(out)
    files.check_json(latency)
    if not artefact.exists():
        raise CompressorError(f"{artefact}: no such artefact. Write it with `compressor compress`.")
    chosen, own, export = _asked(model, Given(params, settings or (), {"target": target}))
    if latency is not None and not own.evaluate.data:
        raise UsageError("--latency needs samples to run: set evaluate.data.")
    written = [] if plots_dir is None else [plots_dir / ACCURACY_SIZE, plots_dir / CONFUSION]
    publish.check_files([out, latency, *written], [*files.read_by(model, params), *files.read_by(artefact)])
    found = _measured(model, artefact, chosen, own, export, timed=latency is not None)
    text = json.dumps(found.values, indent=2) + "\n"
    if plots_dir is not None:
        _write_plots(plots_dir, found)
    if out is not None:
        publish.text(out, text)
    if latency is not None:
        publish.text(latency, json.dumps(found.latency, indent=2) + "\n")
    display.show_json(text) if as_json else display.show(_report(found))


def _asked(model: Path, given: Given) -> tuple[Target, EvaluateParams, Export | None]:
    """The target, what the settings ask for, and how the model is exported before; None for one that has a graph.

    Raises:
        UsageError: they are wrong; what they name must not cost a run of the model before it is missed.
        CompressorError: what the target needs is not installed; a module of the user cannot be imported.
    """
    from compressor import targets
    from compressor.evaluation import compare, metrics

    from . import graph
    from .params import EvaluateAlone, EvaluateParams, load, target

    alone = load(EvaluateAlone, given) if graph.needs_export(model) else None
    own = alone or load(EvaluateParams, given)
    chosen = target(own)
    metrics.broken({}, own.evaluate.limits, metric=metrics.key(own.evaluate.metric))
    targets.check_installed(chosen.name)
    if own.evaluate.data:
        compare.check(core_settings(own.evaluate))
    return chosen, own, alone.export if alone and chosen.needs_graph else None


def core_settings(asked: Evaluate) -> Settings:
    """The group `evaluate` as the core takes it."""
    from compressor.evaluation.compare import Settings

    return Settings(**asked.model_dump(exclude={"limits", "latency"}))


@dataclass(frozen=True)
class _Measured:
    """An artefact and its uncompressed model as they lie on disk.

    target: what the artefact is for.
    asked: what was to be measured.
    source_nbytes: of the files of the model itself.
    compared: by what they compute; None without data.
    latency: how long they take; None where nobody asked.
    """

    target: str
    asked: Evaluate
    stored: Manifest
    dense: Manifest
    source_nbytes: int
    compared: Comparison | None
    latency: Document | None

    @property
    def metric(self) -> str:
        """What the score is called."""
        from compressor.evaluation import metrics

        return metrics.key(self.asked.metric)

    @property
    def values(self) -> Values:
        """The metrics by name."""
        from compressor.evaluation import metrics

        quality = self.compared.quality if self.compared else metrics.Quality(self.metric)
        return metrics.summary(
            self.target, _size(self.stored), _size(self.dense), self.source_nbytes, quality, self.asked.limits
        )


def _measured(
    model: Path, artefact: Path, target: Target, own: EvaluateParams, export: Export | None, *, timed: bool
) -> _Measured:
    import compressor
    from compressor import sources
    from compressor.evaluation import compare
    from compressor.model import stamps, unchanged

    from . import graph, latency, progress

    with (
        unchanged(stamps([*sources.files(model), *sources.files(artefact)])),
        graph.exported(model, export) as path,
        TemporaryDirectory(prefix="compressor-") as folder,
    ):
        stored, baseline = compressor.inspect(artefact), Path(folder) / "baseline"
        _check_target(stored, target.name, artefact)
        fitted = compressor.write_baseline(path, baseline, target=target)
        dense, source_nbytes = compressor.inspect(baseline), compressor.inspect(path).nbytes
        _check_weights(dense, stored, model, artefact)
        compared = times = None
        if own.evaluate.data:
            before = partial(target.session, baseline, fitted, str(model))
            after = partial(target.session, artefact, fitted, str(artefact))
            with progress.shown() as shown:
                compared = compare.compare(before, after, core_settings(own.evaluate), shown)
            if timed:
                times = latency.timed(before, after, target, own.evaluate, compared.quality.runtime)
        return _Measured(target.name, own.evaluate, stored, dense, source_nbytes, compared, times)


def _check_target(stored: Manifest, target: str, artefact: Path) -> None:
    """That the artefact is for the target, where it says what it is for.

    Raises:
        CompressorError: it is for another one.
    """
    from compressor.errors import CompressorError

    if stored.target and stored.target != target:
        raise CompressorError(
            f"{artefact}: made for {stored.target}, the target is {target}. Compress the model again, or name "
            f"that one: --target {stored.target}, or target: {stored.target} in params.yaml."
        )


def _check_weights(dense: Manifest, stored: Manifest, model: Path, artefact: Path) -> None:
    """That the artefact has the model's weights, by name and shape, and no others.

    Raises:
        CompressorError: it was made from another model.
    """
    from compressor.errors import CompressorError

    expected = {weight.name: weight.shape for weight in dense.weights}
    # A graph that was brought to another opset may have gained small constants.
    got = {weight.name: weight.shape for weight in stored.weights if weight.name in expected or len(weight.shape) > 1}
    for name in (*expected, *got):
        if expected.get(name) != got.get(name):
            one, other = (f"has {list(own[name])}" if name in own else "has no such weight" for own in (expected, got))
            raise CompressorError(
                f"{artefact}: not made from {model}: weight {name}: the model {one}, the artefact {other}. "
                "Name the model that was compressed, or compress this one."
            )


def _size(found: Manifest) -> Size:
    from compressor.evaluation.metrics import Size

    return Size(found.nbytes, found.weights_nbytes, sum(math.prod(weight.shape) for weight in found.weights))


def _write_plots(directory: Path, found: _Measured) -> None:
    """One point for this run, and a row for each sample; tables without rows where there is nothing to plot."""
    from . import files

    size, score = ACCURACY_SIZE_COLUMNS
    values = found.values
    point = [{size: values["size_mb"], score: values[found.metric]}] if found.metric in values else []
    files.write_rows(directory / ACCURACY_SIZE, point, ACCURACY_SIZE_COLUMNS)
    actual, predicted = (found.compared.confusion if found.compared else None) or ((), ())
    rows = [{"actual": int(one), "predicted": int(other)} for one, other in zip(actual, predicted, strict=True)]
    files.write_rows(directory / CONFUSION, rows, ("actual", "predicted"))


def _report(found: _Measured) -> RenderableType:
    """The metrics beside the baseline's, and what they were measured on."""
    from rich.console import Group
    from rich.text import Text

    from compressor.evaluation import metrics

    from . import latency
    from .sheet import Row, Sheet

    values, limits, compared = found.values, found.asked.limits, found.compared
    before = values["baseline"]
    assert isinstance(before, dict)
    rows = [
        Row((name, f"{before[name]}" if name in before else "", f"{value}"))
        for name, value in values.items()
        if name not in ("baseline", "passed")
    ]
    rows += map(Row, latency.rows(found.latency or {}))
    broken = metrics.broken(values, limits, metric=found.metric)
    held = "no limits are set", "the limit holds"
    kept = held[len(limits)] if len(limits) < len(held) else f"all {len(limits)} limits hold"
    verdict = "; ".join(broken) or kept
    measured = "sizes only: evaluate.data is not set" if compared is None else f"measured on {compared.count} samples"
    if compared is not None and found.metric not in values:
        measured += f", which have no labels: no {found.metric}"
    return Group(
        Sheet(("metric", "uncompressed", "compressed"), tuple(rows), numbers=1),
        Text(),
        Text(f"{'passed' if values['passed'] else 'not passed'}: {verdict}", "bold"),
        Text(measured, "dim"),
        *(Text(latency.told(times), "dim") for times in (found.latency,) if times is not None),
    )
