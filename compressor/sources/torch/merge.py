"""Masks and norms that a training keeps apart from a weight, made part of it under the weight's own name.

    NAME_orig, NAME_mask                            original * mask              torch.nn.utils.prune
    parametrizations.NAME.original, .N.BUFFER       original * mask ...          torch.nn.utils.parametrize
    NAME_g, NAME_v; .original0, .original1          g * v / |v|                  weight norm, both kinds
    NAME_orig, NAME_u, NAME_v; .original, .N._u     original / (u^T W v)         spectral norm, both kinds

`merged` does so in a state dict whose model has plain weights, `unhooked` and `unparametrized` in a model.
"""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

COMPILED = "_orig_mod."
"""What torch.compile puts before the names of a module."""
PARAMETRIZED = re.compile(r"(?P<module>(?:.*\.)?)parametrizations\.(?P<name>[^.]+)\.(?P<part>.+)")
HOOKED = re.compile(r"(?P<name>.+)_(?P<part>orig|mask|g|v|u)")


def unprefixed(state: Mapping[str, object], expected: Mapping[str, object]) -> Mapping[str, object]:
    """`state` without what a wrapper put before all its names, where the model's names are all there without it."""
    names = {key: key.replace(COMPILED, "") for key in state}
    while True:
        found = {_plain_name(name, expected) for name in names.values()}
        if found >= {key for key in expected if not key.endswith("num_batches_tracked")}:
            return OrderedDict((name, state[key]) for key, name in names.items())
        prefixes = {name.partition(".")[0] for name in names.values()}
        if len(prefixes) != 1 or not all("." in name for name in names.values()):
            return state
        names = {key: name.partition(".")[2] for key, name in names.items()}


def inner(state: Mapping[str, object], expected: Mapping[str, object]) -> tuple[Mapping[str, object], list[str]]:
    """The entries of the one submodule of a wrapper that is the model, by all its names; and the other entries' names.

    A LightningModule may hold the weights of a loss or a metric beside the model. Where two submodules fit (one of
    them averaged, say), or none, `state` is as it was.
    """
    needed = {key for key in expected if not key.endswith("num_batches_tracked")}
    submodules: dict[str, OrderedDict[str, object]] = {}
    for key, value in state.items():
        for dot in re.finditer(r"\.", key):
            submodules.setdefault(key[: dot.end()], OrderedDict())[key[dot.end() :].replace(COMPILED, "")] = value
    fitting = [
        prefix for prefix, found in submodules.items() if needed <= {_plain_name(name, expected) for name in found}
    ]
    if len(fitting) != 1:
        return state, []
    return submodules[fitting[0]], [key for key in state if not key.startswith(fitting[0])]


def merged(state: Mapping[str, object], expected: Mapping[str, object]) -> OrderedDict[str, object]:
    """`state` with the weights of `expected` in place of the parts that they are kept in."""
    parts: dict[str, dict[str, str]] = {}
    for key in state:
        name = _plain_name(key, expected)
        if name != key:
            parts.setdefault(name, {})[_part(key)] = key
    result = OrderedDict(state)
    for name, keys in parts.items():
        value = None if name in state else _merge({part: state[key] for part, key in keys.items()})
        if value is not None:
            result[name] = value
            for key in keys.values():
                del result[key]
    return result


def _plain_name(key: str, expected: Mapping[str, object]) -> str:
    """The weight of `expected` that the entry `key` is a part of; `key` itself where it is none."""
    if key in expected:
        return key
    if match := PARAMETRIZED.fullmatch(key):
        name = f"{match['module']}{match['name']}"
    elif match := HOOKED.fullmatch(key):
        name = match["name"]
    else:
        return key
    return name if name in expected else key


def _part(key: str) -> str:
    match = PARAMETRIZED.fullmatch(key) or HOOKED.fullmatch(key)
    return match["part"] if match else ""


def _merge(parts: Mapping[str, object]) -> Tensor | None:
    """The weight, None where the parts are of no kind that is known."""
    tensors = {part: value for part, value in parts.items() if isinstance(value, Tensor) and not _counts(part)}
    names = {part.rpartition(".")[2].lstrip("_") for part in tensors}
    if len(tensors) != sum(not _counts(part) for part in parts):
        return None
    if names in ({"g", "v"}, {"original0", "original1"}):
        magnitude, direction = (tensors[part] for part in sorted(tensors))
        return _weight_norm(magnitude, direction)
    original = tensors.pop("orig", tensors.pop("original", None))
    if original is None or not tensors:
        return None
    names = {part.rpartition(".")[2].lstrip("_") for part in tensors}
    if names <= {"u", "v"}:
        return _spectral_norm(original, [tensors[part] for part in sorted(tensors)])
    masks = [tensors[part] for part in sorted(tensors)]
    if not all(mask.shape == original.shape and _is_mask(mask) for mask in masks):
        return None
    for mask in masks:
        original = original * mask.to(original.dtype)
    return original


def _counts(part: str) -> bool:
    """Whether it is the counter of a schedule, as coreai-opt keeps one beside a mask."""
    return part.endswith(".step_count")


def _is_mask(values: Tensor) -> bool:
    return values.dtype is torch.bool or bool(((values == 0) | (values == 1)).all())


def _weight_norm(magnitude: Tensor, direction: Tensor) -> Tensor | None:
    if not magnitude.dim():
        return torch._weight_norm(direction, magnitude, -1)  # noqa: SLF001 - the operator of both kinds
    axes = [axis for axis, size in enumerate(magnitude.shape) if size != 1]
    single = [axis for axis, size in enumerate(direction.shape) if size == 1]
    if magnitude.dim() != direction.dim() or len(axes) > 1 or not (axes or single):
        return None
    return torch._weight_norm(direction, magnitude, (axes or single)[0])  # noqa: SLF001 - as above


def _spectral_norm(weight: Tensor, vectors: Sequence[Tensor]) -> Tensor | None:
    axis = 0 if vectors[0].numel() == weight.shape[0] else 1
    matrix = weight.transpose(0, axis).flatten(1)
    if len(vectors) != 2 or [vector.numel() for vector in vectors] != list(matrix.shape):
        return None
    return weight / torch.dot(vectors[0], torch.mv(matrix, vectors[1]))


def unhooked(model: Module) -> Module:
    """`model` with the masks and norms that a hook applies before each forward in its weights, in place."""
    for module in model.modules():
        hooks = module._forward_pre_hooks  # noqa: SLF001 - their own removals find them there too
        for key, hook in list(hooks.items()):
            if isinstance(hook, prune.BasePruningMethod):
                hook.remove(module)
                hooks.pop(key, None)  # Core ML Tools' own methods have done so already
            elif isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
    return model


def unparametrized(model: Module) -> Module:
    """`model` with the values of parametrizations for weights, in place."""
    for module in model.modules():
        for name in list(getattr(module, "parametrizations", ())):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return model
