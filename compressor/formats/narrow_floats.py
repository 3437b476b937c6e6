"""Types of floats of at most 8 bits: all that each can be, by its codes, and the two scales of NVFP4."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np

from compressor.arrays import STORED_DTYPES, DType, NDArray

E2M1, E2M3 = np.dtype(ml_dtypes.float4_e2m1fn), np.dtype(ml_dtypes.float6_e2m3fn)
E4M3, E5M2, E8M0 = (STORED_DTYPES[name] for name in ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"))
WIDTHS = {E2M1: 4, E2M3: 6}
"""The bits of a code of less than 8 by what it stands for."""

_ONE, _NEAR = 0x38, (0, 1, -1, 2, -2)
"""The code of 1 in `E4M3`; floats beside the inverse of a quotient that may have made it."""


def table(kind: DType) -> NDArray:
    """All values of a type of at most 8 bits, by their codes: float32 `[K]`.

    >>> table(E2M1)[:8].tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    codes = np.arange(1 << WIDTHS.get(kind, 8), dtype=np.uint8)
    with np.errstate(invalid="ignore"):  # some are no numbers
        return codes.view(kind).astype(np.float32)


def codes_of(kind: DType, values: NDArray) -> NDArray | None:
    """The codes of finite values: uint8 of their shape; None where one is none of that type."""
    return places(table(kind), values)


def places(entries: NDArray, values: NDArray) -> NDArray | None:
    """Where among at most 256 floats finite values are, bit by bit: uint8 of their shape; None where one is not."""
    wanted, finite = np.asarray(values).astype(np.float32).view(np.uint32), np.flatnonzero(np.isfinite(entries))
    patterns = entries[finite].view(np.uint32)
    order = np.argsort(patterns, kind="stable")
    found = order[np.minimum(np.searchsorted(patterns, wanted, sorter=order), order.size - 1)]
    return finite[found].astype(np.uint8) if np.array_equal(patterns[found], wanted) else None


def quotients(divisor: NDArray) -> NDArray:
    """All scales of blocks, by their codes in `E4M3`, which one scale of all has multiplied: float32 `[256]`."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # by whatever there is
        made: NDArray = table(E4M3) / np.asarray(divisor).astype(np.float32).reshape(())
    return made


def divisor(scales: NDArray) -> NDArray | None:
    """The scale of all by which `quotients` gives these `[256]`: float32 `[1]`; None for others."""
    near = _beside(1.0, scales[_ONE])
    return next((one for one in near if np.array_equal(quotients(one), scales, equal_nan=True)), None)


def common(scales: NDArray) -> NDArray | None:
    """A scale of all among whose `quotients` these scales of blocks are: float32 `[1]`; None where none is."""
    few = np.unique(np.asarray(scales).astype(np.float32))
    largest = np.abs(few).max(initial=0)
    for code in range(0x77, 0x7F):  # every mantissa, as large as it gets
        for guess in _beside(float(table(E4M3)[code]), largest):
            if places(quotients(guess), few) is not None:
                return guess
    return None


def _beside(dividend: float, quotient: NDArray) -> Iterator[NDArray]:
    """Floats by which one may be divided for a quotient: float32 `[1]` each."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        near = (np.float32(dividend) / np.asarray(quotient).astype(np.float32)).reshape(1)
    if np.isfinite(near).all() and near.all():
        for apart in _NEAR:
            yield (near.view(np.int32) + np.int32(apart)).view(np.float32)
