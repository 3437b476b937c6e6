"""Values of a graph and of all its subgraphs, by names that are unique over the whole model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from compressor.arrays import Array
from compressor.errors import CompressorError
from compressor.formats.onnx import reading
from compressor.formats.onnx.dtypes import DTYPES
from compressor.formats.onnx.graphs import attribute, subgraphs

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, eq=False)
class Index:
    """Who defines and who reads each value.

    directory: where external data lie.
    graphs: the main graph first, each subgraph after the graph that it is in.
    nodes: all nodes in that order; a node's number is its place here.
    home: the graph's place in `graphs`, by node number.
    tensors: constants by name: initializers that are not lifted yet and the values of `Constant` nodes, dense ones.
    owner: the graph's place in `graphs`, by constant.
    producers: the number of the node that computes a value.
    readers: the numbers of the nodes that read a value, one for each input.
    inputs, outputs: the values that are those of a graph or subgraph.
    computed: the elements of constants that nodes computed from others, by name; their tensors have none.
    files: those of external data that were looked up.
    """

    directory: Path
    graphs: list[onnx.GraphProto] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    home: list[int] = field(default_factory=list)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    owner: dict[str, int] = field(default_factory=dict)
    producers: dict[str, int] = field(default_factory=dict)
    readers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    computed: Mapping[str, Array] = field(default_factory=dict)
    files: reading.Known = field(default_factory=dict)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that computes a value; None for inputs and initializers."""
        number = self.producers.get(name)
        return None if number is None else self.nodes[number]

    def constant(self, name: str) -> Array | None:
        """The elements of a constant that nobody can override; None for anything else."""
        tensor = self.tensors.get(name)
        if tensor is None or name in self.inputs or tensor.data_type not in DTYPES:
            return None
        return self.array(name)

    def array(self, name: str) -> Array:
        """The elements of a constant of a known type, whoever may override it."""
        found = self.computed.get(name)
        return reading.array(self.tensors[name], self.directory, self.files) if found is None else found


def index(
    graphs: Iterable[onnx.GraphProto],
    directory: Path,
    computed: Mapping[str, Array] = MappingProxyType({}),
    weights: Container[str] = (),
) -> Index:
    """The index of a graph and its subgraphs, whose names are unique.

    computed: constants whose tensors have no data, by name. weights: what has no tensors any more.
    """
    made = Index(directory, computed=computed)
    for place, inner in enumerate(graphs):
        made.graphs.append(inner)
        made.inputs.update(value.name for value in inner.input)
        made.outputs.update(value.name for value in inner.output)
        for tensor in inner.initializer:
            if tensor.name not in weights:
                made.tensors[tensor.name], made.owner[tensor.name] = tensor, place
        for node in inner.node:
            number = len(made.nodes)
            made.nodes.append(node)
            made.home.append(place)
            for name in node.input:
                made.readers[name].append(number)
            for name in node.output:
                made.producers[name] = number
            value = attribute(node, "value") if node.op_type == "Constant" and node.output else None
            if value is not None:
                name = node.output[0]
                made.tensors[name], made.owner[name] = _named(value.t, name), place
    return made


def _named(value: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """The value of a `Constant` node under its output's name; in the graph it keeps the name that it has or lacks."""
    made = type(value)()
    made.CopyFrom(value)
    made.name = name
    return made


def integer(node: onnx.NodeProto, name: str, default: int) -> int:
    """The value of an integer attribute."""
    found = attribute(node, name)
    return default if found is None else found.i


def operand(node: onnx.NodeProto, place: int) -> str:
    """The value that a node reads there; empty where it reads none."""
    return node.input[place] if place < len(node.input) else ""


def check_names(graphs: Iterable[onnx.GraphProto]) -> None:
    """Refuse names that are no text: protobuf reads them as bytes.

    Raises:
        CompressorError: a name is not UTF-8.
    """
    for inner in graphs:
        names = [*_defined(inner), *(value.name for value in inner.output), *(value.name for value in inner.value_info)]
        for node in inner.node:
            names += [*node.input, node.op_type, node.domain]
        wrong = next((name for name in names if not isinstance(name, str)), None)
        if wrong is not None:
            raise CompressorError(f"graph {inner.name!r}: the name {wrong!r} is not UTF-8.")


def make_names_unique(graphs: Sequence[onnx.GraphProto]) -> None:
    """Rename what a subgraph calls as something outside of it, or beside it, is called; the first keeps its names.

    Raises:
        CompressorError: two values of one graph have the same name.
    """
    _rename(graphs[0], set(), {name: 0 for inner in graphs for name in _defined(inner)}, {})


def _rename(graph: onnx.GraphProto, taken: set[str], known: dict[str, int], outer: Mapping[str, str]) -> None:
    """Make `graph`'s names differ from those `taken`; `outer` are the renamed around it.

    known: all names of the model, each with the last number that was tried after it.
    """
    counts = Counter(_defined(graph))
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise CompressorError(f"graph {graph.name!r}: several values have the same name: {', '.join(twice[:4])}.")
    names = {old: new for old, new in outer.items() if old not in counts}
    for name in counts:
        if name in taken:
            names[name] = _free(name, known)
        taken.add(names.get(name, name))
    if names:
        _apply(graph, names)
    for node in graph.node:
        for inner in subgraphs(node):
            _rename(inner, taken, known, names)


def _free(name: str, known: dict[str, int]) -> str:
    """A name that is not `known` yet: `name` with a number."""
    while True:
        known[name] += 1
        new = f"{name}_{known[name]}"
        if new not in known:
            known[new] = 0
            return new


def _defined(graph: onnx.GraphProto) -> Iterator[str]:
    """The values that `graph` itself defines; an initializer that is an input too counts once."""
    inputs = {value.name for value in graph.input}
    yield from inputs
    yield from (tensor.name for tensor in graph.initializer if tensor.name not in inputs)
    yield from (tensor.values.name for tensor in graph.sparse_initializer if tensor.values.name not in inputs)
    yield from (name for node in graph.node for name in node.output if name)


def _apply(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Spell every value of `graph`, not of its subgraphs, as `names` says."""
    tensors = [*graph.initializer, *(tensor.values for tensor in graph.sparse_initializer)]
    for value in [*graph.input, *graph.output, *graph.value_info, *tensors]:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for values in (node.input, node.output):
            for place, name in enumerate(values):
                if name in names:
                    values[place] = names[name]
