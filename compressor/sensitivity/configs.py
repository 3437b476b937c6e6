"""Choices as configurations of the libraries that train with compression in the loop, which name a layer by its module.

Core ML Tools: `from_dict` of each class, by the name of the class. torchao: the JSON of `config_to_dict`, of a
`FqnToConfig`. Both are written without either library.

Source: coremltools 9.0, `optimize.torch`; torchao 0.18, `core/config.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from compressor.sensitivity import choice
from compressor.sensitivity.trials import Trial
from compressor.sensitivity.variants import VARIANTS

_PARAMETER = ".weight"
"""What both libraries compress: the parameter of that name of a module."""

_LINEAR = frozenset({"Gemm", "MatMul", "Transpose"})
"""Of linear layers; some exporters turn a weight before it is multiplied with."""

_LAYERS = _LINEAR | {"Conv"}
_TABLES = frozenset({"Gather"})

CORE_ML_TOOLS: Mapping[str, tuple[str, frozenset[str]]] = {
    "prune": ("MagnitudePrunerConfig", _LAYERS),
    "palettize": ("DKMPalettizerConfig", _LAYERS | _TABLES),
    "quantize": ("LinearQuantizerConfig", _LAYERS),
}
"""By the method of a variant: the class that takes it, and the operators that its modules become."""

TORCHAO = _LINEAR | _TABLES
"""The operators that the modules become which torchao quantizes."""


def module(weight: str) -> str:
    """The module that has the weight, or `` where its parameter has another name than those of the libraries.

    >>> module("encoder.layer.0.attention.self.query.weight"), module("rnn.weight_hh_l0")
    ('encoder.layer.0.attention.self.query', '')
    """
    return weight.removesuffix(_PARAMETER) if weight.endswith(_PARAMETER) else ""


def for_core_ml_tools(trial: Trial, uses: Sequence[str]) -> bool:
    """Whether Core ML Tools trains a weight with that aim. uses: the operators that read it."""
    taken = CORE_ML_TOOLS[VARIANTS[trial.variant].method][1]
    return bool(module(trial.weight)) and taken.issuperset(uses)


def for_torchao(trial: Trial, uses: Sequence[str]) -> bool:
    """Whether torchao trains a weight with that aim."""
    return VARIANTS[trial.variant].method == "quantize" and bool(module(trial.weight)) and TORCHAO.issuperset(uses)


def strongest_for_core_ml_tools(
    trials: Sequence[Trial], dense: Mapping[str, int], most: float, uses: Mapping[str, Sequence[str]]
) -> dict[str, Trial]:
    """What Core ML Tools can train: as `choice.strongest`, but codes of one width, whichever saves more.

    dense, most: see there. uses: the operators that read each weight.
    """
    widths = frozenset(name for name, variant in VARIANTS.items() if variant.method == "quantize")

    def found(width: str) -> dict[str, Trial]:
        others = widths - {width}
        return choice.strongest(
            trials, dense, most, lambda one: one.variant not in others and for_core_ml_tools(one, uses[one.weight])
        )

    def saved(chosen: Mapping[str, Trial]) -> int:
        return sum(dense[weight] - one.nbytes for weight, one in chosen.items())

    return max(map(found, sorted(widths)), key=saved)


def core_ml_tools(chosen: Mapping[str, Trial], layers: Iterable[str] = ()) -> dict[str, Any]:
    """By class, what its `from_dict` takes; a class without modules is left out, for it would take all of them.

    layers: all weights of the model that might be quantized.
    """
    found: dict[str, Any] = {}
    for weight, trial in chosen.items():
        variant = VARIANTS[trial.variant]
        own = _core_ml_module(variant.method, variant.amount)
        if variant.method == "quantize":
            # A module before a ReLU is fused with it and gets what holds for all, whatever is said of it by name: but
            # for null. So what is wanted holds for all, and all others are null.
            others = {module(one): None for one in layers if chosen.get(one) != trial and module(one)}
            section = {"global_config": own, "module_name_configs": others}
            section = found.setdefault(CORE_ML_TOOLS[variant.method][0], section)
            section["module_name_configs"].pop(module(weight), None)
        else:
            section = found.setdefault(CORE_ML_TOOLS[variant.method][0], {"module_name_configs": {}})
            section["module_name_configs"][module(weight)] = own
    return found


def _core_ml_module(method: str, amount: float) -> dict[str, Any]:
    match method:
        case "prune":
            return {"target_sparsity": amount, "granularity": "per_scalar"}
        case "palettize":
            # Modules of no more elements than the threshold would be left out without a word.
            return {"n_bits": int(amount), "granularity": "per_tensor", "weight_threshold": 0}
        case _:
            # float32: activations stay as they are.
            return {
                "weight_dtype": f"qint{int(amount)}",
                "weight_per_channel": True,
                "quantization_scheme": "symmetric",
                "activation_dtype": "float32",
            }


def torchao(chosen: Mapping[str, Trial]) -> dict[str, Any]:
    """What `config_from_dict` takes."""
    modules = {module(weight): _torchao_module(int(VARIANTS[one.variant].amount)) for weight, one in chosen.items()}
    return _typed("FqnToConfig", 1, {"fqn_to_config": modules, "module_fqn_to_config": {}})


def _torchao_module(bits: int) -> dict[str, Any]:
    return _typed(
        "IntxWeightOnlyConfig",
        2,
        {
            "weight_dtype": {"_type": "torch.dtype", "_data": f"int{bits}"},
            "granularity": _typed("PerAxis", 1, {"axis": 0}),
            "mapping_type": {"_type": "MappingType", "_data": "SYMMETRIC"},
        },
    )


def _typed(kind: str, version: int, data: dict[str, Any]) -> dict[str, Any]:
    return {"_type": kind, "_version": version, "_data": data}
