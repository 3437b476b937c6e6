"""Elementwise arithmetic, comparison, logic and casts."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import onnx
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var
from coremltools.converters.mil.mil.types.symbolic import is_symbolic
from onnx import TensorProto

from compressor.targets.coreml.mil.node import Constant, Node, Operator, Operators
from compressor.targets.coreml.mil.values import (
    UnsupportedError,
    broadcast_shape,
    integer,
    is_bool,
    is_float,
    like,
    narrowed,
    shape,
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
    def lower(node: Node) -> Var:
        x, y = (integer(node.var(number, clip=True)) for number in (0, 1))
        return emit(x=x, y=y, name=node.output())

    return lower


def _variadic(emit: Callable[..., Var], *, clip: bool = False) -> Operator:
    """The operator over any number of operands, from left to right."""

    def lower(node: Node) -> Var:
        operands = [node.var(number, clip=clip) for number in range(len(node.operands))]
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
    if _is_size(x) and _is_size(y):
        return mb.floor_div(x=x, y=y, name=node.output())
    sign = mb.mul(x=mb.sign(x=x), y=mb.sign(x=y))
    return mb.mul(x=sign, y=mb.floor_div(x=mb.abs(x=x), y=mb.abs(x=y)), name=node.output())


def _is_size(x: Var) -> bool:
    """Whether all values are sizes or other integers that are known not to be negative."""
    found = x.sym_val
    return found is not None and all(is_symbolic(one) or one >= 0 for one in np.asarray(found).reshape(-1))


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
    kind = spelled_dtype(x)
    codes = kind in ("int8", "uint8")  # as a quantizer of fewer bits cuts them; they are not compared as such
    if codes:
        x, low, high = (mb.cast(x=one, dtype="int32") if isinstance(one, Var) else one for one in (x, low, high))
    for bound, emit in ((low, mb.maximum), (high, mb.minimum)):
        if bound is not None:
            x = emit(x=x, y=bound if isinstance(bound, Var) else like(x, bound))
    return mb.cast(x=x, dtype=kind, name=node.output()) if codes else mb.identity(x=x, name=node.output())


def _bound(node: Node, number: int, attribute: str) -> Any:
    """A number or a variable; None where nothing is cut, as at the end of a float type: float16 has another."""
    value = node.attribute(attribute)
    known = node.known(number) if value is None else np.array(value, np.float32)
    if known is None:
        return node.optional(number)
    if known.dtype.kind != "f":
        return int(narrowed(known, clip=True).item())
    return None if abs(known.item()) >= np.finfo(known.dtype).max else float(known.item())


def _cast(node: Node) -> Var:
    """Integers of 32 bits that become shorter ones lose their upper bits."""
    x, to = node.var(0, clip=True), node.attribute("to")
    if to not in CASTS:
        raise UnsupportedError(f"a cast to {TensorProto.DataType.Name(to)}")
    if to not in _SHORT or spelled_dtype(x) != "int32":
        return mb.cast(x=x, dtype=CASTS[to], name=node.output())
    bits, signed = _SHORT[to]
    half = np.int32(1 << bits - 1 if signed else 0)
    kept = mb.mod(x=mb.add(x=x, y=half), y=np.int32(1 << bits))
    return mb.sub(x=kept, y=half, name=node.output())


_SHORT = {
    TensorProto.INT8: (8, True),
    TensorProto.INT16: (16, True),
    TensorProto.UINT8: (8, False),
    TensorProto.UINT16: (16, False),
}
"""Integers of less than 32 bits: how many, and whether there are negative ones."""


def _cast_like(node: Node) -> Var:
    other = node.operand(1)
    if not isinstance(other, Constant):
        return mb.cast(x=node.var(0), dtype=spelled_dtype(node.var(1)), name=node.output())
    element = onnx.helper.np_dtype_to_tensor_dtype(other.array.dtype)
    proto = onnx.helper.make_node("Cast", node.proto.input[:1], node.proto.output, to=element)
    return _cast(replace(node, proto=proto, operands=node.operands[:1]))


def selected(condition: Var, a: Var, b: Var, name: str) -> Var:
    """`select` has the shape of its branches, so one of them is repeated where the condition is larger."""
    branches = broadcast_shape(shape(a), shape(b))
    if broadcast_shape(shape(condition), branches) == branches:
        return mb.select(cond=condition, a=a, b=b, name=name)
    if is_bool(a):
        other = mb.logical_and(x=mb.logical_not(x=condition), y=b)
        return mb.logical_or(x=mb.logical_and(x=condition, y=a), y=other, name=name)
    none = mb.mul(x=mb.cast(x=condition, dtype=spelled_dtype(b)), y=like(b, 0))
    ones = mb.add(x=none, y=like(b, 1))
    return mb.select(cond=condition, a=a, b=mb.mul(x=b, y=ones), name=name)


def _where(node: Node) -> Var:
    return selected(node.var(0), node.var(1), node.var(2), node.output())


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
    training = node.given(2, "training mode")
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
    "Max": _variadic(mb.maximum, clip=True),
    "Mean": _mean,
    "Min": _variadic(mb.minimum, clip=True),
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
