"""Floats in a wider type: each the same, and of a float16 the payload of a NaN too."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from compressor import native

NDArray = npt.NDArray[Any]


def widened_to(values: NDArray, dtype: np.dtype[Any]) -> NDArray:
    """Floats of a type that is at least as wide, each the same."""
    if values.dtype != np.float16 or dtype != np.float32:
        return values.astype(dtype, copy=False)
    wide = np.empty(values.shape, dtype)
    widen_into(np.ascontiguousarray(values).view(np.uint16), wide.view(np.uint32))
    return wide


@native.loop
def widen_into(halves: NDArray, wide: NDArray) -> None:
    """Write the patterns of float16 values as float32, which numpy converts one by one; a NaN with its payload."""
    infinite = (halves & 0x7C00) == 0x7C00
    bits = (halves & np.uint32(0x7FFF)) << np.uint32(13)
    bits = (bits.view(np.float32) * np.float32(2.0**112)).view(np.uint32)
    np.bitwise_or(bits, np.where(infinite, np.uint32(0x7F800000), np.uint32(0)), out=wide)
    wide |= (halves & np.uint32(0x8000)) << np.uint32(16)
