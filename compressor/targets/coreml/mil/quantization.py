"""Quantized activations: `quantize` and `dequantize` from iOS17 on; before it they stay float, and it is said so."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

import math
from typing import Any

import coremltools as ct
import ml_dtypes
import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.arrays import DType
from compressor.formats.onnx.dtypes import DTYPES
from compressor.targets.coreml.mil.node import Constant, Node, Operators
from compressor.targets.coreml.mil.values import UnsupportedError, is_float, like, shape, spelled_dtype, static

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
        return mb.quantize(input=x, **_grid(node, kind), output_dtype=_BYTES[kind], name=node.output())
    if not node.readers(0) <= _DECODING:
        return _rounded(node, x, kind)
    node.scope.notes["activations"] = WIDTH if node.scope.version >= ct.target.iOS17 else DROPPED
    return _clipped(node, x, kind)


_DECODING = frozenset({"DequantizeLinear", "QLinearConv", "QLinearMatMul"})
"""Operators that compute with what codes stand for."""


def _rounded(node: Node, x: Var, kind: DType) -> Var:
    """The codes in integers, where something reads them as such."""
    scale, zero_point = node.constant(1, "the scale"), node.given(2, "the zero point")
    dims = [1] * x.rank
    if scale.size > 1:
        dims[node.attribute("axis", 1)] = -1
    zero = np.zeros(1, np.int32) if zero_point is None else zero_point.astype(np.int32)
    info = ml_dtypes.iinfo(kind)  # type: ignore[no-untyped-call]
    steps = mb.round(x=mb.real_div(x=x, y=scale.reshape(dims if x.rank else ()).astype(like(x, 0).dtype)))
    codes = mb.add(x=mb.cast(x=steps, dtype="int32"), y=zero.reshape(dims if x.rank else ()))
    low, high = np.int32(int(info.min)), np.int32(int(info.max))
    return mb.minimum(x=mb.maximum(x=codes, y=low), y=high, name=node.output())


def _clipped(node: Node, x: Var, kind: DType) -> Var:
    """The value within what the codes can hold: a quantizer leaves out a ReLU that its range makes up for."""
    scale, zero_point = node.constant(1, "the scale"), node.given(2, "the zero point")
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
        return mb.dequantize(input=x, **_grid(node, kind), name=node.output())
    scale, zero_point = node.var(1), node.optional(2)
    if scale.rank > 1 or node.attribute("block_size", 0):
        raise UnsupportedError("activations quantized in blocks")
    codes = mb.cast(x=x, dtype="int32")
    if zero_point is not None:
        codes = mb.sub(x=codes, y=_along(node, mb.cast(x=zero_point, dtype="int32"), x))
    values = mb.cast(x=codes, dtype=spelled_dtype(scale))
    return mb.mul(x=values, y=_along(node, scale, x), name=node.output())


def _along(node: Node, parameter: Var, x: Var) -> Var:
    """A scale or a zero point for all of `x`, or for each place along the axis."""
    count = static(shape(parameter), "a scale")
    if math.prod(count) == 1:
        return mb.squeeze(x=parameter) if parameter.rank else parameter
    dims = [1] * x.rank
    dims[node.attribute("axis", 1)] = -1
    return mb.reshape(x=parameter, shape=dims)


def _kind(node: Node) -> DType:
    """The type of the codes."""
    zero_point, declared = node.operand(2), node.attribute("output_dtype", 0)
    if isinstance(zero_point, Constant):
        return zero_point.array.dtype
    return DTYPES[declared] if declared in DTYPES else np.dtype(np.uint8)


def _grid(node: Node, kind: DType) -> dict[str, Any]:
    """Scale, zero point and axis as MIL takes them: a scale of one element is a scalar without an axis."""
    scale = node.constant(1, "the scale")
    zero_point = node.given(2, "the zero point")
    zero_point = np.zeros(scale.shape, kind) if zero_point is None else zero_point
    number = np.float16 if scale.dtype == np.float16 else np.float32
    if scale.size == 1:
        return {"scale": number(scale.item()), "zero_point": kind.type(zero_point.item())}
    return {"scale": scale.astype(number), "zero_point": zero_point, "axis": np.int32(node.attribute("axis", 1))}


_PRODUCTS = frozenset({"MatMulInteger", "ConvInteger"})
"""Operators that subtract the zero points from codes and multiply what is left."""


def _dynamic(node: Node) -> list[Any]:
    """Where only products read the codes, the value itself with scale 1 and zero point 0: they compute in float."""
    if node.readers(0) | node.readers(2) <= _PRODUCTS and node.readers(1) <= {"Mul"}:
        node.scope.notes["activations"] = DYNAMIC
        found = [node.operand(0), Constant(np.array(1, np.float32)), Constant(np.array(0, np.uint8))]
        return found[: len(node.proto.output)]
    x = node.var(0)
    axes, most = list(range(x.rank)), like(x, 255)
    low, high = (
        emit(x=reduce(x=x, axes=axes, keep_dims=False), y=like(x, 0))
        for emit, reduce in ((mb.minimum, mb.reduce_min), (mb.maximum, mb.reduce_max))
    )
    span = mb.sub(x=high, y=low)
    one = mb.cast(x=mb.equal(x=span, y=like(x, 0)), dtype=spelled_dtype(x))  # the scale of nothing but zeros is 1
    scale = mb.add(x=mb.real_div(x=span, y=most), y=one)
    zero = mb.round(x=mb.real_div(x=mb.sub(x=like(x, 0), y=low), y=scale))
    codes = mb.add(x=mb.round(x=mb.real_div(x=x, y=scale)), y=zero)
    clipped = mb.minimum(x=mb.maximum(x=codes, y=like(x, 0)), y=most)
    made = [(clipped, "int32"), (scale, spelled_dtype(x)), (zero, "int32")]
    return [
        mb.cast(x=value, dtype=dtype, name=node.output(number)) if node.reads(number) else None
        for number, (value, dtype) in enumerate(made[: len(node.proto.output)])
    ]


def _mat_mul_integer(node: Node) -> Var:
    """The product of what is left of the codes when their zero points are subtracted: of codes in integers."""
    x, codes = node.var(0), node.known(1)
    if not is_float(x):
        columns = mb.cast(x=_centred(node, 3, node.var(1), [-1]), dtype="int32")
        return mb.matmul(x=_centred(node, 2, x, [-1, 1]), y=columns, name=node.output())
    if codes is None:
        columns = mb.cast(x=_centred(node, 3, node.var(1), [-1]), dtype=spelled_dtype(x))
        return mb.matmul(x=x, y=columns, name=node.output())
    if codes.ndim != 2:
        raise UnsupportedError("codes that are no matrix")
    zero = node.given(3, "the zero point of the matrix")
    matrix = codes.astype(np.float32) - (np.float32(0) if zero is None else zero.astype(np.float32))
    weight = node.scope.const(Constant(np.ascontiguousarray(matrix.T)), f"{node.proto.input[1]}.centred")
    return mb.linear(x=x, weight=weight, name=node.output())


def _centred(node: Node, number: int, codes: Var, dims: list[int]) -> Var:
    """Codes without their zero point, operand `number`: one for all, one for each row, or for each column."""
    zero = node.optional(number)
    if zero is None:
        return codes
    codes = mb.cast(x=codes, dtype="int32") if is_float(codes) else codes  # as of a weight
    zero = zero if zero.rank != 1 or zero.shape[0] == 1 else mb.reshape(x=zero, shape=dims)
    return mb.sub(x=codes, y=zero)


OPERATORS: Operators = {
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic,
    "MatMulInteger": _mat_mul_integer,
    "QuantizeLinear": _quantize,
}
