"""`Resize`: MIL's own operators where they sample the same points, else a product with the interpolation's matrix."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var
from coremltools.converters.mil.mil.types.symbolic import is_symbolic

from compressor.arrays import NDArray
from compressor.formats.coreml.frontends.onnx_operators.node import (
    Constant,
    Node,
    Operators,
    UnsupportedError,
    like,
    shape,
    static,
)

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
    scales = _scales(node, x)
    axes = [axis for axis, scale in enumerate(scales) if scale != 1]
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
    sizes = _sizes(node, x, scales)
    if spatial and mode == "linear" and _samples_alike(node, x, scales, sizes):
        return mb.resize_bilinear(
            x=x, target_size_height=sizes[-2], target_size_width=sizes[-1],
            sampling_mode=_SAMPLING[_transformation(node)], name=node.output(),
        )  # fmt: skip
    return _by_matrix(node, x, axes, scales, sizes)


def _transformation(node: Node) -> str:
    return str(node.attribute("coordinate_transformation_mode", "half_pixel"))


def _wanted(node: Node) -> tuple[NDArray | None, NDArray | None]:
    """Scales and sizes: one of them is given."""
    found = [None if node.operand(place) is None else node.constant(place, "scales and sizes") for place in (2, 3)]
    scales, sizes = (one if one is not None and one.size else None for one in found)
    if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedError("keep_aspect_ratio_policy")
    if scales is None and sizes is None:
        raise UnsupportedError("neither scales nor sizes")
    return scales, sizes


def _scales(node: Node, x: Var) -> list[float]:
    """Of every axis."""
    scales, sizes = _wanted(node)
    axes = list(node.attribute("axes", range(x.rank)))
    result = [1.0] * x.rank
    if scales is not None:
        for axis, scale in zip(axes, scales.tolist(), strict=True):
            result[axis] = scale
        return result
    assert sizes is not None
    for axis, size in zip(axes, sizes.tolist(), strict=True):
        dim = shape(x)[axis]
        if not is_symbolic(dim):
            result[axis] = size / dim
    return result


def _sizes(node: Node, x: Var, scales: list[float]) -> list[int]:
    """The resulting size of every axis that is known."""
    _, sizes = _wanted(node)
    axes = list(node.attribute("axes", range(x.rank)))
    given = {} if sizes is None else dict(zip([axis % x.rank for axis in axes], sizes.tolist(), strict=True))
    return [
        -1 if is_symbolic(dim) else int(given.get(axis, np.floor(dim * scale)))
        for axis, (dim, scale) in enumerate(zip(shape(x), scales, strict=True))
    ]


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


def _by_matrix(node: Node, x: Var, axes: list[int], scales: list[float], sizes: list[int]) -> Var:
    """Axis by axis: the axis comes last and is multiplied with `[in, out]`."""
    for place, axis in enumerate(axes):
        matrix = interpolation(static([shape(x)[axis]], "a resized axis")[0], sizes[axis], scales[axis], _options(node))
        const = node.scope.const(Constant(matrix.astype(like(x, 0).dtype)), f"{node.output()}.axis{axis}")
        perm = list(range(x.rank))
        perm[axis], perm[-1] = perm[-1], perm[axis]
        turned = mb.transpose(x=x, perm=perm) if axis != x.rank - 1 else x
        named = {"name": node.output()} if place == len(axes) - 1 else {}
        if axis == x.rank - 1:
            x = mb.matmul(x=turned, y=const, **named)
        else:
            x = mb.transpose(x=mb.matmul(x=turned, y=const), perm=perm, **named)
    return x


def _options(node: Node) -> Mapping[str, object]:
    if _transformation(node) not in {*_SAMPLING, "half_pixel_symmetric"} or node.attribute("antialias", 0):
        raise UnsupportedError(f"{_transformation(node)}, antialias {node.attribute('antialias', 0)}")
    return {
        "mode": node.attribute("mode", "nearest"),
        "transformation": _transformation(node),
        "rounding": node.attribute("nearest_mode", "round_prefer_floor"),
        "a": node.attribute("cubic_coeff_a", -0.75),
        "exclude_outside": bool(node.attribute("exclude_outside", 0)),
    }


def interpolation(count: int, size: int, scale: float, options: Mapping[str, object]) -> NDArray:
    """The matrix `[count, size]` float64 that resamples an axis of `count` elements to `size`.

    Source: ONNX operator Resize: transformations of coordinates, nearest modes, cubic coefficients of Keys.
    """
    places = _coordinates(np.arange(size, dtype=np.float64), count, size, scale, str(options["transformation"]))
    if options["mode"] == "nearest":
        offsets, weights = np.zeros(1, np.int64), np.ones((1, size))
        base = _rounded(places, str(options["rounding"]))
    elif options["mode"] == "linear":
        base = np.floor(places).astype(np.int64)
        part = places - base
        offsets, weights = np.arange(2), np.stack([1 - part, part])
    else:
        base = np.floor(places).astype(np.int64)
        offsets = np.arange(-1, 3)
        weights = np.stack([_cubic(np.abs(places - base - offset), float(options["a"])) for offset in offsets])  # type: ignore[arg-type]
    rows = base + offsets[:, None]
    if options["exclude_outside"]:
        weights = np.where((rows >= 0) & (rows < count), weights, 0)
        weights = weights / weights.sum(axis=0)
    matrix = np.zeros((count, size))
    np.add.at(matrix, (np.clip(rows, 0, count - 1), np.broadcast_to(np.arange(size), rows.shape)), weights)
    return matrix


def _coordinates(x: NDArray, count: int, size: int, scale: float, transformation: str) -> NDArray:
    """Where the elements of the result lie in the input."""
    if transformation == "asymmetric":
        return x / scale
    if transformation == "align_corners":
        return x * (count - 1) / (scale * count - 1) if size > 1 else np.zeros_like(x)
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


_PADDING = {"zeros": "constant", "border": "border"}


def _grid_sample(node: Node) -> Var:
    x, mode = node.var(0), node.attribute("mode", "linear")
    padding, align = node.attribute("padding_mode", "zeros"), bool(node.attribute("align_corners", 0))
    sampling = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest"}.get(mode)
    if sampling is None or x.rank != 4:
        raise UnsupportedError(f"mode {mode!r} of {x.rank} axes")
    return mb.resample(
        x=x,
        coordinates=node.var(1),
        sampling_mode=sampling,
        padding_mode=_PADDING.get(padding, "reflection" if align else "symmetric"),
        padding_value=like(x, 0),
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=align,
        name=node.output(),
    )


OPERATORS: Operators = {"GridSample": _grid_sample, "Resize": _resize}
