"""Codes that are floats, as a layer of the format stores them: 8 bits by any blocks, 4 and 6 by those of their formats.

Of a table that was found in values only its length is known while a plan is made: what it has to be, for codes of a
type to serve, is seen when the data are there.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from compressor.arrays import (
    BFLOAT16,
    UINT8,
    Array,
    ArraySpec,
    DType,
    NarrowArray,
    NDArray,
    Shape,
    stored_type,
    widened,
)
from compressor.encodings import Dense, Palettized, Quantized, dtype, plain
from compressor.formats.compressed_tensors.schemes import MX_GROUP, NV_GROUP, is_power, lengths
from compressor.formats.narrow_floats import E2M1, E2M3, E4M3, E8M0, codes_of, common, divisor, places, quotients, table
from compressor.recognition import lookup, scaled
from compressor.targets import Illegal

FLOAT32 = np.dtype(np.float32)
_SCALES = 256
"""A table of so many scales is that of all that eight bits are, divided by another one."""

_OF_4, _OF_8 = (15, 16), (253, 254, 256)
"""So many entries have tables of floats of 4 and 8 bits: of the values that are found, zero once, or of all codes."""

_MANY = 1 << 6
"""Palettes of fewer entries are hardly ever floats of 8 bits with one scale, nearly all of which a layer has."""


def legal(encoding: Quantized) -> Quantized:
    """The same value as a layer stores it.

    Raises:
        Illegal: the format has no such codes, or no such scales of them.
    """
    data, size = encoding.data, lengths(encoding)
    by_inputs = encoding.block is None and size[0] == 1
    four = isinstance(data, Palettized) and data.lut.size == data.lut.shape[-2] and data.lut.size in _OF_4
    # The library multiplies in float32, and gives bfloat16.
    if isinstance(data, Palettized) and four and by_inputs and size[1] == NV_GROUP and dtype(encoding) == BFLOAT16:
        return Quantized(_as_table(data, E2M1, FLOAT32), _divided(encoding.scale), rounded=BFLOAT16)
    if encoding.rounded is not None:
        raise Illegal(rounds_last(encoding.rounded))
    if isinstance(data, Dense):
        if (stored := stored_type(data.values)) != E4M3:
            raise Illegal(f"the format has floats of 8 bits as float8_e4m3fn alone, not as {stored}")
        if is_power(encoding.scale) and dtype(data) == BFLOAT16 and by_inputs and size[1] == MX_GROUP:
            return encoding
        return Quantized(data, widened(plain(encoding.scale)), None, encoding.block)
    entries = data.lut.shape[-2]
    if data.lut.size != entries:
        raise Illegal("the format has no tables by group")
    # The library gives what has fewer bits than 8 back as bfloat16.
    if by_inputs and size[1] == MX_GROUP and dtype(data) == BFLOAT16:
        if four:
            return Quantized(_as_table(data, E2M1, BFLOAT16), _powers(encoding.scale))
        if entries == _entries(E2M3) and is_power(encoding.scale):
            return Quantized(_as_table(data, E2M3, BFLOAT16), encoding.scale)
    if four:
        raise Illegal("the format has tables of 4 bits in groups of 16 and 32 alone, of bfloat16")
    if entries not in _OF_8:
        raise Illegal("the format has no tables")
    return Quantized(_as_bytes(data), widened(plain(encoding.scale)), None, encoding.block)


def by_tensor(palette: Palettized) -> Quantized | None:
    """The same value as 8-bit floats with one scale, which a palette of many entries may be; None for others.

    Raises:
        Illegal: its entries are no such floats.
    """
    entries, lut = palette.lut.shape[-2], palette.lut
    if (
        lut.size != entries
        or not _MANY < entries <= _OF_8[0]
        or palette.vector_axis is not None
        or len(palette.shape) != 2
    ):
        return None
    if isinstance(lut, ArraySpec):
        return Quantized(Dense(ArraySpec(palette.shape, lut.dtype, E4M3)), ArraySpec((1, 1), lut.dtype))
    known = dict(lookup.known(lut.dtype)).get(E4M3.name)
    row = np.asarray(lut).reshape(1, -1)
    scale = None if known is None else scaled.scales(row, known)
    codes = None if known is None else codes_of(E4M3, known.entries)
    if known is None or scale is None or codes is None:
        raise Illegal("the format has no tables")
    of_entries = codes[scaled.index(row, scale, known)].reshape(-1)
    stored = of_entries[np.asarray(palette.indices)].view(E4M3)
    return Quantized(Dense(NarrowArray(stored, lut.dtype)), scale.reshape(1, 1))


def _entries(kind: DType) -> int:
    return table(kind).size


def _as_table(data: Palettized, kind: DType, dtype: DType) -> Palettized:
    """The codes of a type, with all that they can be."""
    lut: Shape = (1, 1, _entries(kind), 1)
    if isinstance(data.lut, ArraySpec):
        return Palettized(ArraySpec(data.shape, UINT8), ArraySpec(lut, dtype))
    return Palettized(_translated(data, kind), table(kind).astype(dtype).reshape(lut))


def _as_bytes(data: Palettized) -> Dense:
    if isinstance(data.lut, ArraySpec):
        return Dense(ArraySpec(data.shape, data.dtype, E4M3))
    return Dense(NarrowArray(np.asarray(_translated(data, E4M3)).view(E4M3), data.dtype))


def _translated(data: Palettized, kind: DType) -> Array:
    """The codes of a type, for places in a table of its values."""
    entries = np.asarray(data.lut).reshape(-1)
    codes = codes_of(kind, entries)
    if codes is None:
        raise Illegal(f"its table is none of values of {kind}")
    if np.array_equal(codes, np.arange(codes.size)):
        return data.indices
    return cast("NDArray", codes[np.asarray(data.indices)])


def _powers(scale: Array | Palettized) -> Array:
    """Scales that are powers of two, as exponents."""
    if is_power(scale):
        return cast("Array", scale)
    if isinstance(values := plain(scale), ArraySpec):
        return ArraySpec(values.shape, values.dtype, E8M0)
    codes = codes_of(E8M0, np.asarray(values))
    if codes is None:
        raise Illegal("a scale is no power of two, which one of 32 inputs has in the format")
    return NarrowArray(codes.view(E8M0), values.dtype)


def _divided(scale: Array | Palettized) -> Palettized:
    """Scales as floats of 8 bits that one float divides."""
    values = plain(scale)
    if isinstance(values, ArraySpec):
        return Palettized(ArraySpec(values.shape, UINT8), ArraySpec((1, 1, _SCALES, 1), FLOAT32))
    if isinstance(scale, Palettized) and scale.lut.shape[-2] == _SCALES:
        lut = np.asarray(scale.lut)
        if lut.dtype == FLOAT32 and divisor(lut.reshape(-1)) is not None:
            return scale
    found = common(np.asarray(values))
    if found is None:
        raise Illegal("its scales are no floats of 8 bits, divided by one of all")
    every = quotients(found)
    return Palettized(cast("NDArray", places(every, np.asarray(values))), every.reshape(1, 1, -1, 1))


def rounds_last(to: DType) -> str:
    """Why a form has no layer whose products are rounded to another type."""
    return f"loaders multiply in the type of the scales, and round nothing to {to} afterwards"
