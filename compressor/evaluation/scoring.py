"""Scores: a metric by name, what it reads of a model's outputs, and what it makes of labels and outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from compressor import references
from compressor.arrays import NDArray, Shape
from compressor.errors import CompressorError
from compressor.evaluation import known, metrics

SETTING = metrics.SETTING

_READS = {
    "classes": "predicted classes, the positions of the largest scores",
    "scores": "the scores of classes as the model gives them",
    "numbers": "the outputs as the model gives them",
}


@dataclass(frozen=True)
class Metric:
    """How outputs are judged.

    setting: as it was asked for.
    function: (labels, outputs) -> number.
    reads: `classes`: predicted classes; `scores`: outputs that hold a score for each class; `numbers`: outputs that do
        not; `any`: a function of the user, which takes outputs as they are.
    args: keyword arguments of the function.
    finite: whether a score that is none, for what was given, is an error.
    """

    setting: str
    function: Callable[..., Any]
    reads: str
    args: Mapping[str, Any]
    finite: bool = True

    @property
    def name(self) -> str:
        """What it is called in `metrics.json`."""
        return metrics.key(self.setting)

    def __call__(self, labels: object, outputs: object) -> float:
        """The score.

        Raises:
            CompressorError: the function failed, or returned something else than a number, or a finite one.
        """
        where = f"{SETTING} {self.setting}"
        given = "".join(f", {key}={value!r}" for key, value in self.args.items())
        try:
            returned = references.call(self.function, f"{where}(labels, outputs{given})", labels, outputs, **self.args)
        except CompressorError as error:
            raise CompressorError(f"{error}. {self._remedy(str(error))}") from error
        try:
            number = float(returned)
        except (TypeError, ValueError):
            raise CompressorError(f"{where} returned a {type(returned).__name__}: expected a number.") from None
        if self.finite and not math.isfinite(number):
            raise CompressorError(f"{where} returned {number}: expected a finite number.")
        return number

    def _remedy(self, failure: str) -> str:
        if self.reads == "any":
            return "Correct the function, or evaluate.metric_args."
        if "average=" in failure:
            return "Set evaluate.metric_args: {average: macro}, or another average."
        return f"It reads {_READS[self.reads]}; for any other form set {SETTING} to a module:function(labels, outputs)."


def metric(setting: str, args: Mapping[str, Any]) -> Metric:
    """The metric that `setting` names: of scikit-learn, or a `module:function` of the user, (labels, outputs) -> float.

    Raises:
        UsageError: there is no such metric, module or function, it does not take the arguments, or it goes by a name
            that is taken.
    """
    metrics.key(setting)
    function = references.load(setting, SETTING) if ":" in setting else _of_scikit(setting)
    references.check_arguments(function, f"{SETTING} {setting}", "evaluate.metric_args", args, positional=2)
    return Metric(setting, function, known.READS.get(setting, "any"), args)


def _of_scikit(name: str) -> Callable[..., Any]:
    import sklearn.metrics

    found: Callable[..., Any] | None = getattr(sklearn.metrics, name, None)
    if found is None:
        version = sklearn.__version__
        raise CompressorError(f"{SETTING} {name}: scikit-learn {version} does not have it: pip install -U scikit-learn")
    return found


def class_axes(outputs: Shape, labels: Shape | None) -> tuple[int, ...]:
    """The axes that can hold class scores: they have several entries, and the labels lack just such an axis.

    Without labels: the second axis of `[N, C]` and of images `[N, C, H, W]`, the last one of sequences `[N, T, C]`.

    >>> class_axes((8, 21, 64, 48), (8, 64, 48))
    (1,)
    """
    if labels is None:
        axes = [2 if len(outputs) == 3 else 1] * (len(outputs) > 1)
    else:
        axes = [axis for axis in range(1, len(outputs)) if outputs[1:axis] + outputs[axis + 1 :] == labels[1:]]
    return tuple(axis for axis in axes if outputs[axis] > 1)


def classes(outputs: NDArray, labels: NDArray | None) -> NDArray | None:
    """The predicted class of each sample, int64 of the shape of the labels: the position of the largest score.

    Integer outputs of the shape of the labels are classes themselves. None where the outputs are neither.
    """
    if outputs.dtype.kind != "f":
        return outputs if labels is None or outputs.shape[1:] == labels.shape[1:] else None
    axes = class_axes(outputs.shape, None if labels is None else labels.shape)
    return outputs.argmax(axes[0]) if len(axes) == 1 else None


def check_classes(labels: NDArray, outputs: NDArray, where: str) -> None:
    """That the labels are classes that an output can predict.

    labels: of all samples; outputs: of some.

    Raises:
        CompressorError: they are not.
    """
    shapes = f"labels {labels.dtype} {_sizes(labels.shape)} and output {where} {outputs.dtype} {_sizes(outputs.shape)}"
    remedy = f"or set {SETTING} to a module:function(labels, outputs)"
    if outputs.dtype.kind != "f" and outputs.shape[1:] == labels.shape[1:]:
        return
    axes = class_axes(outputs.shape, labels.shape)
    if len(axes) != 1:
        found = "more than one axis could be the classes" if axes else "no axis of the output holds a score by class"
        raise CompressorError(f"{shapes} do not fit: {found}. Give labels [N] for scores [N, C], {remedy}.")
    if labels.dtype.kind not in "biu":
        raise CompressorError(f"{shapes} do not fit: classes are whole numbers from 0. Convert the labels, {remedy}.")
    count = outputs.shape[axes[0]]
    outside = labels[(labels < 0) | (labels >= count)] if labels.dtype.kind != "b" else labels[:0]
    if outside.size:
        raise CompressorError(
            f"{shapes} do not fit: class {outside.flat[0]} is not in 0 to {count - 1} ({outside.size} such labels). "
            f"Renumber them, {remedy}."
        )


def score(judge: Metric, labels: Mapping[str, NDArray], outputs: Mapping[str, NDArray]) -> dict[str, float]:
    """The score of each output that has labels; of all together where a function of the user judges several.

    Raises:
        CompressorError: the metric refused them.
    """
    if judge.reads == "any":
        names = list(labels)
        if len(names) == 1:
            return {names[0]: judge(labels[names[0]], outputs[names[0]])}
        return {", ".join(names): judge(dict(labels), {name: outputs[name] for name in names})}
    return {name: judge(_table(labels[name], judge), _table(outputs[name], judge)) for name in labels}


def _table(values: NDArray, judge: Metric) -> NDArray:
    """As scikit-learn takes it: classes in one axis, scores and numbers in at most two."""
    if judge.reads == "classes":
        return values.reshape(-1)
    return values.reshape(len(values), -1) if values.ndim > 2 else values


def _sizes(shape: Shape) -> str:
    return f"[{', '.join(['N', *map(str, shape[1:])])}]"
