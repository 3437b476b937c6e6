"""Places of non-zeros as the distances between them, in codes of 4 or 8 bits.

A code is the distance from the value before, the first from place 0. The greatest code is no value: it is a distance
that the next code adds to. So of 4 bits:

    places       3   4    40                     distances   3  1  36
    codes        3   1    15  15  6

Codes fill whole bytes: one more that is no value follows where there would be half of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from compressor import native
from compressor.arrays import UINT4, UINT8, Array, DType, NDArray, Shape, bits
from compressor.blocks import blocks
from compressor.errors import DamageError

GAPS = (UINT4, UINT8)
"""The types of such codes."""


def is_gaps(mask: Array) -> bool:
    """Whether a mask is the distances between the values."""
    return mask.dtype in GAPS


def greatest(dtype: DType) -> int:
    """The code that is no value."""
    return (1 << bits(dtype)) - 1


def count_of(masks: Iterable[NDArray], dtype: DType) -> int:
    """How many codes the places have that a mask sets, which comes some rows at a time."""
    count = before = 0
    for mask in masks:
        made, before = gaps_into(_bytes(mask), np.empty(0, np.uint8), greatest(dtype), before)
        count += made
    return _even(count, dtype)


def values_of(codes: NDArray) -> int:
    """How many values the places are of that these codes give."""
    return int(np.count_nonzero(codes.view(np.uint8) & (most := greatest(codes.dtype)) != most))


def of_mask(mask: NDArray, dtype: DType) -> NDArray:
    """The codes of the places that a mask sets, in row-major order.

    >>> mask = np.zeros(50, np.bool_)
    >>> mask[[3, 4, 40]] = True
    >>> of_mask(mask, UINT4).tolist()
    [3, 1, 15, 15, 6, 15]
    """
    return of_masks([mask], dtype)


def of_masks(masks: Iterable[NDArray], dtype: DType) -> NDArray:
    """The same of a mask that comes some rows at a time."""
    most, before, found = greatest(dtype), 0, []
    for mask in masks:
        flat = _bytes(mask)
        codes = np.empty(np.count_nonzero(flat) + (before + flat.size) // most + 1, np.uint8)
        made, before = gaps_into(flat, codes, most, before)
        found.append(codes[:made])
    count = sum(one.size for one in found)
    found.append(np.full(_even(count, dtype) - count, most, np.uint8))
    return np.concatenate(found).view(dtype)


def to_mask(codes: NDArray, shape: Shape) -> NDArray:
    """The mask of the places: bool, the weight's shape.

    Raises:
        DamageError: places are not ascending, or lie outside of the weight.
    """
    mask = np.zeros(math.prod(shape), np.bool_)
    if not gaps_to_mask(np.ascontiguousarray(codes).view(np.uint8), mask, greatest(codes.dtype)):
        raise DamageError(f"gaps between ascending places below {mask.size:,}")
    return mask.reshape(shape)


def _bytes(mask: NDArray) -> NDArray:
    return np.ascontiguousarray(mask).reshape(-1)


def _even(count: int, dtype: DType) -> int:
    step = 8 // bits(dtype)
    return -(-count // step) * step


@native.loop
def gaps_into(where: NDArray, codes: NDArray, most: int, before: int) -> tuple[int, int]:
    """Write the codes of the places that a mask sets, if there is any room, and anything behind them.

    before: how far the first place is from the value before it.

    How many codes there are, and how far the place behind the last one is from the value before it.

    Raises:
        ValueError: there is room, and not for all of them.
    """
    made, last = 0, -before
    for part in blocks(where.size):
        places = np.flatnonzero(where[part]) + part.start
        if not places.size:
            continue
        distances = np.diff(places, prepend=last)
        ends = np.cumsum(distances // most + 1)
        block = np.full(ends[-1], most, np.uint8)
        block[ends - 1] = distances % most
        if codes.size:
            if made + block.size > codes.size:
                raise ValueError("room for as many codes as the mask takes")
            codes[made : made + block.size] = block
        made, last = made + block.size, int(places[-1])
    return made, where.size - last


@native.loop
def gaps_to_mask(codes: NDArray, mask: NDArray, most: int) -> bool:
    """Set the places of the values in a mask of zeros; whether they are ascending, and inside of it."""
    end, last = 0, -1
    for part in blocks(codes.size):
        block = codes[part] & most
        ends = np.cumsum(block, dtype=np.int64) + end
        places = ends[block < most]
        if places.size:
            if places[0] <= last or places[-1] >= mask.size or (places[1:] <= places[:-1]).any():
                return False
            mask[places] = True
            last = int(places[-1])
        end = int(ends[-1])
    return True
