"""`compressor evaluate`: size and accuracy of an artefact as it lies on disk, beside the uncompressed model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from compressor.stages.options import AsJson, ModelPath, Overrides, ParamsFile, Strict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from compressor.evaluate import Comparison, Progress
    from compressor.manifest import Manifest
    from compressor.metrics import Size, Values
    from compressor.stages.params import Evaluate


def evaluate(
    model: ModelPath,
    artefact: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="The artefact.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the metrics to this .json.", show_default=False)
    ] = None,
    plots_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write accuracy_size.csv and confusion.csv for dvc plots.", show_default=False
        ),
    ] = None,
    params: ParamsFile = None,
    settings: Overrides = None,
    *,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Measure an artefact beside its model.

    Sizes and accuracy are those of the files in OUT_DIR, compared with MODEL written for the same target without
    compression. Without evaluate.data in the settings only sizes are measured. A limit that is broken is recorded as
    passed: false, and is no failure: for that there is `compressor check`.
    """
    import compressor
    from compressor import metrics, publish
    from compressor.errors import CompressorError
    from compressor.stages import files, graph, progress, report, toolchain
    from compressor.stages.params import EvaluateAlone, EvaluateParams, Given, load

    toolchain.check("evaluate", params, strict=strict)
    files.check_json(out)
    if not artefact.exists():
        raise CompressorError(f"{artefact}: no such artefact. Write it with `compressor compress`.")
    given = Given(params, settings or ())
    alone = load(EvaluateAlone, given) if graph.needs_export(model) else None
    own = alone or load(EvaluateParams, given)
    metric = metrics.key(own.evaluate.metric)
    metrics.broken({}, own.evaluate.limits, metric=metric)  # an unknown limit must not cost a run of the model
    export = alone.export if alone else None
    with graph.exported(model, export) as path, TemporaryDirectory(prefix="compressor-") as folder:
        baseline = Path(folder) / "baseline"
        compressor.write_baseline(path, baseline, target=own.target)
        stored, dense = compressor.inspect(artefact), compressor.inspect(baseline)
        with progress.shown() as shown:
            compared = _compare(_graph(baseline, dense), _graph(artefact, stored), own.evaluate, shown)
    quality = compared.quality if compared else None
    values = metrics.summary(_size(stored), _size(dense), quality, own.evaluate.limits)
    text = json.dumps(values, indent=2) + "\n"
    if plots_dir is not None:
        _write_plots(plots_dir, values, metric, compared)
    if out is not None:
        publish.text(out, text)
    if as_json:
        report.show_json(text)
    else:
        report.show(_report(values, own.evaluate.limits, metric, compared))


def _compare(baseline: Path, artefact: Path, settings: Evaluate, progress: Progress) -> Comparison | None:
    if not settings.data:
        return None
    from compressor import evaluate

    core = evaluate.Settings(**settings.model_dump(exclude={"limits"}))
    return evaluate.compare(baseline, artefact, core, progress)


def _graph(artefact: Path, found: Manifest) -> Path:
    """The file that holds the graph; `inspect` names it first."""
    return artefact / found.files[0].name if artefact.is_dir() else artefact


def _size(found: Manifest) -> Size:
    from compressor.metrics import Size

    return Size(found.nbytes, found.weights_nbytes, sum(math.prod(weight.shape) for weight in found.weights))


def _write_plots(directory: Path, values: Values, metric: str, compared: Comparison | None) -> None:
    """One point for this run, and a row for each sample; tables without rows where there is nothing to plot."""
    from compressor.stages import files

    columns = ("size_mb", metric)
    point = [{name: values[name] for name in columns}] if metric in values else []
    files.write_rows(directory / "accuracy_size.csv", point, columns)
    actual, predicted = (compared.confusion if compared else None) or ((), ())
    rows = [{"actual": int(one), "predicted": int(other)} for one, other in zip(actual, predicted, strict=True)]
    files.write_rows(directory / "confusion.csv", rows, ("actual", "predicted"))


def _report(values: Values, limits: Mapping[str, float], metric: str, compared: Comparison | None) -> RenderableType:
    """The metrics beside the baseline's, and what they were measured on."""
    from rich.console import Group
    from rich.text import Text

    from compressor import metrics
    from compressor.stages.sheet import Row, Sheet

    before = values["baseline"]
    assert isinstance(before, dict)
    rows = [
        Row((name, f"{before[name]}" if name in before else "", f"{value}"))
        for name, value in values.items()
        if name not in ("baseline", "passed")
    ]
    broken = metrics.broken(values, limits, metric=metric)
    verdict = "; ".join(broken) if broken else f"all {len(limits)} limits hold" if limits else "no limits are set"
    measured = "sizes only: evaluate.data is not set" if compared is None else f"measured on {compared.count} samples"
    if compared is not None and metric not in values:
        measured += f", which have no labels: no {metric}"
    return Group(
        Sheet(("metric", "uncompressed", "compressed"), tuple(rows), numbers=1),
        Text(),
        Text(f"{'passed' if values['passed'] else 'not passed'}: {verdict}", "bold"),
        Text(measured, "dim"),
    )
