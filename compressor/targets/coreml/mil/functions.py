"""Operators that ONNX defines by a function of others: its body, for a node that has no form of its own."""

# ruff: noqa: TID253 - imported where an ONNX graph becomes a MIL program, and nowhere else

from __future__ import annotations

from typing import Any

import onnx
import onnx.inliner
from coremltools.converters.mil.mil import types

from compressor.formats.onnx.graphs import is_standard
from compressor.targets.coreml.mil.node import Constant, Node, Value
from compressor.targets.coreml.mil.values import shape

_T = onnx.TensorProto
_ELEMENTS = {
    types.fp32: _T.FLOAT, types.fp16: _T.FLOAT16, types.bool: _T.BOOL, types.int8: _T.INT8, types.uint8: _T.UINT8,
}  # fmt: skip
"""ONNX's types of MIL's; any other integer was most likely of 64 bits."""

_DOMAIN = "function"


def body(node: Node) -> onnx.GraphProto | None:
    """The graph of the function that defines a node, with the names of its operands; None where there is none."""
    if not is_standard(node.proto):
        return None
    try:
        values = [_declared(name, value) for name, value in zip(node.proto.input, node.operands, strict=True)]
        function = _function(node, values)
    except Exception:  # noqa: BLE001 - there is no such operator, or its function does not take these operands
        return None
    if function is None or len(node.proto.input) > len(function.input):
        return None
    # As a function of the model: ONNX's inliner takes none of a schema where an operand is left out.
    function.domain = _DOMAIN
    call = onnx.NodeProto()
    call.CopyFrom(node.proto)
    call.domain = _DOMAIN
    schema: Any = onnx.defs.get_schema(node.operator, node.scope.opset)
    given = {attribute.name for attribute in call.attribute}
    defaults = {name: one.default_value for name, one in schema.attributes.items() if name not in given}
    call.attribute.extend(value for value in defaults.values() if value.name)
    outputs = [onnx.ValueInfoProto(name=name) for number, name in enumerate(call.output) if node.reads(number)]
    inputs = {value.name: value for value in values if value.name}
    graph = onnx.helper.make_graph([call], "body", list(inputs.values()), outputs)
    opsets = [*function.opset_import, onnx.helper.make_opsetid(_DOMAIN, 1)]
    model = onnx.helper.make_model(graph, functions=[function], opset_imports=opsets)
    return onnx.inliner.inline_local_functions(model).graph


def _function(node: Node, values: list[onnx.ValueInfoProto]) -> onnx.FunctionProto | None:
    schema: Any = onnx.defs.get_schema(node.operator, node.scope.opset)
    if schema.has_context_dependent_function:
        given = [value.type.SerializeToString() for value in values]
        data = schema.get_context_dependent_function(node.proto.SerializeToString(), given)
        made = onnx.FunctionProto()
        made.ParseFromString(data)
        return made
    if not schema.has_function:
        return None
    made = onnx.FunctionProto()
    made.CopyFrom(schema.function_body)
    return made


def _declared(name: str, value: Value | None) -> onnx.ValueInfoProto:
    """An operand with its type; nothing for one that is left out."""
    if value is None:
        return onnx.ValueInfoProto()
    if isinstance(value, Constant):
        element = onnx.helper.np_dtype_to_tensor_dtype(value.array.dtype)
        return onnx.helper.make_tensor_value_info(name, element, value.array.shape)
    dims = [dim if isinstance(dim, int) else None for dim in shape(value)]
    return onnx.helper.make_tensor_value_info(name, _ELEMENTS.get(value.dtype, _T.INT64), dims)
