"""Which quantized module of torch.ao becomes what, and the replacement of all of them in a model."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.ao.nn.intrinsic.quantized as nniq
import torch.ao.nn.quantized as nnq
import torch.ao.nn.quantized.dynamic as nnqd
from torch import Tensor
from torch.nn import Module, functional

from compressor.errors import CompressorError
from compressor.sources.torch.quantized import (
    Conv,
    DynamicLinear,
    Embedding,
    Functional,
    Grid,
    Linear,
    Requantized,
    Unary,
)

ACTIVATION = {torch.quint8: torch.uint8, torch.qint8: torch.int8}
PACKAGES = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.", "torch.ao.nn.sparse.quantized.")
FLOAT = (nnq.FloatFunctional, nnq.FXFloatFunctional)
"""Modules of those packages that compute in float."""


def _batch_norm(x: Tensor, m: Any) -> Tensor:
    return functional.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, eps=m.source.eps)


def _batch_norm_relu(x: Tensor, m: Any) -> Tensor:
    return functional.relu(_batch_norm(x, m))


def _layer_norm(x: Tensor, m: Any) -> Tensor:
    return functional.layer_norm(x, m.source.normalized_shape, m.weight, m.bias, m.source.eps)


def _group_norm(x: Tensor, m: Any) -> Tensor:
    return functional.group_norm(x, m.source.num_groups, m.weight, m.bias, m.source.eps)


def _instance_norm(x: Tensor, m: Any) -> Tensor:
    return functional.instance_norm(x, None, None, m.weight, m.bias, eps=m.source.eps)


LINEAR: Mapping[type[Module], Callable[[Any], Unary]] = {
    nnq.Linear: lambda _: torch.nn.Identity(),
    nniq.LinearReLU: lambda _: functional.relu,
    nniq.LinearLeakyReLU: lambda m: torch.nn.LeakyReLU(m.negative_slope),
    nniq.LinearTanh: lambda _: torch.tanh,
}
"""What follows the product of a fully connected layer."""

CONV: Mapping[type[Module], Unary] = {
    **dict.fromkeys((nnq.Conv1d, nnq.Conv2d, nnq.Conv3d, nniq.ConvAdd2d), torch.nn.Identity()),
    **dict.fromkeys((nnq.ConvTranspose1d, nnq.ConvTranspose2d, nnq.ConvTranspose3d), torch.nn.Identity()),
    **dict.fromkeys((nniq.ConvReLU1d, nniq.ConvReLU2d, nniq.ConvReLU3d, nniq.ConvAddReLU2d), functional.relu),
}
"""What follows the product of a convolution."""

COMPUTE: Mapping[type[Module], Callable[[Tensor, Any], Tensor]] = {
    nnq.Quantize: lambda x, _: x,
    nnq.BatchNorm2d: _batch_norm,
    nnq.BatchNorm3d: _batch_norm,
    nniq.BNReLU2d: _batch_norm_relu,
    nniq.BNReLU3d: _batch_norm_relu,
    nnq.LayerNorm: _layer_norm,
    nnq.GroupNorm: _group_norm,
    nnq.InstanceNorm1d: _instance_norm,
    nnq.InstanceNorm2d: _instance_norm,
    nnq.InstanceNorm3d: _instance_norm,
    nnq.Hardswish: lambda x, _: functional.hardswish(x),
    nnq.ELU: lambda x, m: functional.elu(x, m.source.alpha),
    nnq.LeakyReLU: lambda x, m: functional.leaky_relu(x, m.source.negative_slope),
    nnq.Sigmoid: lambda x, _: torch.sigmoid(x),
    nnq.Softmax: lambda x, m: functional.softmax(x, m.source.dim),
}
"""Modules without a quantized weight, whose float result is requantized."""

UNCHANGED: Mapping[type[Module], Callable[[Any], Module]] = {
    nnq.DeQuantize: lambda _: torch.nn.Identity(),
    nnq.Dropout: lambda _: torch.nn.Identity(),
    nnq.ReLU6: lambda _: torch.nn.ReLU6(),
    nnq.Embedding: Embedding,
    nnqd.Linear: lambda m: DynamicLinear(m) if m.weight().is_quantized else _float_linear(m),
}
"""Modules whose result is float, or stays on the grid of what they take."""

SUPPORTED = (*LINEAR, *CONV, *COMPUTE, *UNCHANGED, nnq.QFunctional)


def _float_linear(source: Any) -> Module:
    """The float16 form of the dynamic layer: float32 weights that are exact in float16, multiplied in float32."""
    weight, bias = source.weight(), source.bias()
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}), assign=True)
    return linear


def lower(model: Module) -> Module:
    """`model` with every quantized module replaced in place.

    Raises: CompressorError that lists all quantized modules that have no lowering.
    """
    found = _quantized(model)
    unsupported = [f"{name} ({_spelled(module)})" for name, module in found if type(module) not in SUPPORTED]
    if unsupported:
        choices = ", ".join(sorted({kind.__name__ for kind in SUPPORTED}))
        raise CompressorError(
            f"no ONNX form for the quantized modules {', '.join(unsupported)}. "
            f"Keep them in float, or build them of {choices} (static), Linear (dynamic)."
        )
    dtype = _activations(model)
    lowered = {id(module): _lowered(module, dtype) for _, module in found}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # noqa: SLF001 - named_children() names a shared child once
            if id(child) in lowered:
                setattr(parent, name, lowered[id(child)])
    return lowered.get(id(model), model).eval()


def _quantized(module: Module, name: str = "") -> list[tuple[str, Module]]:
    """Quantized modules by name, outermost only: what they hold inside (packed weights) is theirs."""
    kinds = type(module).__mro__
    if not isinstance(module, FLOAT) and any(f"{kind.__module__}.".startswith(PACKAGES) for kind in kinds):
        return [(name or "the model", module)]
    children = module.named_children()
    return [found for key, child in children for found in _quantized(child, f"{name}.{key}" if name else key)]


def _spelled(module: Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _activations(model: Module) -> torch.dtype:
    """The integer dtype of all activations: torch's kernels keep the one that Quantize has chosen."""
    dtypes = {module.dtype for module in model.modules() if type(module) is nnq.Quantize}
    if len(dtypes) > 1 or not dtypes <= ACTIVATION.keys():
        spelled = ", ".join(sorted(map(str, dtypes)))
        raise CompressorError(f"activations are quantized to {spelled}: use torch.quint8 or torch.qint8 throughout.")
    return ACTIVATION[dtypes.pop()] if dtypes else torch.uint8


def _lowered(module: Any, dtype: torch.dtype) -> Module:
    kind = type(module)
    if kind in UNCHANGED:
        return UNCHANGED[kind](module)
    prefix = "output_" if kind is nnq.Sigmoid else ""
    grid = Grid(float(getattr(module, f"{prefix}scale")), int(getattr(module, f"{prefix}zero_point")), dtype)
    if kind in LINEAR:
        return Linear(module, LINEAR[kind](module), grid)
    if kind in CONV:
        return Conv(module, CONV[kind], grid)
    return Functional(grid) if kind is nnq.QFunctional else Requantized(module, COMPUTE[kind], grid)
