"""Narrower floats: each value of a weight is one of a type of fewer bits, as a checkpoint in half precision leaves it.

Such values are stored in that type and widened when the model is loaded, which no value notices.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from compressor import native
from compressor.arrays import (
    FLOAT_DTYPES,
    ArraySpec,
    DType,
    NarrowArray,
    NDArray,
    bits,
    is_float,
    mantissa_bits,
    of_mantissa,
)
from compressor.blocks import BLOCK, blocks
from compressor.encodings import Dense, Palettized
from compressor.kernels import select
from compressor.patterns import patterns
from compressor.recognition.scan import Scan, sample
from compressor.recognition.schemes import Candidate

NAME = "narrow"

_TYPES = tuple(FLOAT_DTYPES[name] for name in ("float16", "bfloat16", "float32"))
"""Of two of one size the first is the one that more operators know."""

_LEAST_SAVED = 128
"""The bytes that narrower tables must save: about what widening them takes in a graph."""


def detect(values: NDArray, scan: Scan, best: float) -> Iterator[Candidate]:  # noqa: ARG001 - it costs a sample
    """The values in the narrowest type that has all of them."""
    stored = narrowest(values)
    if stored is not None:
        spec = Dense(ArraySpec(tuple(values.shape), values.dtype, stored))
        yield Candidate((NAME,), spec, f"every value is one of {stored.name}")


def nearest(values: NDArray, tolerance: float) -> NDArray | None:  # noqa: ARG001 - a scheme's protocol
    """None: any value is near one of a narrower type, so nothing tells that training meant it."""
    return None


def encode(values: NDArray, spec: Dense, where: NDArray | None) -> Dense:
    """The values, stored in the narrower type.

    Raises:
        ValueError: one of them is none of that type.
    """
    chosen = values if where is None else select(values, where)
    assert isinstance(spec.values, ArraySpec)
    return Dense(narrowed(chosen, spec.values.stored))


def narrowest(values: NDArray) -> DType | None:
    """The narrowest float type that has all values bit for bit; None if that is their own, or one is NaN."""
    flat = values.reshape(-1)
    few = sample(flat)
    if not narrower(few[None, :])[0]:
        return None
    return next((each for each in _narrower_than(values.dtype) if _holds(each, flat)), None)


def narrower(rows: NDArray) -> NDArray:
    """Whether all values of a row are of a narrower float type: bool `[rows]`."""
    types = _narrower_than(rows.dtype)
    if not types:
        return np.zeros(len(rows), np.bool_)
    # The lowest bits of the mantissa, which no narrower type has, rule most rows out.
    beyond = (1 << mantissa_bits(rows.dtype) - max(map(mantissa_bits, types))) - 1
    unsigned = np.ascontiguousarray(rows).view(f"<u{rows.dtype.itemsize}")
    held = np.asarray(np.bitwise_or.reduce(unsigned, axis=1) & unsigned.dtype.type(beyond) == 0)
    for row in np.flatnonzero(held):
        held[row] = any(_holds(each, rows[row]) for each in types)
    return held


@functools.cache
def _narrower_than(dtype: DType) -> tuple[DType, ...]:
    """The narrower float types; the first one that holds all values wins."""
    return tuple(each for each in _TYPES if is_float(dtype) and bits(each) < bits(dtype))


def narrowed(values: NDArray, stored: DType | None) -> NDArray | NarrowArray:
    """The values, stored in a narrower type if one is given.

    Raises:
        ValueError: one of them is none of that type.
    """
    if stored is None:
        return values
    small = np.empty(values.shape, stored)
    if not narrow_into(patterns(values), patterns(small), mantissa_bits(stored)):
        raise ValueError(f"every value is one of {stored.name}, got others")
    return NarrowArray(small, values.dtype)


def with_narrow_tables(candidate: Candidate, stored: DType) -> Candidate:
    """A palette with its tables in the narrower type that has all values of the weight, where that is smaller."""
    spec = candidate.spec
    if not isinstance(spec, Palettized) or spec.lut.size * (bits(spec.lut.dtype) - bits(stored)) < 8 * _LEAST_SAVED:
        return candidate
    return replace(candidate, spec=replace(spec, lut=ArraySpec(tuple(spec.lut.shape), spec.lut.dtype, stored)))


def _holds(stored: DType, flat: NDArray) -> bool:
    """Whether each value of `[size]` is one of the type."""
    small, mantissa = np.empty(min(flat.size, BLOCK), f"u{stored.itemsize}"), mantissa_bits(stored)
    return all(
        narrow_into(patterns(flat[part]), small[: part.stop - part.start], mantissa) for part in blocks(flat.size)
    )


@native.loop
def narrow_into(flat: NDArray, small: NDArray, mantissa: int) -> bool:
    """Write float32 or float64 values as those of a narrower type; whether each of them is one.

    A NaN is not: processors widen its payload in two ways. Where not all values are, it says nothing of what it wrote.
    """
    dtype = np.dtype(f"f{flat.dtype.itemsize}")
    for part in blocks(flat.size):
        values = flat[part].view(dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is none of the type, and neither is a NaN
            narrower = values.astype(of_mantissa(mantissa))
            wide = narrower.astype(dtype)
        if not np.array_equal(patterns(wide), flat[part]) or np.isnan(values).any():
            return False
        small[part] = patterns(narrower)
    return True
