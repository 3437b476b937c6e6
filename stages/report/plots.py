"""Plots as numbers: every place is a percentage of the width or the height, so that text keeps its size on any page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compressor.compilation.manifest import WeightFacts

from .facts import KINDS, kind
from .portraits import Portrait

MOST_BLOCKS = 600
NARROW = 100 / MOST_BLOCKS  # percent of the width below which neighbours are drawn as one


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in percent, and what stands there."""

    place: float
    text: str


@dataclass(frozen=True)
class Block:
    """One weight of a skyline, or several neighbours that are too narrow to be seen.

    left, width: in percent.
    before: its bits a weight, uncompressed.
    parts: (kind, bits) of the forms that are in it, from the bottom up: so stacked, their areas are their bytes.
    name: of the widest one. others: how many more there are.
    """

    left: float
    width: float
    before: float
    parts: tuple[tuple[str, float], ...]
    name: str
    others: int

    @property
    def bits(self) -> float:
        return sum(bits for _, bits in self.parts)


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram, in percent of the width and of the highest one, and what it says."""

    left: float
    width: float
    height: float
    text: str


def skyline(weights: Sequence[WeightFacts]) -> tuple[Block, ...]:
    """Every weight as a block: its width is how many values it has, its height the bits of each, its area its bytes."""
    sized = [(weight, math.prod(weight.shape)) for weight in weights if math.prod(weight.shape)]
    total = sum(count for _, count in sized)
    blocks: list[Block] = []
    left = 0.0
    group: list[tuple[WeightFacts, int]] = []
    width = 0.0
    for place, (weight, count) in enumerate(sized):
        group.append((weight, count))
        width += 100 * count / total
        following = 100 * sized[place + 1][1] / total if place + 1 < len(sized) else math.inf
        if width >= NARROW or following >= NARROW:
            blocks.append(_block(group, left, width))
            left, width, group = left + width, 0.0, []
    return tuple(blocks)


def _block(group: Sequence[tuple[WeightFacts, int]], left: float, width: float) -> Block:
    count = sum(one for _, one in group)
    widest = max(group, key=lambda one: one[1])[0]
    before = 8 * sum(weight.dense_nbytes for weight, _ in group) / count
    stored = dict.fromkeys(KINDS, 0)
    for weight, _ in group:
        stored[kind(weight.encoding)] += weight.nbytes
    parts = tuple((one, 8 * nbytes / count) for one, nbytes in stored.items() if nbytes)
    return Block(left, width, before, parts, widest.name, len(group) - 1)


def histogram(drawn: Portrait) -> tuple[tuple[Bar, ...], tuple[float, ...], tuple[Tick, ...]]:
    """The bars, the places of the marks, and the ticks of a portrait's axis."""
    if not drawn.bars:
        return (), (), ()
    low, high = drawn.bars[0][0], drawn.bars[-1][1]
    pad = (high - low) * 0.02 or abs(low) or 1.0
    low, high = low - pad, high + pad
    most = max(count for _, _, count in drawn.bars)

    def at(value: float) -> float:
        return 100 * (value - low) / (high - low)

    bars = []
    for start, stop, count in drawn.bars:
        if count:
            said = f"{start:.4g}" if start == stop else f"{start:.4g} to {stop:.4g}"
            half = 0.5 if start == stop and not drawn.stems else 0.0  # one code, beside the next
            left, right = at(start - half), at(stop + half)
            bars.append(Bar(left, right - left, 100 * count / most, f"{said}: {count:,}"))
    marks = tuple(at(mark) for mark in drawn.marks if low <= mark <= high)
    return tuple(bars), marks, ticks(low, high, 4)


def ticks(low: float, high: float, count: int) -> tuple[Tick, ...]:
    """About `count` round numbers between two.

    >>> [(round(tick.place), tick.text) for tick in ticks(0.0, 0.9, 4)]
    [(0, '0'), (22, '0.2'), (44, '0.4'), (67, '0.6'), (89, '0.8')]
    """
    if not high > low:
        return ()
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.75)
    first = math.ceil(low / step - 1e-9)
    found = []
    while first * step <= high + step * 1e-9:
        value = first * step
        found.append(Tick(100 * (value - low) / (high - low), f"{value:.10g}".replace("-", "\N{MINUS SIGN}")))
        first += 1
    return tuple(found)


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, by powers where one reaches much further than the other."""

    low: float
    high: float
    by_powers: bool = False

    def at(self, value: float) -> float:
        """The place of a value, in percent."""
        if self.by_powers:
            return 100 * math.log(value / self.low) / math.log(self.high / self.low)
        return 100 * (value - self.low) / (self.high - self.low)

    def ticks(self, count: int) -> tuple[Tick, ...]:
        if not self.by_powers:
            return ticks(self.low, self.high, count)
        steps = [
            factor * 10.0**power
            for power in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for factor in (1, 2, 5)
        ]
        return tuple(Tick(self.at(step), f"{step:g}") for step in steps if self.low <= step <= self.high)


def sizes(values: Sequence[float]) -> Scale:
    """An axis on which all of these have room."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 8:
        return Scale(low / 1.3, high * 1.3, by_powers=True)
    pad = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return Scale(max(low - pad, 0.0 if low >= 0 else -math.inf), high + pad)
