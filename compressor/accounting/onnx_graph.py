"""ONNX files as runs of bytes: graphs, operators and tensors with where each begins and ends; no data are read.

Source: onnx.proto (field numbers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from compressor.accounting import messages
from compressor.accounting.messages import Run, delimited, first_text, text
from compressor.formats.wire import FileBytes, WireError

MOST_DEPTH = 100
"""protobuf's own limit: it refuses what lies deeper."""


class Part(NamedTuple):
    """A run of bytes with what it is called: a kind of metadata, or an attribute."""

    begin: int
    end: int
    name: str


@dataclass(eq=False)
class Tensor:
    """A constant. data: its runs in this file. external: where its data are in another one."""

    begin: int
    end: int
    name: str = ""
    dims: list[int] = field(default_factory=list)
    data_type: int = 0
    data: list[tuple[int, int]] = field(default_factory=list)
    external: dict[str, str] = field(default_factory=dict)
    documentation: list[Part] = field(default_factory=list)


@dataclass(eq=False)
class Node:
    """An operator. names, attributes: parts of it. tensors, graphs: of its attributes.

    sources: what each input is if that is a constant or made of constants, set where its graph is looked through.
    """

    begin: int
    end: int
    op_type: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    names: list[Part] = field(default_factory=list)
    attributes: list[Part] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)
    sources: list[Tensor | Node | None] = field(default_factory=list)
    constant: bool = False


@dataclass(eq=False)
class Graph:
    """A graph, or the body of a function. name, domain: of a function. inputs, outputs: names of values.

    sparse: its sparse initializers, as operators that make them.
    """

    begin: int
    end: int
    name: str = ""
    domain: str = ""
    nodes: list[Node] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    sparse: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    names: list[Part] = field(default_factory=list)


@dataclass(eq=False)
class File:
    """A model. graphs: its own, and those of a training. names: what is neither a graph nor a function."""

    graphs: list[Graph] = field(default_factory=list)
    functions: list[Graph] = field(default_factory=list)
    names: list[Part] = field(default_factory=list)
    properties: dict[str, str] = field(default_factory=dict)


PRODUCER, DOCUMENTATION, TYPES = "producer and versions", "documentation", "types of values"
_MODEL: Mapping[int, str] = {
    **dict.fromkeys((1, 2, 3, 4, 5), PRODUCER),
    6: DOCUMENTATION,
    8: "opset imports",
    14: "properties",
    20: "training",
    26: "devices",
}
_GRAPH: Mapping[int, str] = {
    2: "names of graphs",
    10: DOCUMENTATION,
    11: "inputs and outputs",
    12: "inputs and outputs",
    13: TYPES,
    14: "quantization of values",
    16: "properties",
}
_FUNCTION: Mapping[int, str] = {8: DOCUMENTATION, 9: "opset imports", 12: TYPES, 14: "properties"}
_NODE: Mapping[int, str] = {3: "names of operators", 6: DOCUMENTATION, 9: "properties"}
_TYPED = (4, 5, 6, 7, 10, 11)
_NUMBER = 8  # bytes of a number at most


def read(data: FileBytes) -> File:
    """The model in a file.

    Raises:
        WireError: it is no protobuf message, or graphs lie in one another too deep.
    """
    made = File()
    for run in messages.fields(data, 0, len(data)):
        match run.number:
            case 7:
                made.graphs.append(_graph(data, run, 0))
            case 20:
                made.names.append(Part(run.begin, run.end, _MODEL[20]))
                inner = (one for one in messages.inside(data, run) if one.number in {1, 2})
                made.graphs.extend(_graph(data, one, 1) for one in inner)
            case 25:
                made.functions.append(_function(data, run))
            case _:
                made.names.append(Part(run.begin, run.end, _MODEL.get(run.number, "unknown fields")))
                if run.number == 14 and run.value is None:
                    made.properties.update([messages.entry(data, run)])
    return made


def _graph(data: FileBytes, run: Run, depth: int) -> Graph:
    if depth > MOST_DEPTH:
        raise WireError(f"graphs inside of graphs, deeper than {MOST_DEPTH}")
    made = Graph(run.begin, run.end)
    for one in delimited(data, run):
        match one.number:
            case 1:
                made.nodes.append(_node(data, one, depth))
            case 5:
                made.tensors.append(_tensor(data, one))
            case 15:
                made.sparse.append(_sparse(data, one))
            case _:
                made.names.append(Part(one.begin, one.end, _GRAPH.get(one.number, "unknown fields")))
                if one.number in {11, 12}:
                    (made.inputs if one.number == 11 else made.outputs).append(first_text(data, one, 1))
    return made


def _function(data: FileBytes, run: Run) -> Graph:
    made = Graph(run.begin, run.end)
    for one in delimited(data, run):
        match one.number:
            case 1:
                made.name = text(data, one)
            case 4:
                made.inputs.append(text(data, one))
            case 5:
                made.outputs.append(text(data, one))
            case 7:
                made.nodes.append(_node(data, one, 0))
            case 10:
                made.domain = text(data, one)
            case number if number in _FUNCTION:
                made.names.append(Part(one.begin, one.end, _FUNCTION[number]))
    return made


def _node(data: FileBytes, run: Run, depth: int) -> Node:
    made = Node(run.begin, run.end)
    for one in delimited(data, run):
        match one.number:
            case 1:
                made.inputs.append(text(data, one))
            case 2:
                made.outputs.append(text(data, one))
            case 4:
                made.op_type = text(data, one)
            case 7:
                made.domain = text(data, one)
            case 5:
                _attribute(data, one, made, depth)
            case number if number in _NODE:
                made.names.append(Part(one.begin, one.end, _NODE[number]))
    return made


def _attribute(data: FileBytes, run: Run, node: Node, depth: int) -> None:
    name = ""
    for one in messages.inside(data, run):
        match one.number:
            case 1:
                name = text(data, one)
            case 13:
                node.names.append(Part(one.begin, one.end, DOCUMENTATION))
            case 5 | 10 if one.value is None:
                node.tensors.append(_tensor(data, one))
            case 6 | 11 if one.value is None:
                node.graphs.append(_graph(data, one, depth + 1))
            case 22 | 23 if one.value is None:
                node.tensors.extend(_sparse(data, one).tensors)
    node.attributes.append(Part(run.begin, run.end, name))


def _sparse(data: FileBytes, run: Run) -> Node:
    """A sparse tensor as an operator that makes it of its values and their places; it is called as its values are."""
    made = Node(run.begin, run.end, "sparse tensor", constant=True)
    made.tensors = [_tensor(data, one) for one in messages.inside(data, run) if one.number in {1, 2}]
    made.outputs = [next((part.name for part in made.tensors if part.name), "")]
    return made


def _tensor(data: FileBytes, run: Run) -> Tensor:
    made = Tensor(run.begin, run.end)
    for one in messages.inside(data, run):
        match one.number:
            case 1 if one.value is not None:
                made.dims.append(one.value)
            case 1:
                made.dims.extend(messages.numbers(data, one))
            case 2:
                made.data_type = one.value or 0
            case 8 if one.value is None:
                made.name = text(data, one)
            case 12:
                made.documentation.append(Part(one.begin, one.end, DOCUMENTATION))
            case 13 if one.value is None:
                made.external.update([messages.entry(data, one)])
            case 9:
                made.data.append((one.content, one.end))
            case number if number in _TYPED:
                # A number that is not packed with others counts with the key before it.
                made.data.append((one.begin if one.end - one.content <= _NUMBER else one.content, one.end))
    return made
