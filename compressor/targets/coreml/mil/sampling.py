"""`GridSample`: MIL's own operator where it samples the same, else the sum of what lies around each point."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

import itertools
import math
from functools import reduce

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.targets.coreml.mil.node import Node, Operators
from compressor.targets.coreml.mil.values import UnsupportedError, like, shape, spelled_dtype, static

_PADDING = {"zeros": "constant", "border": "border"}
_MODES = {"bilinear": "linear", "bicubic": "cubic"}
"""What a mode was called before opset 20."""
_RANKS = {"nearest": {4, 5}, "linear": {4, 5}, "cubic": {4}}


def _grid_sample(node: Node) -> Var:
    x, mode = node.var(0), node.attribute("mode", "linear")
    mode = _MODES.get(mode, mode)
    padding, align = node.attribute("padding_mode", "zeros"), bool(node.attribute("align_corners", 0))
    if x.rank not in _RANKS.get(mode, ()):
        raise UnsupportedError(f"mode {mode!r} of {x.rank} axes")
    if padding not in {*_PADDING, "reflection"}:
        raise UnsupportedError(f"padding {padding!r}")
    if mode == "cubic" or x.rank != 4:
        return _by_neighbours(node, x, mode, padding, align=align)
    return mb.resample(
        x=x,
        coordinates=node.var(1),
        sampling_mode="bilinear" if mode == "linear" else mode,
        padding_mode=_PADDING.get(padding, "reflection" if align else "symmetric"),
        padding_value=like(x, 0),
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=align,
        name=node.output(),
    )


def _by_neighbours(node: Node, x: Var, mode: str, padding: str, *, align: bool) -> Var:
    """Of each point the neighbours along every axis, each with its weight: `[batch, points]`."""
    batch, channels, *sizes = static(shape(x), "what is sampled with such a mode, or along three axes,")
    grid, rank = node.var(1), len(sizes)
    out = static(shape(grid)[1:-1], "the points")
    points = mb.split(x=mb.reshape(x=grid, shape=[batch, math.prod(out), rank]), split_sizes=[1] * rank, axis=2)
    axes = [
        _neighbours(mb.squeeze(x=point, axes=[2]), size, mode, padding, align=align)
        for point, size in zip(reversed(points), sizes, strict=True)
    ]
    pixels = mb.transpose(x=x, perm=[0, *range(2, x.rank), 1])
    pixels = mb.reshape(x=pixels, shape=[batch * math.prod(sizes), channels])
    images = np.arange(batch, dtype=np.int32)[:, None]
    terms = []
    for around in itertools.product(*axes):
        places = images
        for size, (place, _) in zip(sizes, around, strict=True):
            places = mb.add(x=mb.mul(x=places, y=np.int32(size)), y=place)
        weights = reduce(lambda one, other: mb.mul(x=one, y=other), (weight for _, weight in around))
        terms.append(mb.mul(x=mb.gather(x=pixels, indices=places, axis=0), y=mb.expand_dims(x=weights, axes=[2])))
    found = reduce(lambda one, other: mb.add(x=one, y=other), terms)
    return mb.reshape(x=mb.transpose(x=found, perm=[0, 2, 1]), shape=[batch, channels, *out], name=node.output())


def _neighbours(point: Var, size: int, mode: str, padding: str, *, align: bool) -> list[tuple[Var, Var]]:
    """The pixels around each point along an axis, with their weights; the axis goes from -1 to 1.

    Source: ONNX operator GridSample. A point is reflected, and then its pixels; the pixels alone are clamped, as ONNX
    Runtime and PyTorch do it (ONNX's reference clamps the point of a cubic, too).
    """
    kind = like(point, 0).dtype.type
    length, shift = (size - 1, 0.0) if align else (size, 0.5)
    half = mb.mul(x=mb.add(x=point, y=kind(1)), y=kind(length / 2))
    place = mb.sub(x=half, y=kind(shift)) if shift else half
    if mode == "nearest":
        place = mb.round(x=place)
    if padding == "reflection":
        place = _reflected(place, size, shift)
    first = mb.floor(x=place)
    part = mb.sub(x=place, y=first)
    found = []
    for step in {"nearest": [0], "linear": [0, 1], "cubic": [-1, 0, 1, 2]}[mode]:
        pixel, weight = mb.add(x=first, y=kind(step)), _weight(part, step, mode)
        if padding == "zeros":
            inside = mb.logical_and(x=mb.greater_equal(x=pixel, y=kind(0)), y=mb.less(x=pixel, y=kind(size)))
            weight = mb.mul(x=weight, y=mb.cast(x=inside, dtype=spelled_dtype(point)))
        if padding == "reflection":
            pixel = _reflected(pixel, size, shift)
        pixel = mb.clip(x=pixel, alpha=kind(0), beta=kind(size - 1))
        found.append((mb.cast(x=pixel, dtype="int32"), weight))
    return found


def _reflected(place: Var, size: int, shift: float) -> Var:
    """Where a place comes to lie that is reflected at both ends of the axis as often as it takes."""
    kind = like(place, 0).dtype.type
    length = max(size - 1 + 2 * shift, 1)
    far = mb.mod(x=mb.abs(x=mb.add(x=place, y=kind(shift))), y=kind(2 * length))
    return mb.sub(x=mb.minimum(x=far, y=mb.sub(x=kind(2 * length), y=far)), y=kind(shift))


def _weight(part: Var, step: int, mode: str) -> Var:
    """Of the pixel `step` behind the one before a point that lies `part` behind that; the cubic of Keys, a = -0.75."""
    kind = like(part, 0).dtype.type
    distance = mb.abs(x=mb.sub(x=part, y=kind(step)))
    if mode != "cubic":
        return mb.sub(x=kind(1), y=distance)
    a = -0.75
    terms = [a + 2, -(a + 3), 0, 1] if step in {0, 1} else [a, -5 * a, 8 * a, -4 * a]
    value = mb.mul(x=distance, y=kind(terms[0]))
    for term in terms[1:-1]:
        value = mb.mul(x=mb.add(x=value, y=kind(term)), y=distance)
    return mb.add(x=value, y=kind(terms[-1]))


OPERATORS: Operators = {"GridSample": _grid_sample}
