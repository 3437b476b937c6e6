"""From an ONNX graph to a MIL program, node by node.

What moves the elements of a weight before a layer reads it (a transposed matrix, the gates of an LSTM) are MIL
operators on the const of that weight, so that the way of its codes is known.
"""

# ruff: noqa: TID253 - imported where an ONNX graph becomes a MIL program, and nowhere else

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - the name that all its examples have
from coremltools.converters.mil.mil import Function, Program, types

from compressor.arrays import NDArray
from compressor.errors import CompressorError, plural
from compressor.formats.onnx import assembly
from compressor.targets.coreml.mil import interface, lowering
from compressor.targets.coreml.mil.node import Scope
from compressor.targets.coreml.request import Input

_OLDEST = 13
"""The opset from which on axes of `Squeeze` and the like are operands, and `Softmax` knows an axis alone."""

_ALLOWED = 4
"""How many times all weights may be moved while the program is built: transposed, cut into gates and the like."""

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
    spelled = interface.spelled([*(each.name for each in inputs), *(value.name for value in graph.output)])
    notes = {name: f"called {plain!r}" for name, plain in spelled.items() if name != plain}
    dims = interface.dims(inputs, declared)
    placeholders = {spelled[each.name]: mb.placeholder(dims[each.name] or (1,), _NUMPY[each.dtype]) for each in inputs}
    failures: dict[str, list[str]] = {}
    with Function(placeholders, opset_version=version) as function:
        scope = Scope(version, assembly.opset(proto), {}, spelled, lowering.readers(graph), directory, notes)
        scope.allowance.left += _ALLOWED * sum(array.nbytes for array in values.values())
        for each in inputs:
            found, element = function.inputs[spelled[each.name]], declared[each.name].elem_type
            if not dims[each.name]:  # Core ML's arrays have one axis at least
                found = mb.squeeze(x=found, axes=[0])
                notes[each.name] = "a scalar became an array of one element"
            scope.values[each.name] = mb.cast(x=found, dtype="bool") if element == _T.BOOL else found
        outputs = lowering.lowered(graph, scope, values, failures)
        if failures:
            raise CompressorError(_unsupported(failures, [each for each in inputs if interface.varies(each)]))
        function.set_outputs(interface.named(graph, outputs, spelled))
    if any(interface.varies(each) for each in inputs):
        function.set_input_types(tuple(interface.flexible(each, spelled[each.name]) for each in inputs))
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


def _unsupported(failures: Mapping[str, Sequence[str]], varying: Sequence[Input]) -> str:
    """All nodes that have no form, by operator."""
    count = plural(sum(map(len, failures.values())), "node")
    message = f"Core ML has no form for {count}: {lowering.listed(failures)}."
    if not varying:
        return f"{message} Export the model with other operators, or choose the target onnxruntime."
    names = ", ".join(f"{each.name} {list(each.shape)}" for each in varying)
    return (
        f"{message} Axes that vary may be the reason: give them one size each, in coreml.axes or in "
        f"export.inputs.NAME.dynamic ({names}). Else choose the target onnxruntime."
    )
