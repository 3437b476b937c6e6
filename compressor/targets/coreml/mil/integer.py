"""Layers between codes: what the codes stand for is computed with, and the result becomes codes again."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.arrays import NDArray
from compressor.targets.coreml.mil import linear, quantization, window
from compressor.targets.coreml.mil.node import Constant, Node, Operators, Value
from compressor.targets.coreml.mil.values import UnsupportedError, is_float


def _q_linear_conv(node: Node) -> Any:
    """x, its scale and zero point; the weight's; the result's; and a bias, whose scale is that of the products."""
    scale = node.constant(4, "the scale of the weight")
    codes = _centred(node, 3, 5, "the weight", 0)
    weight = (codes * _spread(scale, codes.ndim, 0)).astype(np.float32)
    operands: list[Value | None] = [_values(node, 0), Constant(weight)]
    if node.operand(8) is not None:
        bias = node.constant(8, "the bias").astype(np.float32)
        operands.append(Constant((bias * node.constant(1, "the scale") * scale).astype(np.float32)))
    return _codes(node, window.OPERATORS["Conv"](_other(node, "Conv", operands)), 6)


def _q_linear_mat_mul(node: Node) -> Any:
    """a, its scale and zero point; those of b; those of the result. One of both may be constant."""
    operands = [_values(node, 0, -2), _values(node, 3, -1)]
    return _codes(node, linear.OPERATORS["MatMul"](_other(node, "MatMul", operands)), 6)


def _conv_integer(node: Node) -> Any:
    """The products of values that were not quantized (see `DynamicQuantizeLinear`)."""
    if not is_float(node.var(0)):
        raise UnsupportedError("codes that arrive when the model runs: float16 does not hold sums of their products")
    weight = _centred(node, 1, 3, "the weight", 0)
    return window.OPERATORS["Conv"](_other(node, "Conv", [node.operand(0), Constant(weight)]))


def _values(node: Node, place: int, axis: int = 1) -> Value:
    """What the codes of an operand stand for; its scale and its zero point are the next two."""
    known, scale = node.known(place), node.constant(place + 1, "the scale")
    if known is not None:
        codes = _centred(node, place, place + 2, "a matrix", axis)
        return Constant((codes * _spread(scale, codes.ndim, axis)).astype(np.float32))
    if scale.size > 1:
        raise UnsupportedError("a scale for each row of what arrives when the model runs")
    found: Var = quantization.OPERATORS["DequantizeLinear"](
        _other(node, "DequantizeLinear", node.operands[place : place + 3], f"{node.output()}.{place}")
    )
    return mb.cast(x=found, dtype="fp32")


def _centred(node: Node, place: int, zero: int, what: str, axis: int) -> NDArray:
    """Codes less their zero point, float32."""
    codes, zero_point = node.constant(place, what).astype(np.float32), node.given(zero, "the zero point")
    if zero_point is None:
        return codes
    return codes - _spread(zero_point.astype(np.float32), codes.ndim, axis)


def _spread(parameter: NDArray, rank: int, axis: int) -> NDArray:
    """One for all, or one for each place along an axis."""
    if parameter.size == 1:
        return parameter.reshape(())
    if parameter.ndim > 1:
        return parameter
    dims = [1] * rank
    dims[axis] = -1
    return parameter.reshape(dims)


def _codes(node: Node, y: Var, place: int) -> Any:
    """`y` as codes; scale and zero point are the operands from `place` on."""
    scale = Constant(node.constant(place, "the scale of the result").astype(np.float32))
    operands = [y, scale, node.operand(place + 1)]
    return quantization.OPERATORS["QuantizeLinear"](_other(node, "QuantizeLinear", operands, node.proto.output[0]))


def _other(node: Node, operator: str, operands: Sequence[Value | None], output: str = "") -> Node:
    """A node with the attributes of this one."""
    output = output or f"{node.proto.output[0]}.{operator}"
    names = ["" if value is None else f"{output}.{place}" for place, value in enumerate(operands)]
    proto = onnx.NodeProto(op_type=operator, name=node.proto.name, input=names, output=[output])
    proto.attribute.extend(node.proto.attribute)
    return Node(proto, tuple(operands), node.scope, node.lower)


OPERATORS: Operators = {
    "ConvInteger": _conv_integer,
    "QLinearConv": _q_linear_conv,
    "QLinearMatMul": _q_linear_mat_mul,
}
