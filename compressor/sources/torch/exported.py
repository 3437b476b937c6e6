"""The files of an exported model: its graph, whose declared weights are stored in their form, and its traced module."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from torch.export import ExportedProgram
from torch.nn import Module

from compressor.arrays import UINT8, ComputedArray, NDArray
from compressor.encodings import Encoding
from compressor.formats.onnx import assembly, decoding, functions, writing
from compressor.formats.onnx.graphs import walk
from compressor.formats.onnx.lowered import Part
from compressor.formats.onnx.quantized import Form, is_linear
from compressor.model import TIED, UNTRACED
from compressor.sources import InputSpec
from compressor.sources.torch import traced
from compressor.sources.torch.declared import Declared

INTEGER_KERNELS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operators for which runtimes have kernels that multiply codes."""

NOTE = f"{functions.DOMAIN}.note."
"""Keys of the model's metadata: what was declared about the weight of this name and is not kept."""


def write(
    graph: ir.Model,
    model: Module | ExportedProgram,
    inputs: Mapping[str, InputSpec],
    declared: Declared,
    stored: Mapping[str, str],
    directory: Path,
) -> None:
    """Write `graph`, which `model` was exported to, and beside it the module as torch traces it or why there is none.

    stored: the graph's names by the state dict's. What the graph holds loses its values in `model`, for good.
    """
    held = set(graph.graph.initializers)
    made, reason = traced.trace(model, inputs)
    notes = {f"{NOTE}{stored.get(name, name)}": note for name, note in declared.notes.items()}
    notes |= {UNTRACED: reason} if reason else {}
    notes |= {f"{TIED}{name}": kept for name, kept in stored.items() if name != kept and kept in held}
    encodings = {stored.get(name, name): encoding for name, encoding in declared.encodings.items()}
    _write_graph(graph, encodings, notes, directory)
    if made is not None and isinstance(model, Module):
        traced.write(made, model, held, directory)


def _write_graph(model: ir.Model, encodings: Mapping[str, Encoding], notes: Mapping[str, str], directory: Path) -> None:
    """Write `model`, which loses its initializers, with the weights of `encodings` in their form where it can be."""
    parts = list(_parts(model.graph))
    proto = ir.to_proto(model)
    opset = assembly.opset(proto)
    held = {part.name for part in parts} if proto.graph.node else set()
    said = {name: decoding.in_opset(one, opset) for name, one in encodings.items() if name in held}
    fitting = {name: one for name, one in said.items() if _fits(one, opset)}
    prefixes = assembly.prefixes(fitting, sorted({*assembly.names(proto.graph), *held}))
    forms = _forms(proto.graph, fitting, opset)
    lowered = [decoding.lower(name, one, opset, forms[name], prefixes[name]) for name, one in fitting.items()]
    assembly.insert(proto, lowered, fitting, opset)
    for key, note in notes.items():
        proto.metadata_props.add(key=key, value=note)
    parts = [part for part in parts if part.name not in fitting]
    parts += [part for one in lowered for part in one.parts]
    writing.layout(proto, parts, apart=True).begin(directory)


def _parts(graph: ir.Graph) -> Iterator[Part]:
    """The numbers among the initializers of `graph`, which are taken out of it; each is read when it is written."""
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.dtype is not ir.DataType.STRING:
            del graph.initializers[name]
            data = ComputedArray((tensor.nbytes,), UINT8, partial(_bytes, tensor))
            yield Part(name, tensor.dtype.value, tuple(tensor.shape.numpy()), data)


def _bytes(tensor: ir.TensorProtocol) -> NDArray:
    return np.frombuffer(tensor.tobytes(), np.uint8)


def _fits(encoding: Encoding, opset: int) -> bool:
    """Whether a graph can decode the weight."""
    return decoding.needs_opset(encoding) <= opset and not decoding.why_not(encoding)


def _forms(graph: onnx.GraphProto, encodings: Mapping[str, Encoding], opset: int) -> dict[str, Form]:
    """`linear` for a weight that is multiplied where activations are quantized too, as in training."""
    nodes = [node for inner in walk(graph) for node in inner.node]
    quantizes = any(node.op_type == "QuantizeLinear" for node in nodes)
    uses = [(name, place, node.op_type) for node in nodes for place, name in enumerate(node.input) if name in encodings]
    multiplied = {name for name, _, _ in uses if quantizes}
    multiplied -= {name for name, place, operator in uses if place != 1 or operator not in INTEGER_KERNELS}
    return {
        name: "linear" if name in multiplied and is_linear(encoding, opset) else "folded"
        for name, encoding in encodings.items()
    }
