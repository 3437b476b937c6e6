"""Stored codes, and parameters by group or block, as calls that give each element its own."""

from __future__ import annotations

import math
from typing import Any

from compressor.arrays import Array, Shape, bits
from compressor.formats.onnx.dtypes import DATA_TYPES, SINCE
from compressor.formats.onnx.lowered import Lowered, Part


def store_codes(made: Lowered, name: str, array: Array, opset: int, dims: Shape | None = None, width: int = 0) -> str:
    """Stored codes, whose value is uint8, int8 or a 2- or 4-bit type, of shape `dims`."""
    dims = tuple(array.shape) if dims is None else dims
    native = width in {0, 8} or opset >= SINCE.get(f"uint{width}", 1 << 30)
    own = bits(array.dtype)
    if own < 8:  # an array of a 2- or 4-bit type
        if opset >= SINCE[array.dtype.name]:
            return made.store(name, array, dims)
        return _unpacked(made, name, array, dims, own, array.dtype.name)
    if native and width in {2, 4}:
        made.parts.append(Part(name, DATA_TYPES[f"uint{width}"], dims, array, width))
        return name
    return made.store(name, array, dims) if native else _unpacked(made, name, array, dims, width, f"uint{width}")


def _unpacked(made: Lowered, name: str, array: Array, dims: Shape, width: int, kind: str) -> str:
    step = 8 // math.gcd(width, 8)
    runs, run = -(-array.size // step), step * width // 8
    packed = made.store(name, array, (runs,) if run == 1 else (runs, run), width)
    part = "_part" if array.size % step else ""
    return made.call(f"unpack_{kind}{part}", [packed], f"{name}.unpacked", shape=dims)


def spread(what: str, counts: Shape, to: Shape) -> dict[str, Any]:
    """The attributes of `Body.spread`: a parameter `counts`, repeated to the shape `to`."""
    blocks = [dim // count if count else 1 for count, dim in zip(counts, to, strict=True)]
    grid = tuple(size for count in counts for size in (count, 1))
    both = tuple(size for pair in zip(counts, blocks, strict=True) for size in pair)
    return {f"{what}_grid": grid, f"{what}_spread": both, f"{what}_shape": to}


def repeated(counts: Shape, whole: Shape) -> Shape:
    """A parameter's shape after its blocks are repeated, where it still broadcasts along the axes it has one for."""
    return tuple(1 if count == 1 else dim for count, dim in zip(counts, whole, strict=True))


def group_of_places(made: Lowered, name: str, places: str, counts: Shape, whole: Shape) -> str:
    """The group or block of each place."""
    attributes: dict[str, Any] = {}
    axes = [axis for axis, count in enumerate(counts) if count > 1]
    for number, axis in enumerate(axes):
        inner = math.prod(whole[axis + 1 :])
        attributes[f"step{number}"] = [inner * (whole[axis] // counts[axis])]
        attributes[f"count{number}"] = [counts[axis]]
        if len(axes) > 1:
            attributes[f"stride{number}"] = [math.prod(counts[axis + 1 :])]
    return made.call(f"group{len(axes)}", [places], name, **attributes)
