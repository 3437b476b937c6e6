"""`Palettized` as calls: the lookup that is cheapest for its table."""

from __future__ import annotations

import math
from typing import Any

from compressor.arrays import BFLOAT16, Array, Shape, bits
from compressor.encodings import Palettized, index_bits, shape
from compressor.formats.onnx.codes import group_of_places, repeated, spread, store_codes
from compressor.formats.onnx.lowered import Lowered

# One lookup in a table that is repeated along the other axes is three times as fast as a row for every index, and the
# repeated table is small where the axis is this many times longer than the table.
_LONG_AXIS = 4


def palettized(
    made: Lowered, encoding: Palettized, name: str, prefix: str, opset: int, places: str = "", whole: Shape = ()
) -> str:
    """The values; those of the non-zeros at `places` of a weight of shape `whole`, if given."""
    lut, width = encoding.lut, index_bits(encoding.lut)
    codes = store_codes(made, f"{prefix}.indices", encoding.indices, opset, width=width)
    groups, (entries, vector) = tuple(lut.shape[:-2]), lut.shape[-2:]
    table = store_codes(made, f"{prefix}.lut", lut, 13) if bits(lut.dtype) < 8 else made.store(f"{prefix}.lut", lut)
    indices = tuple(encoding.indices.shape)
    if places and math.prod(groups) > 1:
        group = group_of_places(made, f"{prefix}.lut.group", places, groups, whole)
        return made.call("lut_at", [codes, table, group], name, entries=[entries], groups=groups)
    if places:
        groups = (1,)
    axis = _long_axis(indices, groups, lut)
    if axis is not None:
        return made.call("lut_to_dense", [codes, table], name, **_table_by_axis(indices, groups, entries, axis))
    attributes: dict[str, Any] = {}
    suffix = ""
    if math.prod(groups) > 1:
        suffix += "_groups"
        attributes |= {"entries": [entries], **spread("groups", groups, repeated(groups, indices))}
    if vector > 1:
        suffix += "_vectors"
        assert encoding.vector_axis is not None
        rank, place = len(indices), encoding.vector_axis
        perm = [*range(place + 1), rank, *range(place + 1, rank)]
        attributes |= {"vectors": (-1, vector), "perm": perm, "shape": shape(encoding)}
    return made.call(f"gather_lut{suffix}", [codes, table], name, **attributes)


def _long_axis(indices: Shape, groups: Shape, lut: Array) -> int | None:
    """The axis that a table goes along: ungrouped and long, the last one if it will do."""
    entries, vector = lut.shape[-2:]
    if vector > 1 or lut.dtype == BFLOAT16:  # ONNX Runtime's `Expand` has no bfloat16
        return None
    long = [axis for axis, dim in enumerate(indices) if groups[axis] == 1 and dim >= _LONG_AXIS * entries]
    return max(long, key=lambda axis: (axis == len(indices) - 1, indices[axis])) if long else None


def _table_by_axis(indices: Shape, groups: Shape, entries: int, axis: int) -> dict[str, Any]:
    rank = len(indices)
    counts = tuple(entries if place == axis else count for place, count in enumerate(groups))
    rows = tuple(entries if place == axis else dim for place, dim in enumerate(indices))
    perm = [rank if place == axis else place for place in range(rank)] + [axis]
    return {"tables": (*groups, entries), "perm": perm, "axis": axis, **spread("rows", counts, rows)}
