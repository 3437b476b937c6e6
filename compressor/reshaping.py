"""An encoding of the same elements under another shape: its parts stay as they are stored.

[N, K] with a scale for each row      [N, K, 1, 1] with a scale for each first axis      the same bytes
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from compressor.arrays import Array, ArraySpec, ComputedArray, MappedArray, NarrowArray, NDArray, PackedArray, Shape
from compressor.encodings import Concatenated, Dense, Encoding, Palettized, Quantized, Sparse, Values, is_listed, shape


class _BlocksError(Exception):
    """Blocks of one shape are none of another."""


def with_shape(encoding: Encoding, to: Shape) -> Encoding | None:
    """The encoding of the same elements, in the same order, under the shape `to`; on specs and on data alike.

    None where there is none with the same parts: where a block would be none of the new axes.

    >>> rows = Quantized(Dense(ArraySpec((8, 6), np.dtype(np.int8))), ArraySpec((8, 1), np.dtype(np.float32)))
    >>> with_shape(rows, (8, 3, 2)).scale.shape, with_shape(rows, (6, 8))
    ((8, 1, 1), None)
    """
    whole = shape(encoding)
    if whole == to:
        return encoding
    if isinstance(encoding, Concatenated) or not math.prod(to) == math.prod(whole) > 0:
        return None
    try:
        if not isinstance(encoding, Sparse):
            return _values(encoding, whole, to, leaf=True)
        mask = encoding.mask if is_listed(encoding.mask) else _by_block(encoding.mask, whole, to)
        return Sparse(mask, _values(encoding.values, whole, to, leaf=False), to)
    except _BlocksError:
        return None


def _values(node: Values, whole: Shape, to: Shape, *, leaf: bool) -> Values:
    """leaf: whether elements have the weight's shape; those under a mask are a list in any."""
    match node:
        case Dense(values):
            return Dense(reshaped(values, to)) if leaf else node
        case Quantized(data, scale, zero_point, block, rounded):
            made = _values(data, whole, to, leaf=leaf)
            assert not isinstance(made, Quantized)
            point = None if zero_point is None else _by_block(zero_point, whole, to)
            short = None if block is None else _short(block, tuple(scale.shape), whole, to)
            return Quantized(made, _scale(scale, whole, to), point, short, rounded)
        case Palettized(indices, lut, axis):
            entries = tuple(lut.shape[-2:])
            lut = reshaped(lut, (*_counts(tuple(lut.shape[:-2]), whole, to), *entries))
            if axis is not None:
                axis = _same_axis(axis, whole, to)
            of = tuple(dim // entries[1] if place == axis else dim for place, dim in enumerate(to))
            return Palettized(reshaped(indices, of) if leaf else indices, lut, axis)


def _scale(scale: Array | Palettized, whole: Shape, to: Shape) -> Array | Palettized:
    if not isinstance(scale, Palettized):
        return _by_block(scale, whole, to)
    made = _values(scale, tuple(scale.shape), _counts(tuple(scale.shape), whole, to), leaf=True)
    assert isinstance(made, Palettized)
    return made


def _by_block(parameter: Array, whole: Shape, to: Shape) -> Array:
    return reshaped(parameter, _counts(tuple(parameter.shape), whole, to))


def _counts(counts: Shape, whole: Shape, to: Shape) -> Shape:
    """The blocks along each axis of `to`, of a parameter that has `counts` along those of `whole`."""
    made = [1] * len(to)
    for mine, theirs in _parts(whole, to):
        had = tuple(counts[axis] for axis in mine)
        dims, others = (tuple(of[axis] for axis in axes) for of, axes in ((whole, mine), (to, theirs)))
        for axis, count in zip(theirs, had if dims == others else _runs(had, dims, others), strict=True):
            made[axis] = count
    return tuple(made)


def _runs(counts: Shape, dims: Shape, others: Shape) -> Iterator[int]:
    """The blocks along other axes of the same elements, where those along `dims` are runs of neighbours."""
    partial_ = next((place for place, pair in enumerate(zip(counts, dims, strict=True)) if len({*pair}) == 2), None)
    if partial_ is not None and math.prod(counts[partial_ + 1 :]) > 1:
        raise _BlocksError
    rest = math.prod(counts)
    for dim in others:
        count = min(rest, dim)
        if rest % count or dim % count:
            raise _BlocksError
        yield count
        rest //= count


def _short(block: Shape, counts: Shape, whole: Shape, to: Shape) -> Shape:
    """The lengths of blocks of which the last one along an axis is shorter: each such axis stays one."""
    made = [1] * len(to)
    for mine, theirs in _parts(whole, to):
        if len(mine) == len(theirs) == 1:
            made[theirs[0]] = block[mine[0]]
        elif all(counts[axis] == 1 for axis in mine):
            for axis in theirs:
                made[axis] = to[axis]
        else:
            raise _BlocksError
    return tuple(made)


def _same_axis(axis: int, whole: Shape, to: Shape) -> int:
    """The axis of `to` that an axis of `whole` has become by itself."""
    for mine, theirs in _parts(whole, to):
        if mine == [axis] and len(theirs) == 1:
            return theirs[0]
    raise _BlocksError


def _parts(whole: Shape, to: Shape) -> Iterator[tuple[list[int], list[int]]]:
    """The axes of two shapes that take the same elements apart, those of one element left out.

    >>> [*_parts((8, 6, 1, 5), (8, 3, 2, 5))]
    [([0], [0]), ([1], [1, 2]), ([3], [3])]
    """
    left, right = ([axis for axis, dim in enumerate(of) if dim != 1] for of in (whole, to))
    while left and right:
        mine, theirs = [left.pop(0)], [right.pop(0)]
        one, other = whole[mine[0]], to[theirs[0]]
        while one != other:
            if one < other:
                mine.append(left.pop(0))
                one *= whole[mine[-1]]
            else:
                theirs.append(right.pop(0))
                other *= to[theirs[-1]]
        yield mine, theirs


def reshaped(array: Array, to: Shape) -> Array:
    """The elements under another shape, not read where they are not in memory.

    Raises:
        ValueError: there are not as many.
    """
    if math.prod(to) != array.size:
        raise ValueError(f"{list(array.shape)} is not {list(to)}")
    if isinstance(array, np.ndarray):
        return array.reshape(to)
    if isinstance(array, NarrowArray):
        return NarrowArray(reshaped(array.values, to), array.dtype)
    if isinstance(array, ArraySpec | MappedArray | PackedArray):
        return replace(array, shape=to)
    return ComputedArray(to, array.dtype, partial(_read, array, to))


def _read(array: Array, to: Shape) -> NDArray:
    return np.asarray(array).reshape(to)
