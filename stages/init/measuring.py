"""What the model takes and is measured by: from options, from the model, or from the data that it is measured on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import CompressorError, UsageError
from compressor.evaluation import known

from . import answers, inputs, models
from .answers import Decision
from .inputs import Told
from .layout import value
from .repository import Repository

if TYPE_CHECKING:
    from compressor.arrays import NDArray
    from compressor.evaluation.samples import Samples

METRIC = "accuracy_score"
NONE = "none"
"""What a user says who has no data."""


def data_of(making: Decision) -> str:
    """What the model is measured on; empty text for nothing.

    Raises:
        UsageError: nobody says, or it is spelled wrong.
    """
    given = "" if making.asked.data == NONE else making.asked.data
    data = making.known("data", given, "evaluate", "data")
    if data is None:
        question = (
            f"which module:function returns (inputs, labels), or which .npz has them? ({NONE}: only sizes are measured)"
        )
        data = making.ask("data", question, NONE)
    if data in (NONE, ""):
        return ""
    if data.endswith(".npz"):
        return answers.path(data, "data")
    return answers.reference(data, "data", f", or a path that ends with .npz, or {NONE}")


def measured(
    making: Decision, found: models.Found, kind: str, factory: str | None, data: str
) -> tuple[Told, str, Mapping[str, str]]:
    """The inputs of the model, the metric, and its arguments.

    Raises:
        UsageError: nothing says them, and nobody is there to ask; an option is spelled wrong.
    """
    metric = making.known("metric", making.asked.metric, "evaluate", "metric")
    if making.settings.get("export") is not None:  # what stands there is the user's
        return Told(value(making.settings, "export", "inputs") or {}, ""), metric or METRIC, {}
    path = making.repository.folder / found.path
    given = Told(inputs.parse(making.asked.inputs), "") if making.asked.inputs else None
    with contextlib.chdir(making.repository.folder):
        told = given or inputs.of_model(kind, path)
        clear = told is not None and metric is not None and metric not in known.AVERAGED
        samples, problem = (None, "") if clear else _samples(making.repository, data)
        if told is None and samples is not None:
            try:
                told = inputs.of_data(data, samples, inputs.names(kind, path, factory))
            except CompressorError as error:
                problem = str(error)
    if told is None:
        later = f"{problem}. Make what it reads first (`dvc repro` up to there), or say it here"
        why = later if problem else f"nothing says what {found.path} takes"
        spelled = making.ask("input", f"{why}. What are the model's inputs, as image=float32[batch,3,224,224]?", "")
        told = Told(inputs.parse(spelled.split()), "")
    elif problem:
        making.note("data", data, f"cannot be looked at yet: {problem}")
    making.note("inputs", inputs.describe(told.inputs or told.had), told.because)
    if metric is None:
        guess = METRIC if samples is None else _of_labels(making, samples)
        question = "By which metric? (of scikit-learn, or module:function)"
        metric = making.ask("metric", question, guess, needed=False) if data else guess
    return told, metric, {} if samples is None else _arguments(making, metric, samples)


def _samples(repository: Repository, data: str) -> tuple[Samples | None, str]:
    """What the data is, or why that cannot be told yet.

    Raises:
        UsageError: there is no such function, or no such file and none that a stage writes.
    """
    if not data:
        return None, ""
    from compressor.evaluation import samples

    if data.endswith(".npz") and not Path(data).is_file() and models.named(repository, data) is not None:
        return None, f"{data} is not there yet"
    try:
        return samples.read(data), ""
    except UsageError:
        raise
    except CompressorError as error:  # what it reads may be made by a stage that has not run yet
        return None, str(error)


def _of_labels(making: Decision, samples: Samples) -> str:
    """A metric for numbers where the labels are no classes."""
    labels = _labels(samples)
    if labels is None or labels.dtype.kind != "f":
        return METRIC
    making.note("metric", "r2_score", "the labels are no classes but numbers")
    return "r2_score"


def _arguments(making: Decision, metric: str, samples: Samples) -> Mapping[str, str]:
    """What a metric of two classes needs where the labels are more of them."""
    import numpy as np

    labels = _labels(samples) if metric in known.AVERAGED else None
    classes = 0 if labels is None or labels.dtype.kind not in "iu" else len(np.unique(labels))
    if classes < 3:
        return {}
    making.note("metric", f"{metric} with average: macro", f"the labels are {classes} classes")
    return {"average": "macro"}


def _labels(samples: Samples) -> NDArray | None:
    """Those of the first output that has some."""
    import numpy as np

    labels = samples.labels
    first = next(iter(labels.values()), None) if isinstance(labels, Mapping) else labels
    if isinstance(first, tuple | list) and first and np.ndim(first[0]):
        first = first[0]
    return None if first is None else np.asarray(first)
