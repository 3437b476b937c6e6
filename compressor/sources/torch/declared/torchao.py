"""Weights that torchao keeps as tensors of its own: codes and scales that stay codes and scales.

torchao itself is imported only where a file holds such tensors; their fields are those of its classes.

Source: torchao 0.18, quantization/quantize_/workflows: `Int8Tensor`, `IntxUnpackedToInt8Tensor`; `floats` has others.
"""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, Parameter

from compressor.arrays import CODE_DTYPES, NDArray
from compressor.encodings import Dense, Quantized, decode
from compressor.errors import CompressorError
from compressor.sources.torch import beside
from compressor.sources.torch.declared import floats
from compressor.sources.torch.declared.claims import Claim, numbers
from compressor.sources.torch.declared.recover import ContradictionError, by_block

PACKAGE = "torchao."
_WORKFLOWS = f"{PACKAGE}quantization.quantize_.workflows"
SAFE = {
    f"{PACKAGE}quantization": "Float8Tensor Int8Tensor IntxUnpackedToInt8Tensor MappingType",
    f"{PACKAGE}quantization.granularity": "PerAxis PerGroup PerRow PerTensor PerToken",
    f"{PACKAGE}quantization.quantize_.common.kernel_preference": "KernelPreference",
    f"{_WORKFLOWS}.nf4.nf4_tensor": "NF4Tensor SubclassTensorArgs",
    f"{PACKAGE}prototype.mx_formats.mx_tensor": "MXTensor",
    f"{PACKAGE}prototype.mx_formats.nvfp4_tensor": "NVFP4Tensor",
    f"{PACKAGE}prototype.quantization.codebook_coreml.codebook_quantized_tensor": "CodebookQuantizedTensor",
    f"{_WORKFLOWS}.int8.int8_tensor": "QuantizeTensorToInt8Kwargs",
    f"{_WORKFLOWS}.intx.intx_unpacked_to_int8_tensor": "IntxUnpackedToInt8TensorActivationQuantization",
}
"""What these tensors consist of in a checkpoint: classes that hold values and run nothing."""

CODED = ("Int8Tensor", "IntxUnpackedToInt8Tensor")
"""Classes whose `qdata` are int8 codes of the weight's shape, `scale` and `zero_point` by block."""


def load(source: Path, *, mmap: bool, weights_only: bool) -> object:
    """What torch reads from a file; tensors of torchao's too, where it is installed.

    Raises: CompressorError when it is not, and whatever torch raises.
    """
    read = partial(torch.load, source, map_location="cpu", mmap=mmap, weights_only=weights_only)
    try:
        return beside.read(read)
    except UnpicklingError as error:
        if f"GLOBAL {PACKAGE}" not in str(error):
            raise
    try:
        modules = {importlib.import_module(name): kinds.split() for name, kinds in SAFE.items()}
        classes = [getattr(module, kind) for module, kinds in modules.items() for kind in kinds]
    except (ImportError, AttributeError) as error:
        raise CompressorError(
            f"{source}: holds tensors of torchao's, which cannot be imported ({error}). Install torchao 0.18 or later."
        ) from error
    with torch.serialization.safe_globals(classes):
        return beside.read(read)


def is_own(value: object) -> bool:
    """Whether the value is a tensor of torchao's."""
    return isinstance(value, Tensor) and f"{type(value).__module__}.".startswith(PACKAGE)


def settle(model: Module) -> Iterator[Claim]:
    """Replace each tensor of torchao's in `model` by its values; what it was stored as.

    Raises: CompressorError for a tensor whose values are not all that the model computes with.
    """
    plain: dict[int, Parameter] = {}
    for path, module in model.named_modules():
        for name, value in list(module._parameters.items()):  # noqa: SLF001 - parameters() names a tied one once
            if not is_own(value):
                continue
            weight = f"{path}.{name}" if path else name
            if id(value) not in plain:
                values = _values(weight, value)
                plain[id(value)] = Parameter(values, requires_grad=False)
                yield _claim(weight, value, numbers(values))
            module._parameters[name] = plain[id(value)]  # noqa: SLF001 - the module may have hooked its attributes


def _values(weight: str, tensor: Any) -> Tensor:
    kind = type(tensor).__name__
    if getattr(tensor, "act_pre_scale", None) is not None:
        raise CompressorError(
            f"weight {weight}: a torchao {kind} whose inputs are multiplied by act_pre_scale, which has no ONNX form. "
            "Save the model before such scales are added, or fold them into the layer before."
        )
    try:
        values: Tensor = tensor.get_original_weight() if kind == "NF4Tensor" else tensor.dequantize()
    except Exception as error:  # each class has its own kernels
        raise CompressorError(
            f"weight {weight}: a torchao {kind}, whose values torchao cannot give here ({type(error).__name__}). "
            f"Quantize with a configuration that makes one of {', '.join((*CODED, *floats.READ))}, or save the float "
            "weights."
        ) from error
    return values.detach().clone()


def _claim(weight: str, tensor: Any, values: NDArray) -> Claim:
    kind = type(tensor).__name__
    if kind not in (*CODED, *floats.READ):
        return Claim(weight, note=f"torchao's {kind} has no codes and scales that are kept: kept as values")
    active = getattr(tensor, "act_quant_kwargs", None) or getattr(tensor, "activation_quantization", None)
    note = "torchao quantizes its input while it runs: kept in float" if active else ""
    try:
        found = floats.READ[kind](tensor, values) if kind in floats.READ else _encoding(tensor, values)
        if (decode(found) != values).any():
            raise ContradictionError("its codes and scales do not give the values that torchao computes")
        return Claim(weight, found, note)
    except ContradictionError as error:
        return Claim(weight, None, "; ".join(filter(None, (f"torchao's {kind} is kept as values: {error}", note))))


def _encoding(tensor: Any, values: NDArray) -> Quantized:
    codes, scale = numbers(tensor.qdata), by_block("scale", numbers(tensor.scale), values.shape)
    zero = None if tensor.zero_point is None else by_block("zero point", numbers(tensor.zero_point), values.shape)
    own = scale.astype(values.dtype)
    if (own.astype(scale.dtype) != scale).any():
        raise ContradictionError(f"its scales are {scale.dtype} that {values.dtype} does not hold")
    if zero is not None and (zero.astype(np.int8) != zero).any():
        raise ContradictionError(f"its zero points are {zero.dtype}, not whole numbers of 8 bits")
    target = getattr(tensor, "target_dtype", torch.int8)
    width = int(str(target).removeprefix("torch.int"))
    dtype = CODE_DTYPES[f"int{next(bits for bits in (2, 4, 8) if bits >= width)}"]
    parts = (codes, codes[:0] if zero is None else zero)
    if any((part.astype(np.int8).astype(dtype).astype(np.int8) != part).any() for part in parts):
        raise ContradictionError(f"its codes or zero points do not fit {target}")
    offset = zero.astype(np.int8).astype(dtype) if zero is not None and zero.any() else None
    return Quantized(Dense(codes.astype(dtype)), own, offset)
