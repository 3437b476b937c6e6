"""What a weight looks like: where its values lie, what they are taken from, and where its zeros are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from compressor import encodings, sources
from compressor.arrays import CODE_DTYPES, NDArray, is_float
from compressor.blocks import blocks
from compressor.compilation.manifest import WeightFacts
from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse
from compressor.errors import CompressorError, DamageError
from compressor.weight import Weight

from ..display import TIMES
from .facts import KINDS, Report, kind

BINS = 60
MOST_STEMS = 64  # distinct values that are drawn one by one
MOST_PORTRAITS = 12  # of one artefact; several share twice as many
MOST_MARKS = 256
MOST_ELEMENTS = 1 << 25  # of a weight that is looked at: a tenth of a second a million, and four bytes each
TAIL = 0.001  # the share of values on each side that may lie outside of a plot
WHOLE = (128, 256)  # the most rows and columns of the picture of a mask ...
CORNER = (24, 48)  # ... and of its corner, value by value
_LOWEST = 128  # how far codes with a sign reach below zero


@dataclass(frozen=True)
class Mask:
    """Where a sparse weight has values.

    whole: the share of values that are there, float `[rows, columns]`; rows are those of the first axis.
    corner: the same value by value for the first rows and columns of the first two axes, at the first place of others.
    """

    whole: NDArray
    corner: NDArray


@dataclass(frozen=True)
class Portrait:
    """How the values of one weight are distributed.

    weight: its facts.
    bars: (from, to, count) of each bar, of what is not zero where the zeros are left out.
    stems: whether every bar is one value.
    marks: the entries of its tables, in ascending order, at most `MOST_MARKS`.
    unit: `value`, or `code` where the bars are codes on a grid.
    zeros: how many values are zero and not drawn.
    outside: how many lie beyond the first and the last bar.
    note: what there is to say of the table or the grid.
    mask: where its zeros are; None for a form that stores them.
    """

    weight: WeightFacts
    bars: tuple[tuple[float, float, int], ...]
    stems: bool
    marks: tuple[float, ...]
    unit: str
    zeros: int
    outside: int
    note: str
    mask: Mask | None

    @property
    def elements(self) -> int:
        return math.prod(self.weight.shape)


def of_report(report: Report) -> dict[str, list[Portrait]]:
    """The portraits of the largest weights, by the name of their artefact; one weight at a time is in memory.

    Raises:
        CompressorError: an artefact cannot be read.
    """
    here = [variant for variant in report.variants if variant.manifest is not None]
    most = MOST_PORTRAITS if len(here) == 1 else 2 * MOST_PORTRAITS // max(len(here), 1)
    found = {}
    for variant in here:
        assert variant.manifest is not None
        weights = {weight.name: weight for weight in sources.weights(variant.path).weights}
        looked_at = [facts for facts in chosen(variant.manifest.weights, most) if facts.name in weights]
        drawn = (portrait(facts, weights[facts.name]) for facts in looked_at)
        found[variant.name] = [one for one in drawn if one is not None]
    return found


def chosen(weights: Iterable[WeightFacts], most: int) -> list[WeightFacts]:
    """The weights to be looked at: the largest of each kind, then the largest; in the model's order."""
    fit = [weight for weight in weights if len(weight.shape) > 1 and 0 < math.prod(weight.shape) <= MOST_ELEMENTS]
    least = max((math.prod(weight.shape) for weight in fit), default=0) / 100
    large = [weight for weight in fit if math.prod(weight.shape) >= least]
    order = sorted(range(len(large)), key=lambda place: -large[place].dense_nbytes)
    first = [next((place for place in order if kind(large[place].encoding) == one), -1) for one in KINDS]
    taken = list(dict.fromkeys(place for place in (*first, *order) if place >= 0))[:most]
    return [large[place] for place in sorted(taken)]


def portrait(facts: WeightFacts, weight: Weight) -> Portrait | None:
    """The portrait of a weight; None for one whose values are no numbers that a plot has room for.

    Raises:
        CompressorError: what is stored cannot be read, or contradicts itself.
    """
    try:
        return _portrait(facts, weight.encoding)
    except DamageError as error:
        raise CompressorError(f"weight {weight.name}: damaged: expected {error}. Write the artefact again.") from error


def _portrait(facts: WeightFacts, encoding: Encoding) -> Portrait | None:
    inner = encoding.values if isinstance(encoding, Sparse) else encoding
    mask = encodings.full_mask(encoding) if isinstance(encoding, Sparse) else None
    zeros = 0 if mask is None else int(mask.size - np.count_nonzero(mask))
    marks: tuple[float, ...] = ()
    note, unit, outside = "", "value", 0
    bars: tuple[tuple[float, float, int], ...] | None = None
    if isinstance(inner, Palettized):
        marks = _entries(inner)
        bars, note = _palette(inner), _tables(inner)
    elif isinstance(inner, Quantized) and isinstance(inner.data, Dense):
        bars, note, unit = _counted(np.asarray(inner.data.values)), _grid(inner), "code"
    elif isinstance(inner, Dense) and inner.values.dtype in CODE_DTYPES.values():
        bars, unit = _counted(np.asarray(inner.values)), "code"
    elif not is_float(encodings.dtype(inner)):
        return None
    stems = bars is not None and len(bars) <= MOST_STEMS
    if bars is None:
        values = encodings.decode(encoding if mask is not None else inner).reshape(-1)
        values = values.astype(np.float32, copy=False)
        there = values[values != 0]
        if mask is None and values.size - there.size >= values.size / 20:
            zeros = int(values.size - there.size)
        bars, outside = _histogram(values if not zeros else there, whole=bool(marks))
    return Portrait(facts, bars, stems, marks, unit, zeros, outside, note, None if mask is None else _mask(mask))


def _palette(inner: Palettized) -> tuple[tuple[float, float, int], ...] | None:
    """How many values each entry of the one table stands for; None for several tables, or entries that are vectors."""
    lut = np.asarray(inner.lut).reshape(-1).astype(np.float64)
    if lut.size != inner.lut.shape[-2] or lut.size > MOST_STEMS:
        return None
    counts = _tally(np.asarray(inner.indices))
    if counts[_LOWEST + lut.size :].any():
        raise DamageError(f"codes below {lut.size}, got {np.flatnonzero(counts)[-1] - _LOWEST}")
    counts = counts[_LOWEST:]
    order = np.argsort(lut)
    return tuple((float(lut[place]), float(lut[place]), int(counts[place])) for place in order if counts[place])


def _entries(inner: Palettized) -> tuple[float, ...]:
    entries = np.unique(np.asarray(inner.lut).astype(np.float64))
    step = -(-entries.size // MOST_MARKS)
    return tuple(map(float, entries[::step]))


def _tables(inner: Palettized) -> str:
    *groups, entries, vector = inner.lut.shape
    count = math.prod(groups)
    what = "values" if vector == 1 else f"vectors of {vector} values"
    return f"one table of {entries} {what}" if count == 1 else f"{count:,} tables of {entries} {what} each"


def _grid(inner: Quantized) -> str:
    scale = np.abs(np.asarray(inner.scale).astype(np.float64))
    least, largest = float(scale.min(initial=math.inf)), float(scale.max(initial=0.0))
    zero = "code" if inner.zero_point is None else "(code \N{MINUS SIGN} zero point)"
    if scale.size == 1:
        return f"value = {zero} {TIMES} {largest:.3g}"
    return f"value = {zero} {TIMES} scale, {scale.size:,} scales from {least:.3g} to {largest:.3g}"


def _counted(codes: NDArray) -> tuple[tuple[float, float, int], ...]:
    """How often each code is there, from the least to the largest one."""
    counts = _tally(codes)
    there = np.flatnonzero(counts)
    places = range(there[0], there[-1] + 1) if there.size else range(0)
    return tuple((float(place - _LOWEST), float(place - _LOWEST), int(counts[place])) for place in places)


def _tally(codes: NDArray) -> NDArray:
    """How often each whole number of at most 8 bits is there: int64 `[384]`, from the least of those with a sign on."""
    counts = np.zeros(_LOWEST + 256, np.int64)
    flat = codes.reshape(-1)
    for part in blocks(flat.size):  # numpy counts in 8 bytes a number
        counts += np.bincount(flat[part].astype(np.int64) + _LOWEST, minlength=counts.size)
    return counts


def _histogram(values: NDArray, *, whole: bool) -> tuple[tuple[tuple[float, float, int], ...], int]:
    """Counts in bars of one width, and how many values lie beyond them: far ones would leave the others one bar."""
    values = values[np.isfinite(values)]
    if not values.size:
        return (), 0
    low, high = float(values.min()), float(values.max())
    if not whole:
        inner = np.quantile(values[:: -(-values.size // 200_000)], [TAIL, 1 - TAIL])
        if high - low > 2 * (inner[1] - inner[0]) > 0:
            low, high = float(inner[0]), float(inner[1])
    if low == high:
        return ((low, high, int(values.size)),), 0
    counts, edges = np.histogram(values, BINS, (low, high))
    bars = tuple(zip(edges.tolist(), edges[1:].tolist(), counts.tolist(), strict=False))
    return bars, int(values.size - counts.sum())


def _mask(mask: NDArray) -> Mask:
    rows = mask.reshape(mask.shape[0], -1) if mask.ndim > 1 else mask.reshape(1, -1)
    plane = mask.reshape(*mask.shape[:2], -1)[:, :, 0] if mask.ndim > 1 else rows
    if min(plane.shape) < 4:  # a depthwise convolution has one channel a group: its kernels say more
        plane = rows
    return Mask(_shrunk(rows, WHOLE), plane[: CORNER[0], : CORNER[1]].astype(np.float32))


def _shrunk(mask: NDArray, most: Sequence[int]) -> NDArray:
    """The share of set places in each part of a grid of at most `most` rows and columns."""
    found = mask
    for axis, limit in enumerate(most):
        size = found.shape[axis]
        count = min(size, limit)
        starts = np.arange(count) * size // count
        widths = np.diff([*starts, size]).reshape([-1 if place == axis else 1 for place in range(2)])
        found = np.add.reduceat(found, starts, axis=axis, dtype=np.float32) / widths
    return found.astype(np.float32)
