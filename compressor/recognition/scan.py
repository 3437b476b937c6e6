"""One pass over a weight: its zeros and its distinct values, by bit pattern.

Values are compared as unsigned integers of their width, so that NaN payloads, infinities and 16-bit types need no case
of their own; only -0.0 is taken for 0.0. Work goes block by block through buffers that stay in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.arrays import DType, NDArray
from compressor.blocks import BLOCK, blocks, row_blocks
from compressor.patterns import bound, magnitude_bits, magnitudes, patterns, sign_bit, unique

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
    edge = bound(threshold, values.dtype)
    if table is not None:
        # The table tells which magnitudes occur at all: most palettes have no zero and no small entry.
        entries = patterns(table.entries) & magnitude_bits(values.dtype)
        if not (entries <= edge).any():
            return Scan(values.size, 0, 0, table)
    zeros, small = _count_near_zero(values, edge)
    return Scan(values.size, zeros, small, table)


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


def few_distinct(values: NDArray) -> NDArray | None:
    """The distinct values of a small weight, without a hash to find them by; None if they are more than `COUNTED`."""
    if values.size > _SMALL:
        table = distinct(values)
        return None if table is None else table.entries
    keys = _with_one_zero(unique(patterns(values)), values.dtype)
    return None if keys.size > COUNTED else keys.view(values.dtype)


def row_tables(rows: NDArray) -> NDArray | None:
    """The distinct patterns of every row of `rows`, whose further axes count as one; None if one has over `ENTRIES`.

    Unsigned `[len(rows), L]`, ascending, shorter ones filled up with their last; 0.0 stands for -0.0 too.
    """
    tables = []
    for part in row_blocks(len(rows), rows.size):
        some = np.ascontiguousarray(rows[part]).reshape(part.stop - part.start, -1)
        table = without_duplicates(np.sort(some.view(f"<u{rows.dtype.itemsize}"), axis=1))
        zeros = table & magnitude_bits(rows.dtype) == 0
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
    for _, absolute in magnitudes(values):
        if count := int(np.count_nonzero(absolute <= edge)):
            near += count
            zeros += int(np.count_nonzero(absolute == 0))
    return zeros, near - zeros


def sample(flat: NDArray, size: int = _FIRST) -> NDArray:
    """Half of `size` values from the beginning, and runs from further on for the rest."""
    if flat.size <= size:
        return flat
    run = size // 2 // _RUNS
    starts = np.linspace(size // 2, flat.size - run, _RUNS, dtype=np.intp)
    return np.concatenate([flat[: size // 2], *(flat[start : start + run] for start in starts)])


def _with_one_zero(keys: NDArray, dtype: DType) -> NDArray:
    """Distinct patterns in ascending order, with 0.0's where that of -0.0 is among them."""
    minus_zero = sign_bit(dtype)
    return unique(np.where(keys == minus_zero, minus_zero ^ minus_zero, keys)) if minus_zero in keys else keys


def _table(keys: NDArray, dtype: DType) -> Table:
    """The table of the distinct patterns `keys`, of which none is -0.0's; with zero it has both."""
    minus_zero = sign_bit(dtype)
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
