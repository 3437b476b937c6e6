"""Tensors of torchao's whose codes are floats: NF4, float8, MX, NVFP4, and codebooks, which are tables.

Each class has its own order of codes and scales; whatever is made of one is compared with the values that it computes.

Source: torchao 0.18, quantization/quantize_/workflows, prototype/mx_formats and prototype/quantization/codebook_coreml.
"""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch

from compressor.arrays import DType, NarrowArray, NDArray
from compressor.encodings import Dense, Palettized, Quantized
from compressor.formats.narrow_floats import E2M1, E4M3, E8M0, table
from compressor.packing import unpack
from compressor.sources.huggingface import floats
from compressor.sources.huggingface.floats import is_narrow
from compressor.sources.torch.declared.claims import numbers
from compressor.sources.torch.declared.recover import ContradictionError, by_block


def _nf4(tensor: Any, values: NDArray) -> Quantized:
    """Blocks of the flat weight, whose scales have scales."""
    found = floats.flat_blocks(values.shape, tensor.block_size)
    if found is None:
        raise ContradictionError("its blocks begin in the middle of a row")
    grid, block = found
    codes = floats.high_first(values.shape, numbers(tensor.quantized_data))
    scale = tensor.dequantize_scalers(tensor.quantized_scalers, tensor.quantization_factor, tensor.scaler_block_size)
    return floats.scaled(codes, numbers(tensor.nf4), numbers(scale).reshape(grid), block)


def _float8(tensor: Any, values: NDArray) -> Quantized:
    codes, scale = _of_8_bits(tensor.qdata), by_block("scale", numbers(tensor.scale), values.shape)
    return Quantized(Dense(NarrowArray(codes, values.dtype)), _own(scale, values.dtype))


def _mx(tensor: Any, values: NDArray) -> Quantized:
    """Blocks along the last axis, with a power of two each."""
    if tensor.is_swizzled_scales:
        raise ContradictionError("its scales are in the order of a kernel")
    exponents = by_block("scale", _of_8_bits(tensor.scale, E8M0), values.shape)
    scale = NarrowArray(exponents, values.dtype)
    if "float4" in str(tensor.elem_dtype):
        return floats.scaled(_of_4_bits(tensor.qdata, values), table(E2M1), scale)
    return Quantized(Dense(NarrowArray(_of_8_bits(tensor.qdata), values.dtype)), scale)


def _nvfp4(tensor: Any, values: NDArray) -> Quantized:
    """Blocks along the last axis, whose scales are floats of 8 bits, times one of all, if there is one."""
    if tensor.is_swizzled_scales:
        raise ContradictionError("its scales are in the order of a kernel")
    stored = by_block("scale", _of_8_bits(tensor.scale, E4M3), values.shape)
    whole = tensor.per_tensor_scale
    both = stored.astype(np.float32) if whole is None else numbers(whole) * stored.astype(np.float32)
    scale = NarrowArray(stored, values.dtype) if whole is None else _own(both, values.dtype)
    return floats.scaled(_of_4_bits(tensor.qdata, values), table(E2M1), scale)


def _codebook(tensor: Any, values: NDArray) -> Palettized:
    """A table for each group of channels."""
    codes, tables = numbers(tensor.codes), numbers(tensor.codebook).astype(values.dtype)
    if codes.shape != values.shape or tables.shape[-1] > 1:
        raise ContradictionError(f"tables {list(tables.shape)} and codes {list(codes.shape)} of {list(values.shape)}")
    return Palettized(codes, tables)


READ: Mapping[str, Callable[[Any, NDArray], Palettized | Quantized]] = {
    "CodebookQuantizedTensor": _codebook,
    "Float8Tensor": _float8,
    "MXTensor": _mx,
    "NF4Tensor": _nf4,
    "NVFP4Tensor": _nvfp4,
}
"""By the class: its codes and scales, or tables, of a weight of these values.

Raises: ContradictionError where no encoding has them.
"""


def _own(scale: NDArray, dtype: DType) -> NDArray:
    """Scales in the type of the weight."""
    own: NDArray = scale.astype(dtype)
    if (own.astype(scale.dtype) != scale).any():
        raise ContradictionError(f"its scales are {scale.dtype} that {dtype} does not hold")
    return own


def _of_8_bits(tensor: Any, kind: DType | None = None) -> NDArray:
    """Floats of 8 bits.

    Raises:
        ContradictionError: they are of a type that is not stored as it is, or not of that one.
    """
    name = str(tensor.dtype).removeprefix("torch.")
    found = np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else None
    if found is None or (found != kind if kind else not is_narrow(found)):
        raise ContradictionError(f"{tensor.dtype} is not stored as it is")
    return numbers(tensor.contiguous().view(torch.uint8)).view(found)


def _of_4_bits(tensor: Any, values: NDArray) -> NDArray:
    """Codes of 4 bits, of which each byte has the first one in its low bits."""
    packed = numbers(tensor)
    if packed.size * 2 != values.size:
        raise ContradictionError(f"codes {packed.dtype}{list(packed.shape)} for a weight {list(values.shape)}")
    return unpack(packed, 4, values.size).reshape(values.shape)
