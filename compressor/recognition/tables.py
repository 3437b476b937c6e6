"""Tables of a few hundred distinct values, and the hash that finds a value's place among them.

A weight has millions of values, so finding one must cost no more than reading it. Its bit pattern is multiplied by an
odd number, and the upper 16 bits of the product are its slot: for a few hundred patterns, a multiplier that gives each
a slot of its own is soon found. One gather by slot then tells which value belongs there, or its place in the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressor.arrays import DType, NDArray
from compressor.blocks import BLOCK, blocks
from compressor.patterns import patterns, sign_bit, unique

_SLOT_BITS = 16
_TRIED = 64


@dataclass(frozen=True, eq=False)
class Table:
    """The distinct values of a weight, and a perfect hash from their bit patterns to their places.

    entries: the values, ascending, NaN last; 0.0 stands for -0.0 too.
    keys: unsigned, by hash slot; the bit pattern that belongs there.
    places: intp, by hash slot; the place of that pattern's value in `entries`.
    multiplier: odd; 1 where patterns have no more bits than slots.
    """

    entries: NDArray
    keys: NDArray
    places: NDArray
    multiplier: int

    @classmethod
    def of(cls, keys: NDArray, dtype: DType) -> Table:
        """The table of distinct patterns of a type, ascending and without -0.0's; with 0.0 it has both.

        >>> table = Table.of(np.array([0.0, 0.5, 2.0], np.float32).view(np.uint32), np.dtype(np.float32))
        >>> table.index(np.array([0.5, -0.0, 2.0], np.float32)).tolist()
        [1, 0, 2]
        """
        # Ascending by value is the order that a reader expects; among equal values (NaN payloads) by pattern.
        with np.errstate(invalid="ignore"):  # a signalling NaN
            keys = keys[np.argsort(keys.view(dtype).astype(np.float64), kind="stable")]
        entries, places = keys.view(dtype), np.arange(keys.size)
        if (minus_zero := sign_bit(dtype)) and (zero := np.flatnonzero(keys == 0)).size:
            keys, places = np.append(keys, minus_zero), np.append(places, zero)
        multiplier = _multiplier(keys)
        slots = _upper_half(keys * keys.dtype.type(multiplier))
        # A pattern that hashes to an unused slot must not match there: the slot has the key of another one.
        by_slot = np.full(1 << min(_SLOT_BITS, keys.dtype.itemsize * 8), keys[0])
        by_place = np.zeros(by_slot.size, np.intp)
        by_slot[slots], by_place[slots] = keys, places
        return cls(entries, by_slot, by_place, multiplier)

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


def _multiplier(keys: NDArray) -> int:
    """An odd number, the product with which has a slot of its own for every key.

    The upper 16 bits of a float often do as they are. A random multiplier succeeds with probability
    exp(-K**2 / 2**17), so half of them serve the longest table.
    """
    size = keys.dtype.itemsize * 8
    if size <= _SLOT_BITS:
        return 1
    odd = np.random.default_rng(0).integers(1 << size - 2, 1 << size - 1, _TRIED, np.uint64) * 2 + 1
    for multiplier in (1, *odd.tolist()):
        if np.unique(_upper_half(keys * keys.dtype.type(multiplier))).size == keys.size:
            return int(multiplier)
    raise AssertionError(f"{_TRIED} multipliers failed, each with a probability of one half")


def _upper_half(products: NDArray) -> NDArray:
    """The upper 16 bits of every product: a strided view costs less than a shift."""
    halves = products.dtype.itemsize * 8 // _SLOT_BITS
    return products.view("<u2")[halves - 1 :: halves] if halves > 1 else products


class _Slots:
    """The hash slots of a block of patterns, as numpy wants indices, in buffers that are used again."""

    def __init__(self, table: Table) -> None:
        unsigned = table.keys.dtype
        self._factor = unsigned.type(table.multiplier)
        self._products = np.empty(BLOCK if table.multiplier > 1 else 0, unsigned)
        self._slots = np.empty(BLOCK, np.intp)

    def __call__(self, block: NDArray) -> NDArray:
        products = block
        if self._products.size:
            products = np.multiply(block, self._factor, out=self._products[: block.size])
        slots = self._slots[: block.size]
        np.copyto(slots, _upper_half(products))
        return slots
