"""Values as bit patterns: unsigned integers of their width, so that no NaN payload, infinity or 16-bit type is a case.

Patterns without the sign sort as magnitudes do.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from compressor import native
from compressor.arrays import DType, NDArray, is_float
from compressor.blocks import blocks


def patterns(values: NDArray) -> NDArray:
    """The bit patterns of `values`: unsigned `[size]`, a view where the values are contiguous."""
    return np.ascontiguousarray(values).reshape(-1).view(f"<u{values.dtype.itemsize}")


@native.loop
def compared(flat: NDArray, others: NDArray, magnitude: int, edge: int) -> tuple[int, int, int]:
    """How many patterns differ from others; of these, where the other one is zero, how many are near zero, and zero.

    magnitude: the bits that are not the sign. edge: the greatest magnitude that is near zero.
    """
    found = np.zeros(3, np.int64)
    for part in blocks(flat.size):
        values, unequal = flat[part], flat[part] != others[part]
        if unequal.any():
            lost, absolute = unequal & (others[part] == 0), values & values.dtype.type(magnitude)
            each = (unequal, lost & (absolute <= edge), lost & (absolute == 0))
            found += [np.count_nonzero(one) for one in each]
    different, near, zeros = found.tolist()
    return different, near, zeros


def merged(values: NDArray) -> NDArray:
    """The bit patterns of `values`, that of -0.0 as 0.0's: unsigned `[size]`."""
    flat, minus_zero = patterns(values), sign_bit(values.dtype)
    same = flat == minus_zero
    return np.asarray(np.where(same, flat.dtype.type(0), flat)) if minus_zero and same.any() else flat


def has_minus_zero(values: NDArray) -> bool:
    """Whether one of the values is -0.0."""
    flat, minus_zero = patterns(values), sign_bit(values.dtype)
    return bool(minus_zero) and any(bool((flat[part] == minus_zero).any()) for part in blocks(flat.size))


def sortable(values: NDArray) -> NDArray:
    """Unsigned `[size]` keys that sort as the values do, NaN by its sign; one for both zeros."""
    flat, sign = merged(values), sign_bit(values.dtype)
    return np.where(flat & sign, ~flat, flat | sign)


def unsortable(keys: NDArray, dtype: DType) -> NDArray:
    """The values of `sortable` keys."""
    sign = sign_bit(dtype)
    return np.where(keys & sign, keys ^ sign, ~keys if sign else keys).view(dtype)


def eps(dtype: DType) -> float:
    """The distance of 1 to the next greater value of a floating type."""
    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def greatest(dtype: DType) -> float:
    """The greatest finite value of a floating type."""
    return float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]


def largest(values: NDArray) -> float:
    """The largest magnitude; NaN if there is one."""
    with np.errstate(invalid="ignore"):
        return max(abs(float(values.max())), abs(float(values.min())))


def above(values: NDArray, threshold: float) -> NDArray:
    """The mask of the values whose magnitude exceeds `threshold`, or that are NaN: bool, the shape of `values`."""
    mask = np.empty(values.shape, np.bool_)
    above_into(
        patterns(values), mask.reshape(-1), int(magnitude_bits(values.dtype)), int(bound(threshold, values.dtype))
    )
    return mask


@native.loop
def above_into(flat: NDArray, mask: NDArray, magnitude: int, edge: int) -> None:
    """Write which patterns are more than `edge`, by the bits of `magnitude`."""
    for part in blocks(flat.size):
        np.greater(flat[part] & flat.dtype.type(magnitude), edge, out=mask[part])


def distance(values: NDArray, others: NDArray) -> tuple[int, float]:
    """How many of two weights' values differ, and the greatest difference; both zeros are one."""
    left, right, changed, error = values.reshape(-1), others.reshape(-1), 0, 0.0
    for part in blocks(left.size):
        apart = np.abs(left[part].astype(np.float64) - right[part].astype(np.float64))
        changed += int(np.count_nonzero(apart))
        error = max(error, float(apart.max()))
    return changed, error


def unique(flat: NDArray) -> NDArray:
    """The distinct patterns, ascending: by sorting, which for some thousands is faster than numpy's hash set."""
    ordered = np.sort(flat)
    return ordered[starts(ordered)]


def starts(ordered: NDArray) -> NDArray:
    """Where a pattern is another than the one before it, along the last axis of what is in order: bool.

    >>> starts(np.array([[3, 3, 5], [4, 6, 6]])).tolist()
    [[True, False, True], [True, True, False]]
    """
    new = np.ones(ordered.shape, np.bool_)
    np.not_equal(ordered[..., 1:], ordered[..., :-1], out=new[..., 1:])
    return new


def magnitude_bits(dtype: DType) -> Any:
    """The bits of a pattern that are not the sign; all of them for an integer, whose only zero is 0."""
    unsigned = np.dtype(f"<u{dtype.itemsize}")
    every = (1 << dtype.itemsize * 8) - 1
    return unsigned.type(every >> 1 if is_float(dtype) else every)


def sign_bit(dtype: DType) -> Any:
    """The pattern of -0.0, which is the sign's bit; 0 for an integer."""
    return np.dtype(f"<u{dtype.itemsize}").type((1 << dtype.itemsize * 8) - 1) ^ magnitude_bits(dtype)


def bound(threshold: float, dtype: DType) -> Any:
    """The pattern of `threshold` as the type rounds it, finite: patterns sort as magnitudes do.

    So a weight that was set to 1e-3 is at a threshold of 1e-3, although float32 has it a little above.
    """
    unsigned = np.dtype(f"<u{dtype.itemsize}")
    if not is_float(dtype) or threshold <= 0:
        return unsigned.type(0)
    with np.errstate(over="ignore"):
        nearest = np.array([threshold], dtype)
    pattern = int(nearest.view(unsigned)[0])
    return unsigned.type(pattern - 1 if np.isinf(float(nearest[0])) else pattern)
