"""Nodes in an order in which each one reads what is there: ONNX asks for it, ONNX Runtime takes any."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import CompressorError
from compressor.formats.onnx import reading
from compressor.formats.onnx.graphs import attribute, is_standard, subgraphs
from compressor.formats.onnx.wire import EXTERNAL

if TYPE_CHECKING:
    import onnx

_LISTED = 4


def sort(graph: onnx.GraphProto) -> None:
    """Bring the nodes of `graph` and its subgraphs to topological order, in place; they stay where they are in one.

    Raises:
        CompressorError: nodes read each other in a circle, or a node or an output reads what nothing defines.
    """
    for name, node in _sort(graph).items():
        reader = "it gives" if node is None else f"{_spelled(node)} reads"
        raise CompressorError(f"graph {graph.name!r}: {reader} {name!r}, which nothing defines.")


def drop_repeated(graphs: Iterable[onnx.GraphProto], directory: Path) -> None:
    """Of constants that are twice in a graph, under one name and with one value, keep one.

    ONNX Runtime takes one of them, also where they differ: which one depends on their size.

    Raises:
        CompressorError: data that lie in a file of `directory` are missing.
    """
    for graph in graphs:
        _drop_repeated(graph, directory)


def _drop_repeated(graph: onnx.GraphProto, directory: Path) -> None:
    constants = [(graph.initializer, place, tensor.name, tensor) for place, tensor in enumerate(graph.initializer)]
    constants += [
        (graph.node, place, node.output[0], value.t)
        for place, node in enumerate(graph.node)
        if node.op_type == "Constant" and is_standard(node) and (value := attribute(node, "value")) and node.output
    ]
    counts = Counter(name for _, _, name, _ in constants)
    seen = set()
    for values, place, name, tensor in reversed([constant for constant in constants if counts[constant[2]] > 1]):
        if (same := (name, _content(tensor, directory))) in seen:
            del values[place]
        seen.add(same)


def _content(tensor: onnx.TensorProto, directory: Path) -> bytes:
    """What tells the values of tensors apart, wherever they lie."""
    content = type(tensor)()
    content.CopyFrom(tensor)
    content.ClearField("name")
    if tensor.data_location == EXTERNAL:
        content.ClearField("data_location")
        content.ClearField("external_data")
        content.raw_data = sha256(reading.external(tensor, directory).raw().data).digest()
    return bytes(content.SerializeToString(deterministic=True))


def _sort(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto | None]:
    """Sort one graph; what it reads from outside of it, each value with a node that does, None for its outputs."""
    nodes = graph.node
    reads = [_reads(node) for node in nodes]
    producers = {name: number for number, node in enumerate(nodes) for name in node.output if name}
    before = [{producers[name] for name in read if name in producers} for read in reads]
    outside: dict[str, onnx.NodeProto | None] = {value.name: None for value in graph.output}
    outside.update((name, node) for node, read in zip(nodes, reads, strict=True) for name in read)
    given = {value.name for value in (*graph.input, *graph.initializer)}
    given.update(tensor.values.name for tensor in graph.sparse_initializer)
    for name in {*given, *producers, ""}:
        outside.pop(name, None)
    if any(number >= place for place, numbers in enumerate(before) for number in numbers):
        order = _topological(before)
        if len(order) < len(before):
            raise CompressorError(f"graph {graph.name!r} has a cycle: {_circle(nodes, before, order)}.")
        moved = [type(nodes[number]).FromString(nodes[number].SerializeToString()) for number in order]
        del nodes[:]
        nodes.extend(moved)
    return outside


def _reads(node: onnx.NodeProto) -> dict[str, None]:
    """The values that a node reads, and those that graphs inside of it read from outside."""
    found = dict.fromkeys(node.input)
    for inner in subgraphs(node):
        found.update(dict.fromkeys(_sort(inner)))
    return found


def _topological(before: Sequence[Collection[int]]) -> list[int]:
    """The numbers, each after those `before` it, the least first; without those that are, or come after, a circle."""
    waiting = [len(numbers) for numbers in before]
    after = defaultdict(list)
    for place, numbers in enumerate(before):
        for number in numbers:
            after[number].append(place)
    ready = [place for place, count in enumerate(waiting) if not count]
    order = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for place in after[number]:
            waiting[place] -= 1
            if not waiting[place]:
                heapq.heappush(ready, place)
    return order


def _circle(nodes: Sequence[onnx.NodeProto], before: Sequence[Collection[int]], order: Collection[int]) -> str:
    """Nodes that read each other in a circle, in the order in which they compute."""
    left = set(range(len(nodes))).difference(order)
    way: list[int] = []
    seen: set[int] = set()
    number = min(left)
    while number not in seen:
        seen.add(number)
        way.append(number)
        number = min(left.intersection(before[number]))
    circle = way[way.index(number) :][::-1]
    listed = ", ".join(_spelled(nodes[number]) for number in circle[:_LISTED])
    return listed if len(circle) <= _LISTED else f"{listed} and {len(circle) - _LISTED} more"


def _spelled(node: onnx.NodeProto) -> str:
    return f"the {node.op_type} node {node.name or next(iter(node.output), '')!r}"
