"""Weights that are one under several names: stored once, and read by all who read a copy of them.

A tied embedding is often exported twice, once transposed. The copy becomes a `Transpose` of the other weight, which
ONNX Runtime computes when a session is created.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from compressor.arrays import Array, NDArray, is_float, leading
from compressor.encodings import Dense
from compressor.formats.onnx.graphs import walk
from compressor.patterns import patterns
from compressor.weight import Weight

if TYPE_CHECKING:
    import onnx

SMALLEST = 2048
"""Copies of at most this many elements are left as they are."""

_CORNER = 8
_ROWS = 256


def tie(graph: onnx.GraphProto, weights: Sequence[Weight]) -> tuple[tuple[Weight, ...], dict[str, str]]:
    """The weights without those that are copies of an earlier one, whose readers are changed in place.

    Also, by the name of a weight that is left, which copies it stands for.
    """
    copies = dict(_copies(graph, weights))
    if not copies:
        return tuple(weights), {}
    notes: dict[str, list[str]] = {}
    uses = {weight.name: set(weight.uses) for weight in weights}
    for name, (first, transposed) in copies.items():
        uses[first] |= {"Transpose"} if transposed else uses[name]
        notes.setdefault(first, []).append(f"{name}{' (transposed)' if transposed else ''}")
    _rewire(graph, copies)
    left = (replace(weight, uses=tuple(sorted(uses[weight.name]))) for weight in weights if weight.name not in copies)
    return tuple(left), {first: f"the same values as {', '.join(names)}: stored once" for first, names in notes.items()}


def _copies(graph: onnx.GraphProto, weights: Sequence[Weight]) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Names of weights that are copies, each with the name of the first one, and whether it is transposed.

    The corners are compared first: most weights are read no further.
    """
    fixed = {value.name for inner in walk(graph) for value in (*inner.input, *inner.output)}
    visible = {tensor.name for tensor in graph.initializer} - fixed
    seen: dict[tuple[object, ...], list[Weight]] = {}
    for weight in weights:
        encoding = weight.encoding
        if not isinstance(encoding, Dense) or weight.pinned or weight.name not in visible:
            continue
        if not is_float(encoding.values.dtype) or encoding.values.size <= SMALLEST:
            continue
        found = next(
            (
                (other.name, turned)
                for turned in ((False, True) if len(encoding.values.shape) == 2 else (False,))
                for other in seen.get(_corner(encoding.values, turned=turned), ())
                if _same(np.asarray(encoding.values), np.asarray(other.encoding.values), turned=turned)  # type: ignore[union-attr]
            ),
            None,
        )
        if found is None:
            seen.setdefault(_corner(encoding.values), []).append(weight)
        else:
            yield weight.name, found


def _corner(values: Array, *, turned: bool = False) -> tuple[object, ...]:
    """What copies have in common, read from the first rows; `turned`: of the transposed weight."""
    rows = np.asarray(leading(values, _CORNER))
    corner = np.ascontiguousarray(rows[(slice(None), slice(_CORNER))[: rows.ndim]])[..., :_CORNER]
    shape = tuple(values.shape)
    return (shape[::-1], values.dtype, corner.T.tobytes()) if turned else (shape, values.dtype, corner.tobytes())


def _same(values: NDArray, others: NDArray, *, turned: bool) -> bool:
    """Whether two weights have the same bits, some rows at a time; `turned`: the first one transposed."""
    values = values.T if turned else values
    return all(
        np.array_equal(patterns(values[start : start + _ROWS]), patterns(others[start : start + _ROWS]))
        for start in range(0, len(values), _ROWS)
    )


def _rewire(graph: onnx.GraphProto, copies: dict[str, tuple[str, bool]]) -> None:
    """Let the readers of a copy read the first weight, and those of a transposed one what a `Transpose` makes of it."""
    import onnx

    for node in (node for inner in walk(graph) for node in inner.node):
        for place, name in enumerate(node.input):
            first, transposed = copies.get(name, ("", True))
            if not transposed:
                node.input[place] = first
    turned = [(name, first) for name, (first, transposed) in copies.items() if transposed]
    for place, (name, first) in enumerate(turned):
        graph.node.insert(place, onnx.helper.make_node("Transpose", [first], [name], f"{name} tied", perm=[1, 0]))
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name in copies:
            del graph.initializer[place]
