"""`Resize`: MIL's own operators where they sample the same points, else a product with the interpolation's matrix."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var
from coremltools.converters.mil.mil.types.symbolic import is_symbolic

from compressor.arrays import NDArray
from compressor.targets.coreml.mil.node import Constant, Node, Operators
from compressor.targets.coreml.mil.values import Dim, UnsupportedError, like, shape, static

_SAMPLING = {
    "half_pixel": "UNALIGN_CORNERS",
    "pytorch_half_pixel": "UNALIGN_CORNERS",
    "align_corners": "STRICT_ALIGN_CORNERS",
    "asymmetric": "DEFAULT",
}
"""MIL's name of ONNX's transformation of coordinates, where the scale is the ratio of the sizes."""


def _resize(node: Node) -> Var:
    x = node.var(0)
    mode = node.attribute("mode", "nearest")
    if mode not in {"nearest", "linear", "cubic"}:
        raise UnsupportedError(f"mode {mode!r}")
    made = _axes(node, x)
    scales, sizes = [one.scale for one in made], [one.size for one in made]
    axes = [axis for axis, one in enumerate(made) if one.scale != 1 or one.region != (0.0, 1.0)]
    if not axes:
        return mb.identity(x=x, name=node.output())
    spatial = x.rank >= 3 and all(axis >= x.rank - 2 for axis in axes)
    if spatial and mode == "nearest" and _repeats(node, scales):
        height, width = (np.float32(scale) for scale in scales[-2:])
        return mb.upsample_nearest_neighbor(
            x=x, scale_factor_height=height, scale_factor_width=width, name=node.output()
        )
    if any(is_symbolic(shape(x)[axis]) for axis in axes):
        raise UnsupportedError("a dynamic axis is resized otherwise than to a multiple by nearest neighbours")
    if spatial and mode == "linear" and _samples_alike(node, x, scales, sizes):
        return mb.resize_bilinear(
            x=x, target_size_height=sizes[-2], target_size_width=sizes[-1],
            sampling_mode=_SAMPLING[_transformation(node)], name=node.output(),
        )  # fmt: skip
    return _by_matrix(node, x, {axis: made[axis] for axis in axes})


def _transformation(node: Node) -> str:
    return str(node.attribute("coordinate_transformation_mode", "half_pixel"))


@dataclass(frozen=True)
class _Axis:
    """How an axis is resampled: its scale, its size afterwards (-1 for a dynamic one), the part of it that is taken."""

    scale: float = 1.0
    size: int = -1
    region: tuple[float, float] = (0.0, 1.0)


def _axes(node: Node, x: Var) -> list[_Axis]:
    """What becomes of every axis; scales or sizes are given.

    Raises: UnsupportedError.
    """
    found = [None if node.operand(place) is None else node.constant(place, "scales and sizes") for place in (2, 3)]
    scales, sizes = (one if one is not None and one.size else None for one in found)
    dims, axes = shape(x), [axis % x.rank for axis in node.attribute("axes", range(x.rank))]
    result = [_Axis(size=-1 if is_symbolic(dim) else dim) for dim in dims]
    regions = _regions(node, len(axes))
    if scales is not None:
        given = dict(zip(axes, zip(scales.tolist(), regions, strict=True), strict=True))
        return [
            _Axis(given[axis][0], _scaled(dims[axis], given[axis][0]), given[axis][1]) if axis in given else one
            for axis, one in enumerate(result)
        ]
    if sizes is None:
        raise UnsupportedError("neither scales nor sizes")
    ratios = [1.0 if is_symbolic(dims[axis]) else size / dims[axis] for axis, size in zip(axes, sizes, strict=True)]
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        static([dims[axis] for axis in axes], "an axis whose ratio is kept")
        one_ratio = {"not_larger": min, "not_smaller": max}[policy](ratios)
        ratios, sizes = [one_ratio] * len(axes), np.floor([one_ratio * dims[axis] + 0.5 for axis in axes])
    for axis, ratio, size, region in zip(axes, ratios, sizes.tolist(), regions, strict=True):
        result[axis] = _Axis(ratio, -1 if is_symbolic(dims[axis]) else int(size), region)
    return result


def _scaled(dim: Dim, scale: float) -> int:
    return -1 if is_symbolic(dim) else int(np.floor(dim * scale))


def _regions(node: Node, count: int) -> list[tuple[float, float]]:
    """The part of each axis that is taken, between 0 and 1: all but of `tf_crop_and_resize`."""
    if _transformation(node) != "tf_crop_and_resize":
        return [(0.0, 1.0)] * count
    low, high = node.constant(1, "the region").astype(np.float64).reshape(2, -1)
    return [(float(first), float(last)) for first, last in zip(low, high, strict=True)]


def _repeats(node: Node, scales: list[float]) -> bool:
    """Whether every element is repeated as often as the scale says."""
    rounding, transformation = node.attribute("nearest_mode", "round_prefer_floor"), _transformation(node)
    whole = all(scale >= 1 and scale == int(scale) for scale in scales)
    centred = transformation in {"half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"}
    return whole and (
        (transformation == "asymmetric" and rounding == "floor") or (centred and rounding.startswith("round"))
    )


def _samples_alike(node: Node, x: Var, scales: list[float], sizes: list[int]) -> bool:
    exact = all(
        is_symbolic(dim) or abs(dim * scale - size) < 1e-6 * size
        for dim, scale, size in zip(shape(x), scales, sizes, strict=True)
    )
    single = any(size == 1 for size in sizes[-2:])  # coordinates of one sample are a case of their own
    return (
        _transformation(node) in _SAMPLING
        and exact
        and not single
        and not node.attribute("antialias", 0)
        and -1 not in sizes[-2:]
    )


def _by_matrix(node: Node, x: Var, axes: Mapping[int, _Axis]) -> Var:
    """Axis by axis: it comes last and is multiplied with `[in, out]`; what lies outside has a value of its own."""
    options, outside = _options(node), node.attribute("extrapolation_value", 0.0)
    for place, (axis, wanted) in enumerate(axes.items()):
        count = static([shape(x)[axis]], "a resized axis")[0]
        matrix = interpolation(count, wanted.size, wanted.scale, {**options, "region": wanted.region})
        const = node.scope.const(Constant(matrix.astype(like(x, 0).dtype)), f"{node.output()}.axis{axis}")
        perm = list(range(x.rank))
        perm[axis], perm[-1] = perm[-1], perm[axis]
        last = axis == x.rank - 1
        turned = x if last else mb.transpose(x=x, perm=perm)
        x = mb.matmul(x=turned, y=const)
        missing = (~matrix.any(axis=0)).astype(like(x, 0).dtype)
        if outside and missing.any():
            x = mb.add(x=x, y=missing * like(x, outside))
        x = x if last else mb.transpose(x=x, perm=perm)
        x = mb.identity(x=x, name=node.output()) if place == len(axes) - 1 else x
    return x


def _options(node: Node) -> Mapping[str, object]:
    if _transformation(node) not in {*_SAMPLING, "half_pixel_symmetric", "tf_crop_and_resize"}:
        raise UnsupportedError(f"coordinates {_transformation(node)!r}")
    return {
        "mode": node.attribute("mode", "nearest"),
        "transformation": _transformation(node),
        "rounding": node.attribute("nearest_mode", "round_prefer_floor"),
        "a": node.attribute("cubic_coeff_a", -0.75),
        "exclude_outside": bool(node.attribute("exclude_outside", 0)),
        "antialias": bool(node.attribute("antialias", 0)),
    }


def interpolation(count: int, size: int, scale: float, options: Mapping[str, Any]) -> NDArray:
    """The matrix `[count, size]` float64 that resamples an axis of `count` elements to `size`.

    Columns are zero where `tf_crop_and_resize` looks outside.
    Source: ONNX operator Resize: transformations of coordinates, nearest modes, cubic coefficients of Keys, antialias.
    """
    places = _coordinates(np.arange(size, dtype=np.float64), count, size, scale, options)
    if options["mode"] == "nearest":
        offsets, weights = np.zeros(1, np.int64), np.ones((1, size))
        base = _rounded(places, str(options["rounding"]))
    else:
        base = np.floor(places).astype(np.int64)
        offsets, weights = _kernel(places - base, scale, options)
    rows = base + offsets[:, None]
    if options["exclude_outside"]:
        weights = np.where((rows >= 0) & (rows < count), weights, 0)
        weights = weights / weights.sum(axis=0)
    if options["transformation"] == "tf_crop_and_resize":
        weights = np.where((places >= 0) & (places <= count - 1), weights, 0)
    matrix = np.zeros((count, size))
    np.add.at(matrix, (np.clip(rows, 0, count - 1), np.broadcast_to(np.arange(size), rows.shape)), weights)
    return matrix


def _kernel(parts: NDArray, scale: float, options: Mapping[str, Any]) -> tuple[NDArray, NDArray]:
    """The neighbours `[n]` of each place, their weights `[n, size]`; antialias takes more for a lesser scale."""
    cubic, narrow = options["mode"] == "cubic", min(scale, 1.0) if options["antialias"] else 1.0
    start = int(np.floor((-2 if cubic else -1) / narrow)) + 1
    offsets = np.arange(start, 2 - start)
    distances = np.abs(offsets[:, None] - parts) * narrow
    weights = _cubic(distances, float(options["a"])) if cubic else np.clip(1 - distances, 0, 1)
    return offsets, weights / weights.sum(axis=0) if options["antialias"] else weights


def _coordinates(x: NDArray, count: int, size: int, scale: float, options: Mapping[str, Any]) -> NDArray:
    """Where the elements of the result lie in the input."""
    transformation = options["transformation"]
    if transformation == "asymmetric":
        return x / scale
    if transformation == "align_corners":
        return x * (count - 1) / (scale * count - 1) if size > 1 else np.zeros_like(x)
    if transformation == "tf_crop_and_resize":
        first, last = (end * (count - 1) for end in options["region"])
        return first + x * (last - first) / (size - 1) if size > 1 else np.full_like(x, (first + last) / 2)
    if transformation == "pytorch_half_pixel" and size == 1:
        return np.zeros_like(x)
    shift = 0.0
    if transformation == "half_pixel_symmetric":
        shift = count / 2 * (1 - size / (scale * count))
    return shift + (x + 0.5) / scale - 0.5


def _rounded(places: NDArray, rounding: str) -> NDArray:
    found = {
        "floor": np.floor(places),
        "ceil": np.ceil(places),
        "round_prefer_floor": np.ceil(places - 0.5),
        "round_prefer_ceil": np.floor(places + 0.5),
    }[rounding]
    return found.astype(np.int64)


def _cubic(distance: NDArray, a: float) -> NDArray:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


OPERATORS: Operators = {"Resize": _resize}
