"""Boxes: their selection, and what lies in them.

A box of ONNX is given by two corners, `[y, x, y, x]` or `[x, y, x, y]`, or by `[x, y, width, height]` of its centre.
"""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.formats.coreml.frontends.onnx_operators.node import (
    Node,
    Operators,
    UnsupportedError,
    like,
    shape,
    static,
)


def _non_max_suppression(node: Node) -> Var:
    """`[selected, 3]`: batch, class and box. Each batch and class is a batch of MIL's operator, of one class.

    A box below the threshold comes after all others, so that it suppresses none of them, and is then left out.
    """
    batch, classes, count = static(shape(node.var(1)), "batches, classes and boxes")
    most = min(_number(node, 2, "the most boxes of a class", 0), count)
    if most <= 0:
        raise UnsupportedError("no box of a class is asked for: nothing is selected")
    iou = _number(node, 3, "the threshold of overlap", 0.0)
    boxes, scores = _centred(node), mb.reshape(x=node.var(1), shape=[batch * classes, 1, count])
    rows = np.repeat(np.arange(batch, dtype=np.int32), classes)
    boxes = mb.gather(x=boxes, indices=rows, axis=0) if classes > 1 else boxes
    passes = _passing(node, scores)
    if passes is not None:
        scores = mb.select(cond=passes, a=scores, b=like(scores, float(np.finfo(np.float16).min)))
    found = _selected(node, boxes, scores, most, like(scores, iou))  # [batch * classes, most], -1 where there is none
    kept = mb.greater_equal(x=found, y=np.int32(0))
    if passes is not None:
        at = mb.maximum(x=found, y=np.int32(0))
        ones = mb.cast(x=mb.squeeze(x=passes, axes=[1]), dtype="int32")
        there = mb.gather_along_axis(x=ones, indices=at, axis=1)
        kept = mb.logical_and(x=kept, y=mb.greater(x=there, y=np.int32(0)))
    places = mb.non_zero(x=mb.cast(x=kept, dtype="int32"))  # [selected, 2]: batch and class, place
    box = mb.gather_nd(x=found, indices=places)
    row = mb.gather(x=places, indices=np.int32(0), axis=1)
    parts = [mb.floor_div(x=row, y=np.int32(classes)), mb.mod(x=row, y=np.int32(classes)), box]
    return mb.stack(values=parts, axis=1, name=node.output())


def _number(node: Node, place: int, what: str, default: Any) -> Any:
    return node.constant(place, what).reshape(-1)[0].item() if node.operand(place) is not None else default


def _passing(node: Node, scores: Var) -> Var | None:
    """Which scores are above the threshold; None where there is none."""
    if node.operand(4) is None:
        return None
    return mb.greater(x=scores, y=like(scores, _number(node, 4, "the threshold of scores", 0.0)))


def _centred(node: Node) -> Var:
    """`[batch, boxes, 4]`: the centre, width and height; corners may come in any order."""
    boxes = node.var(0)
    if node.attribute("center_point_box", 0):
        return boxes
    first, second = (mb.slice_by_index(x=boxes, begin=[0, 0, at], end=[0, 0, at + 2], begin_mask=[True, True, False],
                                       end_mask=[True, True, False]) for at in (0, 2))  # fmt: skip
    low, sizes = mb.minimum(x=first, y=second), mb.abs(x=mb.sub(x=second, y=first))
    centre = mb.add(x=low, y=mb.mul(x=sizes, y=like(boxes, 0.5)))
    return mb.concat(values=[centre, sizes], axis=2)


def _selected(node: Node, boxes: Var, scores: Var, most: int, iou: Any) -> Var:
    """The places of the boxes that are kept, `[batch, most]`: -1 behind the last one."""
    if node.scope.version >= ct.target.iOS17:
        turned = mb.transpose(x=boxes, perm=[0, 2, 1])
        return mb.non_maximum_suppression(boxes=turned, scores=scores, iou_threshold=iou, max_boxes=most)[2]
    least = like(scores, float(np.finfo(type(like(scores, 0))).min))
    turned = mb.transpose(x=scores, perm=[0, 2, 1])
    _, _, found, counts = mb.non_maximum_suppression(
        boxes=boxes, scores=turned, iou_threshold=iou, score_threshold=least, max_boxes=most
    )
    valid = mb.less(x=np.arange(most, dtype=np.int32)[None], y=mb.expand_dims(x=counts, axes=[1]))
    return mb.select(cond=valid, a=found, b=np.full((1, most), -1, np.int32))


OPERATORS: Operators = {"NonMaxSuppression": _non_max_suppression}
