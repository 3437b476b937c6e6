"""Elementwise arithmetic, comparison, logic and casts."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var
from onnx import TensorProto

from compressor.formats.coreml.frontends.onnx_operators.node import (
    Node,
    Operator,
    Operators,
    UnsupportedError,
    integer,
    is_float,
    like,
    spelled_dtype,
)

CASTS = {
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BFLOAT16), "fp32"),
    **dict.fromkeys((TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64), "int32"),
    **dict.fromkeys((TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64), "int32"),
    TensorProto.FLOAT16: "fp16",
    TensorProto.BOOL: "bool",
}
"""What Core ML computes in instead of a type: 64 bits become 32, and small integers are widened."""


def _unary(emit: Callable[..., Var]) -> Operator:
    return lambda node: emit(x=node.var(0), name=node.output())


def _binary(emit: Callable[..., Var]) -> Operator:
    return lambda node: emit(x=node.var(0), y=node.var(1), name=node.output())


def _compare(emit: Callable[..., Var]) -> Operator:
    return lambda node: emit(x=integer(node.var(0)), y=integer(node.var(1)), name=node.output())


def _variadic(emit: Callable[..., Var]) -> Operator:
    """The operator over any number of operands, from left to right."""

    def lower(node: Node) -> Var:
        operands = [node.var(number) for number in range(len(node.operands))]
        if len(operands) == 1:
            return mb.identity(x=operands[0], name=node.output())
        first = reduce(lambda x, y: emit(x=x, y=y), operands[:-1])
        return emit(x=first, y=operands[-1], name=node.output())

    return lower


def _mean(node: Node) -> Var:
    total = reduce(lambda x, y: mb.add(x=x, y=y), [node.var(number) for number in range(len(node.operands))])
    return mb.mul(x=total, y=like(total, 1 / len(node.operands)), name=node.output())


def _div(node: Node) -> Var:
    """Integers are divided towards zero."""
    x, y = node.var(0), node.var(1)
    if is_float(x):
        return mb.real_div(x=x, y=y, name=node.output())
    if x.sym_val is not None:  # a size, which is not negative
        return mb.floor_div(x=x, y=y, name=node.output())
    sign = mb.mul(x=mb.sign(x=x), y=mb.sign(x=y))
    return mb.mul(x=sign, y=mb.floor_div(x=mb.abs(x=x), y=mb.abs(x=y)), name=node.output())


def _mod(node: Node) -> Var:
    """`fmod`: the result has the sign of the dividend, else that of the divisor."""
    x, y = node.var(0), node.var(1)
    if not node.attribute("fmod", 0):
        return mb.mod(x=x, y=y, name=node.output())
    return mb.mul(x=mb.sign(x=x), y=mb.mod(x=mb.abs(x=x), y=mb.abs(x=y)), name=node.output())


def _pow(node: Node) -> Var:
    x, y = node.var(0), node.var(1)
    if x.dtype != y.dtype:
        exponent = node.known(1)
        y = like(x, exponent.item()) if exponent is not None and exponent.size == 1 else _cast_to(y, x)
    return mb.pow(x=x, y=y, name=node.output())


def _cast_to(x: Var, other: Var) -> Var:
    return mb.cast(x=x, dtype=spelled_dtype(other))


def _clip(node: Node) -> Var:
    x = node.var(0)
    low, high = _bound(node, 1, "min"), _bound(node, 2, "max")
    if is_float(x) and isinstance(low, float) and isinstance(high, float) and low < high:
        return mb.clip(x=x, alpha=like(x, low), beta=like(x, high), name=node.output())
    for bound, emit in ((low, mb.maximum), (high, mb.minimum)):
        if bound is not None:
            x = emit(x=x, y=bound if isinstance(bound, Var) else like(x, bound))
    return mb.identity(x=x, name=node.output())


def _bound(node: Node, number: int, attribute: str) -> Any:
    """A number or a variable; None where nothing is cut, as at the end of a float type: float16 has another."""
    value = node.attribute(attribute)
    known = node.known(number) if value is None else np.float32(value)
    if known is None:
        return node.optional(number)
    if known.dtype.kind != "f":
        return int(known.item())
    return None if abs(known.item()) >= np.finfo(known.dtype).max else float(known.item())


def _cast(node: Node) -> Var:
    x, to = node.var(0), node.attribute("to")
    if to not in CASTS:
        raise UnsupportedError(f"a cast to {TensorProto.DataType.Name(to)}")
    return mb.cast(x=x, dtype=CASTS[to], name=node.output())


def _cast_like(node: Node) -> Var:
    return mb.cast(x=node.var(0), dtype=spelled_dtype(node.var(1)), name=node.output())


def _where(node: Node) -> Var:
    return mb.select(cond=node.var(0), a=node.var(1), b=node.var(2), name=node.output())


def _not_equal_to_itself(node: Node) -> Var:
    x = node.var(0)
    return mb.not_equal(x=x, y=x, name=node.output())


def _is_inf(node: Node) -> Var:
    x = node.var(0)
    if node.attribute("detect_positive", 1) and node.attribute("detect_negative", 1):
        return mb.equal(x=mb.abs(x=x), y=like(x, math.inf), name=node.output())
    return mb.equal(x=x, y=like(x, math.inf if node.attribute("detect_positive", 1) else -math.inf), name=node.output())


def _neg(node: Node) -> Var:
    x = node.var(0)
    return mb.mul(x=x, y=like(x, -1), name=node.output())


def _reciprocal(node: Node) -> Var:
    """Not `inverse`: it adds a small number first."""
    x = node.var(0)
    return mb.real_div(x=like(x, 1), y=x, name=node.output())


def _asinh(node: Node) -> Var:
    """`sign(x) log(|x| + sqrt(x² + 1))`: no cancellation for negative values."""
    x = node.var(0)
    size = mb.abs(x=x)
    root = mb.sqrt(x=mb.add(x=mb.mul(x=x, y=x), y=like(x, 1)))
    return mb.mul(x=mb.sign(x=x), y=mb.log(x=mb.add(x=size, y=root)), name=node.output())


def _acosh(node: Node) -> Var:
    x = node.var(0)
    root = mb.sqrt(x=mb.sub(x=mb.mul(x=x, y=x), y=like(x, 1)))
    return mb.log(x=mb.add(x=x, y=root), name=node.output())


def _dropout(node: Node) -> Var:
    training = node.known(2)
    if training is not None and training.any():
        raise UnsupportedError("training mode")
    if node.reads(1):
        raise UnsupportedError("the mask")
    return mb.identity(x=node.var(0), name=node.output())


OPERATORS: Operators = {
    "Abs": _unary(mb.abs),
    "Acos": _unary(mb.acos),
    "Acosh": _acosh,
    "Add": _binary(mb.add),
    "And": _binary(mb.logical_and),
    "Asin": _unary(mb.asin),
    "Asinh": _asinh,
    "Atan": _unary(mb.atan),
    "Atanh": _unary(mb.atanh),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _unary(mb.ceil),
    "Clip": _clip,
    "Cos": _unary(mb.cos),
    "Cosh": _unary(mb.cosh),
    "Div": _div,
    "Dropout": _dropout,
    "Equal": _compare(mb.equal),
    "Erf": _unary(mb.erf),
    "Exp": _unary(mb.exp),
    "Floor": _unary(mb.floor),
    "Greater": _compare(mb.greater),
    "GreaterOrEqual": _compare(mb.greater_equal),
    "Identity": _unary(mb.identity),
    "IsInf": _is_inf,
    "IsNaN": _not_equal_to_itself,
    "Less": _compare(mb.less),
    "LessOrEqual": _compare(mb.less_equal),
    "Log": _unary(mb.log),
    "Max": _variadic(mb.maximum),
    "Mean": _mean,
    "Min": _variadic(mb.minimum),
    "Mod": _mod,
    "Mul": _binary(mb.mul),
    "Neg": _neg,
    "Not": _unary(mb.logical_not),
    "Or": _binary(mb.logical_or),
    "Pow": _pow,
    "Reciprocal": _reciprocal,
    "Round": _unary(mb.round),
    "Sign": _unary(mb.sign),
    "Sin": _unary(mb.sin),
    "Sinh": _unary(mb.sinh),
    "Sqrt": _unary(mb.sqrt),
    "Sub": _binary(mb.sub),
    "Sum": _variadic(mb.add),
    "Tan": _unary(mb.tan),
    "Where": _where,
    "Xor": _binary(mb.logical_xor),
}
