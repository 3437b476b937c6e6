"""The nodes of a graph, one after the other: constants are folded, all others are lowered."""

# ruff: noqa: TID253 - imported where an ONNX graph becomes a MIL program, and nowhere else

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from coremltools.converters.mil.mil import Var

from compressor.arrays import NDArray
from compressor.errors import CompressorError, line
from compressor.formats.onnx.graphs import is_standard, walk
from compressor.targets.coreml.mil import functions
from compressor.targets.coreml.mil.folding import fold, known
from compressor.targets.coreml.mil.node import Constant, Node, Scope, Value
from compressor.targets.coreml.mil.operators import OPERATORS
from compressor.targets.coreml.mil.values import Dim, UnsupportedError, shape

_LARGEST = 1 << 28
"""The elements of the largest value that a program may have: 1 GiB."""

_T = onnx.TensorProto


def readers(graph: onnx.GraphProto) -> dict[str, frozenset[str]]:
    """By its name, the operators that read a value, in graphs inside of this one too; "" where it is an output."""
    read: dict[str, set[str]] = defaultdict(set)
    for inner in walk(graph):
        for output in inner.output:
            read[output.name].add("")
        for node in inner.node:
            for name in node.input:
                read[name].add(_operator(node))
    return {name: frozenset(operators) for name, operators in read.items()}


def lowered(
    graph: onnx.GraphProto, scope: Scope, weights: Mapping[str, NDArray], failures: dict[str, list[str]]
) -> list[Value]:
    """The outputs of a graph. Nodes that have no form are noted in `failures`; what only reads those is not."""
    for tensor in graph.initializer:
        scope.values[tensor.name] = _initializer(tensor, scope, weights)

    def inner(body: onnx.GraphProto, within: Scope) -> list[Value]:
        return lowered(body, within, weights, failures)

    for number, proto in enumerate(graph.node):
        operands = tuple(_read_by(proto.name or proto.op_type, name, scope) if name else None for name in proto.input)
        broken = any(value is None for name, value in zip(proto.input, operands, strict=True) if name)
        found: Sequence[Any] = [None] * len(proto.output)
        try:
            if not broken:
                found = _outputs(Node(proto, operands, scope, inner), weights)
            elif proto.op_type not in OPERATORS:
                raise UnsupportedError
        except UnsupportedError as error:
            where = proto.name or f"number {number}"
            failures.setdefault(_operator(proto), []).append(f"{where} ({error})" if str(error) else where)
        scope.values.update({name: value for name, value in zip(proto.output, found, strict=False) if name})
    return [_read_by("the output", output.name, scope) for output in graph.output]


def _initializer(tensor: onnx.TensorProto, scope: Scope, weights: Mapping[str, NDArray]) -> Constant:
    if tensor.name not in weights:
        return Constant(scope.tensor(tensor))
    wanted = np.float16 if tensor.data_type == _T.FLOAT16 else np.float32
    with np.errstate(over="ignore", invalid="ignore"):  # float64 beyond float32, signalling NaNs
        return Constant(np.asarray(weights[tensor.name]).astype(wanted, copy=False), tensor.name)


def _outputs(node: Node, weights: Mapping[str, NDArray]) -> list[Any]:
    """The outputs of a node: folded, lowered, or those of the function that defines its operator.

    Raises:
        UnsupportedError: it has no form.
    """
    with _refused():
        folded = fold(node)
    if folded is not None:
        return list(folded)
    try:
        with _refused():
            found = _own(node)
    except UnsupportedError as error:
        found = _by_function(node, weights, error)
    outputs = list(found) if isinstance(found, list | tuple) else [found]
    for value in outputs:
        if isinstance(value, Var | Constant):
            _check_size(shape(value) if isinstance(value, Var) else value.array.shape)
    return [known(value) for value in outputs]


def _check_size(dims: Sequence[Dim]) -> None:
    if (size := math.prod(dim for dim in dims if isinstance(dim, int))) > _LARGEST:
        raise UnsupportedError(f"a value of {size:,} elements, expected at most {_LARGEST:,}")


def _own(node: Node) -> Any:
    lower = OPERATORS.get(node.operator) if is_standard(node.proto) else None
    if lower is None:
        raise UnsupportedError
    return lower(node)


@contextmanager
def _refused() -> Iterator[None]:
    """What a node makes of odd attributes and operands may stumble anywhere: that is why it has no form.

    Raises:
        UnsupportedError: in the place of any exception, as Core ML Tools refuses what it is given.
    """
    try:
        yield
    except UnsupportedError:
        raise
    except CompressorError as error:
        raise UnsupportedError(str(error).rstrip(".")) from error
    except Exception as error:
        raise UnsupportedError(f"{type(error).__name__}: {line(error)}") from error


def _by_function(node: Node, weights: Mapping[str, NDArray], error: UnsupportedError) -> list[Any]:
    """The outputs by the function that defines the operator.

    Raises:
        UnsupportedError: there is none, or a node of it has no form either.
    """
    graph = functions.body(node)
    if graph is None:
        raise error
    failures: dict[str, list[str]] = {}
    scope = replace(node.scope.inner(), read={**readers(graph), **node.scope.read})
    found = dict(zip((one.name for one in graph.output), lowered(graph, scope, weights, failures), strict=True))
    if failures:
        reason = str(error) or f"made of {listed(failures)}"
        raise UnsupportedError(reason) from error
    return [found.get(name) for name in node.proto.output]


def _operator(proto: onnx.NodeProto) -> str:
    return proto.op_type if is_standard(proto) else f"{proto.domain}.{proto.op_type}"


def listed(failures: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{operator}: {', '.join(nodes)}" for operator, nodes in sorted(failures.items()))


def _read_by(reader: str, name: str, scope: Scope) -> Any:
    """A value that something reads; None for one that has no form.

    Raises:
        CompressorError: nothing gives it.
    """
    if name not in scope.values:
        raise CompressorError(f"{reader} reads {name!r}, which nothing defines.")
    return scope.values[name]
