"""`Palettized` as calls: the lookup that is cheapest for its table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from compressor.arrays import BFLOAT16, Array, Shape, bits
from compressor.encodings import Palettized, index_bits, shape
from compressor.formats.onnx.codes import group_of_places, repeated, spread, store_codes, store_packed
from compressor.formats.onnx.lowered import Lowered, NonZeros

# A table that is repeated along the other axes is small where the one that it goes along is this many times longer.
_LONG_AXIS = 4


def palettized(made: Lowered, encoding: Palettized, name: str, at: NonZeros | None = None) -> str:
    """The values; only those of the non-zeros `at` their places, if given."""
    lut, of = encoding.lut, tuple(encoding.indices.shape)
    *counts, entries, _ = lut.shape
    groups = (1,) if at is not None and math.prod(counts) == 1 else tuple(counts)
    axis = _long_axis(of, groups, lut)
    function = _function(groups, lut, axis, at)
    rows = (groups[0], math.prod(of) // groups[0]) if function == "lut_to_dense_by_row" else None
    indices = store_codes(made, f"{made.prefix}.indices", encoding.indices, rows, index_bits(lut))
    place = f"{made.prefix}.lut"
    inputs = [indices, store_packed(made, place, lut) if bits(lut.dtype) < 8 else made.store(place, lut)]
    match function:
        case "lut_at":
            assert at is not None
            inputs.append(group_of_places(made, f"{place}.group", at, groups))
            return made.call(function, inputs, name, entries=[entries], groups=groups)
        case "lut_to_dense_along":
            assert axis is not None
            table, along = ([entries if place == axis else dim for place, dim in enumerate(to)] for to in (groups, of))
            return made.call(function, inputs, name, table=table, rows=along, axis=axis)
        case "lut_to_dense":
            assert axis is not None
            return made.call(function, inputs, name, **_table_by_axis(of, groups, entries, axis))
        case "lut_to_dense_by_row":
            return made.call(function, inputs, name, tables=(groups[0], entries), shape=of)
        case _:
            suffix, attributes = _rows(encoding)
            return made.call(f"gather_lut{suffix}", inputs, name, **attributes)


def _function(groups: Shape, lut: Array, axis: int | None, at: NonZeros | None) -> str:
    """What looks the values up soonest: `GatherElements` takes 1 ns a value in ONNX Runtime 1.31, `Gather` 8.

    Along an axis of the weight it gives the values in their shape; by row they are copied into it.
    """
    if at is not None and math.prod(groups) > 1:
        return "lut_at"
    if axis is not None:
        return "lut_to_dense_along" if math.prod(groups) == 1 else "lut_to_dense"
    by_row = at is None and lut.shape[-1] == 1 and math.prod(groups[1:]) == 1
    return "lut_to_dense_by_row" if by_row else "gather_lut"


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
