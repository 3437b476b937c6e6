"""Metrics: what `metrics.json` says of an artefact, and whether that is good enough.

The dictionary is flat, but for `baseline`, so that every row of `dvc metrics diff` and every column of `dvc exp show`
has a short name; what is unknown is left out. Numbers are rounded, so that noise makes no rows.

    made_for            the target, by name. Not `target`: where metrics and params share a key, `dvc exp show` puts the
                        names of their files before every column
    accuracy            the metric's name without `_score`: `f1`, `r2`, `mean_squared_error`; 4 decimals
    accuracy_<output>   the same for one output, where several have labels; `accuracy` is their mean
    accuracy_drop       by how much it is worse than the uncompressed model's, negative where it is better
    agreement           the share of predictions that are the uncompressed model's; 4 decimals
    runtime             what ran them: `onnxruntime`, or `coreml` on a machine that has it
    size_mb             of all files of the artefact, 1 MB = 1,000,000 bytes; 3 decimals
    size_ratio          of the uncompressed model's size to the artefact's; 2 decimals
    source_mb           of the files of the model that was compressed, as they lay on disk; 3 decimals
    bits_per_weight     bytes of all encoded weights (tables, masks and scales too) by their elements; 2 decimals
    passed              whether every limit holds
    baseline            accuracy and size_mb of the same model written for the same target without compression
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from compressor.errors import UsageError, unknown
from compressor.evaluation import known

Values = dict[str, float | bool | str | dict[str, float]]

SETTING = "evaluate.metric"
MADE_FOR = "made_for"

# The limits that a value must not fall below; of every other number less is better.
_AT_LEAST = ("agreement", "size_ratio")
_SIZES = ("size_mb", "size_ratio", "bits_per_weight")
_OTHERS = (MADE_FOR, "agreement", "runtime", *_SIZES, "source_mb", "passed", "baseline")
# scikit-learn: functions of these names return a value to minimize, all others one to maximize.
_MINIMIZED = ("_error", "_loss", "_deviance")


@dataclass(frozen=True)
class Size:
    """What an artefact takes.

    nbytes: of all its files.
    weights_nbytes: of its weights as they are encoded.
    elements: how many numbers its weights have.
    """

    nbytes: int
    weights_nbytes: int
    elements: int


@dataclass(frozen=True)
class Quality:
    """How well the artefact does, beside the uncompressed model; of the name of a metric alone, nothing was measured.

    metric: the name it goes by in the metrics.
    before, after: by output, of the uncompressed model and of the artefact; empty without labels.
    agreement: the share of equal predictions; None where outputs are no predictions of classes.
    runtime: what ran the models; None where nothing did.
    """

    metric: str
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    agreement: float | None = None
    runtime: str | None = None


def key(metric: str) -> str:
    """The name that a metric goes by in the metrics: without the module, without `_score`.

    >>> key("accuracy_score"), key("mean_squared_error"), key("training.measures:word_error")
    ('accuracy', 'mean_squared_error', 'word_error')

    Raises:
        UsageError: there is no such metric, or its name is taken by another number.
    """
    if ":" not in metric and metric not in known.READS:
        close = " or ".join(map(repr, known.closest(metric)))
        raise UsageError(
            f"unknown metric {metric!r} ({SETTING}).{f' Did you mean {close}?' if close else ''} "
            "Choices: what scikit-learn has that gives one number, or module:function of your own."
        )
    name = metric.rpartition(":")[2].removesuffix("_score")
    if name in _OTHERS or name.endswith("_drop"):
        raise UsageError(f"metric {metric!r}: metrics.json has a number called {name!r} already. Rename the function.")
    return name


def minimized(metric: str) -> bool:
    """Whether less of `metric` is better: its name ends in `_error`, `_loss` or `_deviance`.

    >>> minimized("log_loss"), minimized("accuracy")
    (True, False)
    """
    return metric.endswith(_MINIMIZED)


def summary(
    target: str, size: Size, baseline: Size, source_nbytes: int, quality: Quality, limits: Mapping[str, float]
) -> Values:
    """The content of `metrics.json`. source_nbytes: of the files of the model that was compressed.

    Raises:
        UsageError: a limit is not one of the numbers.
    """
    values: Values = {MADE_FOR: target} | _scores(quality)
    before: dict[str, float] = {}
    if quality.before:
        before[quality.metric] = round(_mean(quality.before), 4)
    values["size_mb"] = round(size.nbytes / 1e6, 3)
    values["size_ratio"] = round(baseline.nbytes / size.nbytes, 2)
    values["source_mb"] = round(source_nbytes / 1e6, 3)
    if size.elements:
        values["bits_per_weight"] = round(8 * size.weights_nbytes / size.elements, 2)
    values["passed"] = not broken(values, limits, metric=quality.metric)
    values["baseline"] = before | {"size_mb": round(baseline.nbytes / 1e6, 3)}
    return values


def broken(values: Mapping[str, object], limits: Mapping[str, float], *, metric: str = "accuracy") -> tuple[str, ...]:
    """The limits that do not hold, each in words. A number that is not known holds none.

    A drop, a size in MB, bits a weight, an error or a loss is at most its limit, every other number at least.

    >>> broken({"size_ratio": 3.2}, {"size_ratio": 4, "accuracy_drop": 0.01})
    ('size_ratio is 3.2, the limit is at least 4', 'accuracy_drop is not known, the limit is at most 0.01')

    Raises:
        UsageError: a limit is not one of the numbers.
    """
    names = {metric, f"{metric}_drop", "agreement", *_SIZES}
    lines = []
    for name, limit in limits.items():
        if name not in names:
            raise UsageError(f"{unknown('limit', name, names)} In metrics.json {SETTING} is called {metric}.")
        value = values.get(name)
        least = more_is_better(name, metric)
        bound = f"the limit is at {'least' if least else 'most'} {limit:g}"
        if not isinstance(value, int | float):
            lines.append(f"{name} is not known, {bound}")
        elif not (value >= limit if least else value <= limit):
            lines.append(f"{name} is {value:g}, {bound}")
    return tuple(lines)


def regressions(
    now: Mapping[str, object], then: Mapping[str, object], tolerances: Mapping[str, float]
) -> tuple[str, ...]:
    """The numbers that are worse than they were by more than their tolerance, each in words.

    tolerances: by name, and only these are compared; if there are none, every number is, with no tolerance.

    >>> regressions({"accuracy": 0.95}, {"accuracy": 0.96}, {"accuracy": 0.002})
    ('accuracy fell from 0.96 to 0.95, tolerated is 0.002',)

    Raises:
        UsageError: they are of different targets; a tolerance is for a number that is not in `now` or not in `then`.
    """
    targets = now.get(MADE_FOR), then.get(MADE_FOR)
    if None not in targets and targets[0] != targets[1]:
        raise UsageError(
            f"these metrics are of {targets[0]}, those to compare with of {targets[1]}: only metrics of one target can "
            "be compared."
        )
    # What was compressed is neither better nor worse.
    numbers = [name for name in now if _is_number(now[name]) and _is_number(then.get(name)) and name != "source_mb"]
    metric = next((name for name in now if f"{name}_drop" in now), "accuracy")
    for name in tolerances:
        if name not in numbers:
            raise unknown("metric", name, numbers)
    lines = []
    for name in tolerances or numbers:
        old, new, tolerance = float(str(then[name])), float(str(now[name])), tolerances.get(name, 0.0)
        worse = old - new if more_is_better(name, metric) else new - old
        # The numbers are decimal: 0.96 - 0.958 must not exceed 0.002.
        if not round(worse, 9) <= tolerance:
            verb = "fell" if new < old else "rose"
            lines.append(f"{name} {verb} from {old:g} to {new:g}, tolerated is {tolerance:g}")
    return tuple(lines)


def _scores(quality: Quality) -> Values:
    name = quality.metric
    values: Values = {}
    if quality.after:
        before, after = _mean(quality.before), _mean(quality.after)
        values[name] = round(after, 4)
        if len(quality.after) > 1:
            values |= {f"{name}_{output}": round(score, 4) for output, score in quality.after.items()}
        # Of the rounded scores, so that the three numbers of the table add up; plus zero, so that it is never -0.0.
        drop = round(before, 4) - round(after, 4)
        values[f"{name}_drop"] = round(-drop if minimized(name) else drop, 4) + 0.0
    if quality.agreement is not None:
        values["agreement"] = round(quality.agreement, 4)
    if quality.runtime is not None:
        values["runtime"] = quality.runtime
    return values


def _mean(scores: Mapping[str, float]) -> float:
    return math.fsum(scores.values()) / len(scores)


def more_is_better(name: str, metric: str) -> bool:
    """Of any number of `metrics.json`; a score by output goes the way of its metric."""
    if name in _AT_LEAST:
        return True
    return not (name in _SIZES or name.endswith("_drop") or minimized(metric))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
