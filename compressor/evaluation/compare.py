"""Evaluation: how well an artefact does beside the uncompressed model, both run from their files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from compressor.arrays import NDArray
from compressor.errors import CompressorError, line, unknown
from compressor.evaluation import samples, scoring
from compressor.evaluation.metrics import Quality
from compressor.targets.session import Session

Progress = Callable[[str, int, int], None]

# A confusion plot has a row for each sample, and nobody can read a matrix of more classes.
MOST_CLASSES = 100
MOST_JUDGED = 256
"""Labels in a rehearsal."""


@dataclass(frozen=True)
class Settings:
    """What to measure (the `evaluate` group of params.yaml).

    data: `module:function` that returns (inputs, labels), or the path of an `.npz`.
    metric: of scikit-learn by name, or `module:function(labels, outputs)`. Where several outputs have labels, the mean
        of their scores counts; a function of the user gets dictionaries by output then.
    metric_args: keyword arguments of the metric.
    batch_size: samples in one run of the model, unless the model itself fixes it.
    outputs: those that hold predictions; if empty, those that have labels; without labels the first.
    """

    data: str
    metric: str = "accuracy_score"
    metric_args: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 256
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """An artefact beside the uncompressed model.

    quality: their scores.
    count: how many samples were run.
    confusion: classes, actual and predicted by the artefact, int64 `[count]` each; None where there are none to plot.
    """

    quality: Quality
    count: int
    confusion: tuple[NDArray, NDArray] | None


@dataclass(frozen=True)
class Run:
    """What one model made of the samples, by output.

    labels: of all samples; empty if there are none.
    values: what the metric reads; empty without labels.
    classes: the predicted classes, of the outputs that predict classes.
    """

    labels: dict[str, NDArray]
    values: dict[str, NDArray]
    classes: dict[str, NDArray]
    count: int


def check(settings: Settings) -> None:
    """That the metric and the data are to be found: before any model runs.

    Raises:
        UsageError: a setting names what does not exist.
        CompressorError: importing a module failed.
    """
    scoring.metric(settings.metric, settings.metric_args)
    samples.check(settings.data)


def compare(
    baseline: Callable[[], Session],
    artefact: Callable[[], Session],
    settings: Settings,
    progress: Progress | None = None,
) -> Comparison:
    """Run two models on the same samples, one after the other, and score both.

    baseline, artefact: what opens each of them: only one is in memory at a time.

    Raises:
        UsageError: a setting names what does not exist.
        CompressorError: a model does not load or run, or gives NaN; the samples do not fit it.
    """
    metric = scoring.metric(settings.metric, settings.metric_args)
    given = samples.read(settings.data)
    before = _scored(baseline(), given, metric, settings, progress)
    compressed = artefact()
    after = _scored(compressed, given, metric, settings, progress)
    quality = Quality(
        metric.name,
        scoring.score(metric, before.labels, before.values),
        scoring.score(metric, after.labels, after.values),
        agreement(before, after),
        compressed.runtime,
    )
    return Comparison(quality, after.count, _confusion(after))


def rehearse(model: Session, given: samples.Samples, settings: Settings) -> Quality:
    """What would be measured: `model` runs on two samples, whose outputs stand for those of all others.

    The scores say nothing; whether there are any does.

    Raises:
        UsageError: a setting names what does not exist.
        CompressorError: the model does not run, or the samples do not fit it or the metric.
    """
    metric = replace(scoring.metric(settings.metric, settings.metric_args), finite=False)
    feeds, labels = fitting(model, given, settings)
    count = len(next(iter(feeds.values())))
    two = {name: array[[0, -1]] for name, array in feeds.items()}
    # Labels are judged as many and as different as may be: there are metrics that need every class.
    judged = np.linspace(0, count - 1, min(count, MOST_JUDGED)).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that two samples do not have
        found = run(model, two, labels, metric, settings, None)
        scores = scoring.score(
            metric,
            {name: array[judged] for name, array in found.labels.items()},
            {name: array[np.arange(len(judged)) % 2] for name, array in found.values.items()},
        )
    return Quality(metric.name, scores, scores, 1.0 if found.classes else None, model.runtime)


def fitting(
    model: Session, given: samples.Samples, settings: Settings
) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """The inputs and the labels of all samples by the names that the model has for them.

    Raises:
        UsageError: `settings.outputs` names one that the model lacks.
        CompressorError: the samples do not fit the model.
    """
    feeds, outputs = samples.feeds(given, model.inputs, model.label), model.outputs
    for name in settings.outputs:
        if name not in outputs:
            raise unknown(f"output of {model.label} (evaluate.outputs)", name, outputs)
    return feeds, samples.labels_of(given, outputs, settings.outputs, len(next(iter(feeds.values()))))


def agreement(before: Run, after: Run) -> float | None:
    """The share of equal predictions of two models, 0 to 1; None where outputs predict no classes."""
    equal = [np.mean(before.classes[name] == after.classes[name]) for name in after.classes]
    return float(np.mean(equal)) if equal else None


def _scored(
    model: Session, given: samples.Samples, metric: scoring.Metric, settings: Settings, progress: Progress | None
) -> Run:
    return run(model, *fitting(model, given, settings), metric, settings, progress)


def run(
    model: Session,
    feeds: Mapping[str, NDArray],
    labels: dict[str, NDArray],
    metric: scoring.Metric,
    settings: Settings,
    progress: Progress | None = None,
    *,
    seen: Callable[[Mapping[str, NDArray]], None] | None = None,
) -> Run:
    """Run a model on samples that fit it, batch by batch.

    seen: gets the outputs of each batch that are judged, which are not kept.

    Raises:
        CompressorError: it does not run, or gives NaN; the labels are no classes that it could predict.
    """
    outputs = model.outputs
    names = tuple(labels) or settings.outputs or tuple(outputs[:1])
    values: dict[str, list[NDArray]] = {name: [] for name in labels}
    classes: dict[str, list[NDArray]] = {name: [] for name in names}
    for batch in _batches(model, feeds, names, settings.batch_size, progress):
        if seen is not None:
            seen(batch)
        for name, output in batch.items():
            # Only what is needed later is kept: the classes of a batch are much smaller than its scores.
            found = None if metric.reads == "numbers" else scoring.classes(output, labels.get(name))
            if found is not None:
                classes[name].append(found)
            if name in labels and metric.reads == "classes":
                scoring.check_classes(labels[name], output, name)
            elif name in labels:
                values[name].append(output)
    joined = {name: np.concatenate(parts) for name, parts in classes.items() if parts}
    read = joined if metric.reads == "classes" else {name: np.concatenate(parts) for name, parts in values.items()}
    return Run(labels, read, joined, len(next(iter(feeds.values()))))


def _confusion(run: Run) -> tuple[NDArray, NDArray] | None:
    for name, actual in run.labels.items():
        predicted = run.classes.get(name)
        if predicted is None or actual.ndim != 1 or actual.dtype.kind not in "biu" or predicted.dtype.kind not in "iu":
            continue
        if max(actual.max(), predicted.max()) < MOST_CLASSES:
            return actual.astype(np.int64), predicted.astype(np.int64)
    return None


def _batches(
    model: Session, feeds: Mapping[str, NDArray], names: Sequence[str], size: int, progress: Progress | None
) -> Iterator[dict[str, NDArray]]:
    """The outputs of each batch of samples, by name."""
    # A model with a fixed number of samples gets that many: the last batch is filled up with copies of its last one.
    fixed = samples.fixed_length(model.inputs)
    size = fixed or size
    total = sum(array.nbytes for array in feeds.values())
    count = len(next(iter(feeds.values())))
    for start in range(0, count, size):
        used = min(size, count - start)
        rows = np.minimum(np.arange(start, start + (size if fixed else used)), count - 1)
        try:
            results = model.run(names, {name: array[rows] for name, array in feeds.items()})
        except Exception as error:  # of whatever class the runtime's errors are
            raise CompressorError(
                f"{model.label}: {model.runtime} failed on samples {start} to {start + used - 1}: {line(error)}"
            ) from error
        yield {
            name: _checked(model.label, name, result, len(rows), start)[:used]
            for name, result in zip(names, results, strict=True)
        }
        if progress is not None:
            progress("evaluate", total * (start + used) // count, total)


def _checked(label: str, name: str, result: Any, rows: int, start: int) -> NDArray:
    if not isinstance(result, np.ndarray):
        raise CompressorError(f"{label}: output {name} is a {type(result).__name__}: expected a tensor.")
    if result.ndim == 0 or len(result) != rows:
        raise CompressorError(
            f"{label}: output {name} is {list(result.shape)} for {rows} samples: expected them along the first axis."
        )
    if result.dtype.kind == "f":
        bad = np.isnan(result.reshape(rows, -1)).any(axis=1)
        if bad.any():
            raise CompressorError(
                f"{label}: output {name} is NaN for sample {start + int(bad.argmax())}: nothing to score."
            )
    return result
