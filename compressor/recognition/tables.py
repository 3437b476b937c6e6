"""Tables of a few hundred distinct values, and the hash that finds a value's place among them.

A weight has millions of values, so finding one must cost no more than reading it. Its bit pattern is multiplied by an
odd number, and the upper 16 bits of the product are its slot: for a few hundred patterns, a multiplier that gives each
a slot of its own is soon found. One gather by slot then tells which value belongs there, or its place in the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressor import native
from compressor.arrays import DType, NDArray
from compressor.blocks import BLOCK, blocks
from compressor.patterns import patterns, sign_bit, unique

ENTRIES = 256
"""A palette has at most this many entries."""

_SLOT_BITS = 16
_TRIED = 64

_FURTHER = 1 << 12
"""Where one pattern is missing, so many after it are looked at for others."""


@dataclass(frozen=True, eq=False)
class Table:
    """The distinct values of a weight.

    entries: the values, ascending, NaN last; 0.0 stands for -0.0 too.
    """

    entries: NDArray

    @classmethod
    def of(cls, keys: NDArray, dtype: DType) -> Table:
        """The table of distinct patterns of a type, ascending and without -0.0's; with 0.0 it has both.

        >>> table = Table.of(np.array([0.0, 0.5, 2.0], np.float32).view(np.uint32), np.dtype(np.float32))
        >>> table.index(np.array([0.5, -0.0, 2.0], np.float32)).tolist()
        [1, 0, 2]
        """
        # Ascending by value is the order that a reader expects; among equal values (NaN payloads) by pattern.
        with np.errstate(invalid="ignore"):  # a signalling NaN
            return cls(keys[np.argsort(keys.view(dtype).astype(np.float64), kind="stable")].view(dtype))

    def index(self, values: NDArray) -> NDArray:
        """The place of every value in `entries`, of which there are at most 256: uint8, the shape of `values`.

        A value that is not in the table gets an arbitrary place: whoever cannot be sure compares afterwards.
        """
        places = np.empty(values.size, np.uint8)
        places_into(patterns(values), patterns(self.entries), places, int(sign_bit(values.dtype)))
        return places.reshape(values.shape)

    def missing(self, flat: NDArray) -> tuple[NDArray, int]:
        """Some patterns of `flat` that the table does not have, each once, the first one among them.

        And how many values of `flat` were looked at for them; all of them where none is missing.
        """
        keys, minus_zero = patterns(self.entries), int(sign_bit(self.entries.dtype))
        first = known(flat, keys, minus_zero)
        done = min(first + _FURTHER, flat.size)
        some = unique(flat[first:done])
        return np.setdiff1d(some, _with_minus_zero(keys, minus_zero)[0], assume_unique=True), done


@native.loop
def places_into(flat: NDArray, keys: NDArray, places: NDArray, minus_zero: int) -> None:
    """Write the place of every pattern among at most 256 distinct keys; of none that is not there it says anything.

    minus_zero: a pattern that is taken for 0; 0 if there is none.
    """
    have, place_of = _with_minus_zero(keys, minus_zero)
    slots = _Slots(have)
    by_slot = slots.table(place_of.astype(np.uint8))
    for part in blocks(flat.size):
        np.take(by_slot, slots(flat[part]), out=places[part], mode="clip")


@native.loop
def known(flat: NDArray, keys: NDArray, minus_zero: int) -> int:
    """How many patterns there are before the first one that is none of at most 512 distinct keys.

    minus_zero: as for `places_into`.
    """
    have, _ = _with_minus_zero(keys, minus_zero)
    slots, found = _Slots(have), np.empty(min(flat.size, BLOCK), flat.dtype)
    by_slot = slots.table(have)
    for part in blocks(flat.size):
        block, there = flat[part], found[: part.stop - part.start]
        np.take(by_slot, slots(block), out=there, mode="clip")
        if not np.array_equal(there, block):
            return int(part.start + np.argmax(there != block))
    return int(flat.size)


def _with_minus_zero(keys: NDArray, minus_zero: int) -> tuple[NDArray, NDArray]:
    """The keys, with -0.0 where 0.0 is one of them, and the place of each among the former."""
    places = np.arange(keys.size)
    if minus_zero and (zero := np.flatnonzero(keys == 0)).size:
        return np.append(keys, keys.dtype.type(minus_zero)), np.append(places, zero)
    return keys, places


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
    """The hash slots of a block of patterns, as numpy wants indices, in buffers that are used again.

    keys: distinct patterns, each of which has a slot of its own.
    """

    def __init__(self, keys: NDArray) -> None:
        multiplier, unsigned = _multiplier(keys), keys.dtype
        self._factor = unsigned.type(multiplier)
        self._products = np.empty(BLOCK if multiplier > 1 else 0, unsigned)
        self._slots = np.empty(BLOCK, np.intp)
        self._of_keys = _upper_half(keys * self._factor)
        self._count = 1 << min(_SLOT_BITS, unsigned.itemsize * 8)

    def table(self, of_keys: NDArray) -> NDArray:
        """What belongs to each key, by slot; at a slot that no key has stands what belongs to the first one.

        So no pattern is taken for a key that it is not: there is another one.
        """
        by_slot = np.full(self._count, of_keys[0])
        by_slot[self._of_keys] = of_keys
        return by_slot

    def __call__(self, block: NDArray) -> NDArray:
        products = block
        if self._products.size:
            products = np.multiply(block, self._factor, out=self._products[: block.size])
        slots = self._slots[: block.size]
        np.copyto(slots, _upper_half(products))
        return slots
