"""Ways to write an encoding so that a version may have it, all of the same value bit by bit.

| what is encoded | ways, in the order of preference |
|---|---|
| values | as they are |
| a palette | its table filled up to an index width that there is |
| codes | in a type that there is; few ones as indices into a table too |
| scaled tables | one for each scale before iOS 26; tables of products; their entries without tables |

Each way takes specs and data alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from compressor.arrays import (
    INT2,
    INT4,
    INT8,
    UINT2,
    UINT4,
    UINT8,
    Array,
    ArraySpec,
    DType,
    MappedArray,
    NDArray,
    PackedArray,
    Shape,
    bits,
    is_float,
)
from compressor.encodings import Dense, Palettized, Quantized, Values, decode, dtype, index_bits, plain, shape
from compressor.formats.coreml.opsets import IOS18, IOS26
from compressor.kernels import dequantize, expand

Way = Callable[[Any], Values]

_INDEX_BITS = (1, 2, 4, 6, 8)
_INDEX_BITS_SINCE_IOS18 = (1, 2, 3, 4, 6, 8)

_WIDENED: dict[DType, DType] = {INT2: INT8, INT4: INT8, UINT2: UINT8, UINT4: UINT8}
_WIDENED_SINCE_IOS18: dict[DType, DType] = {INT2: INT4, UINT2: UINT4}
"""The types that codes get which have none of their own."""


def rewritings(encoding: Values, whole: Shape, version: int, *, masked: bool) -> list[Way]:
    """The ways to write an encoding like this one. whole: the weight's shape. masked: whether it is under a mask."""
    match encoding:
        case Dense():
            return [lambda dense: dense]
        case Palettized():
            return [partial(_padded, version=version)]
        case Quantized(Palettized()):
            return _of_scaled_tables(encoding, whole, version, masked=masked)
        case Quantized(data) if is_float(dtype(data)):
            return [lambda scaled: scaled]
        case Quantized():
            few = dtype(encoding.data) in (_WIDENED if version < IOS18 else _WIDENED_SINCE_IOS18)
            return [partial(_widened, version=version), *([_as_palette] if few else [])]


def even(encoding: Quantized, whole: Shape) -> Quantized:
    """The same with parameters repeated until every block divides its axis: 100 in blocks of 32 become 25 of 4.

    whole: the weight's shape.
    """
    if encoding.block is None:
        return encoding
    pairs = tuple((dim, math.gcd(dim, min(dim, size))) for dim, size in zip(whole, encoding.block, strict=True))
    counts, block = tuple(dim // step for dim, step in pairs), encoding.block

    def repeated(parameter: NDArray) -> NDArray:
        for axis, (_, step) in enumerate(pairs):
            parameter = parameter.take(np.arange(counts[axis]) * step // block[axis], axis)
        return parameter

    scale, zero_point = _computed(repeated, counts, plain(encoding.scale)), encoding.zero_point
    zero_point = None if zero_point is None else _computed(repeated, counts, zero_point)
    return replace(encoding, scale=scale, zero_point=zero_point, block=None)


def _of_scaled_tables(encoding: Quantized, whole: Shape, version: int, *, masked: bool) -> list[Way]:
    """The ways of tables of codes, or of floats, that have scales.

    groups: the blocks that tables and scales cut the weight into together; each can have a table of its own where they
    divide it: two tables along an axis, three scales, six groups.
    """
    data = encoding.data
    assert isinstance(data, Palettized)
    tables = data.lut.shape[:-2]
    groups = tuple(math.lcm(*counts) for counts in zip(encoding.scale.shape, tables, strict=True))
    to = whole if masked else tuple(data.indices.shape)
    divide = all(dim % count == 0 for dim, count in zip(to, groups, strict=True))
    ways: list[Way] = [partial(_with_tables, version=version, groups=groups if divide and version < IOS26 else tables)]
    if divide:
        ways.append(partial(_as_float_tables, version=version, groups=groups))
    if not masked or math.prod(tables) == 1:
        ways.append(partial(_as_codes, version=version))
    return ways


def _with_tables(encoding: Quantized, version: int, groups: Shape) -> Quantized:
    """A table of floats, or of codes of 8 bits, for each of the groups."""
    data, zero_point = _full_tables(encoding, version)
    lut = repeated(data.lut, (*groups, *data.lut.shape[-2:]))
    return Quantized(replace(data, lut=lut), encoding.scale, zero_point)


def _as_float_tables(encoding: Quantized, version: int, groups: Shape) -> Palettized:
    """A table of what the entries stand for, for each of the groups."""
    data, zero_point = _full_tables(encoding, version)
    return replace(data, lut=_dequantized_table(data.lut, plain(encoding.scale), zero_point, groups))


def _as_codes(encoding: Quantized, version: int) -> Quantized:
    """The entries themselves in the place of indices."""
    data, zero_point = _full_tables(encoding, version)
    codes = _computed(lambda *_: decode(data), shape(data), data.indices, data.lut, of=data.lut.dtype)
    made = Quantized(Dense(codes), encoding.scale, zero_point)
    return made if is_float(codes.dtype) else _widened(made, version)


def _full_tables(encoding: Quantized, version: int) -> tuple[Palettized, Array | None]:
    """Tables filled up, codes in them and zero points in 8 bits."""
    data, zero_point = encoding.data, encoding.zero_point
    assert isinstance(data, Palettized)
    if is_float(dtype(data)):
        return _padded(data, version), None
    wide = INT8 if dtype(data).name.startswith("int") else UINT8
    data = _padded(replace(data, lut=_cast(data.lut, wide)), version)
    return data, None if zero_point is None else _cast(zero_point, wide)


def _padded(encoding: Palettized, version: int) -> Palettized:
    """The table with the entries of the next index width that there is, new ones zero."""
    widths = _INDEX_BITS if version < IOS18 else _INDEX_BITS_SINCE_IOS18
    entries = 1 << next(width for width in widths if width >= index_bits(encoding.lut))
    *groups, had, vector = encoding.lut.shape
    if had == entries:
        return encoding
    to = (*groups, entries, vector)

    def padded(lut: NDArray) -> NDArray:
        made = np.zeros(to, lut.dtype)
        made[..., :had, :] = lut
        return made

    lut = _computed(padded, to, encoding.lut)
    return replace(encoding, lut=lut)


def _widened(encoding: Quantized, version: int) -> Quantized:
    assert isinstance(encoding.data, Dense)
    codes = encoding.data.values
    wide = (_WIDENED if version < IOS18 else _WIDENED_SINCE_IOS18).get(codes.dtype, codes.dtype)
    scale, zero_point = encoding.scale, encoding.zero_point
    if version < IOS18:
        scale, zero_point = _by_channel(encoding)
        if zero_point is None and scale.size == 1:  # stored in any case, as a scalar beside several scales
            zero_point = _computed(lambda scale: np.zeros(scale.shape, wide), scale.shape, scale, of=wide)
    return Quantized(Dense(_cast(codes, wide)), scale, None if zero_point is None else _cast(zero_point, wide))


def _by_channel(encoding: Quantized) -> tuple[Array, Array | None]:
    """Scale and zero point by block along one axis only, repeated for each channel."""
    whole = shape(encoding)
    axes = [axis for axis, count in enumerate(encoding.scale.shape) if count > 1]
    if len(axes) != 1 or len(whole) != len(encoding.scale.shape):
        return plain(encoding.scale), encoding.zero_point
    to = tuple(whole[axis] if axis in axes else 1 for axis in range(len(whole)))
    zero_point = encoding.zero_point
    return repeated(plain(encoding.scale), to), None if zero_point is None else repeated(zero_point, to)


def _as_palette(encoding: Quantized) -> Palettized:
    """Codes as indices, bit for bit, into what each of them stands for: a table for each scale."""
    assert isinstance(encoding.data, Dense)
    codes = encoding.data.values
    width = bits(codes.dtype)
    if isinstance(codes, MappedArray):
        indices: Array = replace(codes, dtype=UINT8, width=width)
    elif isinstance(codes, PackedArray):
        indices = replace(codes, dtype=UINT8)
    else:
        indices = _computed(
            lambda codes: codes.view(np.uint8) & np.uint8((1 << width) - 1), codes.shape, codes, of=UINT8
        )
    # ml_dtypes keeps a code in the low bits of a byte, so the bytes 0, 1, 2, ... are the codes of these patterns.
    every = np.arange(1 << width, dtype=np.uint8).view(codes.dtype).reshape(-1, 1)
    return Palettized(
        indices, _dequantized_table(every, plain(encoding.scale), encoding.zero_point, encoding.scale.shape)
    )


def _dequantized_table(codes: Array, scale: Array, zero_point: Array | None, groups: Shape) -> Array:
    """Tables of codes, one for all groups or one for each of some blocks of them, as tables of floats."""
    entries = codes.shape[-2:]

    def table(codes: NDArray, *parameters: NDArray) -> NDArray:
        spread = [np.ascontiguousarray(expand(one, groups))[..., None, None] for one in parameters]
        whole = expand(codes, (*groups, *entries)) if codes.ndim > 2 else np.broadcast_to(codes, (*groups, *entries))
        return dequantize(whole, *spread)

    parameters = [scale] if zero_point is None else [scale, zero_point]
    return _computed(table, (*groups, *entries), codes, *parameters, of=scale.dtype)


def _cast(codes: Array, to: DType) -> Array:
    """Codes in a wider type of the same sign."""
    if codes.dtype == to:
        return codes
    return _computed(lambda codes: codes.astype(np.int16).astype(to), codes.shape, codes, of=to)


def repeated(array: Array, to: Shape) -> Array:
    """A parameter by block, repeated to the shape `to`."""
    if tuple(array.shape) == to:
        return array
    return _computed(lambda array: np.ascontiguousarray(expand(array, to)), to, array)


def _computed(function: Callable[..., NDArray], to: Sequence[int], *arrays: Array, of: DType | None = None) -> Array:
    """`function(*arrays)`, or the spec of it if one of them is a spec."""
    if any(isinstance(array, ArraySpec) for array in arrays):
        return ArraySpec(tuple(to), arrays[0].dtype if of is None else of)
    return function(*(np.asarray(array) for array in arrays))
