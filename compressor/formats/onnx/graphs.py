"""Graphs and the graphs inside of them, and what their nodes and tensors are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

# AttributeProto.AttributeType: TENSOR, GRAPH, TENSORS, GRAPHS, SPARSE_TENSOR, SPARSE_TENSORS
_GRAPH, _GRAPHS = 5, 10
_WITH_TENSORS = {4, 9, 11, 12}


def walk(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and all graphs inside of it, outermost first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from walk(inner)


def inside(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, and those of all graphs inside of them."""
    for node in nodes:
        yield node
        for inner in subgraphs(node):
            yield from inside(inner.node)


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


def tensors(graphs: Iterable[onnx.GraphProto], functions: Iterable[onnx.FunctionProto]) -> Iterator[onnx.TensorProto]:
    """All tensors of graphs, functions and the graphs inside of either, but the initializers of `graphs` themselves."""
    given = list(graphs)
    nodes = [node for graph in given for node in graph.node]
    nodes += [node for function in functions for node in function.node]
    inner = [found for node in nodes for body in subgraphs(node) for found in walk(body)]
    nodes += [node for graph in inner for node in graph.node]
    attributes = [found for node in nodes for found in node.attribute if found.type in _WITH_TENSORS]
    for found in attributes:
        yield from (found.t, *found.tensors)
    for graph in inner:
        yield from graph.initializer
    sparse = [one for found in attributes for one in (found.sparse_tensor, *found.sparse_tensors)]
    for one in (*sparse, *(one for graph in (*given, *inner) for one in graph.sparse_initializer)):
        yield from (one.values, one.indices)
