"""Tables times scales: rows whose values are those of one table of floats, times a scale of each row, rounded once.

The tables that formats define are known; others are learned from rows that are scaled alike, by powers of two or by
their largest magnitude. Every value must be `fl(entry * scale)` exactly. Rows are `[rows, n]`.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from compressor.arrays import DType, NDArray, mantissa_bits
from compressor.recognition.row_tables import row_tables
from compressor.recognition.rows import exact, in_blocks, rounded
from compressor.recognition.tables import ENTRIES

_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Quantiles of a normal distribution. Source: QLoRA (arXiv:2305.14314), appendix E."""

_SHARED = 2
"""Tables are one where all rows together have at most so many times the distinct values that one of them has."""

_UNUSED = 1 / 5
"""The largest value of a row is a larger part of the largest entry than this: scales follow from ranges."""

_SUPPORT = 50
"""An entry is one that more than a fiftieth of the rows have, and two at least."""

_ALIGNED = 256
"""So many rows are aligned by powers of two, one by one."""

_SLOT = np.uint32(16)
"""The bits of a float32 that are rounded off for the place of its entry to be looked up."""


@dataclass(frozen=True, eq=False)
class Lookup:
    """A table of floats, and where the entry next to a value is found.

    entries: ascending, of the weight's type.
    places: uint8, by the upper bits of a float32; None where entries are too near each other for that.
    """

    entries: NDArray
    places: NDArray | None

    @classmethod
    def of(cls, entries: NDArray) -> Lookup:
        """The lookup of at most 256 ascending entries.

        >>> Lookup.of(np.array([-1, 0, 0.5], np.float32)).index(np.array([0.49999, -0.9, -0.01], np.float32)).tolist()
        [2, 0, 1]
        """
        values = exact(entries)
        apart = np.diff(values) > np.maximum(np.abs(values[1:]), np.abs(values[:-1])) / 64
        if values.dtype != np.float32 or not apart.all():
            return cls(entries, None)
        return cls(entries, _nearest(values, _every_slot()))

    def index(self, quotients: NDArray) -> NDArray:
        """The place of the entry that is nearest to each value of the type in which products are made."""
        if self.places is None:
            return _nearest(exact(self.entries), quotients)
        slots = quotients.view(np.uint32) + np.uint32(1 << 15)
        slots >>= _SLOT
        return np.take(self.places, slots.astype(np.intp), mode="clip")


@functools.cache
def known(dtype: DType) -> tuple[tuple[str, Lookup], ...]:
    """The tables that formats define, the shortest first, of those that the type holds, by their names."""
    held = [one for one in formats() if np.array_equal(one[1].astype(dtype).astype(np.float32), one[1])]
    return tuple((name, Lookup.of(entries.astype(dtype))) for name, entries in held)


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
    each = [np.unique(row) for row in values[:_ALIGNED]]
    each.sort(key=len, reverse=True)
    entries, most = each[0], min(most, _SHARED * each[0].size)
    for row in each[1:]:
        power = np.frexp(np.abs(entries).max())[1] - np.frexp(np.abs(row).max())[1]
        shifted = [np.ldexp(row, power + by) for by in (0, -1, 1)]
        shared = [int(np.count_nonzero(entries[np.searchsorted(entries[:-1], one)] == one)) for one in shifted]
        if 2 * max(shared) < row.size:
            return None
        if max(shared) < row.size:
            entries = np.union1d(entries, shifted[int(np.argmax(shared))])
        if entries.size > most:
            return None
    return entries


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
    scale, left = np.ones(len(rows), rows.dtype), np.flatnonzero(largest)
    if (table.entries != 0).all():
        scale[largest == 0] = 0  # 0 / 0 finds the last entry, which makes 0.0 if it is above zero
        if left.size < len(rows) and table.entries[-1] < 0:
            return None
    guesses = [*itertools.product(magnitudes.tolist(), (0, 1, -1))]
    for tried, (magnitude, side) in enumerate(guesses):
        some = np.unique(left[[0, left.size // 2, -1]]) if left.size else left
        if not left.size or (
            tried == 1 and not all(_fits_somehow(distinct[at], largest[at], guesses, table) for at in some)
        ):
            break
        guess = _beside(largest[left] / magnitude, side, rows.dtype)
        some = np.flatnonzero(fits(distinct if left.size == len(rows) else distinct[left], guess, table))
        scale[left[some]] = guess[some]
        left = np.delete(left, some)
    return None if left.size else scale


def _fits_somehow(row: NDArray, largest: float, guesses: list[tuple[float, int]], table: Lookup) -> bool:
    """Whether any guess fits a row: where it has none, nobody needs to know of the others."""
    magnitude, sides = np.array([one for one, _ in guesses]), np.array([side for _, side in guesses])
    guess = np.concatenate([_beside(largest / magnitude[sides == side], side, row.dtype) for side in (0, 1, -1)])
    return bool(fits(np.tile(row, (guess.size, 1)), guess, table).any())


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


def _nearest(entries: NDArray, values: NDArray) -> NDArray:
    return np.searchsorted(entries[:-1] / 2 + entries[1:] / 2, values).astype(np.uint8)


@functools.cache
def _every_slot() -> NDArray:
    """The float32 of every sixteen upper bits."""
    values: NDArray = (np.arange(1 << 16, dtype=np.uint32) << _SLOT).view(np.float32)
    return values


@functools.cache
def formats() -> tuple[tuple[str, NDArray], ...]:
    """Tables by their names: float32, ascending, zero once."""
    narrow: dict[str, Any] = {"float4_e2m1fn": ml_dtypes.float4_e2m1fn}
    narrow |= {"float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2}
    tables = {"nf4": np.array(_NF4, np.float32)}
    for name, kind in narrow.items():
        values = np.arange(16 if "4_" in name[:7] else 256, dtype=np.uint8).view(kind).astype(np.float32)
        tables[name] = np.unique(values[np.isfinite(values)] + 0.0)
    return tuple(sorted(tables.items(), key=lambda item: item[1].size))
