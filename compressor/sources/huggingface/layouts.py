"""Codes in 32-bit words, and arrays that are computed from tensors when they are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from compressor.arrays import (
    BFLOAT16,
    INT2,
    INT4,
    INT8,
    UINT2,
    UINT4,
    UINT8,
    Array,
    ComputedArray,
    DType,
    MappedArray,
    NDArray,
    Shape,
    is_float,
)
from compressor.cutting import rows
from compressor.errors import CompressorError
from compressor.kernels import dequantize
from compressor.packing import unpack

SIGNED: dict[int, DType] = {2: INT2, 4: INT4, 8: INT8}
UNSIGNED: dict[int, DType] = {2: UINT2, 4: UINT4, 8: UINT8}
"""Types of codes by their bits."""
FLOAT8 = frozenset({"float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"})
"""Types of which every value is a bfloat16."""


def computed(
    shape: Shape, dtype: DType, function: Callable[..., NDArray], *arrays: Array, by_row: bool = False
) -> ComputedArray:
    """The array of that shape and dtype that `function` makes of the elements of `arrays`.

    by_row: whether a row of it is made of the same row of each of them, which lie in files.
    """
    return ComputedArray(
        shape, dtype, partial(_evaluated, function, arrays), partial(_some, function, arrays) if by_row else None
    )


def _some(function: Callable[..., NDArray], arrays: tuple[Array, ...], start: int, stop: int) -> NDArray:
    return _evaluated(function, tuple(rows(array, start, stop) for array in arrays))


def _evaluated(function: Callable[..., NDArray], arrays: tuple[Array, ...]) -> NDArray:
    read = [np.asarray(array) for array in arrays]
    with np.errstate(over="ignore", invalid="ignore"):  # scales may be infinite, or no numbers, as the values then are
        return function(*read)


def code_dtype(width: int, *, signed: bool) -> DType:
    """The narrowest type that holds codes of `width` bits."""
    return next(kind for limit, kind in (SIGNED if signed else UNSIGNED).items() if width <= limit)


def words(count: int, width: int) -> int:
    """The 32-bit words that `count` codes of `width` bits take, one behind the other."""
    return -(-count * width // 32)


def unpack_rows(packed: NDArray, width: int, count: int) -> NDArray:
    """The codes in the rows of a matrix of words: uint8 `[rows, count]`, each row's first one in the lowest bits.

    >>> unpack_rows(np.array([[0x76543210]], np.int32), 4, 6).tolist()
    [[0, 1, 2, 3, 4, 5]]
    """
    if spare := packed.shape[1] % width:  # a run of whole words that holds whole codes
        packed = np.pad(packed, ((0, 0), (0, width - spare)))
    raw = np.ascontiguousarray(packed).reshape(-1).view(np.uint8)
    codes = unpack(raw, width, raw.size * 8 // width)
    return codes.reshape(packed.shape[0], packed.shape[1] * 32 // width)[:, :count]


def aligned_words(count: int, width: int) -> int:
    """The 32-bit words that they take where each word holds whole codes, and the bits above them are unused."""
    return -(-count // (32 // width))


def unpack_aligned_rows(packed: NDArray, width: int, count: int) -> NDArray:
    """The codes in the rows of a matrix of such words: uint8 `[rows, count]`."""
    shifts = np.arange(32 // width, dtype=np.uint32) * np.uint32(width)
    codes = np.ascontiguousarray(packed).view(np.uint32)[:, :, None] >> shifts & np.uint32((1 << width) - 1)
    return codes.reshape(packed.shape[0], -1)[:, :count].astype(np.uint8)


def unpack_columns(packed: NDArray, width: int, count: int) -> NDArray:
    """The codes in the columns of a matrix of words, a row for each column: uint8 `[columns, count]`."""
    return unpack_rows(packed.T, width, count)


def values(dtype: DType, codes: NDArray, scale: NDArray, zero_point: NDArray | None = None) -> NDArray:
    """`(codes - zero_point) * scale`, all of one shape or broadcasting to it; codes may be 8-bit floats."""
    return dequantize(codes, scale, zero_point).astype(dtype)


def float8_values(array: MappedArray) -> ComputedArray:
    """8-bit floats as what they are in bfloat16."""
    return computed(tuple(array.shape), BFLOAT16, _as_bfloat16, array)


def _as_bfloat16(array: NDArray) -> NDArray:
    return array.astype(BFLOAT16)


def as_bytes(array: MappedArray) -> MappedArray:
    """The bytes of a tensor that is kept as it is: uint8 of the same rank, the last axis longer."""
    columns, rest = divmod(array.nbytes, max(1, math.prod(array.shape[:-1])))
    shape = (array.nbytes,) if rest else (*array.shape[:-1], columns)
    return MappedArray(array.path, array.offset, shape, UINT8)


def expect(what: str, array: MappedArray, shape: Shape, *kinds: DType) -> None:
    """Refuse a tensor that is not of this shape and one of these dtypes; without any, of a float dtype.

    Raises:
        CompressorError: it is not.
    """
    fits = array.dtype in kinds if kinds else is_float(array.dtype)
    if tuple(array.shape) != shape or not fits:
        wanted = " or ".join(map(str, kinds)) or "float"
        raise CompressorError(
            f"{array.path}: {what} is {array.dtype}{list(array.shape)}, expected {wanted}{list(shape)} "
            "as its other parts and config.json say. Save or download the folder again."
        )
