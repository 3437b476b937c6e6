"""What each constant of an ONNX graph is for: a weight, a part of one, a scale of activations, or a number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compressor.accounting.account import What
from compressor.accounting.known import Known
from compressor.accounting.onnx_graph import File, Graph, Node, Tensor
from compressor.formats.onnx.dtypes import DTYPES
from compressor.formats.onnx.functions import DOMAIN

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})

PARAMETERS: Mapping[str, Mapping[int, int]] = {
    "QuantizeLinear": {1: 0, 2: 0},
    "DequantizeLinear": {1: 0, 2: 0},
    "QLinearConv": {1: 0, 2: 0, 4: 3, 5: 3, 6: -1, 7: -1},
    "QLinearMatMul": {1: 0, 2: 0, 4: 3, 5: 3, 6: -1, 7: -1},
    "ConvInteger": {2: 0, 3: 1},
    "MatMulInteger": {2: 0, 3: 1},
    "MatMulIntegerToFloat": {2: 0, 3: 1, 4: 0, 5: 1},
    "DynamicQuantizeMatMul": {2: 1, 3: 1},
    "DynamicQuantizeLSTM": {8: 1, 9: 1, 10: 2, 11: 2},
    "MatMulNBits": {2: 1, 3: 1, 4: 1},
    "GatherBlockQuantized": {2: 0, 3: 0},
    "QGemm": {1: 0, 2: 0, 4: 3, 5: 3, 7: -1, 8: -1},
    "QLinearAdd": {1: 0, 2: 0, 4: 3, 5: 3, 6: -1, 7: -1},
    "QLinearMul": {1: 0, 2: 0, 4: 3, 5: 3, 6: -1, 7: -1},
}
"""By operator, of each input that is a scale, a zero point or the like: of which input it is; -1: of the result."""

BIASES: Mapping[str, int] = {"QLinearConv": 8, "QGemm": 6}
"""By operator, which input is a bias in whole numbers."""

LATE = "dense, quantized when a session loads"
"""The form of a weight that is stored as values, and read as the codes that `QuantizeLinear` makes of it."""

_FLOATS = {1, 10, 11, 16}
_FEW = 8  # elements of a number that is none of training's: scales of a Resize, bounds of a Clip
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


@dataclass(frozen=True)
class Role:
    """What a constant is for. name: of the weight, or of the constant. detail: its form, or what it is."""

    what: What
    name: str
    detail: str = ""


@dataclass(eq=False)
class Roles:
    """tensors: the role of each constant. nodes: of the operators over constants alone, the role of what they give.

    known: what is known of the weights.
    """

    tensors: dict[Tensor, Role] = field(default_factory=dict)
    nodes: dict[Node, Role | None] = field(default_factory=dict)
    known: Known | None = None

    def within(self, path: Path, start: int, end: int) -> Iterator[tuple[int, Role]]:
        """Where, in the data of a tensor, parts of other weights begin than the first one's, and their roles."""
        if self.known is None:
            return
        for place, name in self.known.within(path, start, end):
            yield place, Role(What.WEIGHTS, name, self.known.forms[name])

    def decodes(self, node: Node) -> bool:
        """Whether an operator computes a weight."""
        role = self.nodes.get(node)
        return role is not None and role.what is What.WEIGHTS


Source = Tensor | Node
Values = Mapping[str, Source | None]


@dataclass(frozen=True)
class _Read:
    """A constant that an operator reads which is none itself. node: None for an output of a graph."""

    name: str
    source: Source
    node: Node | None
    place: int


def roles(file: File, path: Path, known: Known | None) -> Roles:
    """What the constants of a model are for.

    known: its weights; None where they could not be read, and floats of one axis or more are taken for them.
    """
    reads = [read for graph in (*file.graphs, *file.functions) for read in _reads(graph, ())]
    made = Roles(known=known)
    for parameters in (False, True):  # a scale is a part of what it scales, which is known first
        for read in reads:
            if (_of(read) is not None) == parameters:
                _settle(read, made, path, known)
    return made


def _reads(graph: Graph, outer: Sequence[Values]) -> Iterator[_Read]:
    """What constants the operators of a graph read, and those of the graphs inside of it."""
    own: dict[str, Source | None] = dict.fromkeys(graph.inputs)
    own.update((tensor.name, tensor) for tensor in graph.tensors)
    own.update((made.outputs[0], made) for made in graph.sparse)
    scopes = (own, *outer)
    for node in graph.nodes:
        node.sources = [_resolved(name, scopes) if name else None for name in node.inputs]
        for inner in node.graphs:
            yield from _reads(inner, scopes)
        given = [source for name, source in zip(node.inputs, node.sources, strict=True) if name]
        node.constant = None not in given and not node.graphs and node.op_type not in _RANDOM
        if node.op_type == "Constant" and len(node.tensors) == 1 and node.outputs:
            node.tensors[0].name = node.tensors[0].name or node.outputs[0]
            own[node.outputs[0]] = node.tensors[0]
            continue
        own.update((name, node if node.constant else None) for name in node.outputs)
        if not node.constant:
            for place, source in enumerate(node.sources):
                if source is not None:
                    yield _Read(node.inputs[place], source, node, place)
    for place, name in enumerate(graph.outputs):
        if (source := own.get(name)) is not None:
            yield _Read(name, source, None, place)


def _resolved(name: str, scopes: Iterable[Values]) -> Source | None:
    return next((scope[name] for scope in scopes if name in scope), None)


def _of(read: _Read) -> int | None:
    """Of which input a constant is a parameter; None where it is none."""
    if read.node is None:
        return None
    table = PARAMETERS.get(read.node.op_type)
    if table is not None:
        return table.get(read.place)
    scalar = isinstance(read.source, Tensor) and len(read.source.dims) == 0
    return -1 if scalar and read.node.op_type.startswith("QLinear") else None


def _settle(read: _Read, made: Roles, path: Path, known: Known | None) -> None:
    """Give a role to every constant that what is read consists of, and to the operators that compute it."""
    tensors, nodes, known_role = _closure(read.source, made)
    free = [tensor for tensor in tensors if tensor not in made.tensors]
    tensors.sort(key=lambda tensor: -math.prod(tensor.dims))  # a weight is called as its codes, not as its scale
    late = _late(tensors, nodes)
    role = late or _weight(read, tensors, path, known) or _parameter(read, made) or _guess(read, tensors, known)
    role = role or known_role
    for tensor in free:
        own = role or Role(What.CONSTANTS, tensor.name, described(tensor))
        if late is None and known is not None and (name := _place(tensor, path, known) or known.named([tensor.name])):
            own = Role(What.WEIGHTS, name, known.forms[name])
        made.tensors[tensor] = own
    made.nodes.update(dict.fromkeys(nodes, role))


def _closure(source: Source, made: Roles) -> tuple[list[Tensor], list[Node], Role | None]:
    """The constants that a value is made of, the operators that make it, and the role of what was looked at before.

    What such an operator is made of is not looked at again: constants of a graph may hang together in a long chain.
    """
    found: dict[Source, None] = {source: None}
    pending, role = [source], None
    for one in pending:
        inner: list[Source] = []
        if isinstance(one, Node) and one in made.nodes:
            role = role or made.nodes[one]
        elif isinstance(one, Node):
            inner = [*one.tensors, *(source for source in one.sources if source is not None)]
        fresh = [each for each in dict.fromkeys(inner) if each not in found]
        found.update(dict.fromkeys(fresh))
        pending.extend(fresh)
    nodes = [one for one in found if isinstance(one, Node) and one not in made.nodes]
    return [one for one in found if isinstance(one, Tensor)], nodes, role


def _late(tensors: Sequence[Tensor], nodes: Iterable[Node]) -> Role | None:
    """The role of values that are quantized when a session loads: what quantizers make of weights in `Constant`s."""
    first = tensors[0] if tensors else None
    if first is None or first.data_type not in _FLOATS or not first.dims:
        return None
    quantized = any(node.op_type == "QuantizeLinear" and node.sources[:1] == [first] for node in nodes)
    return Role(What.WEIGHTS, first.name, LATE) if quantized else None


def _weight(read: _Read, tensors: Sequence[Tensor], path: Path, known: Known | None) -> Role | None:
    if known is None:
        return None
    name = known.named((read.name, *(tensor.name for tensor in tensors)))
    name = name or next(filter(None, (_place(tensor, path, known) for tensor in tensors)), None)
    return None if name is None else Role(What.WEIGHTS, name, known.forms[name])


def _place(tensor: Tensor, path: Path, known: Known) -> str | None:
    if tensor.external:
        start = tensor.external.get("offset", "0")
        return known.at(path.parent / tensor.external.get("location", ""), int(start) if start.isdecimal() else -1)
    return known.at(path, tensor.data[0][0]) if tensor.data else None


def _parameter(read: _Read, made: Roles) -> Role | None:
    """The role of a scale or a zero point: that of the weight that it scales, else that of activations."""
    of = _of(read)
    if of is None or read.node is None:
        return None
    scaled = read.node.sources[of] if 0 <= of < len(read.node.sources) else None
    owner = made.tensors.get(scaled) if isinstance(scaled, Tensor) else made.nodes.get(scaled) if scaled else None
    return owner or Role(What.QUANTIZATION, read.name, "scales and zero points")


def _guess(read: _Read, tensors: Sequence[Tensor], known: Known | None) -> Role | None:
    """A weight that no source knows as one: a quantized bias, what only an operator of ONNX Runtime's reads, ...

    Where the model could not be read, every float of one axis or more is taken for one.
    """
    if not tensors:
        return None
    node, source, largest = read.node, read.source, tensors[0]
    bias = node is not None and BIASES.get(node.op_type) == read.place
    decoded = isinstance(source, Node) and source.op_type == "DequantizeLinear"
    if not (bias or decoded or _is_dense(largest, 1 if known is None else _FEW)):
        return None
    form = "dense" if largest.data_type in _FLOATS else described(largest)
    return Role(What.WEIGHTS, largest.name or read.name, form)


def _is_dense(tensor: Tensor, least: int) -> bool:
    """Whether a constant is floats, of one axis and so many elements or more."""
    return tensor.data_type in _FLOATS and len(tensor.dims) > 0 and math.prod(tensor.dims) >= least


def described(tensor: Tensor) -> str:
    """What a constant is, by its type."""
    dtype = DTYPES.get(tensor.data_type)
    return f"type {tensor.data_type}" if dtype is None else dtype.name


def is_own(function: Graph) -> bool:
    """Whether a function decodes weights."""
    return function.domain == DOMAIN
