"""One pass over a weight: its zeros and its distinct values, by bit pattern.

Values are compared as unsigned integers of their width, so that NaN payloads, infinities and 16-bit types need no case of
their own; only -0.0 is taken for 0.0. Work goes block by block through buffers that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.arrays import BLOCK, DType, NDArray, blocks, is_float

ENTRIES = 256
"""A palette has at most this many entries."""

COUNTED = 320
"""Distinct values are counted up to here, so that a palette just missed can be named."""

_SAMPLE = 4096


@dataclass(frozen=True, eq=False)
class Table:
    """The distinct values of a weight, and a perfect hash from their bit patterns to their places.

    entries: the values, ascending, NaN last; 0.0 stands for -0.0 too.
    keys: unsigned, by hash slot; the bit pattern that belongs there.
    places: by hash slot; the place of that pattern's value in `entries`.
    multiplier, shift: the slot of a pattern p is `p * multiplier >> shift` in the pattern's width.
    """

    entries: NDArray
    keys: NDArray
    places: NDArray
    multiplier: int
    shift: int

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

    def missing(self, flat: NDArray) -> NDArray:
        """The patterns among `flat` that the table does not have, each once."""
        slots, found = _Slots(self), np.empty(min(flat.size, BLOCK), flat.dtype)
        missing = []
        for part in blocks(flat.size):
            block, have = flat[part], found[: part.stop - part.start]
            np.take(self.keys, slots(block), out=have, mode="clip")
            if not np.array_equal(have, block):
                missing.append(np.unique(block[have != block]))
                if sum(map(len, missing)) > COUNTED:
                    break
        return np.unique(np.concatenate(missing)) if missing else flat[:0]


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


def scan(values: NDArray, threshold: float) -> Scan:
    """The zeros, the small and the distinct values of a weight."""
    table = distinct(values)
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


def above(values: NDArray, threshold: float) -> NDArray:
    """The mask of the values whose magnitude exceeds `threshold`, or that are NaN: bool, the shape of `values`."""
    edge, mask = _edge(threshold, values.dtype), np.empty(values.size, np.bool_)
    for part, absolute in _absolute(values):
        np.greater(absolute, edge, out=mask[part])
    return mask.reshape(values.shape)


def distinct(values: NDArray, limit: int = COUNTED, enough: int = 0) -> Table | None:
    """The distinct values, or None where there are more than `limit`; a dense weight costs a small sample.

    enough: how many there are, from a former pass: then the search ends as soon as it has them all.

    Raises:
        ValueError: `values` is empty.
    """
    flat = patterns(values)
    keys = _sampled(flat)
    if keys.size > limit:
        return None
    table = _table(keys, values.dtype)
    while table.entries.size != enough and (missing := table.missing(flat)).size:
        keys = np.union1d(keys, missing)
        if keys.size > limit:
            return None
        table = _table(keys, values.dtype)
    return table


class _Slots:
    """The hash slots of a block of patterns, as numpy wants indices, in one buffer that is used again."""

    def __init__(self, table: Table) -> None:
        self._shift, self._plain = table.shift, table.shift == 0
        unsigned = table.keys.dtype
        self._factor, self._by = unsigned.type(table.multiplier), unsigned.type(table.shift)
        self._hashed = np.empty(0 if self._plain else BLOCK, unsigned)
        self._slots = np.empty(BLOCK, np.intp)

    def __call__(self, block: NDArray) -> NDArray:
        slots = self._slots[: block.size]
        if self._plain:
            np.copyto(slots, block)
            return slots
        hashed = self._hashed[: block.size]
        np.multiply(block, self._factor, out=hashed)
        np.right_shift(hashed, self._by, out=hashed)
        np.copyto(slots, hashed, casting="unsafe")
        return slots


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


def _edge(threshold: float, dtype: DType) -> Any:
    """The pattern of the largest magnitude that does not exceed `threshold`: patterns sort as magnitudes do."""
    unsigned = np.dtype(f"<u{dtype.itemsize}")
    if not is_float(dtype) or threshold <= 0:
        return unsigned.type(0)
    nearest = np.array([threshold], dtype)
    pattern = int(nearest.view(unsigned)[0])
    return unsigned.type(pattern - 1 if float(nearest[0]) > threshold else pattern)


def _sampled(flat: NDArray) -> NDArray:
    """The distinct patterns of the beginning and of seven runs further on."""
    if flat.size <= 2 * _SAMPLE:
        return np.unique(flat)
    runs = [flat[:_SAMPLE], *(flat[start : start + 512] for start in range(0, flat.size - 512, flat.size // 8)[1:])]
    return np.unique(np.concatenate(runs))


def _table(keys: NDArray, dtype: DType) -> Table:
    """The table of the distinct patterns `keys`; with either zero it has both."""
    minus_zero = keys.dtype.type((1 << dtype.itemsize * 8) - 1 ^ int(_magnitude(dtype)))
    if minus_zero and np.isin(keys, [0, minus_zero]).any():
        keys = np.union1d(keys, np.array([0, minus_zero], keys.dtype))
    merged = np.where(keys == minus_zero, keys.dtype.type(0), keys)
    entries, places = np.unique(merged, return_inverse=True)
    # Ascending by value is the order that a reader expects; among equal values (NaN payloads) by pattern.
    values = entries.view(dtype)
    order = np.argsort(values.astype(np.float64), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    multiplier, shift = _perfect_hash(keys)
    width = 1 << (keys.dtype.itemsize * 8 - shift)
    slots = keys if shift == 0 else (keys * keys.dtype.type(multiplier)) >> keys.dtype.type(shift)
    # An unused slot must not match a pattern that hashes there: it repeats a key of another slot.
    by_slot, by_place = np.full(width, keys[0]), np.zeros(width, np.intp)
    by_slot[slots], by_place[slots] = keys, rank[places]
    return Table(values[order], by_slot, by_place, multiplier, shift)


def _perfect_hash(keys: NDArray) -> tuple[int, int]:
    """A multiplier and a shift that give every key a slot of its own; patterns of 8 and 16 bits are slots themselves.

    A random multiplier succeeds with probability exp(-K**2 / (2 * slots)): the slots grow until one of 64 does.
    """
    size = keys.dtype.itemsize * 8
    if size <= 16:
        return 1, 0
    random = np.random.default_rng(0)
    slot_bits = max(4, 2 * int(keys.size - 1).bit_length() - 2)
    while True:
        multipliers = random.integers(1 << size - 2, 1 << size - 1, 64, np.uint64).astype(keys.dtype) * 2 + 1
        hashed = (keys[:, None] * multipliers[None, :]) >> keys.dtype.type(size - slot_bits)
        hashed.sort(axis=0)
        fits = ~(hashed[1:] == hashed[:-1]).any(axis=0)
        if fits.any():
            return int(multipliers[fits.argmax()]), size - slot_bits
        slot_bits += 1
