"""Graphs and the graphs inside of them, and what their nodes and tensors are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

# AttributeProto.AttributeType: TENSOR, GRAPH, TENSORS, GRAPHS, SPARSE_TENSOR, SPARSE_TENSORS
_GRAPH, _GRAPHS = 5, 10
_WITH_TENSORS = {4, 9, 11, 12}


def walk(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and all graphs inside of it, outermost first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from walk(inner)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of an `If`, `Loop`, `Scan`, ..."""
    for found in node.attribute:
        if found.type == _GRAPH:
            yield found.g
        elif found.type == _GRAPHS:
            yield from found.graphs


def attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    """The attribute of that name."""
    return next((found for found in node.attribute if found.name == name), None)


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether the operator is ONNX's own."""
    return node.domain in {"", "ai.onnx"}


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors but the main graph's initializers: those of subgraphs, attributes, functions, and sparse ones."""
    graphs = list(walk(model.graph))
    for function in model.functions:
        graphs += [inner for node in function.node for body in subgraphs(node) for inner in walk(body)]
    nodes = [node for owner in (*graphs, *model.functions) for node in owner.node]
    attributes = [found for node in nodes for found in node.attribute if found.type in _WITH_TENSORS]
    for found in attributes:
        yield from (found.t, *found.tensors)
    for graph in graphs[1:]:
        yield from graph.initializer
    sparse = [one for found in attributes for one in (found.sparse_tensor, *found.sparse_tensors)]
    for one in (*sparse, *(one for graph in graphs for one in graph.sparse_initializer)):
        yield from (one.values, one.indices)
