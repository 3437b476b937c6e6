"""A model without torch's packed weights and quantized tensors: codes are buffers, and operators compute in float."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch.ao.nn.quantized as nnq
from torch.ao.nn.quantized.dynamic.modules.rnn import RNNBase, RNNCellBase
from torch.ao.nn.quantized.modules.conv import _ConvNd
from torch.fx import GraphModule, Node
from torch.nn import Module

from compressor.errors import CompressorError
from compressor.sources.torch.ao import is_quantized, packed
from compressor.sources.torch.legacy.functions import Floating, spelled, supported
from compressor.sources.torch.legacy.packed import UNPACKED, CodedWeight, OverCodes, kind, unpacked
from compressor.sources.torch.program import fold

QPARAMS = ("scale", "zero_point")

LAYERS: Mapping[type[Module], Sequence[str]] = {
    **dict.fromkeys((nnq.Linear, _ConvNd, nnq.Embedding, nnq.PReLU), ("",)),
    RNNCellBase: ("_ih", "_hh"),
    RNNBase: (),
}
"""Modules with packed weights, subclasses included, and how the names of their weights end."""


def lower(model: Module) -> Module:
    """`model` with every packed weight replaced in place, and a forward that computes in float.

    Raises: CompressorError that lists everything quantized that has no float form.
    """
    modules = dict(model.named_modules())
    _refuse(modules, [(name, key, value) for name, module in modules.items() for key, value in packed(module)])
    for module in modules.values():
        if isinstance(module, GraphModule):
            fold(module)
    for module in modules.values():
        _fix_qparams(module)
    model = _with_codes(model)
    for module in model.modules():
        for key, value in packed(module):
            child = OverCodes()
            delattr(module, key)
            setattr(module, key, child.over(unpacked(child, value, rank=_rank(module, key))))
    return _floating(_plain(model) if isinstance(model, GraphModule) else model).eval()


def _plain(graph: GraphModule) -> Module:
    """A module with the very tensors of `graph`: an exporter interprets a GraphModule without calling its forward."""
    plain = OverCodes()
    for content in ("_parameters", "_buffers", "_modules"):
        object.__setattr__(plain, content, getattr(graph, content))
    plain.forward = graph.forward  # type: ignore[method-assign]
    return plain


def _floating(model: Module) -> Module:
    forward = model.forward

    @functools.wraps(forward)
    def floating(*args: Any, **kwargs: Any) -> Any:
        with Floating():
            return forward(*args, **kwargs)

    model.forward = floating
    return model


def _refuse(modules: Mapping[str, Module], held: Sequence[tuple[str, str, Any]]) -> None:
    problems = [
        f"{name or 'the model'}.{key} ({kind(value) or 'a quantized tensor'})"
        for name, key, value in held
        if kind(value) not in UNPACKED and not isinstance(modules[name], nnq.PReLU)
    ]
    problems += [
        f"{f'{name}.' if name else ''}{node.name} ({operator})"
        for name, module in modules.items()
        if isinstance(module, GraphModule)
        for node in module.graph.nodes
        if not supported(operator := _operator(node))
    ]
    if problems:
        raise CompressorError(f"no float form for what is quantized in {', '.join(problems)}. Keep it in float.")


def _operator(node: Node) -> str:
    return f"aten::{node.target}" if node.op == "call_method" else spelled(node.target)


def _fix_qparams(module: Module) -> None:
    """Scales and zero points of activations as numbers: a grid is no input of an operator, but a part of it."""
    names = [name for name in QPARAMS if is_quantized(module) and name in module._buffers]  # noqa: SLF001
    owners = [(module, name) for name in names]
    if isinstance(module, GraphModule):
        for node in module.graph.nodes:
            if node.op == "get_attr" and any(_takes_qparams(user) for user in node.users):
                path, _, name = str(node.target).rpartition(".")
                owners.append((module.get_submodule(path), name))
    for owner, name in owners:
        value = owner._buffers.get(name)  # noqa: SLF001 - a plain attribute cannot hide a buffer
        if value is not None and value.numel() == 1:
            delattr(owner, name)
            setattr(owner, name, value.item())


def _takes_qparams(node: Node) -> bool:
    operator = _operator(node)
    return operator.startswith("quantized::") or operator == "aten::quantize_per_tensor"


def _rank(module: Module, key: str) -> int:
    """The rank of the convolution that takes the packed parameters `key`: those of rank 1 are packed as rank 2."""
    if not isinstance(module, GraphModule):
        return 0
    users = [user for node in module.graph.nodes if node.op == "get_attr" and node.target == key for user in node.users]
    return 1 if any("1d" in _operator(user) for user in users) else 0


def _with_codes(module: Module) -> Module:
    """`module` with its quantized layers, outermost first, replaced by their codes."""
    for layer, suffixes in LAYERS.items():
        if isinstance(module, layer):
            return _codes(module, suffixes)
    for name, child in module._modules.items():  # noqa: SLF001 - named_children() names a shared child once
        if child is not None:
            setattr(module, name, _with_codes(child))
    return module


def _codes(source: Any, suffixes: Sequence[str]) -> OverCodes:
    """Codes under the names that the float layer's weights had, in place of what `source` has packed."""
    lowered = OverCodes()
    rank = len(source.kernel_size) if isinstance(source, _ConvNd) else 0
    found = [(owner, key, value) for owner in source.modules() for key, value in packed(owner)]
    if isinstance(source, RNNBase):
        directions = ("", "_reverse") if source.bidirectional else ("",)
        suffixes = [f"_l{layer}{direction}" for layer in range(source.num_layers) for direction in directions]
    for (owner, key, value), suffix in zip(found, suffixes, strict=True):
        whole = CodedWeight(lowered, "weight", value) if kind(value) is None else None
        setattr(owner, key, whole or unpacked(lowered, value, suffix, rank))
    return lowered.over(source)
