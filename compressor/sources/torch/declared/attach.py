"""Declarations of a bare state dict, put where the training tool has them in the module that the factory builds."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from compressor.sources.torch import ao
from compressor.sources.torch.declared import coremltools, torchao
from compressor.sources.torch.declared.bare import QUANTIZER, BareGrid

_KEYS = ("scale", "zero_point", "ch_axis", "fake_quant_enabled")
"""What a grid has of its quantizer."""
_FINALIZED = {"weight_scale": "scale", "weight_zero_point": "zero_point", "weight_axis": "ch_axis"}
_FINALIZED |= dict.fromkeys("weight_axis_int weight_qscheme weight_dtype weight_quant_min weight_quant_max".split(), "")
"""What a layer of a finalized model, which is a reference of a quantized one, has beside its weight."""
_RANGES = re.compile(r"(.*\.)?activation_post_process\..+|\w+_(scale|zero_point)_\d+")
"""How both call the grids of activations."""


def attach(model: Module, state: Mapping[str, object]) -> OrderedDict[str, object]:
    """Give `model` the buffers, grids and tensors that its state dict has beside the model's own; the rest of it."""
    own, modules = model.state_dict(), dict(model.named_modules(remove_duplicate=False))
    rest = _unfused(state, own)
    grids: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in list(rest.items()):
        if name in own:
            _make_room(modules, name, own[name], value)
            continue
        module, prefix, key = name.rpartition(coremltools.PREFIX)
        path = module.removesuffix(".")
        if prefix and path in modules and _is_plain(value) and "." not in key:
            modules[path].register_buffer(f"{prefix}{key}", value)
        if (found := _of_a_grid(name, rest)) and f"{found[0]}weight" in own:
            path, key = found[0].removesuffix("."), found[1]
            if QUANTIZER not in modules[path]._modules:  # noqa: SLF001 - a module may define __getattr__
                grids[path] |= {key: value} if key in _KEYS and _is_plain(value) else {}
                del rest[name]
    # Beside the grids of weights stand those of activations, for which such a model has no place.
    ranges = {name for name in rest if grids and name not in own and _RANGES.fullmatch(name)}
    for path, buffers in grids.items():
        modules[path].add_module(QUANTIZER, BareGrid(buffers, alone=bool(ranges)))
    return OrderedDict((name, value) for name, value in rest.items() if name not in ranges)


def _is_plain(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized


def _of_a_grid(name: str, state: Mapping[str, object]) -> tuple[str, str] | None:
    """The module of whose weight's grid the entry is a part, with a dot behind it, and the part."""
    module, quantizer, key = name.partition(f"{QUANTIZER}.")
    if quantizer:
        return module, key
    path, dot, key = name.rpartition(".")
    marks = (f"{path}{dot}{mark}" for mark in ("weight_qscheme", f"{coremltools.PREFIX}weight/compression_type"))
    # Others call a scale that the weight is still to be multiplied by `weight_scale` too.
    return (f"{path}{dot}", _FINALIZED[key]) if key in _FINALIZED and any(mark in state for mark in marks) else None


def _unfused(state: Mapping[str, object], own: Mapping[str, object]) -> OrderedDict[str, object]:
    """The state dict with the names of layers as the model has them: Core ML Tools puts a layer and its activation into
    one module, the layer as its child 0.
    """
    fused = {name.rpartition(coremltools.PREFIX)[0] for name in state if f".0.{coremltools.PREFIX}" in name}
    prefixes = [prefix for prefix in fused if f"{prefix}weight" not in own and f"{prefix[:-2]}weight" in own]
    names = {name: name for name in state}
    for prefix in prefixes:
        names |= {name: f"{prefix[:-2]}{name.removeprefix(prefix)}" for name in state if name.startswith(prefix)}
    return OrderedDict((names[name], value) for name, value in state.items())


def _make_room(modules: Mapping[str, Module], name: str, old: object, new: object) -> None:
    """Let the module take a tensor of torchao's, or the ranges by channel that an observer has found."""
    path, _, key = name.rpartition(".")
    module = modules.get(path)
    if not isinstance(old, Tensor) or not isinstance(new, Tensor) or module is None:
        return
    if torchao.is_own(new) and new.shape == old.shape and key in module._parameters:  # noqa: SLF001
        module._parameters[key] = Parameter(new, requires_grad=False)  # noqa: SLF001
    elif new.shape != old.shape and key in module._buffers and ao.is_own(module):  # noqa: SLF001
        from compressor.sources.torch.legacy.fake_quantize import finds_ranges

        if finds_ranges(module):
            module._buffers[key] = new.clone()  # noqa: SLF001
