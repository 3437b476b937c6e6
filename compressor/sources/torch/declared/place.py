"""Declared weights in the exported graph: stored in their form, and decoded as `formats.onnx.decoding` says."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir

from compressor.encodings import Encoding, dtype, shape
from compressor.formats.onnx import decoding, functions
from compressor.formats.onnx.assembly import prefix
from compressor.formats.onnx.dtypes import DATA_TYPES
from compressor.formats.onnx.lowered import Lowered, Part, shared
from compressor.formats.onnx.quantized import Form, is_linear
from compressor.sources.torch.declared import Declared

INTEGER_KERNELS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operators for which runtimes have kernels that multiply codes."""

NOTE = f"{functions.DOMAIN}.note."
"""Keys of the model's metadata: what was declared about the weight of this name and is not kept."""


def place(model: ir.Model, declared: Declared, stored: Mapping[str, str], opset: int) -> None:
    """Store the declared weights of `model` in their form, in place. stored: the graph's names by the state dict's."""
    graph = model.graph
    for name, note in declared.notes.items():
        model.metadata_props[f"{NOTE}{stored.get(name, name)}"] = note
    named = {stored.get(name, name): encoding for name, encoding in declared.encodings.items()}
    encodings = {name: encoding for name, encoding in named.items() if _fits(graph, name, encoding, opset)}
    if not encodings:
        return
    taken = {value.name for node in graph.all_nodes() for value in node.outputs if value.name}
    taken.update(name for name in (*graph.initializers, *(value.name for value in graph.inputs)) if name)
    by_name = sorted(taken)
    quantizes = any(node.op_type == "QuantizeLinear" for node in graph.all_nodes())
    lowered = [
        decoding.lower(
            name, one, opset, _form(graph.initializers[name], one, opset, quantizes=quantizes), prefix(name, by_name)
        )
        for name, one in encodings.items()
    ]
    every = [shared(lowered), *lowered]
    values: dict[str, ir.Value] = {}
    for one in every:
        for part in one.parts:
            values[part.name] = ir.Value(name=part.name, const_value=_tensor(part))
    nodes = [node for one in every for node in _nodes(one, values)]
    for name, encoding in encodings.items():
        old = graph.initializers.pop(name)
        values[name].dtype = ir.DataType(DATA_TYPES[dtype(encoding).name])
        values[name].shape = ir.Shape(shape(encoding))
        ir.convenience.replace_all_uses_with(old, values[name], replace_graph_outputs=True)
    for one in lowered:
        for part in one.parts:
            graph.initializers.add(values[part.name])
    graph.insert_before(graph[0], nodes)
    for name in sorted({name for one in every for name in one.functions}):
        function = ir.serde.deserialize_function(functions.function(name, opset))
        model.functions[function.identifier()] = function
    model.opset_imports[functions.DOMAIN] = functions.VERSION


def _fits(graph: ir.Graph, name: str, encoding: Encoding, opset: int) -> bool:
    """Whether the graph reads the weight, and can decode it."""
    value = graph.initializers.get(name)
    if value is None or not len(graph):
        return False
    return decoding.needs_opset(encoding) <= opset and not decoding.why_not(encoding)


def _form(value: ir.Value, encoding: Encoding, opset: int, *, quantizes: bool) -> Form:
    """`linear` for a weight that is multiplied where activations are quantized too, as in training."""
    uses = value.uses()
    multiplied = bool(uses) and all(index == 1 and node.op_type in INTEGER_KERNELS for node, index in uses)
    return "linear" if quantizes and multiplied and is_linear(encoding, opset) else "folded"


def _tensor(part: Part) -> ir.TensorProtocol:
    raw = part.payload().tobytes().ljust(part.nbytes, b"\0")
    return ir.serde.deserialize_tensor(
        onnx.TensorProto(name=part.name, data_type=part.data_type, dims=part.dims, raw_data=raw)
    )


def _nodes(one: Lowered, values: dict[str, ir.Value]) -> list[ir.Node]:
    """The nodes of what was lowered, over `values` by name, to which theirs are added."""
    made = []
    for proto in one.nodes:
        node = ir.Node(
            proto.domain,
            proto.op_type,
            [values[name] for name in proto.input],
            [ir.serde.deserialize_attribute(attribute) for attribute in proto.attribute],
            name=proto.name,
        )
        (output,) = node.outputs
        output.name = proto.output[0]
        values[proto.output[0]] = output
        made.append(node)
    for info in one.values:
        ir.serde.deserialize_value_info_proto(info, values[info.name])
    return made
