"""int8 codes as uint8 ones that are 128 higher, and so is their zero point: the same values for integer kernels.

Where a processor has AVX2 and no VNNI, ONNX Runtime adds products of uint8 activations and int8 codes in pairs that
saturate at 16 bits; those of uint8 codes it adds at 32.

Source: ONNX Runtime, onnxruntime_session_options_config_keys.h, "session.x64quantprecision".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

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
    ComputedArray,
    DType,
    NDArray,
    bits,
)
from compressor.encodings import Dense, Palettized, Quantized, dtype, plain

_OTHERS: Mapping[DType, DType] = {INT8: UINT8, INT4: UINT4, INT2: UINT2, UINT8: INT8, UINT4: INT4, UINT2: INT2}
"""The type of as many bits that has a sign where a type has none, and has none where it has one."""


def unsigned(encoding: Quantized) -> Quantized:
    """The same values with uint8 codes in the place of int8 ones, or likewise of 2 and 4 bits."""
    zero_point: Array
    if encoding.zero_point is not None:
        zero_point = _moved(encoding.zero_point)
    elif isinstance(plain(encoding.scale), ArraySpec):
        zero_point = ArraySpec(encoding.scale.shape, _OTHERS[dtype(encoding.data)])
    else:
        to = _OTHERS[dtype(encoding.data)]
        zero_point = np.full(encoding.scale.shape, _half(to), UINT8).view(to)
    return replace(encoding, data=_codes(encoding.data), zero_point=zero_point)


def signed(encoding: Quantized) -> Quantized:
    """The inverse of `unsigned`, without a zero point that is zero everywhere."""
    zero_point = None if encoding.zero_point is None else np.asarray(_moved(encoding.zero_point))
    kept = zero_point if zero_point is not None and zero_point.any() else None
    return replace(encoding, data=_codes(encoding.data), zero_point=kept)


def zeros(scale: Array, codes: DType) -> Array:
    """Zero points of that type for a scale, zero everywhere."""
    return ArraySpec(scale.shape, codes) if isinstance(scale, ArraySpec) else np.zeros(scale.shape, codes)


def _half(codes: DType) -> np.uint8:
    """What the codes of a type without a sign are higher by, as a byte with its highest used bit set."""
    return np.uint8(1 << (bits(codes) - 1))


def _codes(data: Dense | Palettized) -> Dense | Palettized:
    return Dense(_moved(data.values)) if isinstance(data, Dense) else replace(data, lut=_moved(data.lut))


def _moved(codes: Array) -> Array:
    """Either type's codes as the other's: the highest bit of a code is the other way round."""
    to = _OTHERS[codes.dtype]
    if isinstance(codes, ArraySpec):
        return ArraySpec(codes.shape, to)
    return ComputedArray(tuple(codes.shape), to, partial(_flipped, codes, to))


def _flipped(codes: Array, to: DType) -> NDArray:
    moved: NDArray = np.asarray(codes).view(UINT8) ^ _half(to)
    return moved.view(to)
