"""The exporter's graph, as tidy as the standard optimizer makes it, with the trained weights out of its reach."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch.export import ExportedProgram
from torch.nn import Module
from torch.onnx import ONNXProgram


def stored_names(model: Module | ExportedProgram) -> Mapping[str, str]:
    """The state dict's names, each with the first name of the same tensor: tied weights have several."""
    first: dict[object, str] = {}
    state = model.state_dict if isinstance(model, ExportedProgram) else model.state_dict()
    return {
        name: first.setdefault(
            (value.data_ptr(), value.dtype, tuple(value.shape), tuple(value.stride())) if value.numel() else name, name
        )
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def tidy(program: ONNXProgram, stored: Mapping[str, str]) -> None:
    """Optimize `program` in place; initializers named in `stored` keep name, layout and values."""
    graph = program.model.graph
    with hidden(graph, [name for name in stored if name in graph.initializers]):
        program.optimize()
    for name, canonical in stored.items():
        if name != canonical and name in graph.initializers and canonical not in graph.initializers:
            graph.initializers[name].name = canonical
    name_scales(graph)
    common.RemoveUnusedNodesPass()(program.model)
    common.RemoveUnusedOpsetsPass()(program.model)
    forget(program.model)


@contextmanager
def hidden(graph: ir.Graph, names: Sequence[str]) -> Iterator[None]:
    """Show these initializers to the optimizer as inputs of the graph, of which it knows shape and dtype alone.

    So nothing can be folded into them: no batch norm, no transpose, no cast; and equal ones are not merged.
    """
    tensors = {}
    for name in names:
        value = graph.initializers.pop(name)
        tensors[value] = value.const_value
        value.const_value = None
        graph.inputs.append(value)
    try:
        yield
    finally:
        for value, tensor in tensors.items():
            graph.inputs.remove(value)
            value.const_value = tensor
            graph.initializers.add(value)


def name_scales(graph: ir.Graph) -> None:
    """Give each quantized weight a scale and zero point of its own, called WEIGHT.scale and WEIGHT.zero_point.

    The optimizer merges equal constants, so weights would share zero points with each other and with activations.
    """
    for node in graph:
        if node.op_type != "DequantizeLinear" or node.inputs[0] is None or not node.inputs[0].is_initializer():
            continue
        weight = node.inputs[0].name
        for index, part in enumerate(("scale", "zero_point"), start=1):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is None or not value.is_initializer() or value.const_value is None:
                continue
            own = graph.initializers.get(f"{weight}.{part}")
            if own is None:
                own = ir.Value(
                    name=f"{weight}.{part}", type=value.type, shape=value.shape, const_value=value.const_value
                )
                graph.initializers.add(own)
            node.replace_input_with(index, own)


def forget(model: ir.Model) -> None:
    """Drop stack traces, with paths of this machine, and the shapes of initializers, which their tensors have."""
    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    values = [value for node in model.graph.all_nodes() for value in node.outputs]
    for value in (*model.graph.inputs, *model.graph.initializers.values(), *values):
        value.metadata_props.clear()
        value.doc_string = None
    for value in model.graph.initializers.values():
        value.shape = value.type = None
