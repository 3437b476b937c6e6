"""Quantized activations: `quantize` and `dequantize` from iOS17 on; before it they stay float, and it is said so."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

from typing import Any

import coremltools as ct
import ml_dtypes
import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.arrays import DType, NDArray
from compressor.formats.coreml.frontends.onnx_operators.node import (
    Constant,
    Node,
    Operators,
    UnsupportedError,
    is_float,
    like,
    spelled_dtype,
)
from compressor.formats.onnx.dtypes import DTYPES

DROPPED = "activations stay float: the target has no quantized ones, they need iOS17 or later"
DYNAMIC = "activations stay float: Core ML has no quantization with scales that are found when the model runs"
WIDTH = "activations stay float: Core ML quantizes them to 8 bits alone"
_BYTES = {np.dtype(np.int8): "int8", np.dtype(np.uint8): "uint8"}


def _quantize(node: Node) -> Any:
    """Rounding and clipping to 8 bits; a constant is folded before it gets here."""
    x, kind = node.var(0), _kind(node)
    scale = node.constant(1, "the scale")
    if scale.ndim > 1 or node.attribute("block_size", 0):
        raise UnsupportedError("activations quantized in blocks")
    if kind in _BYTES and node.scope.version >= ct.target.iOS17:
        return mb.quantize(input=x, **_grid(node, kind, x), output_dtype=_BYTES[kind], name=node.output())
    node.scope.notes["activations"] = WIDTH if node.scope.version >= ct.target.iOS17 else DROPPED
    return _clipped(node, x, kind)


def _clipped(node: Node, x: Var, kind: DType) -> Var:
    """The value within what the codes can hold: a quantizer leaves out a ReLU that its range makes up for."""
    scale, zero_point = node.constant(1, "the scale"), node.known(2)
    zero = np.int64(0) if zero_point is None else zero_point.astype(np.int64)
    info = ml_dtypes.iinfo(kind)  # type: ignore[no-untyped-call]
    low, high = ((np.int64(end) - zero) * scale.astype(np.float64) for end in (info.min, info.max))
    if scale.size == 1:
        return mb.clip(x=x, alpha=like(x, low.item()), beta=like(x, high.item()), name=node.output())
    dims = [1] * x.rank
    dims[node.attribute("axis", 1)] = -1
    bounds = [end.reshape(dims).astype(like(x, 0).dtype) for end in (low, high)]
    return mb.minimum(x=mb.maximum(x=x, y=bounds[0]), y=bounds[1], name=node.output())


def _dequantize(node: Node) -> Any:
    """What was not quantized stays as it is."""
    x, kind = node.var(0), _kind(node)
    if is_float(x):
        return x
    if kind in _BYTES and spelled_dtype(x) == _BYTES[kind]:
        return mb.dequantize(input=x, **_grid(node, kind, x.op.input), name=node.output())
    scale, zero_point = node.constant(1, "the scale"), node.known(2)
    if scale.ndim > 1 or node.attribute("block_size", 0):
        raise UnsupportedError("activations quantized in blocks")
    dims = [1] * x.rank
    if scale.size > 1:
        dims[node.attribute("axis", 1)] = -1
    zero = np.zeros(1, np.int32) if zero_point is None else zero_point.astype(np.int32)
    centred = mb.cast(x=mb.sub(x=x, y=zero.reshape(dims if x.rank else ())), dtype="fp32")
    return mb.mul(x=centred, y=scale.astype(np.float32).reshape(dims if x.rank else ()), name=node.output())


def _kind(node: Node) -> DType:
    """The type of the codes."""
    zero_point, declared = node.known(2), node.attribute("output_dtype", 0)
    if zero_point is not None:
        return zero_point.dtype
    return DTYPES[declared] if declared in DTYPES else np.dtype(np.uint8)


def _grid(node: Node, kind: DType, x: Var) -> dict[str, Any]:
    """Scale, zero point and axis as MIL takes them: a scale of one element is a scalar without an axis."""
    scale = node.constant(1, "the scale")
    zero_point = node.known(2)
    zero_point = np.zeros(scale.shape, kind) if zero_point is None else zero_point
    number = type(like(x, 0))
    if scale.size == 1:
        return {"scale": number(scale.item()), "zero_point": kind.type(zero_point.item())}
    return {"scale": scale.astype(number), "zero_point": zero_point, "axis": np.int32(node.attribute("axis", 1))}


def _dynamic(node: Node) -> list[Any]:
    """The value itself with scale 1 and zero point 0: what reads them computes in float."""
    node.scope.notes["activations"] = DYNAMIC
    x = node.operand(0)
    return [x, Constant(np.array(1, np.float32)), Constant(np.array(0, np.uint8))][: len(node.proto.output)]


def _mat_mul_integer(node: Node) -> Var:
    """The product in float of what is left of the codes when their zero points are subtracted."""
    x = _centred(node.var(0), node.known(2))
    codes, zero = node.constant(1, "the codes of the matrix"), node.known(3)
    if codes.ndim != 2:
        raise UnsupportedError("codes that are no matrix")
    matrix = codes.astype(np.float32) - (np.float32(0) if zero is None else zero.astype(np.float32))
    weight = node.scope.const(Constant(np.ascontiguousarray(matrix.T)), f"{node.proto.input[1]}.centred")
    return mb.linear(x=x, weight=weight, name=node.output())


def _centred(x: Var, zero: NDArray | None) -> Var:
    x = x if is_float(x) else mb.cast(x=x, dtype="fp32")
    return x if zero is None or not zero.any() else mb.sub(x=x, y=zero.astype(np.float32))


OPERATORS: Operators = {
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic,
    "MatMulInteger": _mat_mul_integer,
    "QuantizeLinear": _quantize,
}
