"""What a page shows of a report: rows, figures and plots, before a template gives them a look."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressor.compilation.manifest import WeightFacts
from compressor.recognition.findings import Finding

from ..display import TIMES
from . import labels, plots
from .facts import Change, Limit, Report, Variant, kind, number
from .plots import Block

WIDE, NARROW, LETTER = 10.0, 3.4, 6.5  # pixels: a hundredth of a plot on a wide page and on a narrow one, and a letter
SHOWN = 40  # rows of a table that a script shows at first
MOST_COMPARED = 200  # weights side by side, or changed: the largest

NAMES = {
    "size_mb": "size in MB",
    "size_ratio": "times smaller",
    "bits_per_weight": "bits a weight",
    "agreement": "agreement",
    "source_mb": "source in MB",
    "latency_p50_ms": "median latency in ms",
    "latency_p90_ms": "latency of nine runs in ten, in ms",
    "load_ms": "load in ms",
    "latency_ratio": "latency, times that of uncompressed",
    "load_ratio": "load, times that of uncompressed",
}


def said(name: str) -> str:
    """A metric for a reader who does not know its key.

    >>> said("size_mb"), said("accuracy_drop"), said("mean_squared_error")
    ('size in MB', 'accuracy drop', 'mean squared error')
    """
    return NAMES.get(name, name.replace("_", " "))


@dataclass(frozen=True)
class Figure:
    """A number that stands large. change: from the revision that is compared with."""

    label: str
    value: str
    note: str = ""
    change: Change | None = None


@dataclass(frozen=True)
class Row:
    """One weight. label: its name without what all begin with. rank: by its bytes, from 0. details: what was not done.

    before, after: its bytes in percent of the largest weight's.
    """

    weight: WeightFacts
    label: str
    kind: str
    bits: float
    before: float
    after: float
    rank: int
    details: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Form:
    """All weights of one form."""

    name: str
    kind: str
    count: int
    before: int
    after: int
    elements: int

    @property
    def bits(self) -> float:
        return 8 * self.after / self.elements if self.elements else 0.0


@dataclass(frozen=True)
class Artefact:
    """One variant and what is drawn of it.

    prefix: what the names of all weights begin with.
    names: of the blocks that have room for one: the label, and whether a narrow page has room for it too.
    shown: how many rows are shown at first: those of small weights that stay dense are not.
    """

    variant: Variant
    figures: tuple[Figure, ...]
    prefix: str
    rows: tuple[Row, ...]
    forms: tuple[Form, ...]
    blocks: tuple[Block, ...]
    names: tuple[tuple[Block, str, bool], ...]
    depth: float
    shown: int


def artefact(variant: Variant, found: Mapping[str, Finding]) -> Artefact:
    """A variant as it is drawn."""
    weights = variant.manifest.weights if variant.manifest else ()
    prefix, short = labels.fold([weight.name for weight in weights])
    blocks = plots.skyline(weights)
    wide = [block for block in blocks if block.width * WIDE > 3 * LETTER and not block.others]
    whole = [block.name.removeprefix(prefix).removesuffix(".weight") for block in wide]
    names = [
        full if block.width * WIDE > len(full) * LETTER else cut
        for block, full, cut in zip(wide, whole, labels.distinct(whole, 16), strict=True)
    ]
    named = [(block, name, block.width * NARROW > len(name) * LETTER) for block, name in zip(wide, names, strict=True)]
    return Artefact(
        variant,
        figures(variant),
        prefix,
        _rows(weights, short, found),
        forms(weights),
        blocks,
        tuple((block, name, always) for block, name, always in named if block.width * WIDE > len(name) * LETTER),
        max((block.before for block in blocks), default=32.0),
        min(SHOWN, sum(not _minor(weight) for weight in weights) or SHOWN),
    )


def figures(variant: Variant) -> tuple[Figure, ...]:
    """What one wants to know first."""
    changed = {change.name: change for change in variant.changes}
    values, metric = variant.metrics, variant.metric
    found = []
    for name in (metric, "agreement", "size_mb", "size_ratio", "bits_per_weight"):
        value = number(values.get(name))
        if name and value is not None:
            found.append(Figure(said(name), f"{value:g}", _note(variant, name), changed.get(name)))
    if not found and variant.manifest is not None:
        made = variant.manifest
        elements = sum(math.prod(weight.shape) for weight in made.weights)
        found = [Figure("size in MB", f"{made.nbytes / 1e6:.3g}", f"{made.dense_nbytes / 1e6:.3g} uncompressed")]
        if made.nbytes:
            found.append(Figure("times smaller", f"{made.dense_nbytes / made.nbytes:.2f}"))
        if elements:
            found.append(Figure("bits a weight", f"{8 * made.weights_nbytes / elements:.2f}"))
    return tuple(found)


def _note(variant: Variant, name: str) -> str:
    baseline = variant.metrics.get("baseline")
    before = number(baseline.get(name)) if isinstance(baseline, dict) else None
    if before is not None:
        return f"{before:g} uncompressed"
    return "of predictions are the same" if name == "agreement" else ""


def _rows(weights: Sequence[WeightFacts], short: Sequence[str], found: Mapping[str, Finding]) -> tuple[Row, ...]:
    largest = max((max(weight.dense_nbytes, weight.nbytes) for weight in weights), default=1) or 1
    order = sorted(range(len(weights)), key=lambda place: (_minor(weights[place]), -weights[place].dense_nbytes))
    ranks = {place: rank for rank, place in enumerate(order)}
    rows = []
    for place, (weight, label) in enumerate(zip(weights, short, strict=True)):
        elements = math.prod(weight.shape)
        misses = found[weight.name].near_misses if weight.name in found else ()
        details = (*(("near miss", miss) for miss in misses if miss not in weight.evidence), *_refused(weight))
        bits = 8 * weight.nbytes / elements if elements else 0.0
        before, after = (100 * count / largest for count in (weight.dense_nbytes, weight.nbytes))
        rows.append(Row(weight, label, kind(weight.encoding), bits, before, after, ranks[place], details))
    return tuple(rows)


def _minor(weight: WeightFacts) -> bool:
    """Whether a weight is a bias, a scale or the like, of which there are as many as of others and no one asks."""
    return len(weight.shape) < 2 and weight.encoding == "dense"


def _refused(weight: WeightFacts) -> tuple[tuple[str, str], ...]:
    return tuple((f"not {encoding}", reason) for encoding, reason in weight.rejected)


def forms(weights: Sequence[WeightFacts]) -> tuple[Form, ...]:
    """The weights by form, the most bytes before first."""
    found: dict[str, list[WeightFacts]] = {}
    for weight in weights:
        found.setdefault(weight.encoding, []).append(weight)
    made = [
        Form(
            name,
            kind(name),
            len(same),
            sum(weight.dense_nbytes for weight in same),
            sum(weight.nbytes for weight in same),
            sum(math.prod(weight.shape) for weight in same),
        )
        for name, same in found.items()
    ]
    return tuple(sorted(made, key=lambda form: -form.before))


@dataclass(frozen=True)
class Side:
    """One weight in several artefacts: its facts in each, None where it is not."""

    name: str
    label: str
    there: tuple[WeightFacts | None, ...]


def side_by_side(variants: Sequence[Variant]) -> tuple[str, tuple[Side, ...]]:
    """The largest weights that are compressed somewhere, and what the names of all begin with."""
    tables = [{weight.name: weight for weight in one.manifest.weights} if one.manifest else {} for one in variants]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [(name, tuple(table.get(name) for table in tables)) for name in names]
    rows = [(name, there) for name, there in rows if any(one and one.encoding != "dense" for one in there)]
    rows.sort(key=lambda row: -max(one.dense_nbytes for one in row[1] if one))
    prefix, short = labels.fold([name for name, _ in rows])
    sides = [Side(name, label, there) for (name, there), label in zip(rows, short, strict=True)]
    return prefix, tuple(sides[:MOST_COMPARED])


def shape(weight: WeightFacts) -> str:
    return TIMES.join(map(str, weight.shape)) or "scalar"


def bound(limit: Limit) -> str:
    return f"{limit.bound} {limit.limit:g}"


def signed(value: float) -> str:
    """A difference, with its sign.

    >>> signed(0.25), signed(-1500.0), signed(0.0)
    ('+0.25', '−1500', '0')
    """
    text = f"{round(abs(value), 6):.6g}"
    return text if text == "0" else ("+" if value > 0 else "\N{MINUS SIGN}") + text


def verified(report: Report) -> bool:
    """Whether every weight was compared with its source: that of an artefact of ours, by what its manifest says."""
    made = [variant.manifest for variant in report.variants if variant.manifest]
    return bool(made) and all(weight.exact is not None for one in made for weight in one.weights)
