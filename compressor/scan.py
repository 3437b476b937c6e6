"""One pass over a weight: its zeros and its distinct values, by bit pattern.

Values are compared as unsigned integers of their width, so that NaN payloads, infinities and 16-bit types need no case
of their own; only -0.0 is taken for 0.0. Work goes block by block through buffers that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from compressor.arrays import BLOCK, DType, NDArray, blocks, is_float

ENTRIES = 256
"""A palette has at most this many entries."""

COUNTED = 320
"""Distinct values are counted up to here, so that a palette just missed can be named."""

_FIRST, _TRUSTED, _RUNS = 1 << 11, 1 << 16, 8
_SMALL = 1 << 13


@dataclass(frozen=True, eq=False)
class Table:
    """The distinct values of a weight, and a perfect hash from their bit patterns to their places.

    entries: the values, ascending, NaN last; 0.0 stands for -0.0 too.
    keys: unsigned, by hash slot; the bit pattern that belongs there.
    places: intp, by hash slot; the place of that pattern's value in `entries`.
    multiplier: the slot of a pattern p is the upper 16 bits of `p * multiplier`, or p itself if it has no more than 16.
    """

    entries: NDArray
    keys: NDArray
    places: NDArray
    multiplier: int

    def index(self, values: NDArray) -> NDArray:
        """The place of every value in `entries`, of which there are at most 256: uint8, the shape of `values`.

        A value that is not in the table gets an arbitrary place: whoever cannot be sure compares afterwards.
        """
        flat = patterns(values)
        indices = np.empty(flat.size, np.uint8)
        places = self.places.astype(np.uint8)
        slots = _Slots(self)
        for part in blocks(flat.size):
            np.take(places, slots(flat[part]), out=indices[part], mode="clip")
        return indices.reshape(values.shape)

    def missing(self, flat: NDArray) -> tuple[NDArray, int]:
        """The patterns that the table does not have of the first block of `flat` in which there are any, each once.

        And how many values of `flat` were looked at for them; all of them where none is missing.
        """
        slots, found = _Slots(self), np.empty(min(flat.size, BLOCK), flat.dtype)
        for part in blocks(flat.size):
            block, have = flat[part], found[: part.stop - part.start]
            np.take(self.keys, slots(block), out=have, mode="clip")
            if not np.array_equal(have, block):
                return unique(block[have != block]), part.stop
        return flat[:0], flat.size


@dataclass(frozen=True, eq=False)
class Scan:
    """What one weight holds.

    size: the number of values.
    zeros: how many are 0.0 or -0.0.
    small: how many others have a magnitude up to the threshold.
    table: the distinct values, None where there are more than `COUNTED`.
    """

    size: int
    zeros: int
    small: int
    table: Table | None


def scan(values: NDArray, threshold: float, *, sampled: bool = False) -> Scan:
    """The zeros, the small and the distinct values of a weight; the latter by a sample if `sampled`."""
    table = distinct(values, sampled=sampled)
    edge = _edge(threshold, values.dtype)
    if table is not None:
        # The table tells which magnitudes occur at all: most palettes have no zero and no small entry.
        magnitudes = patterns(table.entries) & _magnitude(values.dtype)
        if not (magnitudes <= edge).any():
            return Scan(values.size, 0, 0, table)
    zeros, small = _count_near_zero(values, edge)
    return Scan(values.size, zeros, small, table)


def patterns(values: NDArray) -> NDArray:
    """The bit patterns of `values`: unsigned `[size]`, a view where the values are contiguous."""
    return np.ascontiguousarray(values).reshape(-1).view(f"<u{values.dtype.itemsize}")


def merged(values: NDArray) -> NDArray:
    """The bit patterns of `values`, that of -0.0 as 0.0's: unsigned `[size]`."""
    flat, minus_zero = patterns(values), _minus_zero(values.dtype)
    same = flat == minus_zero
    return np.asarray(np.where(same, flat.dtype.type(0), flat)) if minus_zero and same.any() else flat


def has_minus_zero(values: NDArray) -> bool:
    """Whether one of the values is -0.0."""
    flat, minus_zero = patterns(values), _minus_zero(values.dtype)
    return bool(minus_zero) and any(bool((flat[part] == minus_zero).any()) for part in blocks(flat.size))


def sortable(values: NDArray) -> NDArray:
    """Unsigned `[size]` keys that sort as the values do, NaN by its sign; one for both zeros."""
    flat, sign = merged(values), _minus_zero(values.dtype)
    return np.where(flat & sign, ~flat, flat | sign)


def unsortable(keys: NDArray, dtype: DType) -> NDArray:
    """The values of `sortable` keys."""
    sign = _minus_zero(dtype)
    return np.where(keys & sign, keys ^ sign, ~keys if sign else keys).view(dtype)


def eps(dtype: DType) -> float:
    """The distance of 1 to the next greater value of a floating type."""
    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def largest(values: NDArray) -> float:
    """The largest magnitude; NaN if there is one."""
    with np.errstate(invalid="ignore"):
        return max(abs(float(values.max())), abs(float(values.min())))


def least_magnitudes(rows: NDArray) -> NDArray:
    """The least magnitude that is not zero of every row, 0 where there is none: `[rows]`."""
    absolute = rows.view(f"<u{rows.dtype.itemsize}") & _magnitude(rows.dtype)
    one = absolute.dtype.type(1)
    absolute -= one  # 0 becomes the greatest
    least: NDArray = absolute.min(axis=1) + one
    return least.view(rows.dtype)


def above(values: NDArray, threshold: float) -> NDArray:
    """The mask of the values whose magnitude exceeds `threshold`, or that are NaN: bool, the shape of `values`."""
    edge, mask = _edge(threshold, values.dtype), np.empty(values.size, np.bool_)
    for part, absolute in _absolute(values):
        np.greater(absolute, edge, out=mask[part])
    return mask.reshape(values.shape)


def distinct(values: NDArray, *, enough: int = 0, sampled: bool = False) -> Table | None:
    """The distinct values, or None where there are more than `COUNTED`; a dense weight costs a small sample.

    enough: how many there are, from a former pass: then the search ends as soon as it has them all.
    sampled: trust a larger sample that has few enough for a palette, as a hypothesis that is verified later.
    """
    flat = patterns(values)
    keys = _with_one_zero(unique(sample(flat)), values.dtype)
    if keys.size > COUNTED:
        return None
    table = _table(keys, values.dtype)
    looked_at = sample(flat, _TRUSTED) if sampled else flat
    while looked_at.size and table.entries.size != enough:
        # Blocks after this one are looked at with its values in the table: what is missing there is new.
        missing, done = table.missing(looked_at)
        looked_at = looked_at[done:]
        if missing.size:
            keys = _with_one_zero(unique(np.concatenate([keys, missing])), values.dtype)
            if keys.size > COUNTED:
                return None
            table = _table(keys, values.dtype)
    return distinct(values) if sampled and table.entries.size > ENTRIES else table


def distance(values: NDArray, others: NDArray) -> tuple[int, float]:
    """How many of two weights' values differ, and the greatest difference; both zeros are one."""
    left, right, changed, error = values.reshape(-1), others.reshape(-1), 0, 0.0
    for part in blocks(left.size):
        apart = np.abs(left[part].astype(np.float64) - right[part].astype(np.float64))
        changed += int(np.count_nonzero(apart))
        error = max(error, float(apart.max()))
    return changed, error


def few_distinct(values: NDArray) -> NDArray | None:
    """The distinct values of a small weight, without a hash to find them by; None if they are more than `COUNTED`."""
    if values.size > _SMALL:
        table = distinct(values)
        return None if table is None else table.entries
    keys = _with_one_zero(unique(patterns(values)), values.dtype)
    return None if keys.size > COUNTED else keys.view(values.dtype)


def unique(flat: NDArray) -> NDArray:
    """The distinct patterns, ascending: by sorting, which for some thousands is faster than numpy's hash set."""
    ordered = np.sort(flat)
    new = np.ones(ordered.size, np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered[new]


def row_tables(rows: NDArray) -> NDArray | None:
    """The distinct patterns of every row of `rows`, whose further axes count as one; None if one has over `ENTRIES`.

    Unsigned `[len(rows), L]`, ascending, shorter ones filled up with their last; 0.0 stands for -0.0 too.
    """
    tables = []
    for part in blocks(len(rows), max(1, BLOCK * len(rows) // rows.size)):
        some = np.ascontiguousarray(rows[part]).reshape(part.stop - part.start, -1)
        table = without_duplicates(np.sort(some.view(f"<u{rows.dtype.itemsize}"), axis=1))
        zeros = table & _magnitude(rows.dtype) == 0
        if np.count_nonzero(table[zeros]):  # -0.0
            table[zeros] = 0
            table = without_duplicates(np.sort(table, axis=1))
        if table.shape[1] > ENTRIES:
            return None
        tables.append(table)
    longest = max(table.shape[1] for table in tables)
    return np.concatenate([table[:, np.minimum(np.arange(longest), table.shape[1] - 1)] for table in tables])


def without_duplicates(ordered: NDArray) -> NDArray:
    """Each row of patterns in ascending order, each once, filled up with the last one to the longest row."""
    new = np.ones(ordered.shape, np.bool_)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=new[:, 1:])
    counts = np.count_nonzero(new, axis=1)
    starts = np.cumsum(counts) - counts
    places = starts[:, None] + np.minimum(np.arange(counts.max()), counts[:, None] - 1)
    return np.asarray(np.compress(new.reshape(-1), ordered.reshape(-1))[places])


class _Slots:
    """The hash slots of a block of patterns, as numpy wants indices, in buffers that are used again."""

    def __init__(self, table: Table) -> None:
        unsigned = table.keys.dtype
        self._factor = unsigned.type(table.multiplier)
        self._hashed = np.empty(BLOCK if table.multiplier > 1 else 0, unsigned)
        self._slots = np.empty(BLOCK, np.intp)

    def __call__(self, block: NDArray) -> NDArray:
        hashed = np.multiply(block, self._factor, out=self._hashed[: block.size]) if self._hashed.size else block
        slots = self._slots[: block.size]
        np.copyto(slots, _upper_half(hashed))
        return slots


def _upper_half(hashed: NDArray) -> NDArray:
    """The upper 16 bits of every pattern: a strided view costs less than a shift."""
    parts = hashed.dtype.itemsize // 2
    return hashed.view("<u2")[parts - 1 :: parts] if parts > 1 else hashed


def _count_near_zero(values: NDArray, edge: Any) -> tuple[int, int]:
    """How many values are zero, and how many others have a magnitude pattern up to `edge`."""
    zeros = near = 0
    for _, absolute in _absolute(values):
        if count := int(np.count_nonzero(absolute <= edge)):
            near += count
            zeros += int(np.count_nonzero(absolute == 0))
    return zeros, near - zeros


def _absolute(values: NDArray) -> Iterator[tuple[slice, NDArray]]:
    """Block by block: the magnitudes' patterns, in a buffer that the next block overwrites."""
    flat, magnitude = patterns(values), _magnitude(values.dtype)
    absolute = np.empty(min(flat.size, BLOCK), flat.dtype)
    for part in blocks(flat.size):
        block = absolute[: part.stop - part.start]
        np.bitwise_and(flat[part], magnitude, out=block)
        yield part, block


def _magnitude(dtype: DType) -> Any:
    """The bits of a pattern that are not the sign; all of them for an integer, whose only zero is 0."""
    unsigned = np.dtype(f"<u{dtype.itemsize}")
    every = (1 << dtype.itemsize * 8) - 1
    return unsigned.type(every >> 1 if is_float(dtype) else every)


def _minus_zero(dtype: DType) -> Any:
    """The pattern of -0.0, which is the sign's bit; 0 for an integer."""
    return np.dtype(f"<u{dtype.itemsize}").type((1 << dtype.itemsize * 8) - 1) ^ _magnitude(dtype)


def _edge(threshold: float, dtype: DType) -> Any:
    """The pattern of `threshold` as the type rounds it, finite: patterns sort as magnitudes do.

    So a weight that was set to 1e-3 is at a threshold of 1e-3, although float32 has it a little above.
    """
    unsigned = np.dtype(f"<u{dtype.itemsize}")
    if not is_float(dtype) or threshold <= 0:
        return unsigned.type(0)
    with np.errstate(over="ignore"):
        nearest = np.array([threshold], dtype)
    pattern = int(nearest.view(unsigned)[0])
    return unsigned.type(pattern - 1 if np.isinf(float(nearest[0])) else pattern)


def sample(flat: NDArray, size: int = _FIRST) -> NDArray:
    """Half of `size` values from the beginning, and runs from further on for the rest."""
    if flat.size <= size:
        return flat
    run = size // 2 // _RUNS
    starts = np.linspace(size // 2, flat.size - run, _RUNS, dtype=np.intp)
    return np.concatenate([flat[: size // 2], *(flat[start : start + run] for start in starts)])


def _with_one_zero(keys: NDArray, dtype: DType) -> NDArray:
    """Distinct patterns in ascending order, with 0.0's where that of -0.0 is among them."""
    minus_zero = _minus_zero(dtype)
    return unique(np.where(keys == minus_zero, minus_zero ^ minus_zero, keys)) if minus_zero in keys else keys


def _table(keys: NDArray, dtype: DType) -> Table:
    """The table of the distinct patterns `keys`, of which none is -0.0's; with zero it has both."""
    minus_zero = _minus_zero(dtype)
    if minus_zero and keys[0] == 0:
        keys = np.append(keys, minus_zero)
    merged = np.where(keys == minus_zero, keys.dtype.type(0), keys)
    entries, places = np.unique(merged, return_inverse=True)
    # Ascending by value is the order that a reader expects; among equal values (NaN payloads) by pattern.
    values = entries.view(dtype)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        order = np.argsort(values.astype(np.float64), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    multiplier = _perfect_hash(keys)
    slots = _upper_half(keys * keys.dtype.type(multiplier))
    count = 1 << min(16, keys.dtype.itemsize * 8)
    # A pattern that hashes to an unused slot must not match there: the slot repeats a key of another one.
    by_slot, by_place = np.full(count, keys[0]), np.zeros(count, np.intp)
    by_slot[slots], by_place[slots] = keys, rank[places]
    return Table(values[order], by_slot, by_place, multiplier)


def _perfect_hash(keys: NDArray) -> int:
    """A multiplier that gives every key a slot of its own.

    The upper 16 bits of a float often do as they are. A random multiplier succeeds with probability
    exp(-K**2 / 2**17), so half of them serve the longest table.
    """
    if keys.dtype.itemsize <= 2:
        return 1
    size = keys.dtype.itemsize * 8
    odd = np.random.default_rng(0).integers(1 << size - 2, 1 << size - 1, 64, np.uint64) * 2 + 1
    for multiplier in (1, *odd.tolist()):
        slots = _upper_half(keys * keys.dtype.type(multiplier))
        if np.unique(slots).size == keys.size:
            return int(multiplier)
    raise AssertionError("64 multipliers failed, each with a probability of one half")
