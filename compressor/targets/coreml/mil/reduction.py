"""Reductions, sorting and running sums."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.targets.coreml.mil.node import Node, Operator, Operators
from compressor.targets.coreml.mil.values import integer, is_bool, like, shape, static


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
        x, axis, keep = node.var(0), node.attribute("axis", 0), bool(node.attribute("keepdims", 1))
        if not node.attribute("select_last_index", 0):
            return emit(x=x, axis=axis, keep_dims=keep, name=node.output())
        count = static([shape(x)[axis]], "the axis of the last index")[0]
        first = emit(x=mb.reverse(x=x, axes=[axis]), axis=axis, keep_dims=keep)
        return mb.sub(x=np.int32(count - 1), y=first, name=node.output())

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


def _hardmax(node: Node) -> Var:
    """1 at the first of the largest elements, else 0."""
    x = node.var(0)
    axis = node.attribute("axis", -1) % x.rank
    count = static([shape(x)[axis]], "the axis of the maximum")[0]
    place = mb.reduce_argmax(x=x, axis=axis, keep_dims=False)
    return mb.one_hot(
        indices=place, one_hot_vector_size=count, axis=axis, on_value=like(x, 1), off_value=like(x, 0),
        name=node.output(),
    )  # fmt: skip


def _cum_sum(node: Node) -> Var:
    axis = int(node.constant(1, "the axis").reshape(-1)[0])
    exclusive, reverse = bool(node.attribute("exclusive", 0)), bool(node.attribute("reverse", 0))
    return mb.cumsum(x=node.var(0), axis=axis, exclusive=exclusive, reverse=reverse, name=node.output())


OPERATORS: Operators = {
    "ArgMax": _arg(mb.reduce_argmax),
    "ArgMin": _arg(mb.reduce_argmin),
    "CumSum": _cum_sum,
    "Hardmax": _hardmax,
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
