"""Graphs of torch's quantized_decomposed operators (PT2E), whose weights become codes and activations standard Q/DQ.

What quantizes a stored weight on every call is done once, here; what takes the range of an activation at run time (a
chain of three operators) becomes `compressor::rounded`, which has a translation.
"""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers torch.ops.quantized_decomposed
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from compressor.sources.torch import operators  # noqa: F401 - registers torch.ops.compressor

OPS: Any = torch.ops.quantized_decomposed
QUANTIZE = (OPS.quantize_per_tensor.default, OPS.quantize_per_channel.default, OPS.quantize_per_channel_group.default)
DEQUANTIZE = (OPS.dequantize_per_channel.default, OPS.dequantize_per_channel_group.default)
ZERO_POINTS = 2
"""Where the arguments of DEQUANTIZE have the zero points."""


@dataclass(frozen=True)
class Ranges:
    """An operator that takes the range of an activation: quantized_decomposed.NAME(x, *options)."""

    symmetric: bool
    rows: bool

    def options(self, x: Any, args: Any) -> tuple[Any, ...]:
        low, high, eps = (-128, 127, 1e-5) if self.rows else args[1:4]
        if self.symmetric and self.rows:
            low = -127
        return (x, low, high, float(eps), self.symmetric, self.rows)


RANGES: Mapping[Any, Ranges] = {
    OPS.choose_qparams.tensor: Ranges(symmetric=False, rows=False),
    OPS.choose_qparams_symmetric.tensor: Ranges(symmetric=True, rows=False),
    OPS.choose_qparams_per_token.default: Ranges(symmetric=True, rows=True),
    OPS.choose_qparams_per_token_asymmetric.default: Ranges(symmetric=False, rows=True),
    OPS._choose_qparams_per_token_asymmetric_impl.default: Ranges(symmetric=False, rows=True),  # noqa: SLF001
}
DYNAMIC = {
    OPS.dequantize_per_tensor.tensor: OPS.quantize_per_tensor.tensor,
    OPS.dequantize_per_token.default: OPS.quantize_per_token.default,
}
"""A dequantization with the scale of an activation's range, and the quantization before it."""


def folded(program: ExportedProgram) -> ExportedProgram:
    """`program` with codes for weights, in place."""
    signature = program.graph_signature
    names = dict(signature.inputs_to_parameters) | dict(signature.inputs_to_buffers)

    def tensor(node: Node) -> Tensor | None:
        name = names.get(node.name, "")
        value: Tensor | None = program.state_dict.get(name, program.constants.get(name))
        return value

    def replace(node: Node, value: Tensor) -> None:
        place = program.state_dict if names[node.name] in program.state_dict else program.constants
        parameter = isinstance(place[names[node.name]], torch.nn.Parameter)
        place[names[node.name]] = torch.nn.Parameter(value, requires_grad=False) if parameter else value
        node.meta["val"] = node.meta["val"].to(value.dtype)

    _fold(program.graph, tensor, replace)
    program.graph_module.recompile()
    return program


def fold(module: GraphModule) -> None:
    """The same for a graph that is a module."""

    def parts(node: Node) -> tuple[Any, str]:
        path, _, name = str(node.target).rpartition(".")
        return module.get_submodule(path), name

    def tensor(node: Node) -> Tensor | None:
        value = getattr(*parts(node), None) if node.op == "get_attr" else None
        return value if isinstance(value, Tensor) else None

    def replace(node: Node, value: Tensor) -> None:
        owner, name = parts(node)
        delattr(owner, name)
        owner.register_buffer(name, value)

    _fold(module.graph, tensor, replace)
    module.recompile()


def _fold(graph: Graph, tensor: Callable[[Node], Tensor | None], replace: Callable[[Node, Tensor], None]) -> None:
    for node in list(graph.nodes):
        if node.target in QUANTIZE and _fold_weight(node, tensor, replace):
            continue
        if node.target in DEQUANTIZE:
            _shorten_zero_points(node, tensor, replace)
        elif node.target in DYNAMIC:
            _round(node)
        if node.target is OPS.quantize_per_tensor.default:
            _clamp(node)
    graph.eliminate_dead_code()


def _fold_weight(node: Any, tensor: Callable[[Node], Tensor | None], replace: Callable[[Node, Tensor], None]) -> bool:
    weight, *options = node.args
    values = [tensor(each) if isinstance(each, Node) else each for each in (weight, *options)]
    alone = isinstance(weight, Node) and list(weight.users) == [node]
    if not alone or any(value is None for value in values[:3]):
        return False
    replace(weight, node.target(*values))
    node.replace_all_uses_with(weight)
    node.graph.erase_node(node)
    return True


def _shorten_zero_points(
    node: Any, tensor: Callable[[Node], Tensor | None], replace: Callable[[Node, Tensor], None]
) -> None:
    """Zero points as codes, which they are in ONNX; torch's tools store them as int64."""
    points = node.args[ZERO_POINTS]
    stored = tensor(points) if isinstance(points, Node) else None
    dtype = node.args[-1]
    if stored is None or not isinstance(dtype, torch.dtype) or stored.is_floating_point() or stored.dtype is dtype:
        return
    short = stored.to(dtype)
    if torch.equal(short.to(stored.dtype), stored) and all(user.target in DEQUANTIZE for user in points.users):
        replace(points, short)


def _clamp(node: Any) -> None:
    """The codes of a grid may be fewer than their dtype has, which ONNX cannot say: saturate before."""
    x, scale, zero_point, low, high, dtype = node.args
    limits = torch.iinfo(dtype)
    if not isinstance(x, Node) or (low, high) == (limits.min, limits.max):
        return
    with node.graph.inserting_before(node):
        bounds = ((low - zero_point) * scale, (high - zero_point) * scale)
        clamped = node.graph.call_function(torch.ops.aten.clamp.default, (x, *bounds))
    clamped.meta = dict(x.meta)
    node.update_arg(0, clamped)


def _round(node: Any) -> None:
    """choose_qparams, quantize and dequantize in one."""
    quantized = node.args[0]
    scale = node.args[1]
    chosen = scale.args[0] if isinstance(scale, Node) and scale.args else None
    if not (isinstance(quantized, Node) and quantized.target is DYNAMIC[node.target]):
        return
    if not (isinstance(chosen, Node) and chosen.target in RANGES and quantized.args[0] is chosen.args[0]):
        return
    with node.graph.inserting_before(node):
        options = RANGES[chosen.target].options(chosen.args[0], chosen.args)
        new = node.graph.call_function(torch.ops.compressor.rounded.default, options)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
