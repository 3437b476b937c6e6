"""Rows of floats that have a scale each: their extremes, whether they are whole multiples of it, and of how much.

Rows are `[rows, n]`, in whatever order they lie in memory. The loops take their patterns, `[rows, n]`, or `[n, rows]`
where the values of all rows lie side by side (`beside`), and the bits of their mantissa, which tell the type.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from compressor import native
from compressor.arrays import BFLOAT16, DType, NDArray, mantissa_bits, of_mantissa
from compressor.blocks import blocks, row_blocks

_LEAST_NORMAL, _FIXED = np.float32(2.0**-14), np.float32(0.75)
"""Float16 has a fixed point below the former; float32 has the same one at the latter."""


def extremes(rows: NDArray) -> tuple[NDArray, NDArray, NDArray] | None:
    """The least and the greatest value of each row, zero among them, and its least magnitude above zero: float64.

    The latter is zero in a row of zeros. None where a value is not finite.

    >>> [each.tolist() for each in extremes(np.array([[0.5, -1.5, 1.0], [8.0, 4.0, 0.0]]))]
    [[-1.5, 0.0], [1.0, 8.0], [0.5, 4.0]]
    """
    memory, beside = in_memory(rows)
    lowest, greatest, least = (np.empty(len(rows), memory.dtype) for _ in range(3))
    extremes_into(memory, lowest, greatest, least, beside)
    infinite = np.array([np.inf]).astype(rows.dtype).view(memory.dtype)[0]
    if (lowest >= infinite).any() or (greatest >= infinite).any():
        return None
    low, high, small = (each.view(rows.dtype).astype(np.float64) for each in (lowest, greatest, least))
    return 0 - low, high, small


def fitting(rows: NDArray, scale: NDArray) -> NDArray:
    """Which rows equal multiples of their scale after one rounding: bool `[rows]`."""
    memory, beside = in_memory(rows)
    fit = np.empty(len(rows), np.bool_)
    fits_into(memory, np.ascontiguousarray(scale).view(memory.dtype), fit, mantissa_bits(rows.dtype), beside)
    return fit


def codes(rows: NDArray, scale: NDArray, low: NDArray) -> NDArray:
    """Which multiples of its scale the values of a row are, less `low`: the lowest eight bits, uint8 `[rows, n]`.

    low: int16 `[rows]`.
    """
    memory, beside = in_memory(rows)
    found = np.empty(memory.shape, np.uint8)
    codes_into(memory, np.ascontiguousarray(scale).view(memory.dtype), low, found, mantissa_bits(rows.dtype), beside)
    return found.T if beside else found


@native.loop
def extremes_into(patterns: NDArray, lowest: NDArray, greatest: NDArray, least: NDArray, beside: int) -> None:
    """Write the greatest magnitude of each row below zero, the one above, and the least one but zero; 0 for none."""
    rows = patterns.T if beside else patterns
    magnitude = rows.dtype.type((1 << 8 * rows.dtype.itemsize - 1) - 1)
    # Patterns sort as magnitudes do: as unsigned ones the negative values are above all others, as signed ones below.
    greatest[...] = np.maximum(rows.view(f"<i{rows.dtype.itemsize}").max(axis=1), 0)
    lowest[...] = rows.max(axis=1)
    lowest[...] = np.where(lowest > magnitude, lowest & magnitude, 0)
    one = rows.dtype.type(1)
    least[...] = magnitude
    for part, places in in_blocks(rows):
        absolute = rows[part, places] & magnitude
        absolute -= one  # 0 becomes the greatest
        np.minimum(least[part], absolute.min(axis=1), out=least[part])
    least[...] = np.where(least < magnitude, least + one, 0)


@native.loop
def fits_into(patterns: NDArray, scale: NDArray, fit: NDArray, mantissa: int, beside: int) -> None:
    """Write which rows are multiples of their scale after one rounding."""
    dtype = of_mantissa(mantissa)
    rows, divisor = (patterns.T if beside else patterns).view(dtype), exact(scale.view(dtype))[:, None]
    fit[...] = True
    for part, places in in_blocks(rows):
        equal = is_multiple(exact(rows[part, places]), divisor[part], dtype)
        if not equal.all():
            fit[part] &= equal.all(axis=1)


@native.loop
def codes_into(patterns: NDArray, scale: NDArray, low: NDArray, found: NDArray, mantissa: int, beside: int) -> None:
    """Write which multiples of its scale the values of each row are, less `low`; of others it says nothing."""
    dtype = of_mantissa(mantissa)
    rows = (patterns.T if beside else patterns).view(dtype)
    scales, into = scale.view(dtype), found.T if beside else found
    for part, places in in_blocks(rows):
        whole = multiples(rows[part, places], scales[part])
        whole -= low[part, None]
        into[part, places] = whole.astype(np.int16)


def in_memory(rows: NDArray) -> tuple[NDArray, bool]:
    """The patterns of rows as they lie in memory, and whether that is side by side."""
    beside = not rows.flags.c_contiguous and rows.T.flags.c_contiguous
    return np.ascontiguousarray(rows.T if beside else rows).view(f"<u{rows.dtype.itemsize}"), beside


def in_blocks(rows: NDArray) -> Iterator[tuple[slice, slice]]:
    """Rows in blocks that stay in the cache: some rows, or some places of all of them where they lie side by side."""
    if not rows.flags.c_contiguous:
        yield from ((slice(None), places) for places in row_blocks(rows.shape[1], rows.size))
        return
    for part in row_blocks(len(rows), rows.size):
        yield from ((part, places) for places in blocks(rows.shape[1]))


def is_multiple(values: NDArray, scale: NDArray, dtype: DType) -> NDArray:
    """Where values of a type are a whole multiple of a scale after one rounding, `fl(k * scale) == w`: bool."""
    return np.asarray(nearest(values, scale, dtype) == values)


def nearest(values: NDArray, scale: NDArray, dtype: DType) -> NDArray:
    """The nearest multiples of a scale, rounded to a type.

    values, scale: in the type in which codes are multiplied, as the result is.
    """
    whole = values / scale
    np.rint(whole, out=whole)
    whole *= scale
    return rounded(whole, dtype)


def multiples(rows: NDArray, scale: NDArray) -> NDArray:
    """The nearest multiples of each row's scale, whole numbers in a floating type.

    The quotient's own rounding is far less than a half for multiples of up to 255.
    """
    quotients = exact(rows) / exact(scale)[:, None]
    return np.rint(quotients, out=quotients)


def rounded(values: NDArray, dtype: DType) -> NDArray:
    """Values rounded to a type that may be narrower, in their own; they are used up.

    By their patterns, which is faster than to convert them there and back. What is too large for the narrower type
    becomes none of its values.

    >>> rounded(np.array([1.001, 3e-8, 1e-8], np.float32), np.dtype(np.float16)).tolist()
    [1.0009765625, 5.960464477539063e-08, 0.0]
    """
    if dtype.itemsize > 2:
        return values
    shift, tiny = (16, None) if dtype == BFLOAT16 else (13, np.abs(values) < _LEAST_NORMAL)
    fixed = values if tiny is None else (values + _FIXED) - _FIXED
    bits = values.view(np.uint32)
    half = bits >> np.uint32(shift)
    half &= np.uint32(1)
    half += np.uint32((1 << shift - 1) - 1)
    bits += half
    bits &= np.uint32(0xFFFFFFFF << shift & 0xFFFFFFFF)
    return values if tiny is None else np.where(tiny, fixed, values)


def exact(values: NDArray) -> NDArray:
    """Values in the type in which `dequantize` multiplies."""
    if values.dtype == np.float16:  # numpy converts them one by one
        return np.take(_every_half(), values.view(np.uint16), mode="clip")
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32, copy=False)


@functools.cache
def _every_half() -> NDArray:
    """The float16 value of every pattern, as float32."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
