"""int8 codes as uint8 ones that are 128 higher, and so is their zero point: the same values for integer kernels.

Where a processor has AVX2 and no VNNI, ONNX Runtime adds products of uint8 activations and int8 codes in pairs that
saturate at 16 bits; those of uint8 codes it adds at 32.

Source: ONNX Runtime, onnxruntime_session_options_config_keys.h, "session.x64quantprecision".
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compressor.arrays import INT8, UINT8, Array, ArraySpec, ComputedArray, DType, NDArray
from compressor.encodings import Dense, LinearQuantized, Palettized


def unsigned(encoding: LinearQuantized) -> LinearQuantized:
    """The same values with uint8 codes in the place of int8 ones."""
    zero_point: Array
    if encoding.zero_point is not None:
        zero_point = _moved(encoding.zero_point)
    elif isinstance(encoding.scale, ArraySpec):
        zero_point = ArraySpec(encoding.scale.shape, UINT8)
    else:
        zero_point = np.full(encoding.scale.shape, 128, UINT8)
    return LinearQuantized(_codes(encoding.data), encoding.scale, zero_point)


def signed(encoding: LinearQuantized) -> LinearQuantized:
    """The inverse of `unsigned`, without a zero point that is zero everywhere."""
    zero_point = None if encoding.zero_point is None else np.asarray(_moved(encoding.zero_point))
    kept = zero_point if zero_point is not None and zero_point.any() else None
    return LinearQuantized(_codes(encoding.data), encoding.scale, kept)


def zeros(scale: Array, codes: DType) -> Array:
    """Zero points of that type for a scale, zero everywhere."""
    return ArraySpec(scale.shape, codes) if isinstance(scale, ArraySpec) else np.zeros(scale.shape, codes)


def _codes(data: Dense | Palettized) -> Dense | Palettized:
    return Dense(_moved(data.values)) if isinstance(data, Dense) else replace(data, lut=_moved(data.lut))


def _moved(codes: Array) -> Array:
    """Either type's codes as the other's: the highest bit of a byte is the other way round."""
    to = UINT8 if codes.dtype == INT8 else INT8
    if isinstance(codes, ArraySpec):
        return ArraySpec(codes.shape, to)

    def compute() -> NDArray:
        moved: NDArray = np.asarray(codes).view(UINT8) ^ np.uint8(128)
        return moved.view(to)

    return ComputedArray(tuple(codes.shape), to, compute)
