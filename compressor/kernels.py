"""Passes over a weight for `decode` and the schemes: block by block in numpy, without a branch an element, or in C."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from compressor import native
from compressor.arrays import (
    CODE_DTYPES,
    Array,
    MappedArray,
    NDArray,
    PackedArray,
    Shape,
    bits,
    is_float,
    mantissa_bits,
    of_mantissa,
)
from compressor.blocks import blocks, row_blocks
from compressor.errors import DamageError
from compressor.packing import unpack

_LEAST_ROW = 8
"""Rows of one scale that are shorter are not worth a loop each."""


def take(table: NDArray, rows: NDArray) -> NDArray:
    """`table[rows]`: numpy's own makes an eight-byte copy of every index first."""
    flat = np.ascontiguousarray(rows).reshape(-1)
    values = np.empty((flat.size, *table.shape[1:]), table.dtype)
    for part in blocks(flat.size):
        np.take(table, flat[part], axis=0, out=values[part], mode="clip")
    return values.reshape(*rows.shape, *table.shape[1:])


def select(values: NDArray, where: NDArray) -> NDArray:
    """`values[where]`, `[D]` in row-major order."""
    mask = np.ascontiguousarray(where).reshape(-1)
    chosen = np.empty(np.count_nonzero(mask), values.dtype)
    select_into(_unsigned(values), mask, _unsigned(chosen))
    return chosen


def scatter(values: NDArray, where: NDArray) -> NDArray:
    """The inverse of `select`: `values` in row-major order where the mask is set, zero elsewhere.

    Raises:
        ValueError: the mask's set bits are not as many as the values.
    """
    mask = np.ascontiguousarray(where).reshape(-1)
    if values.size != (count := np.count_nonzero(mask)):
        raise ValueError(f"{values.size:,} values for {count:,} set bits")
    dense = np.empty(mask.size, values.dtype)
    scatter_into(_unsigned(values), mask, _unsigned(dense))
    return dense.reshape(where.shape)


@native.loop
def select_into(values: NDArray, where: NDArray, chosen: NDArray) -> None:
    """Write the values where the mask is set, in order.

    Indexing by a mask costs a mispredicted branch an element; `compress` does not, but makes an eight-byte index of
    each value that it takes.
    """
    start = 0
    for part in blocks(values.size):
        taken = np.compress(where[part], values[part])
        chosen[start : start + taken.size] = taken
        start += taken.size


@native.loop
def scatter_into(values: NDArray, where: NDArray, dense: NDArray) -> None:
    """Write the values in order where the mask is set, zero elsewhere."""
    start = 0
    for part in blocks(dense.size):
        places = np.flatnonzero(where[part])
        dense[part] = 0
        dense[part][places] = values[start : start + places.size]
        start += places.size


def _unsigned(values: NDArray) -> NDArray:
    """The elements as unsigned integers of their width, `[size]`: a view where they are contiguous."""
    return np.ascontiguousarray(values).reshape(-1).view(f"u{values.dtype.itemsize}")


def expand(parameter: NDArray, to: Shape, block: Shape | None = None) -> NDArray:
    """A parameter by block, repeated to the weight's shape `to`: a view where every block is 1 or the whole axis.

    block: the lengths of a block, where the last one of an axis may be shorter.

    >>> expand(np.array([[1, 2]]), (2, 4)).tolist()
    [[1, 1, 2, 2], [1, 1, 2, 2]]
    >>> expand(np.array([[1, 2]]), (1, 5), (1, 3)).tolist()
    [[1, 1, 1, 2, 2]]
    """
    for axis, (have, want) in enumerate(zip(parameter.shape, to, strict=True)):
        if 1 < have < want:
            length = want // have if block is None else block[axis]
            parameter = np.repeat(parameter, length, axis)
            parameter = parameter[(slice(None),) * axis + (slice(want),)]
    return np.broadcast_to(parameter, to)


def facing(
    values: NDArray, parameters: Sequence[NDArray], where: NDArray | None = None, block: Shape | None = None
) -> tuple[NDArray, Sequence[NDArray]]:
    """Values and their parameters by block, in shapes that broadcast against each other: blocks become axes.

    where: of `[D]` values, the mask of the places that they have in the weight.
    block: the lengths of a block, where the last one of an axis may be shorter: then parameters are repeated.

    >>> values, (scale,) = facing(np.zeros((2, 6)), [np.zeros((2, 3))])
    >>> values.shape, scale.shape
    ((2, 3, 2), (2, 3, 1))
    """
    if where is not None:
        whole = where.shape
        return values, [one.reshape(()) if one.size == 1 else expand(one, whole, block)[where] for one in parameters]
    if block is not None:
        return values, [expand(one, values.shape, block) for one in parameters]
    wide: list[int] = []
    narrow: list[int] = []
    for dim, count in zip(values.shape, parameters[0].shape, strict=True):
        split = 1 < count < dim
        wide += [count, dim // count] if split else [dim]
        narrow += [count, 1] if split else [count]
    return values.reshape(wide), [one.reshape(narrow) for one in parameters]


def dequantize(codes: NDArray, scale: NDArray, zero_point: NDArray | None = None) -> NDArray:
    """`(codes - zero_point) * scale` of arrays that broadcast to the codes' shape, rounded once to the scale's dtype.

    The difference of two codes is a small integer, exact in float32; its product with a 16-bit float is exact too.
    """
    if codes.dtype in CODE_DTYPES.values() and (rows := _scaled_rows(codes.shape, scale)):
        values, count = np.empty(codes.shape, scale.dtype), bits(codes.dtype)
        moved = np.zeros(rows, np.uint8) if zero_point is None else _unsigned(zero_point)
        sign = 1 << count - 1 if codes.dtype.name.startswith("int") else 0
        dequantize_into(
            _unsigned(codes), _unsigned(scale), moved, _unsigned(values), mantissa_bits(scale.dtype), count, sign
        )
        return values
    return _dequantized(codes, scale, zero_point)


def _scaled_rows(shape: Shape, scale: NDArray) -> int:
    """How many rows of one finite scale there are, each in one piece; 0 where values are scaled otherwise."""
    leading = sum(
        1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(shape, scale.shape, strict=False))
    )
    in_rows = scale.size and math.prod(scale.shape[:leading]) == scale.size
    whole = in_rows and math.prod(shape) >= _LEAST_ROW * scale.size and is_float(scale.dtype)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return int(scale.size) if whole and np.isfinite(scale).all() else 0


@native.loop
def dequantize_into(
    codes: NDArray, scale: NDArray, zero_point: NDArray, values: NDArray, mantissa: int, width: int, sign: int
) -> None:
    """Write the values of rows of codes of `width` bits, of one finite scale each.

    sign: the bit of a code that is its sign, or 0.
    """
    dtype, mask = of_mantissa(mantissa), (1 << width) - 1

    def signed(some: NDArray) -> NDArray:
        if width == 8:
            return some.view(np.int8) if sign else some
        return (((some & mask) ^ sign) - sign).view(np.int8)

    shape = (scale.size, values.size // scale.size)
    whole, into, scales = codes.reshape(shape), values.reshape(shape), scale.view(dtype)[:, None]
    moved = signed(zero_point)[:, None] if zero_point.any() else None
    for part in row_blocks(len(whole), whole.size):
        zero_points = None if moved is None else moved[part]
        for places in blocks(shape[1]):
            made = _dequantized(signed(whole[part, places]), scales[part], zero_points)
            into[part, places] = made.view(into.dtype)


def _dequantized(codes: NDArray, scale: NDArray, zero_point: NDArray | None = None) -> NDArray:
    exact = np.dtype(np.float64) if scale.dtype == np.float64 else np.dtype(np.float32)
    to = codes.shape
    codes = codes.reshape(to or (1,))
    values = np.empty(codes.shape, scale.dtype)
    scale = np.broadcast_to(scale.astype(exact), values.shape)
    moved = None if zero_point is None else np.broadcast_to(zero_point.astype(exact), values.shape)
    with np.errstate(over="ignore", invalid="ignore"):  # an infinite product is what the scale says
        for part in row_blocks(len(codes), codes.size):
            exactly = codes[part].astype(exact)
            if moved is not None:
                np.subtract(exactly, moved[part], out=exactly)
            np.multiply(exactly, scale[part], out=values[part], casting="unsafe")
    return values.reshape(to)


def look_up(indices: Array, lut: NDArray, vector_axis: int | None = None, where: NDArray | None = None) -> NDArray:
    """The entry behind each index, in the table of its group: what `Palettized` means, or `[D]` of its values.

    where: of `[D]` indices, the mask of the places that they have in the weight.

    Raises:
        DamageError: an index lies outside its table.
    """
    if lut.size == lut.shape[-2] and (values := _by_one_table(indices, lut)) is not None:
        return values
    return _look_up(np.asarray(indices), lut, vector_axis, where)


def _by_one_table(indices: Array, lut: NDArray) -> NDArray | None:
    """The values behind codes, packed as they lie, into a single table; None if one lies outside."""
    if isinstance(indices, MappedArray | PackedArray):
        packed, width = indices.raw(), indices.width or 8
    else:
        packed, width = np.ascontiguousarray(np.asarray(indices)).reshape(-1), 8
    values = np.empty(indices.shape, lut.dtype)
    return values if look_up_into(packed, _unsigned(lut), _unsigned(values), width) else None


@native.loop
def look_up_into(packed: NDArray, table: NDArray, values: NDArray, width: int) -> bool:
    """Write the values behind packed codes of `width` bits; whether all of them lie in the table.

    A byte of codes at a time where codes fill it: its values are neighbours in a table of 256 rows.
    """
    if width not in {1, 2, 4}:
        codes = unpack(packed, width, values.size)
        for part in blocks(values.size):
            np.take(table, codes[part], out=values[part], mode="clip")
        return not values.size or int(codes.max()) < table.size
    codes = unpack(np.arange(256, dtype=np.uint8), width, 256 * 8 // width).reshape(256, -1)
    run, rows = codes.shape[1], table[np.minimum(codes, table.size - 1)]
    whole = values.size // run
    by_byte = values[: whole * run].reshape(whole, run)
    for part in blocks(whole):
        np.take(rows, packed[part], axis=0, out=by_byte[part], mode="clip")
    last = unpack(packed[whole:], width, values.size - whole * run)
    values[whole * run :] = table[np.minimum(last, table.size - 1)]
    outside = np.asarray((codes >= table.size).any(axis=1))
    return not (outside.any() and outside[packed[:whole]].any()) and bool((last < table.size).all())


def _look_up(indices: NDArray, lut: NDArray, vector_axis: int | None, where: NDArray | None) -> NDArray:
    groups, (entries, vector) = lut.shape[:-2], lut.shape[-2:]
    if indices.size and int(indices.max()) >= entries:
        raise DamageError(f"indices into {entries} entries, got {int(indices.max())}")
    rows = indices
    if (tables := math.prod(groups)) > 1:  # one table of all of them, in which each begins `entries` after the last
        first = (np.arange(tables) * entries).astype(np.min_scalar_type(tables * entries)).reshape(groups)
        by_block, (first_by_block,) = facing(indices, [first], where)
        rows = (first_by_block + by_block).reshape(indices.shape)
    values = take(lut.reshape(-1) if vector == 1 else lut.reshape(-1, vector), rows)
    if vector_axis is None:
        return values
    whole = [dim * vector if axis == vector_axis else dim for axis, dim in enumerate(indices.shape)]
    return np.moveaxis(values, -1, vector_axis + 1).reshape(whole)
