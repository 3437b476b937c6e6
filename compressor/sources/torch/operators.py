"""Operators that torch's exporter is given: one of our own, and translations where torch's are missing or wrong."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnxscript import opset18 as op
from torch import Tensor

BYTE = 255


@torch.library.custom_op("compressor::rounded", mutates_args=())
def rounded(x: Tensor, low: int, high: int, eps: float, symmetric: bool, rows: bool) -> Tensor:  # noqa: FBT001 - a schema
    """`x` on the grid of codes `low` to `high` that spans its range and zero.

    scale = max((max - min) / (high - low), eps)

    symmetric  max is the greatest magnitude, and min is -max
    rows       a range for each row (the last axis), else one for all
    """
    least, most = (x.amin(-1, True), x.amax(-1, True)) if rows else (x.amin(), x.amax())
    least, most = least.clamp(max=0), most.clamp(min=0)
    if symmetric:
        most = torch.maximum(-least, most)
        least = -most
    scale = ((most - least) / (high - low)).clamp(min=eps)
    zero = torch.zeros_like(scale) if symmetric else (low - (least / scale).round()).clamp(low, high)
    return ((x / scale).round() + zero).clamp(low, high).sub(zero).mul(scale)


@rounded.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _rounded(x: Any, low: int, high: int, eps: float, symmetric: bool, rows: bool) -> Any:  # noqa: FBT001 - as above
    if high - low == BYTE and not symmetric and not rows:
        # Codes of another offset have the same values, and this is what ONNX Runtime has integer kernels for.
        codes, scale, zero_point = op.DynamicQuantizeLinear(x)
        return op.DequantizeLinear(codes, scale, zero_point)
    axes: Any = op.Constant(value_ints=[-1]) if rows else None
    nothing = op.Constant(value_float=0.0)
    least = op.Min(op.ReduceMin(x, axes, keepdims=int(rows)), nothing)
    most = op.Max(op.ReduceMax(x, axes, keepdims=int(rows)), nothing)
    if symmetric:
        most = op.Max(op.Neg(least), most)
        least = op.Neg(most)
    steps, epsilon = op.Constant(value_float=float(high - low)), op.Constant(value_float=eps)
    scale = op.Max(op.Div(op.Sub(most, least), steps), epsilon)
    bottom, top = op.Constant(value_float=float(low)), op.Constant(value_float=float(high))
    zero = nothing if symmetric else op.Clip(op.Sub(bottom, op.Round(op.Div(least, scale))), bottom, top)
    codes = op.Clip(op.Add(op.Round(op.Div(x, scale)), zero), bottom, top)
    return op.Mul(op.Sub(codes, zero), scale)


def _squeeze(x: Any, dim: int) -> Any:
    """An axis that is not of size 1 stays, as in torch."""
    size = x.shape[dim] if x.shape is not None and len(x.shape) else None
    axes: Any = op.Constant(value_ints=[dim])
    return x if isinstance(size, int) and size != 1 else op.Squeeze(x, axes)


TRANSLATIONS: Mapping[Any, Callable[..., Any]] = {
    torch.ops.compressor.rounded.default: _rounded,
    torch.ops.aten.squeeze.dim: _squeeze,
}
