"""`Palettized` as calls: the lookup that is cheapest for its table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from compressor.arrays import BFLOAT16, Array, Shape, bits
from compressor.encodings import Palettized, index_bits, shape
from compressor.formats.onnx.codes import group_of_places, repeated, spread, store_codes, store_packed
from compressor.formats.onnx.lowered import Lowered, NonZeros

# One lookup in a table that is repeated along the other axes is three times as fast as a row for every index, and the
# repeated table is small where the axis is this many times longer than the table.
_LONG_AXIS = 4


def palettized(made: Lowered, encoding: Palettized, name: str, at: NonZeros | None = None) -> str:
    """The values; only those of the non-zeros `at` their places, if given."""
    lut = encoding.lut
    indices = store_codes(made, f"{made.prefix}.indices", encoding.indices, width=index_bits(lut))
    place = f"{made.prefix}.lut"
    inputs = [indices, store_packed(made, place, lut) if bits(lut.dtype) < 8 else made.store(place, lut)]
    groups, entries = tuple(lut.shape[:-2]), lut.shape[-2]
    if at is not None and math.prod(groups) > 1:
        inputs.append(group_of_places(made, f"{place}.group", at, groups))
        return made.call("lut_at", inputs, name, entries=[entries], groups=groups)
    of, groups = tuple(encoding.indices.shape), groups if at is None else (1,)
    axis = _long_axis(of, groups, lut)
    if axis is not None:
        return made.call("lut_to_dense", inputs, name, **_table_by_axis(of, groups, entries, axis))
    suffix, attributes = _rows(encoding)
    return made.call(f"gather_lut{suffix}", inputs, name, **attributes)


def _rows(encoding: Palettized) -> tuple[str, Mapping[str, Any]]:
    """What `gather_lut` is called by and with: whether there are groups, and entries of several values."""
    suffix, attributes = "", dict[str, Any]()
    *groups, entries, vector = encoding.lut.shape
    indices = tuple(encoding.indices.shape)
    if math.prod(groups) > 1:
        suffix += "_groups"
        attributes |= {"entries": [entries], **spread("groups", tuple(groups), repeated(tuple(groups), indices))}
    if vector > 1:
        suffix += "_vectors"
        assert encoding.vector_axis is not None
        rank, place = len(indices), encoding.vector_axis
        perm = [*range(place + 1), rank, *range(place + 1, rank)]
        attributes |= {"vectors": (-1, vector), "perm": perm, "shape": shape(encoding)}
    return suffix, attributes


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
