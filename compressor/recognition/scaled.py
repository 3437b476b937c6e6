"""Tables times scales: rows whose values are those of one table of floats, times a scale of each row, rounded once.

The tables that formats define are known; others are learned from rows that are scaled alike, by powers of two or by
their largest magnitude. Every value must be `fl(entry * scale)` exactly. Rows are `[rows, n]`.

Of rows in half precision the table may be float32, and so are the scales then: products are rounded to the rows' type
last, as libraries do that quantize such models. No value shows its scale then: what all of a row allow is searched.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np

from compressor.arrays import DType, NDArray, mantissa_bits
from compressor.patterns import starts
from compressor.recognition.lookup import Lookup
from compressor.recognition.row_tables import row_tables
from compressor.recognition.rows import exact, in_blocks, rounded
from compressor.recognition.tables import ENTRIES

_ROUNDED = np.float32(2.0**-23)
"""How much a product, and a quotient, change when they are rounded to float32, relatively and together."""

_SHARED = 2
"""Tables are one where all rows together have at most so many times the distinct values that one of them has."""

_UNUSED = 1 / 5
"""The largest value of a row is a larger part of the largest entry than this: scales follow from ranges."""

_SUPPORT = 50
"""An entry is one that more than a fiftieth of the rows have, and two at least."""

_ALIGNED = 256
"""So many rows are aligned by powers of two, one by one."""


@np.errstate(divide="ignore", over="ignore", invalid="ignore", under="ignore")  # rows of zeros, values too far apart
def learned(rows: NDArray, most: int) -> NDArray | None:
    """The table of at most so many entries of which some rows, the more the better, are multiples: ascending, or None.

    By powers of two, or by the largest magnitude of each row: what products say of an entry is met by few floats.
    """
    tables = row_tables(rows)
    if tables is None or tables.shape[1] > most:
        return None
    values = tables.view(rows.dtype).astype(np.float64)
    largest = np.abs(values).max(axis=1)
    values, largest = values[largest > 0], largest[largest > 0]
    if len(values) < 2 or not np.isfinite(largest).all():
        return None
    found = _aligned(values, most)
    if found is None:
        found = _shared(values, largest, rows.dtype)
    return None if found is None or found.size > most else found.astype(rows.dtype)


def _aligned(values: NDArray, most: int) -> NDArray | None:
    """The entries that rows share once each is multiplied by the power of two by which it shares most."""
    ordered = np.sort(values[:_ALIGNED], axis=1)
    new = starts(ordered)
    counts = np.count_nonzero(new, axis=1)
    longest, *others = np.argsort(-counts, kind="stable")
    entries: NDArray = ordered[longest][new[longest]]
    most = min(most, _SHARED * entries.size)
    for at in others:
        row = ordered[at][new[at]]
        power = np.frexp(np.abs(entries).max())[1] - np.frexp(np.abs(row).max())[1]
        shifted = [np.ldexp(row, power + by) for by in (0, -1, 1)]
        shared = [int(np.count_nonzero(entries[np.searchsorted(entries[:-1], one)] == one)) for one in shifted]
        if 2 * max(shared) < row.size:
            return None
        if max(shared) < row.size:
            entries = np.union1d(entries, shifted[int(np.argmax(shared))])
        if entries.size > most:
            return None
    return np.asarray(entries)


def _shared(values: NDArray, scale: NDArray, dtype: DType) -> NDArray | None:
    """The entries that rows share once each is divided by its scale, if floats give all products."""
    # How far a product may be from its value: half of the distance to the next float.
    half = np.ldexp(0.5, np.frexp(values)[1] - mantissa_bits(dtype) - 1)
    row = np.repeat(np.arange(len(values)), values.shape[1])
    ratios = (values / scale[:, None]).reshape(-1)
    order = np.argsort(ratios, kind="stable")
    near = 4 * 2.0 ** -mantissa_bits(dtype)
    cluster = np.empty(order.size, np.intp)
    gaps = np.diff(ratios[order])
    cluster[order] = np.concatenate([[0], np.cumsum(gaps > near * np.abs(ratios[order][1:]))])
    pairs = np.unique(cluster * len(values) + row)
    support = np.bincount(pairs // len(values))
    most = np.bincount(pairs % len(values)).max()
    kept = support > max(1, len(values) // _SUPPORT)
    count = int(np.count_nonzero(kept))
    good = kept[cluster.reshape(values.shape)].all(axis=1)
    if not 1 < count <= min(ENTRIES, _SHARED * most) or 2 * np.count_nonzero(good) < len(values):
        return None
    inside = np.repeat(good, values.shape[1])
    low, high = np.full(support.size, -np.inf), np.full(support.size, np.inf)
    wide = (half / scale[:, None]).reshape(-1)
    np.maximum.at(low, cluster[inside], (ratios - wide)[inside])
    np.minimum.at(high, cluster[inside], (ratios + wide)[inside])
    used = np.isfinite(low)
    entries = ((low + high) / 2)[used].astype(dtype)
    between = (low[used] <= entries.astype(np.float64)) & (entries.astype(np.float64) <= high[used])
    return entries if between.all() else None


@np.errstate(divide="ignore", over="ignore", invalid="ignore", under="ignore")  # rows of zeros, values too far apart
def scales(rows: NDArray, table: Lookup) -> NDArray | None:
    """A scale of each row by which its values are products of entries; None where a row has none.

    A row of zeros has the scale 0 where the table has no zero.

    The largest magnitude of a row is an entry times its scale: entries are tried in turn, the largest first, and the
    floats beside the quotient. What holds for the distinct values of a row holds for all.
    """
    tables = row_tables(rows)
    if tables is None or tables.shape[1] > table.entries.size:
        return None
    distinct = tables.view(rows.dtype)
    largest = np.abs(exact(distinct)).max(axis=1).astype(np.float64)
    if not np.isfinite(largest).all():
        return None
    magnitudes = np.unique(np.abs(table.entries.astype(np.float64)))[::-1]
    magnitudes = magnitudes[magnitudes > magnitudes[0] * _UNUSED]
    scale, left = np.ones(len(rows), table.entries.dtype), np.flatnonzero(largest)
    if (table.entries != 0).all():
        scale[largest == 0] = 0  # 0 / 0 finds the last entry, which makes 0.0 if it is above zero
        if left.size < len(rows) and table.entries[-1] < 0:
            return None
    sides = (0, 1) if _rounds_last(rows.dtype, table) else (0, 1, -1)
    guesses = [*itertools.product(magnitudes.tolist(), sides)]
    for tried, (magnitude, side) in enumerate(guesses):
        some = np.unique(left[[0, left.size // 2, -1]]) if left.size else left
        if not left.size or (
            tried == 1 and not all(_fits_somehow(distinct[at], largest[at], guesses, table) for at in some)
        ):
            break
        unscaled = distinct if left.size == len(rows) else distinct[left]
        guess = _guessed(unscaled, largest[left] / magnitude, side, table)
        some = np.flatnonzero(fits(unscaled, guess, table))
        scale[left[some]] = guess[some]
        left = np.delete(left, some)
    return None if left.size else scale


def _fits_somehow(row: NDArray, largest: float, guesses: list[tuple[float, int]], table: Lookup) -> bool:
    """Whether any guess fits a row: where it has none, nobody needs to know of the others."""
    magnitude, sides = np.array([one for one, _ in guesses]), np.array([side for _, side in guesses])
    quotients, each = largest / magnitude, np.broadcast_to(row, (magnitude.size, row.size))
    scale = np.empty(magnitude.size, table.entries.dtype)
    for side in {*sides.tolist()}:
        some = sides == side
        scale[some] = _guessed(each[some], quotients[some], side, table)
    return bool(fits(np.ascontiguousarray(each), scale, table).any())


def _guessed(rows: NDArray, quotients: NDArray, side: int, table: Lookup) -> NDArray:
    """The scale of each row that is next to a quotient, or a float beside it; or one that may serve all of a row."""
    if _rounds_last(rows.dtype, table):
        return _serving(rows, quotients, table, own=side == 0)
    return _beside(quotients, side, rows.dtype)


def _rounds_last(dtype: DType, table: Lookup) -> bool:
    return bool(table.entries.dtype != dtype)


def _serving(rows: NDArray, near: NDArray, table: Lookup, *, own: bool) -> NDArray:
    """The scale of each row that gives all of its values, near the one that its largest magnitude tells: float32.

    A value is any product between the middles to the floats beside it, so each says between which two numbers the scale
    lies: the middle of what is left, or the nearest number of the rows' own type, if it is asked for and lies there.
    """
    entries = np.abs(exact(table.entries))[table.index(exact(rows) / near.astype(np.float32)[:, None])]
    below, above = (middles[rows.view(f"<u{rows.dtype.itemsize}")] for middles in _middles(rows.dtype))
    used = entries > 0
    low = np.where(used, below / entries, np.float32(0)).max(axis=1)
    high = np.where(used, above / entries, np.float32(np.inf)).min(axis=1)
    scale = np.clip(low / 2 + high / 2, 0, np.finfo(np.float32).max)
    nearest = scale.astype(rows.dtype).astype(np.float32)
    # A product is rounded to float32 before, maybe to just such a middle.
    inside = (low * (1 - _ROUNDED) <= nearest) & (nearest <= high * (1 + _ROUNDED))
    return np.where(inside & own, nearest, scale)


@functools.cache
def _middles(dtype: DType) -> tuple[NDArray, NDArray]:
    """Of every pattern of a type of 16 bits, the middles of its magnitude to the one below and above: float32."""
    positive = np.arange(1 << 15, dtype=np.uint16).view(dtype).astype(np.float32)
    beside = np.concatenate([positive[:1], positive, positive[-1:]])
    below, above = (beside[:-2] + positive) / 2, (positive + beside[2:]) / 2
    return np.tile(below, 2), np.tile(above, 2)


def _beside(quotient: NDArray, side: int, dtype: DType) -> NDArray:
    """The quotient of a rounded value, or the float beside it."""
    scale: NDArray = quotient.astype(dtype)
    unsigned = scale.view(f"<u{dtype.itemsize}")
    unsigned += np.array(side).astype(unsigned.dtype)
    return scale


@np.errstate(divide="ignore", over="ignore", invalid="ignore", under="ignore")
def fits(rows: NDArray, scale: NDArray, table: Lookup) -> NDArray:
    """Which rows are entries times their scale, rounded once: bool `[rows]`."""
    fit, factor, entries = np.ones(len(rows), np.bool_), exact(scale)[:, None], exact(table.entries)
    for part, places in in_blocks(rows):
        values = exact(rows[part, places])
        products = np.take(entries, table.index(values / factor[part]), mode="clip")
        products *= factor[part]
        equal = rounded(products, rows.dtype) == values
        if not equal.all():
            fit[part] &= equal.all(axis=1)
    return fit


@np.errstate(divide="ignore", over="ignore", invalid="ignore", under="ignore")
def index(rows: NDArray, scale: NDArray, table: Lookup) -> NDArray:
    """The place of the entry behind each value of rows that fit: uint8 `[rows, n]`."""
    return table.index(exact(rows) / exact(scale)[:, None])
