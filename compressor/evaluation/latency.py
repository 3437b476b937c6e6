"""Latency: how long an artefact and its uncompressed model take to load and to run, measured in turns.

What else the machine does, and its clock that falls as it gets warm, meet both alike, so their ratio says more than
either time. A runtime that stands in for the target's own computes with decoded weights: it is not timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.arrays import NDArray
from compressor.errors import CompressorError, line
from compressor.evaluation import samples
from compressor.targets.session import Session

LOADS = 3
"""How often each model is loaded; the median counts. The files are read before: what is timed is no disk."""

Open = Callable[[], Session]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What to time (`evaluate.latency` of params.yaml).

    runs: of each model that count. warmup: of each that do not, before.
    batch_size: samples in one run, unless the model itself fixes it.

    Raises:
        ValueError: nothing is left to time.
    """

    runs: int
    warmup: int = 5
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.runs < 1 or self.warmup < 0 or self.batch_size < 1:
            raise ValueError(f"{self}: at least 1 run of at least 1 sample")


@dataclass(frozen=True)
class Timed:
    """The times of one model, in seconds. runs: of single runs, in their order. load: of opening it."""

    runs: Sequence[float]
    load: float

    def percentile(self, share: int) -> float:
        """The time that `share` % of the runs do not exceed."""
        return float(np.percentile(self.runs, share))


@dataclass(frozen=True)
class Latency:
    """Two models, timed in turns.

    before, after: of the uncompressed model and of the artefact.
    batch_size: samples in one run.
    runtime: what ran them.
    """

    before: Timed
    after: Timed
    batch_size: int
    runtime: str


def measure(baseline: Open, artefact: Open, data: str, settings: Settings, progress: Progress | None = None) -> Latency:
    """Load and run both models in turns, on the same samples; both are in memory at once.

    data: `module:function` or an `.npz`: see `samples`.

    Raises:
        UsageError: there are no such data.
        CompressorError: a model does not load or run; the samples do not fit it.
    """
    loads = [(_loading(baseline), _loading(artefact)) for _ in range(LOADS)]
    models = baseline(), artefact()
    given = samples.read(data)
    feeds = [_batch(given, model, settings.batch_size) for model in models]
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(-settings.warmup, settings.runs):
        # Neither is always the one that finds the other's data in the caches.
        for place in (0, 1) if turn % 2 else (1, 0):
            seconds = _running(models[place], feeds[place])
            if turn >= 0:
                times[place].append(seconds)
        if progress is not None:
            progress("latency", turn + settings.warmup + 1, settings.warmup + settings.runs)
    before, after = (Timed(runs, statistics.median(load[place] for load in loads)) for place, runs in enumerate(times))
    return Latency(before, after, len(next(iter(feeds[1].values()))), models[1].runtime)


def _loading(model: Open) -> float:
    start = time.perf_counter()
    model()
    return time.perf_counter() - start


def _running(model: Session, feeds: Mapping[str, NDArray]) -> float:
    names = model.outputs
    start = time.perf_counter()
    try:
        _: Sequence[Any] = model.run(names, feeds)
    except Exception as error:  # of whatever class the runtime's errors are
        raise CompressorError(f"{model.label}: {model.runtime} failed: {line(error)}") from error
    return time.perf_counter() - start


def _batch(given: samples.Samples, model: Session, size: int) -> dict[str, NDArray]:
    """The first samples, as many as one run takes; the last one again where there are too few."""
    feeds = samples.feeds(given, model.inputs, model.label)
    count = len(next(iter(feeds.values())))
    rows = np.minimum(np.arange(samples.fixed_length(model.inputs) or size), count - 1)
    return {name: array[rows] for name, array in feeds.items()}
