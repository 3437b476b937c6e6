"""Codes that are floats: of 4 and 6 bits as a table of all that they can be, of 8 bits as they are; powers of two."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from compressor.arrays import STORED_DTYPES, UINT8, Array, DType, MappedArray, NarrowArray, NDArray, Shape
from compressor.encodings import Palettized, Quantized
from compressor.formats.narrow_floats import E8M0, WIDTHS


def scaled(
    codes: Array,
    values: NDArray,
    scale: Array | Palettized,
    block: Shape | None = None,
    rounded: DType | None = None,
) -> Quantized:
    """Codes uint8 into `values` `[K]`, times a scale, by block, of whose dtype the weight is unless it is rounded last.

    block: its lengths where the last one is shorter.
    """
    rank = len(codes.shape)
    lut = values.astype(scale.dtype).reshape(*(1,) * rank, len(values), 1)
    return Quantized(Palettized(codes, lut), scale, None, block, rounded)


def packed(array: MappedArray, shape: Shape, kind: DType) -> MappedArray:
    """Codes that lie in bytes one behind the other, the first in the lowest bits: uint8 of that shape."""
    return replace(array, shape=shape, dtype=UINT8, width=WIDTHS[kind])


def high_first(shape: Shape, packed: NDArray) -> NDArray:
    """Codes of 4 bits, of which each byte has the first one in its high bits: uint8 of that shape."""
    flat: NDArray = packed.reshape(-1)
    pairs = np.stack([flat >> np.uint8(4), flat & np.uint8(15)], 1)
    return pairs.reshape(-1)[: math.prod(shape)].reshape(shape)


def flat_blocks(shape: Shape, block: int) -> tuple[Shape, Shape | None] | None:
    """The shape of the scales of blocks of the flat weight, and their lengths where the last is shorter.

    None where no grid has these blocks.

    >>> flat_blocks((6, 128), 64), flat_blocks((7, 32), 64), flat_blocks((100,), 64), flat_blocks((6, 48), 64)
    (((6, 2), None), ((4, 1), (2, 32)), ((2,), (64,)), None)
    """
    *before, columns = shape or (1,)
    if columns % block == 0:
        return (*before, columns // block), None
    if len(shape) == 1:
        return (-(-columns // block),), (block,)
    if len(shape) != 2 or block % columns:
        return None
    rows = block // columns
    return (-(-shape[0] // rows), 1), (rows, columns) if shape[0] % rows else None


def powers(exponents: MappedArray, shape: Shape, dtype: DType) -> NarrowArray:
    """Powers of two by their exponents, counted from -127, of which 255 is no number."""
    return NarrowArray(replace(exponents, shape=shape, dtype=E8M0), dtype)


def is_narrow(dtype: DType) -> bool:
    """Whether 8-bit floats can be stored as they are."""
    return dtype in STORED_DTYPES.values() and dtype != E8M0
