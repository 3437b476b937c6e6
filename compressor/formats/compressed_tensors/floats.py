"""The tensors of a linear layer whose codes are floats.

    float-quantized         weight float8_e4m3fn [out, in], weight_scale as codes that are integers have it
    mxfp8-quantized         the same, weight_scale uint8 [out, in / 32]: exponents of two, counted from -127
    mxfp4-, mxfp6-pack-quantized    weight_packed uint8 [out, in * bits / 8], the first code in the lowest bits, and
                            weight_scale as there
    nvfp4-pack-quantized    weight_packed as there, weight_scale float8_e4m3fn [out, in / 16], and by what these are
                            divided, weight_global_scale float32 [1]

Source: the compressors of the compressed-tensors library, which are the reference of the layouts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compressor.arrays import UINT8, Array, DType, NarrowArray, NDArray, Shape, to_bytes
from compressor.encodings import Dense, Palettized, Quantized, index_bits, shape
from compressor.formats.compressed_tensors.schemes import FLOATS, NVFP4, scheme
from compressor.formats.narrow_floats import E4M3, divisor

FLOAT32 = np.dtype(np.float32)


def tensors(encoding: Quantized) -> Iterator[tuple[str, DType, Shape]]:
    """The tensors of a layer: the name, dtype and shape of each."""
    how, (rows, columns), counts = scheme(encoding), shape(encoding.data), tuple(encoding.scale.shape)
    if isinstance(encoding.data, Palettized):
        yield "weight_packed", UINT8, (rows, columns * how.bits // 8)
    else:
        yield "weight", E4M3, (rows, columns)
    if how.format == NVFP4:
        yield "weight_scale", E4M3, counts
        yield "weight_global_scale", FLOAT32, (1,)
    elif how.format == FLOATS:
        yield "weight_scale", encoding.scale.dtype, (1,) if how.strategy == "tensor" else counts
    else:
        yield "weight_scale", UINT8, counts


def values(encoding: Quantized) -> Iterator[tuple[str, NDArray]]:
    """The tensors of a layer with their elements."""
    data, scale = encoding.data, encoding.scale
    if isinstance(data, Palettized):
        yield "weight_packed", to_bytes(data.indices, index_bits(data.lut)).reshape(data.shape[0], -1)
    else:
        yield "weight", np.asarray(_stored(data))
    if isinstance(scale, Palettized):
        whole = divisor(np.asarray(scale.lut).reshape(-1))
        assert whole is not None, "a legal table of scales"
        yield "weight_scale", np.asarray(scale.indices).view(E4M3)
        yield "weight_global_scale", whole
    elif scheme(encoding).format == FLOATS:
        yield "weight_scale", np.asarray(scale)
    else:
        assert isinstance(scale, NarrowArray)
        yield "weight_scale", np.asarray(scale.values).view(UINT8)


def _stored(data: Dense) -> Array:
    assert isinstance(data.values, NarrowArray)
    return data.values.values
