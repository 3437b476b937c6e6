"""Score against size over the experiments of a repository, and those of them that no other one beats in both."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from compressor.errors import plural
from compressor.evaluation import metrics

from . import plots
from .facts import Report, Run, Variant, front, number, score
from .plots import Scale, Tick

MOST_SHAPES = 5  # one a target; further ones share the last


@dataclass(frozen=True)
class Point:
    """A run in a plot.

    left, top: in percent.
    best: whether no other one is both smaller and better.
    shape: which mark its target has.
    rank: the best ones come first, then the newest.
    """

    run: Run
    left: float
    top: float
    best: bool
    shape: int
    rank: int


@dataclass(frozen=True)
class Scatter:
    """Score against size. dropped: how many runs have another score, or none."""

    metric: str
    more_is_better: bool
    points: tuple[Point, ...]
    steps: tuple[tuple[tuple[float, float], tuple[float, float]], ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    uncompressed: tuple[float, float] | None
    targets: tuple[str, ...]
    dropped: int

    @property
    def count(self) -> str:
        """How many experiments there are, and how many artefacts where one has several: for several targets."""
        artefacts = len(self.points)
        experiments = len({(point.run.origin, point.run.revision) for point in self.points})
        of = plural(experiments, "experiment")
        return of if artefacts == experiments else f"{plural(artefacts, 'artefact')} of {of}"


def scatter(report: Report) -> Scatter | None:
    """The experiments as points; None where none of them has a score."""
    metric = next((variant.metric for variant in report.variants if variant.metric), "")
    metric = metric or next((name for run in report.runs if (name := score(run.metrics))), "")
    measured = [
        (run, run.size, value)
        for run in report.runs
        if run.size is not None and (value := number(run.metrics.get(metric))) is not None
    ]
    if not metric or not measured:
        return None
    more = metrics.more_is_better(metric, metric)
    baseline = _baseline(report.variants, metric)
    ends = [baseline] if baseline else []
    across = plots.sizes([size for _, size, _ in measured] + [size for size, _ in ends])
    up = _around([value for _, _, value in measured] + [value for _, value in ends])
    best = front([(size, value) for _, size, value in measured], more_is_better=more)
    targets = tuple(dict.fromkeys(run.target for run, _, _ in measured))
    order = sorted(range(len(measured)), key=lambda place: (place not in best, place))
    ranks = {place: rank for rank, place in enumerate(order)}
    points = tuple(
        Point(
            run,
            across.at(size),
            100 - up.at(value),
            place in best,
            min(targets.index(run.target), MOST_SHAPES - 1),
            ranks[place],
        )
        for place, (run, size, value) in enumerate(measured)
    )
    edge = sorted({(point.left, point.top) for point in points if point.best})
    corners = [(edge[0][0], 100.0), edge[0]]
    corners += [step for one, two in itertools.pairwise(edge) for step in ((two[0], one[1]), two)]
    corners.append((100.0, edge[-1][1]))
    return Scatter(
        metric,
        more,
        points,
        tuple(itertools.pairwise(corners)),
        across.ticks(6),
        up.ticks(5),
        (across.at(baseline[0]), 100 - up.at(baseline[1])) if baseline else None,
        targets,
        len(report.runs) - len(measured),
    )


def _baseline(variants: Sequence[Variant], metric: str) -> tuple[float, float] | None:
    """The uncompressed model of the first artefact that was measured."""
    for variant in variants:
        before = variant.metrics.get("baseline")
        if isinstance(before, dict):
            size, value = number(before.get("size_mb")), number(before.get(metric))
            if size is not None and value is not None:
                return size, value
    return None


def _around(values: Sequence[float]) -> Scale:
    low, high = min(values), max(values)
    pad = (high - low) * 0.12 or abs(high) * 0.01 or 1.0
    return Scale(low - pad, high + pad)
