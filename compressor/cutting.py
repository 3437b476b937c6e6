"""Some rows of an array, or of an encoding: of what lies in a file no more is read, of what is packed no more unpacked.

Passes over a weight that stays in a file then hold a few of its rows, and what is made of them stays in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np

from compressor.arrays import (
    Array,
    ComputedArray,
    DType,
    MappedArray,
    NarrowArray,
    NDArray,
    PackedArray,
    Shape,
    bits,
    from_bytes,
)
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

    Each is gone once the next one is asked for: a file is opened once, and read into the same memory. Two weights of
    one shape are cut at the same places. What cannot be cut is decoded, and its values are.

    >>> codes, scale = np.zeros((3, 1 << 18), np.int8), np.ones((1, 1), np.float32)
    >>> [shape(part) for part in in_rows(Quantized(Dense(codes), scale))]
    [(1, 262144), (1, 262144), (1, 262144)]
    """
    whole = shape(encoding)
    if not whole:
        yield encoding
        return
    parts = blocks(whole[0], max(1, _VALUES // max(1, math.prod(whole[1:]))))
    with ExitStack() as files:
        if isinstance(encoding, Sparse) and _is_scattered(encoding):
            yield from _scattered(encoding, parts, files)
            return
        next_of = _following(encoding if _is_cut(encoding, whole[0]) else Dense(decode(encoding)), files)
        for part in parts:
            yield next_of(part.stop - part.start)


def _is_scattered(encoding: Sparse) -> bool:
    """Whether each place of a weight has a bit, or each value its place, and each value stands alone."""
    return (is_listed(encoding.mask) or encoding.mask.shape == encoding.shape) and stands_alone(encoding.values)


def _scattered(encoding: Sparse, parts: Iterable[slice], files: ExitStack) -> Iterator[Sparse]:
    """The values of some rows follow those of the rows before. Raises `DamageError` where they are not as many."""
    size, done = math.prod(shape(encoding.values)), 0
    mask_of = _next_rows(full_mask(encoding) if is_listed(encoding.mask) else encoding.mask, files)
    values_of = _following(encoding.values, files)
    for part in parts:
        mask = np.asarray(mask_of(part.stop - part.start))
        count = int(np.count_nonzero(mask))
        if done + count > size:
            raise DamageError(f"a mask of more than {size} set bits for {size} values")
        values = values_of(count)
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


def _following(encoding: Encoding, files: ExitStack) -> Callable[[int], Encoding]:
    """What gives the next rows of a weight that is cut, as many as are asked for.

    files: holds open what is read.
    """
    match encoding:
        case Dense(values):
            values_of = _next_rows(values, files)
            return lambda count: Dense(values_of(count))
        case Quantized(data, scale, zero_point):
            data_of, scale_of, moved_of = _following(data, files), _scales(scale, files), _own(zero_point, files)
            return lambda count: replace(
                encoding, data=cast("Dense", data_of(count)), scale=scale_of(count), zero_point=moved_of(count)
            )
        case Palettized(indices, lut):
            indices_of, lut_of = _next_rows(indices, files), _own(lut, files)
            return lambda count: replace(encoding, indices=indices_of(count), lut=lut_of(count))
        case _:
            raise AssertionError("is not cut")


def _scales(scale: Array | Palettized, files: ExitStack) -> Callable[[int], Any]:
    if not isinstance(scale, Palettized):
        return _own(scale, files)
    indices_of = _own(scale.indices, files)
    return lambda count: replace(scale, indices=indices_of(count))


def _own(parameter: Array | None, files: ExitStack) -> Callable[[int], Any]:
    """What gives the parameters of the next rows; those that all rows share are always the same."""
    if parameter is not None and parameter.shape[0] > 1:
        return _next_rows(parameter, files)
    shared = None if parameter is None else np.asarray(parameter)
    return lambda _: shared


def _next_rows(array: Array, files: ExitStack) -> Callable[[int], Array]:
    """What gives the next rows of an array: those of a file are gone once others are read."""
    if isinstance(array, NarrowArray):
        narrow_of = _next_rows(array.values, files)
        return lambda count: NarrowArray(narrow_of(count), array.dtype)
    if isinstance(array, MappedArray) and _in_rows(array) and array.nbytes:
        read, width, row = files.enter_context(array.reading()), array.width or bits(array.dtype), array.shape[1:]
        return lambda count: _read(read(count * _row_bits(array) // 8), (count, *row), array.dtype, width)
    held, done = array if _in_rows(array) else np.asarray(array), 0

    def following(count: int) -> Array:
        nonlocal done
        done += count
        return rows(held, done - count, done)

    return following


def _read(raw: NDArray, shape: Shape, dtype: DType, width: int) -> Array:
    """Elements of which these are the bytes: packed ones stay so."""
    return from_bytes(raw, shape, dtype) if width >= 8 else PackedArray(raw, shape, dtype, width)
