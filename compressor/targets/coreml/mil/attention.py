"""`Attention`, in matrix products and a softmax."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

import math
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.targets.coreml.mil.node import Node, Operators
from compressor.targets.coreml.mil.values import UnsupportedError, is_bool, like, shape, static

_LEAST = -3e4
"""A score whose weight is zero; it is finite in float16."""
_MASK, _PAST_KEY, _PAST_VALUE, _LENGTHS = 3, 4, 5, 6
_PRESENT_KEY, _PRESENT_VALUE, _SCORES = 1, 2, 3


def _attention(node: Node) -> Any:
    """`softmax(Q Kᵀ scale + mask) V` of `[batch, heads, length, size]` or `[batch, length, heads * size]`."""
    _check(node)
    q_heads, kv_heads = node.attribute("q_num_heads", 0), node.attribute("kv_num_heads", 0)
    flat = node.var(0).rank == 3
    q = _by_head(node.var(0), q_heads)
    before = _length(node.optional(_PAST_KEY))
    keys = _with_past(node, _by_head(node.var(1), kv_heads), _PAST_KEY, _PRESENT_KEY)
    values = _with_past(node, _by_head(node.var(2), kv_heads), _PAST_VALUE, _PRESENT_VALUE)
    heads, size = static([shape(q)[1], shape(q)[3]], "heads and their size")
    groups = heads // static([shape(keys)[1]], "heads")[0]
    k, v = (_repeated(one, groups) for one in (keys, values))
    scale = node.attribute("scale", 1 / math.sqrt(size))
    scores = mb.mul(x=mb.matmul(x=q, y=k, transpose_y=True), y=like(q, scale))
    softcap = node.attribute("softcap", 0.0)
    if softcap:
        scores = mb.mul(x=mb.tanh(x=mb.mul(x=scores, y=like(q, 1 / softcap))), y=like(q, softcap))
    scores, seen = _masked(node, scores, before)
    shares = mb.softmax(x=scores, axis=-1)
    for one in seen:  # of a query that sees no key, all shares are zero
        shares = mb.select(cond=one, a=shares, b=like(shares, 0))
    y = mb.matmul(x=shares, y=v, **({} if flat else {"name": node.output()}))
    if flat:
        y = _joined(node, y)
    return [y, keys, values, None][: len(node.proto.output)]


def _check(node: Node) -> None:
    """Raises UnsupportedError for what the function that defines the operator is left to."""
    if node.operand(_LENGTHS) is not None:
        raise UnsupportedError("lengths without padding")
    if node.reads(_SCORES):
        raise UnsupportedError("the scores as an output")
    if any(node.attribute(f"{side}_window_size", -1) >= 0 for side in ("left", "right")):
        raise UnsupportedError("a window of keys")


def _length(past: Var | None) -> Any:
    return 0 if past is None else shape(past)[2]


def _with_past(node: Node, x: Var, past: int, present: int) -> Var:
    """Keys or values behind those of before."""
    before = node.optional(past)
    named = {"name": node.output(present)} if node.reads(present) else {}
    if before is None:
        return mb.identity(x=x, **named) if named else x
    return mb.concat(values=[before, x], axis=2, **named)


def _joined(node: Node, y: Var) -> Var:
    """`[batch, length, heads * size]`."""
    batch, heads, length, size = shape(y)
    joined = static([heads, size], "heads and their size")
    dims = [-1 if isinstance(length, int) else batch, length if isinstance(length, int) else -1, math.prod(joined)]
    turned = mb.transpose(x=y, perm=[0, 2, 1, 3])
    return mb.reshape(x=turned, shape=static(dims, "batch and length together"), name=node.output())


def _by_head(x: Var, heads: int) -> Var:
    """`[batch, heads, length, size]`."""
    if x.rank == 4:
        return x
    batch, length, width = shape(x)
    dims = [-1, length] if isinstance(length, int) else [batch, -1]
    split = mb.reshape(x=x, shape=[*static(dims, "batch and length together"), heads, width // heads])
    return mb.transpose(x=split, perm=[0, 2, 1, 3])


def _repeated(x: Var, groups: int) -> Var:
    """Each head as often as queries share it."""
    if groups == 1:
        return x
    heads = shape(x)[1]
    order = np.repeat(np.arange(heads, dtype=np.int32), groups)
    return mb.gather(x=x, indices=order, axis=1)


def _masked(node: Node, scores: Var, before: Any) -> tuple[Var, list[Any]]:
    """A float mask is added; where a bool mask is false, or later keys are causal, the score is the least there is.

    before: how many keys are older than the queries. The scores, and the bool masks.
    """
    least = like(scores, _LEAST)
    masks: list[Any] = []
    mask = node.optional(_MASK)
    if mask is not None and shape(mask)[-1] not in {1, shape(scores)[-1]}:
        raise UnsupportedError("a mask of another length than the keys")
    if mask is not None and is_bool(mask):
        scores = mb.select(cond=mask, a=scores, b=least)
        masks.append(mask)
    elif mask is not None:
        scores = mb.add(x=scores, y=mask)
    if not node.attribute("is_causal", 0):
        return scores, masks
    rows, columns, offset = static([*shape(scores)[2:], before], "lengths under a causal mask")
    seen = np.tril(np.ones((rows, columns), np.bool_), offset)
    return mb.select(cond=seen, a=scores, b=least), [*masks, seen]


OPERATORS: Operators = {"Attention": _attention}
