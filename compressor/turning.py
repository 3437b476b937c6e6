"""A weight on its way into another program: floats rounded to float16, and axes in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compressor import native

NDArray = npt.NDArray[Any]


def halves(values: NDArray) -> NDArray:
    """float32 values rounded to float16; those beyond it become infinite."""
    made = np.empty(values.shape, np.float16)
    round_into(np.ascontiguousarray(values).view(np.uint32), made.view(np.uint16))
    return made


@native.loop
def round_into(wide: NDArray, small: NDArray) -> None:
    """Write the patterns of float32 values as the nearest float16, of two the even one.

    A NaN keeps the upper bits of its payload, as numpy does where no processor rounds for it.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        small[...] = wide.view(np.float32).astype(np.float16).view(np.uint16)
    nan = (wide & 0x7FFFFFFF) > 0x7F800000
    if nan.any():
        payload = np.maximum(wide[nan] >> 13 & 0x3FF, 1)
        small[nan] = wide[nan] >> 16 & 0x8000 | 0x7C00 | payload


def turned(values: NDArray, order: Sequence[int]) -> NDArray:
    """The axes of a contiguous array in another order, contiguous again."""
    if tuple(order) != (1, 0):
        return np.asarray(values.transpose(order), order="C")  # which keeps no axis no axis
    made = np.empty(values.shape[::-1], values.dtype)
    if values.size:
        bits = f"u{values.dtype.itemsize}"
        turn_into(values.view(bits), made.view(bits), len(values))
    return made


@native.loop
def turn_into(values: NDArray, other: NDArray, rows: int) -> None:
    """Write the transpose of a matrix of so many rows."""
    other.reshape(-1, rows)[...] = values.reshape(rows, -1).T
