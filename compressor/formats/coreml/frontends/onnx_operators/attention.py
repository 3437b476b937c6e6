"""`Attention`, in matrix products and a softmax."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

import math
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.formats.coreml.frontends.onnx_operators.node import (
    Node,
    Operators,
    UnsupportedError,
    is_bool,
    like,
    shape,
    static,
)

_LEAST = -3e4
"""A score whose weight is zero; it is finite in float16."""
_MASK, _PAST_KEY, _PAST_VALUE, _LENGTHS = 3, 4, 5, 6


def _attention(node: Node) -> Any:
    """`softmax(Q Kᵀ scale + mask) V` of `[batch, heads, length, size]` or `[batch, length, heads * size]`."""
    if any(node.operand(number) is not None for number in (_PAST_KEY, _PAST_VALUE, _LENGTHS)):
        raise UnsupportedError("past keys and values")
    if any(node.reads(number) for number in (1, 2, 3)):
        raise UnsupportedError("present keys and values, and the scores as an output")
    q_heads, kv_heads = node.attribute("q_num_heads", 0), node.attribute("kv_num_heads", 0)
    flat = node.var(0).rank == 3
    q = _by_head(node.var(0), q_heads)
    k, v = _by_head(node.var(1), kv_heads), _by_head(node.var(2), kv_heads)
    heads, size = static([shape(q)[1], shape(q)[3]], "heads and their size")
    groups = heads // static([shape(k)[1]], "heads")[0]
    k, v = (_repeated(one, groups) for one in (k, v))
    scale = node.attribute("scale", 1 / math.sqrt(size))
    scores = mb.mul(x=mb.matmul(x=q, y=k, transpose_y=True), y=like(q, scale))
    softcap = node.attribute("softcap", 0.0)
    if softcap:
        scores = mb.mul(x=mb.tanh(x=mb.mul(x=scores, y=like(q, 1 / softcap))), y=like(q, softcap))
    scores, seen = _masked(node, scores)
    shares = mb.softmax(x=scores, axis=-1)
    for one in seen:  # of a query that sees no key, all shares are zero
        shares = mb.select(cond=one, a=shares, b=like(shares, 0))
    y = mb.matmul(x=shares, y=v, **({} if flat else {"name": node.output()}))
    if not flat:
        return y
    joined = heads * static([shape(v)[3]], "the size of a head")[0]
    lengths = shape(node.var(0))[1]
    turned = mb.transpose(x=y, perm=[0, 2, 1, 3])
    dims = [-1, lengths, joined] if isinstance(lengths, int) else [shape(q)[0], -1, joined]
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


def _masked(node: Node, scores: Var) -> tuple[Var, list[Any]]:
    """A float mask is added; where a bool mask is false, or later keys are causal, the score is the least there is.

    The scores, and the bool masks.
    """
    least = like(scores, _LEAST)
    masks: list[Any] = []
    mask = node.optional(_MASK)
    if mask is not None and is_bool(mask):
        scores = mb.select(cond=mask, a=scores, b=least)
        masks.append(mask)
    elif mask is not None:
        scores = mb.add(x=scores, y=mask)
    if not node.attribute("is_causal", 0):
        return scores, masks
    rows, columns = static(shape(scores)[2:], "lengths under a causal mask")
    seen = np.tril(np.ones((rows, columns), np.bool_), 0)
    return mb.select(cond=seen, a=scores, b=least), [*masks, seen]


OPERATORS: Operators = {"Attention": _attention}
