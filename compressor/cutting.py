"""Some rows of an array, or of an encoding: of what lies in a file no more is read, of what is packed no more unpacked.

Passes over a weight that stays in a file then hold a few of its rows, and what is made of them stays in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from compressor.arrays import Array, ComputedArray, MappedArray, NarrowArray, NDArray, PackedArray, bits
from compressor.blocks import BLOCK, blocks
from compressor.encodings import (
    Dense,
    Encoding,
    Palettized,
    Quantized,
    Sparse,
    decode,
    full_mask,
    is_listed,
    map_arrays,
    shape,
    stands_alone,
)
from compressor.errors import DamageError
from compressor.widening import widened_to

_VALUES = 4 * BLOCK
"""Of a part: opening a file costs as much as reading a block."""

_READ = 2 * BLOCK
"""Elements that are read at a time: so many that the call costs nothing, so few that they stay in the cache."""


def leading(array: Array, count: int) -> Array:
    """The first `count` rows of an array, of which no more is read where it lies in a file as it is."""
    return rows(array if _in_rows(array) else np.asarray(array), 0, min(count, array.shape[0]))


def in_blocks(array: Array) -> Iterator[NDArray]:
    """The elements in row-major order, some at a time: `[n]` each, gone once the next ones are asked for.

    Of a slice of a file no more are in memory.
    """
    if isinstance(array, MappedArray) and (array.width or bits(array.dtype)) >= 8:
        yield from (run.view(array.dtype) for run in array.runs(_READ * array.dtype.itemsize))
    elif isinstance(array, NarrowArray):
        yield from (widened_to(part, array.dtype) for part in in_blocks(array.values))
    else:
        flat = np.asarray(array).reshape(-1)
        yield from (flat[part] for part in blocks(flat.size, _READ))


def in_rows(encoding: Encoding) -> Iterator[Encoding]:
    """The parts of a weight along its first axis, in order, each the same tree over some rows: some blocks of values.

    Two weights of one shape are cut at the same places. What cannot be cut is decoded, and its values are.

    >>> codes, scale = np.zeros((3, 1 << 18), np.int8), np.ones((1, 1), np.float32)
    >>> [shape(part) for part in in_rows(Quantized(Dense(codes), scale))]
    [(1, 262144), (1, 262144), (1, 262144)]
    """
    whole = shape(encoding)
    if not whole:
        yield encoding
        return
    parts = blocks(whole[0], max(1, _VALUES // max(1, math.prod(whole[1:]))))
    if isinstance(encoding, Sparse) and _is_scattered(encoding):
        mask = full_mask(encoding) if is_listed(encoding.mask) else encoding.mask
        yield from _scattered(map_arrays(_held, Sparse(mask, encoding.values, encoding.shape)), parts)
        return
    held = map_arrays(_held, encoding) if _is_cut(encoding, whole[0]) else Dense(decode(encoding))
    for part in parts:
        yield _rows(held, part.start, part.stop)


def _is_scattered(encoding: Sparse) -> bool:
    """Whether each place of a weight has a bit, or each value its place, and each value stands alone."""
    return (is_listed(encoding.mask) or encoding.mask.shape == encoding.shape) and stands_alone(encoding.values)


def _scattered(encoding: Sparse, parts: Iterable[slice]) -> Iterator[Sparse]:
    """The values of some rows follow those of the rows before. Raises `DamageError` where they are not as many."""
    size, done = math.prod(shape(encoding.values)), 0
    for part in parts:
        mask = np.asarray(rows(encoding.mask, part.start, part.stop))
        count = int(np.count_nonzero(mask))
        if done + count > size:
            raise DamageError(f"a mask of more than {size} set bits for {size} values")
        values = _rows(encoding.values, done, done + count)
        assert isinstance(values, Dense | Palettized)
        yield Sparse(mask, values, mask.shape)
        done += count
    if done < size:
        raise DamageError(f"a mask of {done} set bits for {size} values")


def rows(array: Array, start: int, stop: int) -> Array:
    """The rows of an array from `start` to `stop`."""
    to = (stop - start, *array.shape[1:])
    match array:
        case MappedArray():
            skipped = start * _row_bits(array) // 8
            return replace(array, offset=array.offset + skipped, shape=to)
        case PackedArray():
            first, end = (place * _row_bits(array) // 8 for place in (start, stop))
            return replace(array, packed=array.packed[first:end], shape=to)
        case NarrowArray():
            return NarrowArray(rows(array.values, start, stop), array.dtype)
        case ComputedArray() if array.rows is not None:
            return ComputedArray(to, array.dtype, partial(array.rows, start, stop))
        case _:
            return np.asarray(array)[start:stop]


def _in_rows(array: Array) -> bool:
    """Whether some rows of an array cost less than all of it."""
    match array:
        case MappedArray() | PackedArray():
            return bool(array.shape) and _row_bits(array) % 8 == 0
        case NarrowArray():
            return _in_rows(array.values)
        case ComputedArray():
            return array.rows is not None
        case _:
            return True


def _row_bits(array: MappedArray | PackedArray) -> int:
    return math.prod(array.shape[1:]) * (array.width or bits(array.dtype))


def _held(array: Array, _: int) -> Array:
    return array if _in_rows(array) else np.asarray(array)


def _is_cut(encoding: Encoding, count: int) -> bool:
    """Whether each of `count` rows of a weight has codes, and scales and tables, of its own, or shares all of them."""
    match encoding:
        case Dense():
            return True
        case Quantized(data, scale):
            parameters = scale.indices if isinstance(scale, Palettized) else scale
            return parameters.shape[0] in (1, count) and _is_cut(data, count)
        case Palettized(_, lut, axis):
            return lut.shape[0] in (1, count) and axis != 0
        case _:
            return False


def _rows(encoding: Encoding, start: int, stop: int) -> Encoding:
    match encoding:
        case Dense(values):
            return Dense(rows(values, start, stop))
        case Quantized(data, scale, zero_point):
            some = _rows(data, start, stop)
            assert isinstance(some, Dense | Palettized)
            moved = None if zero_point is None else _own(zero_point, start, stop)
            if isinstance(scale, Palettized):
                scale = replace(scale, indices=_own(scale.indices, start, stop))
            else:
                scale = _own(scale, start, stop)
            return replace(encoding, data=some, scale=scale, zero_point=moved)
        case Palettized(indices, lut):
            return replace(encoding, indices=rows(indices, start, stop), lut=_own(lut, start, stop))
        case _:
            raise AssertionError("is not cut")


def _own(parameter: Array, start: int, stop: int) -> Array:
    """A parameter of some rows; one that all rows share stays."""
    return parameter if parameter.shape[0] == 1 else rows(parameter, start, stop)
