"""From an ONNX graph to a MIL program, node by node: constants are folded, all others are lowered.

What moves the elements of a weight before a layer reads it (a transposed matrix, the gates of an LSTM) are MIL
operators on the const of that weight, so that the way of its codes is known.
"""

# ruff: noqa: TID253 - imported where an ONNX graph becomes a MIL program, and nowhere else

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from coremltools.converters.mil.input_types import RangeDim, Shape, TensorType
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - the name that all its examples have
from coremltools.converters.mil.mil import Function, Program, Var, get_new_symbol, types

from compressor.arrays import NDArray
from compressor.errors import CompressorError, line
from compressor.formats.coreml.names import spelling, take
from compressor.formats.onnx import assembly
from compressor.formats.onnx.graphs import is_standard, walk
from compressor.targets.coreml.mil import functions
from compressor.targets.coreml.mil.folding import fold, known
from compressor.targets.coreml.mil.node import (
    Constant,
    Dim,
    Node,
    Scope,
    UnsupportedError,
    Value,
    narrowed,
    shape,
)
from compressor.targets.coreml.mil.operators import OPERATORS
from compressor.targets.coreml.request import Input

_OLDEST = 13
"""The opset from which on axes of `Squeeze` and the like are operands, and `Softmax` knows an axis alone."""

_ALLOWED = 4
"""How many times all weights may be moved while the program is built: transposed, cut into gates and the like."""

_LARGEST = 1 << 28
"""The elements of the largest value that a program may have: 1 GiB."""

_T = onnx.TensorProto
_NUMPY = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}


def program(
    proto: onnx.ModelProto, directory: Path, values: Mapping[str, NDArray], inputs: Sequence[Input], version: Any
) -> tuple[Program, dict[str, str]]:
    """The program of a graph in normal form, no pass run; and what differs from the graph, by what it is about.

    directory: of the model, where the data of its other constants lie.
    values: of each weight, by name; the const of a weight has its name, its shape and its values. inputs: with the
    sizes to convert for; axes that vary under one name in the graph are of one size. version: a `coremltools.target`,
    from iOS16 on.

    Raises:
        CompressorError: nodes that Core ML has no form for, all of them.
    """
    proto = _recent(proto)
    graph = proto.graph
    declared = {value.name: value.type.tensor_type for value in graph.input}
    spelled = _spelled([*(each.name for each in inputs), *(value.name for value in graph.output)])
    notes = {name: f"called {plain!r}" for name, plain in spelled.items() if name != plain}
    dims = _dims(inputs, declared)
    placeholders = {spelled[each.name]: mb.placeholder(dims[each.name] or (1,), _NUMPY[each.dtype]) for each in inputs}
    failures: dict[str, list[str]] = {}
    with Function(placeholders, opset_version=version) as function:
        scope = Scope(version, assembly.opset(proto), {}, spelled, _read(graph), directory, notes)
        scope.allowance.left += _ALLOWED * sum(array.nbytes for array in values.values())
        for each in inputs:
            found, element = function.inputs[spelled[each.name]], declared[each.name].elem_type
            if not dims[each.name]:  # Core ML's arrays have one axis at least
                found = mb.squeeze(x=found, axes=[0])
                notes[each.name] = "a scalar became an array of one element"
            scope.values[each.name] = mb.cast(x=found, dtype="bool") if element == _T.BOOL else found
        outputs = _lowered(graph, scope, values, failures)
        if failures:
            raise CompressorError(_unsupported(failures, [each for each in inputs if _varies(each)]))
        function.set_outputs(_named(graph, outputs, spelled))
    if any(_varies(each) for each in inputs):
        function.set_input_types(tuple(_flexible(each, spelled[each.name]) for each in inputs))
    result = Program()
    result.add_function("main", function)
    return result, notes


def _recent(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model in the operators that are lowered, those of `_OLDEST` and later.

    Raises:
        CompressorError: it is older, and cannot be converted.
    """
    if assembly.opset(proto) >= _OLDEST:
        return proto
    converted = onnx.ModelProto()
    converted.CopyFrom(proto)
    assembly.convert(converted, _OLDEST)
    return converted


def _varies(declared: Input) -> bool:
    return any(isinstance(size, tuple) for size in declared.shape)


def _dims(inputs: Iterable[Input], declared: Mapping[str, Any]) -> dict[str, tuple[Dim, ...]]:
    """The sizes of each input; axes that vary are symbols, one for each name that the graph gives them."""
    symbols: dict[tuple[str, tuple[int, int]], Any] = {}

    def dim(each: Input, axis: int) -> Dim:
        size = each.shape[axis]
        if isinstance(size, int):
            return size
        name = declared[each.name].shape.dim[axis].dim_param or f"{each.name}.{axis}"
        return symbols.setdefault((name, size), get_new_symbol())

    return {each.name: tuple(dim(each, axis) for axis in range(len(each.shape))) for each in inputs}


def _flexible(declared: Input, name: str) -> TensorType:
    sizes = [size if isinstance(size, int) else RangeDim(*size, default=size[0]) for size in declared.shape]
    return TensorType(name=name, shape=Shape(sizes))


def _read(graph: onnx.GraphProto) -> dict[str, frozenset[str]]:
    """By its name, the operators that read a value, in graphs inside of this one too; "" where it is an output."""
    read: dict[str, set[str]] = defaultdict(set)
    for inner in walk(graph):
        for output in inner.output:
            read[output.name].add("")
        for node in inner.node:
            for name in node.input:
                read[name].add(_operator(node))
    return {name: frozenset(operators) for name, operators in read.items()}


def _spelled(names: Iterable[str]) -> dict[str, str]:
    """Names that MIL allows, each one once."""
    taken: dict[str, int] = {}
    return {name: take(spelling(name), taken) for name in dict.fromkeys(names)}


def _lowered(
    graph: onnx.GraphProto, scope: Scope, weights: Mapping[str, NDArray], failures: dict[str, list[str]]
) -> list[Value]:
    """The outputs of a graph. Nodes that have no form are noted in `failures`; what only reads those is not."""
    for tensor in graph.initializer:
        scope.values[tensor.name] = _initializer(tensor, scope, weights)

    def inner(body: onnx.GraphProto, within: Scope) -> list[Value]:
        return _lowered(body, within, weights, failures)

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
    scope = replace(node.scope.inner(), read={**_read(graph), **node.scope.read})
    found = dict(zip((one.name for one in graph.output), _lowered(graph, scope, weights, failures), strict=True))
    if failures:
        reason = str(error) or f"made of {_listed(failures)}"
        raise UnsupportedError(reason) from error
    return [found.get(name) for name in node.proto.output]


def _operator(proto: onnx.NodeProto) -> str:
    return proto.op_type if is_standard(proto) else f"{proto.domain}.{proto.op_type}"


def _unsupported(failures: Mapping[str, Sequence[str]], varying: Sequence[Input]) -> str:
    """All nodes that have no form, by operator."""
    message = f"Core ML has no form for {sum(map(len, failures.values()))} nodes: {_listed(failures)}."
    if not varying:
        return f"{message} Export the model with other operators, or choose the target onnxruntime."
    names = ", ".join(f"{each.name} {list(each.shape)}" for each in varying)
    return (
        f"{message} Axes that vary may be the reason: give them one size each, in coreml.axes or in "
        f"export.inputs.NAME.dynamic ({names}). Else choose the target onnxruntime."
    )


def _listed(failures: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{operator}: {', '.join(nodes)}" for operator, nodes in sorted(failures.items()))


def _read_by(reader: str, name: str, scope: Scope) -> Any:
    """A value that something reads; None for one that has no form.

    Raises:
        CompressorError: nothing gives it.
    """
    if name not in scope.values:
        raise CompressorError(f"{reader} reads {name!r}, which nothing defines.")
    return scope.values[name]


def _named(graph: onnx.GraphProto, outputs: Sequence[Value], spelled: Mapping[str, str]) -> list[Var]:
    """The outputs as variables of their names: each one of its own, and no input or constant."""
    result: list[Var] = []
    for output, value in zip(graph.output, outputs, strict=True):
        name = spelled[output.name]
        try:
            found = mb.const(val=narrowed(value.array)) if isinstance(value, Constant) else value
        except UnsupportedError as error:
            raise CompressorError(
                f"the output {output.name} is a constant that Core ML cannot hold: {error}."
            ) from error
        if found.dtype in {types.int8, types.uint8}:  # which outputs cannot be
            found = mb.cast(x=found, dtype="int32", name=name)
        computed = found.op is not None and found.op.op_type != "const"
        if not computed or found.name != name or any(found is other for other in result):
            found = mb.identity(x=found, name=name)
        result.append(found)
    return result
