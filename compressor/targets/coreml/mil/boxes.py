"""Boxes: their selection, and what lies in them.

A box of ONNX is given by two corners, `[y, x, y, x]` or `[x, y, x, y]`, or by `[x, y, width, height]` of its centre.
The bins of `RoiAlign` lie in a grid: how the map is sampled along one axis does not depend on the other.
"""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.arrays import NDArray
from compressor.targets.coreml.mil.node import Node, Operators
from compressor.targets.coreml.mil.values import UnsupportedError, inferred, like, shape, spelled_dtype, static


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


def _roi_align(node: Node) -> Var:
    """`[boxes, channels, bins of y, bins of x]`: the mean of the points in a bin, or the largest of their terms."""
    x, mode = node.var(0), node.attribute("mode", "avg")
    if mode not in _POOLS:
        raise UnsupportedError(f"mode {mode!r}")
    sizes = static(shape(x)[2:], "the size of what is sampled")
    rows, columns = (
        _sampling(node, x, 1, sizes[0], "output_height"),
        _sampling(node, x, 0, sizes[1], "output_width"),
    )
    return _POOLS[mode](node, x, rows, columns)


@dataclass(frozen=True, eq=False)
class _Sampling:
    """The points along one axis, `[boxes, bins * most points of a bin]` (or `[1, ...]` for what is alike for all).

    places: in pixels, within the map. inside: 1 where the point counts, 0 where it is too far outside.
    shares: of each point in the mean of its bin; 0 for one that repeats another.
    size: of the axis. bins, points: how many, in a bin.
    """

    places: Var
    inside: Var
    shares: NDArray
    size: int
    bins: int
    points: int


def _sampling(node: Node, x: Var, axis: int, size: int, bins_of: str) -> _Sampling:
    """The points of all boxes along an axis, 0 for x and 1 for y.

    A box with fewer points in a bin than another repeats its last one; a box that has none has no point inside.
    Source: ONNX operator RoiAlign; the order of the operations is that of its reference, for the same points inside.
    """
    kind, bins = like(x, 0).dtype.type, int(node.attribute(bins_of, 1))
    first, length = _extent(node, node.var(1), axis)
    step = mb.real_div(x=length, y=kind(bins))
    counts = _counts(node, step)
    some = np.maximum(counts, 1)
    points = int(some.max())
    node.scope.allowance.take(len(counts) * bins * points * size * kind(0).nbytes)
    bin_, point = (one.reshape(1, -1) for one in np.divmod(np.arange(bins * points), points))
    within = mb.mul(x=step, y=(np.minimum(point, some - 1) + 0.5).astype(kind))
    within = mb.real_div(x=within, y=some.astype(kind))
    start = mb.add(x=first, y=mb.mul(x=step, y=bin_.astype(kind)))
    places = mb.add(x=start, y=within)
    near = mb.logical_and(x=mb.greater_equal(x=places, y=kind(-1)), y=mb.less_equal(x=places, y=kind(size)))
    inside = mb.mul(x=mb.cast(x=near, dtype=spelled_dtype(x)), y=(counts > 0).astype(kind))
    places = mb.clip(x=places, alpha=kind(0), beta=kind(size - 1))
    shares = ((point < counts) / some).astype(kind)
    return _Sampling(places, inside, shares, size, bins, points)


def _extent(node: Node, boxes: Var, axis: int) -> tuple[Var, Var]:
    """Where each box begins along an axis and how long it is there, in pixels of the map, `[boxes, 1]`."""
    kind, default = like(boxes, 0).dtype.type, "half_pixel" if node.scope.opset >= 16 else "output_half_pixel"
    coordinates = node.attribute("coordinate_transformation_mode", default)
    if coordinates not in {"half_pixel", "output_half_pixel"}:
        raise UnsupportedError(f"coordinates {coordinates!r}")
    ends = [
        mb.slice_by_index(x=boxes, begin=[0, at], end=[0, at + 1], begin_mask=[True, False], end_mask=[True, False])
        for at in (axis, axis + 2)
    ]
    ends = [mb.mul(x=end, y=kind(node.attribute("spatial_scale", 1.0))) for end in ends]
    if coordinates == "half_pixel":
        first, last = (mb.sub(x=end, y=kind(0.5)) for end in ends)
        return first, mb.sub(x=last, y=first)
    return ends[0], mb.maximum(x=mb.sub(x=ends[1], y=ends[0]), y=kind(1))


def _counts(node: Node, step: Var) -> NDArray:
    """The points of a bin along an axis: `[1, 1]`, or as many as the bins of each box have pixels, `[boxes, 1]`."""
    points = int(node.attribute("sampling_ratio", 0))
    if points > 0:
        return np.array([[points]])
    found = inferred(step)
    if found is None:
        raise UnsupportedError("sampling_ratio 0 of boxes that are no constants: their sizes say how many points")
    return np.ceil(found).astype(np.int64)


def _means(node: Node, x: Var, rows: _Sampling, columns: _Sampling) -> Var:
    """Products with the part that each row and each column of the map has in a bin."""
    if shape(x)[0] != 1:
        x = mb.gather(x=x, indices=node.var(2), axis=0)
    partial = mb.matmul(x=_parts(rows, x), y=x)
    return mb.matmul(x=partial, y=_parts(columns, x), transpose_y=True, name=node.output())


def _parts(sampling: _Sampling, x: Var) -> Var:
    """`[boxes, 1, bins, size]`: a point takes from its two neighbours, the nearer one more."""
    pixels = np.arange(sampling.size).astype(like(x, 0).dtype)
    far = mb.abs(x=mb.sub(x=mb.expand_dims(x=sampling.places, axes=[2]), y=pixels))
    weights = mb.relu(x=mb.sub(x=like(x, 1), y=far))
    shares = mb.mul(x=sampling.inside, y=sampling.shares)
    weights = mb.mul(x=weights, y=mb.expand_dims(x=shares, axes=[2]))
    weights = mb.reshape(x=weights, shape=[-1, sampling.bins, sampling.points, sampling.size])
    return mb.expand_dims(x=mb.reduce_sum(x=weights, axes=[2], keep_dims=False), axes=[1])


def _maxima(node: Node, x: Var, rows: _Sampling, columns: _Sampling) -> Var:
    """The four terms of a point are a neighbour's value times its weight: they are not added before the largest."""
    channels = static(shape(x)[1:2], "the number of channels")[0]
    pixels = mb.reshape(x=mb.transpose(x=x, perm=[0, 2, 3, 1]), shape=[-1, channels])
    image = mb.mul(x=mb.reshape(x=node.var(2), shape=[-1, 1, 1]), y=np.int32(rows.size))
    found = None
    for (row, by_row), (column, by_column) in itertools.product(_neighbours(rows, x), _neighbours(columns, x)):
        line = mb.mul(x=mb.add(x=image, y=mb.expand_dims(x=row, axes=[2])), y=np.int32(columns.size))
        places = mb.add(x=line, y=mb.expand_dims(x=column, axes=[1]))
        weights = mb.mul(x=mb.expand_dims(x=by_row, axes=[2]), y=mb.expand_dims(x=by_column, axes=[1]))
        terms = mb.mul(x=mb.gather(x=pixels, indices=places, axis=0), y=mb.expand_dims(x=weights, axes=[3]))
        found = terms if found is None else mb.maximum(x=found, y=terms)
    shapes = [[-1, rows.points, columns.bins * columns.points, channels], [-1, columns.points, channels]]
    for each in shapes:
        found = mb.reduce_max(x=mb.reshape(x=found, shape=each), axes=[1], keep_dims=False)
    found = mb.reshape(x=found, shape=[-1, rows.bins, columns.bins, channels])
    return mb.transpose(x=found, perm=[0, 3, 1, 2], name=node.output())


def _neighbours(sampling: _Sampling, x: Var) -> list[tuple[Var, Var]]:
    """The pixels before and behind each point, with their weights."""
    before = mb.floor(x=sampling.places)
    behind = mb.minimum(x=mb.add(x=before, y=like(x, 1)), y=like(x, sampling.size - 1))
    part = mb.sub(x=sampling.places, y=before)
    weights = [mb.mul(x=one, y=sampling.inside) for one in (mb.sub(x=like(x, 1), y=part), part)]
    pixels = [mb.cast(x=one, dtype="int32") for one in (before, behind)]
    return list(zip(pixels, weights, strict=True))


_POOLS = {"avg": _means, "max": _maxima}

OPERATORS: Operators = {"NonMaxSuppression": _non_max_suppression, "RoiAlign": _roi_align}
