"""Reductions, sorting and running sums."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.formats.coreml.frontends.onnx_operators.node import (
    Node,
    Operator,
    Operators,
    UnsupportedError,
    integer,
    is_bool,
)


def _reduce(emit: Callable[..., Var]) -> Operator:
    """The axes are an attribute in older opsets, an operand in newer ones."""

    def lower(node: Node) -> Var:
        x, axes = node.var(0), node.integers(1, "axes")
        if not axes and node.attribute("noop_with_empty_axes", 0):
            return mb.identity(x=x, name=node.output())
        if not x.rank:
            return mb.identity(x=x, name=node.output())
        axes = axes or list(range(x.rank))
        keep = bool(node.attribute("keepdims", 1))
        if not is_bool(x):
            return emit(x=x, axes=axes, keep_dims=keep, name=node.output())
        return mb.cast(x=emit(x=integer(x), axes=axes, keep_dims=keep), dtype="bool", name=node.output())

    return lower


def _arg(emit: Callable[..., Var]) -> Operator:
    def lower(node: Node) -> Var:
        if node.attribute("select_last_index", 0):
            raise UnsupportedError("select_last_index")
        axis, keep = node.attribute("axis", 0), bool(node.attribute("keepdims", 1))
        return emit(x=node.var(0), axis=axis, keep_dims=keep, name=node.output())

    return lower


def _top_k(node: Node) -> list[Any]:
    k = int(node.constant(1, "k").reshape(-1)[0])
    found = mb.topk(
        x=node.var(0), k=k, axis=node.attribute("axis", -1), ascending=not node.attribute("largest", 1),
        sort=bool(node.attribute("sorted", 1)),
    )  # fmt: skip
    return [
        mb.identity(x=one, name=node.output(number)) if node.reads(number) else None for number, one in enumerate(found)
    ]


def _cum_sum(node: Node) -> Var:
    axis = int(node.constant(1, "the axis").reshape(-1)[0])
    exclusive, reverse = bool(node.attribute("exclusive", 0)), bool(node.attribute("reverse", 0))
    return mb.cumsum(x=node.var(0), axis=axis, exclusive=exclusive, reverse=reverse, name=node.output())


OPERATORS: Operators = {
    "ArgMax": _arg(mb.reduce_argmax),
    "ArgMin": _arg(mb.reduce_argmin),
    "CumSum": _cum_sum,
    "ReduceL1": _reduce(mb.reduce_l1_norm),
    "ReduceL2": _reduce(mb.reduce_l2_norm),
    "ReduceLogSum": _reduce(mb.reduce_log_sum),
    "ReduceLogSumExp": _reduce(mb.reduce_log_sum_exp),
    "ReduceMax": _reduce(mb.reduce_max),
    "ReduceMean": _reduce(mb.reduce_mean),
    "ReduceMin": _reduce(mb.reduce_min),
    "ReduceProd": _reduce(mb.reduce_prod),
    "ReduceSum": _reduce(mb.reduce_sum),
    "ReduceSumSquare": _reduce(mb.reduce_sum_square),
    "TopK": _top_k,
}
