"""Fake quantizers that quantization-aware training left in a model: the weight is what they make of it.

    effective = (clamp(round(weight / scale) + zero_point) - zero_point) * scale

Source: torch.ao.quantization.fake_quantize; torch.ao.nn.qat; torch.nn.utils.parametrize.
"""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.ao.nn.quantized.reference.modules.utils import ReferenceQuantizedModule
from torch.ao.quantization import FakeQuantizeBase, ObserverBase
from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers torch.ops.quantized_decomposed
from torch.nn import Identity, Module, Parameter
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from compressor.arrays import NDArray
from compressor.encodings import Quantized
from compressor.errors import CompressorError
from compressor.sources.torch.declared.bare import QUANTIZER, BareGrid
from compressor.sources.torch.declared.claims import Claim, integer, numbers
from compressor.sources.torch.declared.recover import MOST_BITS, ContradictionError, grid

decomposed: Any = torch.ops.quantized_decomposed


class Rounding(Module):
    """The fake quantizer of an activation as it is when training ends: `QuantizeLinear` and `DequantizeLinear`."""

    def __init__(self, quantizer: Any) -> None:
        super().__init__()
        self.scale, self.zero_point = float(quantizer.scale), int(quantizer.zero_point)
        self.low, self.high = int(quantizer.quant_min), int(quantizer.quant_max)
        self.dtype = torch.int8 if self.low < 0 else torch.uint8

    def forward(self, x: Tensor) -> Tensor:
        limits = torch.iinfo(self.dtype)
        where = (self.scale, self.zero_point, limits.min, limits.max, self.dtype)
        # The operator saturates at the limits of its type alone.
        x = x.clamp(*((limit - self.zero_point) * self.scale for limit in (self.low, self.high)))
        rounded: Tensor = decomposed.dequantize_per_tensor(decomposed.quantize_per_tensor(x, *where), *where)
        return rounded


def settle(model: Module) -> Iterator[Claim]:
    """Put the weights of `model` through their fake quantizers, which then go; those of activations stay as they are.

    Raises: CompressorError for a fake quantizer that has no ONNX form.
    """
    for path, module in list(model.named_modules()):
        for weight, claims in (("weight", _layer(module)), *_parametrized(module)):
            yield from (replace(claim, weight=f"{path}.{weight}" if path else weight) for claim in claims)
    for path, module in list(model.named_modules()):
        for name, child in list(module._modules.items()):  # noqa: SLF001 - named_children() names a shared child once
            if isinstance(child, FakeQuantizeBase):
                setattr(module, name, _rounding(f"{path}.{name}", child))
            elif isinstance(child, ObserverBase):
                setattr(module, name, Identity())


def _rounding(path: str, quantizer: Any) -> Module:
    if not quantizer.fake_quant_enabled.any():
        return Identity()
    low, high, size = quantizer.quant_min, quantizer.quant_max, quantizer.scale.numel()
    limits = (0, 255) if low >= 0 else (-128, 127)
    if size != 1 or not limits[0] <= low <= high <= limits[1]:
        raise CompressorError(
            f"the fake quantizer {path} has {size} scales and codes from {low} to {high}: expected one scale and codes "
            "of 8 bits. Convert the model with the tool that trained it, and export that."
        )
    return Rounding(quantizer)


def _layer(module: Any) -> Iterator[Claim]:
    """A layer's `weight`, if the layer has a fake quantizer or is one of a reference model, which are the same."""
    quantizer = module._modules.get(QUANTIZER)  # noqa: SLF001 - a module without one may define __getattr__
    if ReferenceQuantizedModule in type(module).__mro__ and hasattr(module, "weight_scale"):
        _set(module, "weight", module.get_weight())
        yield from _claims(module.weight, _grid_of(module))
        module.weight_qscheme = None
        return
    if isinstance(quantizer, BareGrid):
        yield from _claims(module.weight, quantizer)
    elif isinstance(quantizer, FakeQuantizeBase):
        quantizer.disable_observer()
        if isinstance(module, _ConvNd) and hasattr(module, "bn"):
            _fold(module, quantizer)
        else:
            _set(module, "weight", quantizer(module.weight))
        yield from _claims(module.weight, quantizer)
    else:
        return
    setattr(module, QUANTIZER, Identity())


def _grid_of(module: Any) -> BareGrid:
    axis = {"ch_axis": module.weight_axis} if hasattr(module, "weight_axis") else {}
    return BareGrid({"scale": module.weight_scale, "zero_point": module.weight_zero_point, **axis})


def _fold(module: Any, quantizer: Any) -> None:
    """A convolution that training rounds after its batch norm is folded in: the same, without the batch norm.

    bn(conv(x, w) + b) = conv(x, w f) + (b - mean) f + bias, f = weight / sqrt(variance + eps) by channel
    """
    bn = module.bn
    factor = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    bias = torch.zeros_like(bn.bias) if module.bias is None else module.bias
    _set(module, "weight", quantizer(module.weight * factor.reshape(-1, *(1,) * (module.weight.dim() - 1))))
    _set(module, "bias", (bias - bn.running_mean) * factor + bn.bias)
    conv = module._conv_forward  # noqa: SLF001 - what its own forward calls, between the two factors
    module._forward = lambda x: conv(x, module.weight, module.bias)  # noqa: SLF001


def _set(module: Module, name: str, value: Tensor) -> None:
    setattr(module, name, Parameter(value.detach(), requires_grad=False))


def _parametrized(module: Any) -> Iterator[tuple[str, Iterator[Claim]]]:
    """Parameters whose last parametrization is a fake quantizer, by name."""
    for name, steps in list(getattr(module, "parametrizations", {}).items()):
        quantizer = steps[-1]
        if isinstance(quantizer, FakeQuantizeBase):
            quantizer.disable_observer()
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            yield name, _claims(getattr(module, name), quantizer)


def _claims(value: Tensor, quantizer: Any) -> Iterator[Claim]:
    """The grid of a fake quantizer, if it has one and it is on; the weight's name is the caller's."""
    enabled = getattr(quantizer, "fake_quant_enabled", None)
    if not hasattr(quantizer, "scale") or (enabled is not None and not bool(enabled.any())):
        return
    try:
        yield Claim("", _encoding(numbers(value), quantizer))
    except ContradictionError as error:
        yield Claim(
            "",
            note=f"the fake quantizer of training declares a grid that does not hold: {error}. What training computes "
            "with is rounded: let the factory prepare its model as the training does",
        )
    if isinstance(quantizer, BareGrid) and quantizer.alone:
        yield Claim(
            "", note="the ranges of activations that training found are not kept: its model has no place for them"
        )


def _encoding(values: NDArray, quantizer: Any) -> Quantized:
    scale = numbers(quantizer.scale).reshape(-1)
    zero_point = numbers(getattr(quantizer, "zero_point", torch.zeros(scale.size))).reshape(-1)
    if scale.size != zero_point.size or not scale.size or not values.ndim:
        raise ContradictionError(f"{scale.size} scales and {zero_point.size} zero points")
    axis = integer("ch_axis", numbers(torch.as_tensor(getattr(quantizer, "ch_axis", 0)))) if scale.size > 1 else 0
    counts = [scale.size if place == axis % values.ndim else 1 for place in range(values.ndim)]
    scale, zero_point = scale.reshape(counts), zero_point.reshape(counts)
    if hasattr(quantizer, "quant_min"):
        return grid(values, scale, zero_point, int(quantizer.quant_max - quantizer.quant_min).bit_length())
    for width in (2, 4):
        try:
            return grid(values, scale, zero_point, width)
        except ContradictionError:
            continue
    return grid(values, scale, zero_point, MOST_BITS)


def finds_ranges(module: Module) -> bool:
    """Whether the buffers of the module have the shapes of what it has seen."""
    return isinstance(module, FakeQuantizeBase | ObserverBase)
