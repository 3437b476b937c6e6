"""What a report tells, as values: nothing here reads a file, and nothing here knows of HTML or markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compressor.compilation.manifest import Manifest, WeightFacts
from compressor.evaluation import metrics
from compressor.recognition.findings import Finding

Values = Mapping[str, object]

NAMELESS = "the artefact"
"""What an artefact is called whose target nobody has named."""

KINDS = ("dense", "int", "palettized", "sparse", "joint")
"""The families of forms that share a colour; what stands further on is stored less like values."""


def kind(encoding: str) -> str:
    """The family of a form.

    >>> kind("dense"), kind("int8"), kind("palettized4"), kind("sparse"), kind("sparse(palettized4)")
    ('dense', 'int', 'palettized', 'sparse', 'joint')
    """
    if "(" in encoding:
        return "joint"
    plain = encoding.rstrip("0123456789")
    return plain if plain in KINDS else "int"


@dataclass(frozen=True)
class Limit:
    """What a number must reach.

    bound: `at least` or `at most`.
    value: the number; None where it is not known, which keeps no limit.
    """

    name: str
    bound: str
    limit: float
    value: float | None
    kept: bool


@dataclass(frozen=True)
class Change:
    """One number now and at the revision that is compared with.

    better: whether it is better than it was; None where it is the same, or neither way is better.
    """

    name: str
    then: float | None
    now: float | None
    better: bool | None


@dataclass(frozen=True)
class WeightChange:
    """One weight whose form or bytes differ from those at a revision; None where it was not, or is no more."""

    name: str
    then: WeightFacts | None
    now: WeightFacts | None

    @property
    def nbytes(self) -> int:
        """By how many bytes it grew."""
        return (self.now.nbytes if self.now else 0) - (self.then.nbytes if self.then else 0)


@dataclass(frozen=True)
class Past:
    """An artefact at a revision. missing: why its weights are not known."""

    metrics: Values
    weights: tuple[WeightFacts, ...] | None
    missing: str = ""


@dataclass(frozen=True)
class Variant:
    """One artefact: what is known of it.

    name: its target, or what it was called by.
    path: where it lies or would lie.
    metrics: what `evaluate` measured; empty where it has not.
    manifest: None where the artefact is not here.
    limits: those of the settings.
    past: the same artefact at the revision that is compared with.
    times: (name, uncompressed, compressed) of what was timed, as text. timed: how, or why nothing was.
    """

    name: str
    path: Path
    metrics: Values
    manifest: Manifest | None
    limits: tuple[Limit, ...] = ()
    past: Past | None = None
    times: tuple[tuple[str, str, str], ...] = ()
    timed: str = ""

    @property
    def metric(self) -> str:
        """The name of the score: the number beside which there is a drop; empty where there is none."""
        return score(self.metrics)

    @property
    def passed(self) -> bool | None:
        """Whether every limit is kept; None where there are none."""
        return all(limit.kept for limit in self.limits) if self.limits else None

    @property
    def changes(self) -> tuple[Change, ...]:
        """Every number that is now or was then."""
        return changes(self.metrics, self.past.metrics, self.metric) if self.past else ()

    @property
    def weight_changes(self) -> tuple[WeightChange, ...]:
        """The weights that differ from those at the revision, the largest difference first."""
        if self.past is None or self.past.weights is None or self.manifest is None:
            return ()
        return weight_changes(self.manifest.weights, self.past.weights)


@dataclass(frozen=True)
class Run:
    """One measured artefact of the repository's history.

    name: of the experiment or, of a commit, its subject.
    revision: its abbreviated hash; empty for what lies in the workspace.
    when: seconds since the epoch.
    origin: `workspace`, `commit` or `experiment`.
    target: what it was made for.
    params: as text by dotted key; empty where they are not known.
    """

    name: str
    revision: str
    when: int
    origin: str
    target: str
    metrics: Values
    params: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> float | None:
        """In MB."""
        return number(self.metrics.get("size_mb"))

    def differing(self, own: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """The parameters that are not those of the workspace, as far as both have them."""
        return tuple((name, value) for name, value in self.params.items() if name in own and own[name] != value)


@dataclass(frozen=True)
class Report:
    """All that is told.

    title: what the report is of.
    revision, subject: of the commit that is checked out; empty without one.
    dirty: whether what is reported is not what was committed.
    found: what `detect` found, by weight.
    runs: the workspace's first, then the newest first. no_runs: why there are no others.
    params: of the workspace, as text by dotted key.
    against: the revision that is compared with.
    notes: what is missing, and what to do.
    """

    title: str
    variants: tuple[Variant, ...]
    revision: str = ""
    subject: str = ""
    dirty: bool = False
    found: Mapping[str, Finding] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()
    no_runs: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    against: str = ""
    notes: tuple[str, ...] = ()


def number(value: object) -> float | None:
    """A finite number, or nothing: metrics are files that others may have written.

    >>> number(3), number(True), number("3"), number(float("nan"))
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def score(values: Values) -> str:
    """The name of the score among metrics.

    >>> score({"agreement": 1.0, "f1": 0.9, "f1_drop": 0.0}), score({"size_mb": 0.2})
    ('f1', '')
    """
    return next((name for name in values if f"{name}_drop" in values and number(values[name]) is not None), "")


def limits(values: Values, asked: Mapping[str, float], metric: str) -> tuple[Limit, ...]:
    """What must hold, and whether it does.

    Raises:
        UsageError: a limit is not one of the numbers.
    """
    found = []
    for name, limit in asked.items():
        kept = not metrics.broken(values, {name: limit}, metric=metric)
        bound = "at least" if metrics.more_is_better(name, metric) else "at most"
        found.append(Limit(name, bound, limit, number(values.get(name)), kept))
    return tuple(found)


def changes(now: Values, then: Values, metric: str) -> tuple[Change, ...]:
    """The numbers of both, in the order of those of now."""
    found = []
    for name in dict.fromkeys((*now, *then)):
        old, new = number(then.get(name)), number(now.get(name))
        if old is None and new is None:
            continue
        better = None
        if old is not None and new is not None and old != new and name != "source_mb":
            better = (new > old) == metrics.more_is_better(name, metric or "accuracy")
        found.append(Change(name, old, new, better))
    return tuple(found)


def weight_changes(now: Sequence[WeightFacts], then: Sequence[WeightFacts]) -> tuple[WeightChange, ...]:
    """The weights whose form or bytes are not what they were, the largest difference first."""
    old, new = ({weight.name: weight for weight in weights} for weights in (then, now))
    found = [
        WeightChange(name, old.get(name), new.get(name))
        for name in dict.fromkeys((*new, *old))
        if _stored(old.get(name)) != _stored(new.get(name))
    ]
    return tuple(sorted(found, key=lambda change: -abs(change.nbytes)))


def _stored(weight: WeightFacts | None) -> tuple[object, ...] | None:
    return None if weight is None else (weight.shape, weight.dtype, weight.encoding, weight.nbytes)


def front(points: Iterable[tuple[float, float]], *, more_is_better: bool) -> frozenset[int]:
    """The Pareto front of (size, score): the places of those that no other one beats in one and equals in the other.

    >>> sorted(front([(1, 0.9), (2, 0.9), (2, 0.95), (3, 0.99), (3, 0.97)], more_is_better=True))
    [0, 2, 3]
    """
    sign = -1 if more_is_better else 1
    ordered = sorted((size, sign * value, place) for place, (size, value) in enumerate(points))
    best: tuple[float, float] = (math.inf, math.inf)
    found = set()
    for size, value, place in ordered:
        if value < best[1] or (size, value) == best:
            best = (size, value)
            found.add(place)
    return frozenset(found)
