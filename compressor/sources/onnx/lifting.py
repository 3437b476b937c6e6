"""Which values are decoded weights, and which constants are weights: decisions only, the graph stays as it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressor.arrays import CODE_DTYPES, UINT8, is_float
from compressor.encodings import Dense, Encoding, Quantized, arrays, dtype, shape
from compressor.formats.onnx import calls, reading, stacking
from compressor.formats.onnx.dtypes import DTYPES
from compressor.formats.onnx.functions import DOMAIN
from compressor.formats.onnx.graphs import MICROSOFT, is_standard
from compressor.formats.onnx.unsigned import signed
from compressor.formats.onnx.wire import KEPT_BELOW
from compressor.sources.onnx import expressions, operators
from compressor.sources.onnx.expressions import Expression, UnliftableError
from compressor.sources.onnx.scopes import Index, operand

if TYPE_CHECKING:
    import onnx

_DECODERS = {"DequantizeLinear", "Gather", "Mul"}


@dataclass(frozen=True, eq=False)
class Lift:
    """A constant that nodes decode.

    name: the weight's: that of its codes or indices, and the decoded value's in an artefact of this project.
    leaf: the constant whose place the weight takes.
    encoding: what the weight is.
    nodes: the numbers of the nodes that decode it, outermost first.
    value: the decoded value, which the weight replaces; empty where the node itself is to be replaced.
    linear: whether `DequantizeLinear` decodes it.
    n_bits: the `accuracy_level` of the `MatMulNBits` that decodes it.
    """

    name: str
    leaf: str
    encoding: Encoding
    nodes: tuple[int, ...]
    value: str
    linear: bool = False
    n_bits: int | None = None


def lifts(index: Index) -> tuple[list[Lift], dict[str, str]]:
    """The weights that nodes of `index` decode, and by name why other decoded constants stay as they are.

    Raises:
        CompressorError: the data of a constant are missing or impossible.
    """
    refused: dict[str, str] = {}
    by_leaf: dict[str, list[Lift]] = defaultdict(list)
    found = list(_own(index))
    own = {number for lift in found for number in lift.nodes}
    for lift in _outermost(list(_lifts(index, refused))):
        # What widens the non-zeros of an artefact is a part of their weight; what nothing reads decodes none.
        if not own.issuperset(lift.nodes) and (
            lift.value in index.outputs or index.readers.get(lift.value, not lift.value)
        ):
            by_leaf[lift.leaf].append(lift)
    for leaf, group in by_leaf.items():
        reason = refused.get(leaf) or _refusal(index, leaf, group)
        if reason:
            refused[leaf] = reason
        else:
            found.extend(group)
    return found, refused


def plain(index: Index, refused: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The names of the constants that are weights as they are, and why they must stay so.

    Raises:
        CompressorError: the dimensions of a constant are impossible.
    """
    for name, tensor in index.tensors.items():
        reason = _why_pinned(index, name, tensor, refused)
        if reason is not None:
            yield name, reason


def _own(index: Index) -> Iterator[Lift]:
    """The weights of an artefact of this project: values that its functions compute and other operators read."""
    order = {name: place for place, name in enumerate(index.tensors)}
    for number, node in enumerate(index.nodes):
        if _is_cut(index, node):
            nodes = _reached(index, number)
            leaf, each = _first(index, nodes, order), calls.side_by_side(index, node.input[0], len(node.output))
            yield from (Lift(name, leaf, one, nodes, name) for name, one in zip(node.output, each, strict=True))
        elif node.domain == DOMAIN and len(node.output) == 1:
            value = node.output[0]
            readers = [index.nodes[number] for number in index.readers.get(value, ())]
            read = any(reader.domain != DOMAIN and not _is_cut(index, reader) for reader in readers)
            encoding = calls.encoding(index, value) if read else None
            if encoding is not None:
                nodes = _reached(index, number)
                leaf = _first(index, nodes, order)
                yield Lift(value, leaf, encoding, nodes, value, node.op_type.startswith("dequantize_linear"))


def _is_cut(index: Index, node: onnx.NodeProto) -> bool:
    """Whether a node cuts weights apart that lie side by side, see `stacking`; another tool may have renamed them."""
    if not is_standard(node) or node.op_type != "Split":
        return False
    value = operand(node, 0)
    is_ours = calls.is_weight(index, value) or calls.narrow(index, value) is not None
    return is_ours and (stacking.is_called(value) or calls.by_gaps_of_weights(index, value))


def _first(index: Index, nodes: Iterable[int], order: Mapping[str, int]) -> str:
    """The first of the constants that nodes read."""
    read: Iterator[str] = (name for n in nodes for name in index.nodes[n].input)
    return min((name for name in read if name in order), key=order.__getitem__)


def _reached(index: Index, number: int) -> tuple[int, ...]:
    """A call of a function of this project, and what computes its inputs."""
    nodes = [number]
    for reached in nodes:
        for name in index.nodes[reached].input:
            inner = index.producers.get(name)
            if inner is not None and inner not in nodes and (_is_own(index, inner) or calls.narrow(index, name)):
                nodes.append(inner)
    return tuple(nodes)


def _is_own(index: Index, number: int) -> bool:
    return bool(index.nodes[number].domain == DOMAIN)


def _lifts(index: Index, refused: dict[str, str]) -> Iterator[Lift]:
    """Every decode node over constants; those that no encoding expresses leave their reason in `refused`."""
    for number, node in enumerate(index.nodes):
        try:
            if is_standard(node) and node.op_type in _DECODERS and len(node.output) == 1:
                found = expressions.read(index, node.output[0])
                if found is not None:
                    name, encoding = _named(found, node.output[0])
                    linear = node.op_type == "DequantizeLinear"
                    yield Lift(name, found.leaf, encoding, found.nodes, node.output[0], linear)
            elif node.op_type == "Cast" and len(node.output) == 1 and (narrow := calls.narrow(index, node.output[0])):
                if operand(node, 0).rpartition(".")[0].rstrip("_") == node.output[0].rstrip("_"):  # of an artefact
                    yield Lift(node.output[0], operand(node, 0), Dense(narrow), (number,), node.output[0])
            elif node.op_type == "MatMulNBits" and node.domain == MICROSOFT and node.output:
                weight = operators.mat_mul_nbits(index, node)
                if weight is not None:
                    level = operators.accuracy_level(index, node)
                    yield Lift(operand(node, 1), operand(node, 1), weight, (number,), "", n_bits=level)
        except UnliftableError as error:
            refused.setdefault(error.leaf, error.reason)


def _named(found: Expression, value: str) -> tuple[str, Encoding]:
    """The name of what nodes decode to `value`, and what it is: in an artefact its stored codes are called after it.

    `linear_node` stores int8 codes as uint8 ones, and calls them `.int8`.
    """
    stem, _, kind = found.leaf.rpartition(".")
    encoding = found.encoding
    if stem.rstrip("_") != value.rstrip("_") or not isinstance(encoding, Quantized):
        return found.leaf, encoding
    if kind == "int8" and dtype(encoding.data) == UINT8:
        return value, signed(encoding)
    return (value if kind == "codes" else found.leaf), encoding


def _outermost(lifts: list[Lift]) -> Iterator[Lift]:
    """Those that are not a part of another one."""
    inner = {number for lift in lifts for number in lift.nodes[1:]}
    return (lift for lift in lifts if lift.nodes[0] not in inner)


def _refusal(index: Index, leaf: str, group: list[Lift]) -> str:
    """Why the codes in `leaf` must stay as they are; empty if the `group` of decoded values can become one weight."""
    nodes = {number for lift in group for number in lift.nodes}
    roots = {lift.nodes[0] for lift in group}
    inside = {leaf, *(name for number in nodes - roots for name in index.nodes[number].output)}
    others = sorted({index.nodes[n].op_type for name in inside for n in index.readers[name] if n not in nodes})
    if others:
        return f"its codes are read by {', '.join(others)} too"
    if inside & index.outputs or any(lift.value in index.outputs for lift in group):
        return "it is an output of the graph"
    first = group[0].encoding
    if any(not _same(first, lift.encoding) or lift.n_bits != group[0].n_bits for lift in group[1:]):
        return "its codes are decoded in several ways"
    if not is_float(dtype(first)) and not all(_reads_codes(index, lift.value) for lift in group):
        return f"it decodes to {dtype(first)}"
    return ""


def _same(one: Encoding, other: Encoding) -> bool:
    """Whether two encodings of the same leaf mean the same."""
    if type(one) is not type(other) or shape(one) != shape(other):
        return False
    ours, theirs = list(arrays(one))[1:], list(arrays(other))[1:]
    return len(ours) == len(theirs) and all(
        mine.dtype == its.dtype and np.array_equal(np.asarray(mine), np.asarray(its))
        for mine, its in zip(ours, theirs, strict=True)
    )


def _reads_codes(index: Index, name: str) -> bool:
    """Whether an integer operator reads the value as a weight's codes."""
    return any(
        operand(index.nodes[number], place) == name
        for number in index.readers[name]
        for place in operators.CODE_INPUTS.get(index.nodes[number].op_type, ())
    )


def _why_pinned(index: Index, name: str, tensor: onnx.TensorProto, refused: Mapping[str, str]) -> str | None:
    """Why a constant must stay as it is; empty for a weight that may change, None for a constant that is no weight."""
    kind = DTYPES.get(tensor.data_type)
    readers = {index.nodes[number].op_type for number in index.readers[name]}
    if kind is None or not (readers or name in index.outputs):
        return None
    reason = refused.get(name, "")
    if is_float(kind):
        if not reason and readers and all(map(operators.reads_parameters, readers)):
            return None
    elif kind not in CODE_DTYPES.values():
        return None
    elif not reason and not _reads_codes(index, name):
        if len(tensor.dims) < 2:
            return None
        reason = f"{kind} data that {', '.join(sorted(readers)) or 'nothing'} reads"
    if name in index.producers:  # a Constant node: small ones stay in the graph
        return reason if name not in index.outputs and reading.spec(tensor).nbytes >= KEPT_BELOW else None
    if name in index.inputs:
        return "it is an input of the graph too: a caller may override it"
    return "it is an output of the graph" if name in index.outputs else reason
