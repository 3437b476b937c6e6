"""Stored codes, and parameters by group or block, as calls that give each element its own."""

from __future__ import annotations

import math
from typing import Any

from compressor.arrays import CODE_DTYPES, UINT8, Array, Shape, bits
from compressor.formats.onnx.dtypes import DATA_TYPES, SINCE
from compressor.formats.onnx.lowered import Lowered, NonZeros, Part

_NEVER = 1 << 30


def store_codes(made: Lowered, name: str, array: Array, dims: Shape | None = None, width: int = 0) -> str:
    """Stored codes, whose value is uint8, int8 or a 2- or 4-bit type, of shape `dims`.

    width: the bits of each code, for indices, which are uint8 whatever they take; 0 for those of the array's own type.
    """
    kind = f"uint{width}" if width else array.dtype.name
    if (width or bits(array.dtype)) == 8:
        return made.store(name, array, dims)
    if made.opset < SINCE.get(CODE_DTYPES.get(kind, UINT8), _NEVER):
        return store_packed(made, name, array, dims, width)
    made.parts.append(Part(name, DATA_TYPES[kind], tuple(array.shape) if dims is None else dims, array, width))
    return name


def store_packed(made: Lowered, name: str, array: Array, dims: Shape | None = None, width: int = 0) -> str:
    """The same as bytes that a function unpacks, for operators that do not take the type.

    They lie in runs of the fewest codes that fill whole bytes: 8 codes of 3 bits in 3 bytes for example.
    """
    dims = tuple(array.shape) if dims is None else dims
    kind, width = (f"uint{width}", width) if width else (array.dtype.name, bits(array.dtype))
    step = 8 // math.gcd(width, 8)
    runs, run = -(-array.size // step), step * width // 8
    packed = made.store(name, array, (runs,) if run == 1 else (runs, run), width)
    part = "_part" if array.size % step else ""
    return made.call(f"unpack_{kind}{part}", [packed], f"{name}.unpacked", shape=dims)


def spread(what: str, counts: Shape, to: Shape) -> dict[str, Any]:
    """The attributes of `Body.spread`: a parameter `counts`, repeated to the shape `to`.

    >>> spread("rows", (2, 1), (6, 8))
    {'rows_grid': (2, 1, 1, 1), 'rows_spread': (2, 3, 1, 8), 'rows_shape': (6, 8)}
    """
    blocks = [dim // count if count else 1 for count, dim in zip(counts, to, strict=True)]
    grid = tuple(size for count in counts for size in (count, 1))
    both = tuple(size for pair in zip(counts, blocks, strict=True) for size in pair)
    return {f"{what}_grid": grid, f"{what}_spread": both, f"{what}_shape": to}


def repeated(counts: Shape, whole: Shape) -> Shape:
    """A parameter's shape after its blocks are repeated, where it still broadcasts along the axes it has one for."""
    return tuple(1 if count == 1 else dim for count, dim in zip(counts, whole, strict=True))


def group_of_places(made: Lowered, name: str, at: NonZeros, counts: Shape, block: Shape | None = None) -> str:
    """The group or block of each place, `counts` of them along each axis.

    block: the lengths of one, where the last one of an axis is shorter.
    """
    attributes: dict[str, Any] = {}
    axes = [axis for axis, count in enumerate(counts) if count > 1]
    for number, axis in enumerate(axes):
        inner = math.prod(at.shape[axis + 1 :])
        attributes[f"step{number}"] = [inner if block else inner * (at.shape[axis] // counts[axis])]
        attributes[f"count{number}"] = [at.shape[axis] if block else counts[axis]]
        if block:
            attributes[f"block{number}"] = [block[axis]]
        if len(axes) > 1:
            attributes[f"stride{number}"] = [math.prod(counts[axis + 1 :])]
    return made.call(f"group{len(axes)}{'_short' if block else ''}", [at.places], name, **attributes)
