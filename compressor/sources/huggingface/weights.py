"""The weights of a checkpoint: what its quantization format makes of its tensors, and the other tensors as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from compressor.arrays import CODE_DTYPES, MappedArray, is_float
from compressor.encodings import Dense
from compressor.errors import CompressorError, unknown
from compressor.sources.huggingface import awq, bitsandbytes, compressed_tensors, fp8, gptq, mxfp4
from compressor.sources.huggingface.checkpoint import CONFIG, Checkpoint
from compressor.sources.huggingface.layers import Layer, foreign
from compressor.sources.huggingface.layouts import FLOAT8, as_bytes, float8_values
from compressor.weight import Weight


def _bitsandbytes(checkpoint: Checkpoint) -> Iterator[Layer]:
    return bitsandbytes.read(checkpoint.path, checkpoint.tensors)


METHODS = {
    "awq": awq.read,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": compressed_tensors.read,
    "fp8": fp8.read,
    "gptq": gptq.read,
    "mxfp4": mxfp4.read,
}
"""Quantization methods by the name that config.json has for them."""

WORDS = frozenset({"int32", "uint32", "int16", "uint16"})
"""Types of words in which formats pack codes; other integers are indices, and no weights."""


@dataclass(frozen=True, eq=False)
class Content:
    """weights: in the order of the first tensor of each. others: indices, masks and counters, which are no weights.
    parts: of each weight of a quantized layer, by its name, the tensors of the layer.
    """

    weights: tuple[Weight, ...]
    others: Mapping[str, MappedArray]
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read(checkpoint: Checkpoint) -> Content:
    """What the tensors of a checkpoint are.

    Raises:
        CompressorError: it is quantized in an unknown way, or its parts contradict each other.
    """
    owners = {part: layer for layer in _layers(checkpoint) for part in layer.parts}
    weights: dict[str, Weight] = {}
    others: dict[str, MappedArray] = {}
    for name, tensor in checkpoint.tensors.items():
        layer = owners.get(name)
        plain = () if layer else tuple(_plain(name, tensor, checkpoint))
        if not layer and not plain:
            others[name] = tensor
        for weight in layer.weights if layer else plain:
            if weights.setdefault(weight.name, weight) is not weight:
                raise CompressorError(f"{tensor.path}: {weight.name} is stored as codes and as values. Save it again.")
    parts = {weight.name: layer.parts for layer in owners.values() for weight in layer.weights}
    return Content(tuple(weights.values()), others, parts)


def _layers(checkpoint: Checkpoint) -> tuple[Layer, ...]:
    said = checkpoint.quantization
    if not said:  # bitsandbytes' names say it, where config.json is not beside them
        return tuple(_bitsandbytes(checkpoint))
    method = str(said.get("quant_method") or _implied(said))
    if method not in METHODS:
        error = unknown("quant_method", method, METHODS)
        raise CompressorError(f"{checkpoint.path}: {CONFIG}: {error} Export the model before it is quantized so.")
    return tuple(METHODS[method](checkpoint))


def _implied(said: Mapping[str, Any]) -> str:
    """The method of settings that do not name it: compressed-tensors did not at first."""
    return "compressed-tensors" if {"config_groups", "sparsity_config"} & said.keys() else ""


def _plain(name: str, tensor: MappedArray, checkpoint: Checkpoint) -> Iterator[Weight]:
    """A tensor of no quantized layer; nothing for indices and masks, which are no weights."""
    kind = tensor.dtype
    if is_float(kind):
        yield Weight(name, Dense(tensor))
    elif kind.name in FLOAT8:
        yield Weight(name, Dense(float8_values(tensor)), note=f"{kind}: not supported, kept as bfloat16 values")
    elif kind.name.startswith("float") or (kind.name in WORDS and len(tensor.shape) > 1):
        why = (
            "that is no part of a known layer"
            if checkpoint.quantization
            else f"without a quantization_config in {CONFIG} beside it"
        )
        yield Weight(name, Dense(as_bytes(tensor)), pinned=f"{kind} data {why}: kept as its bytes")
    elif kind in CODE_DTYPES.values():
        why = foreign(name, checkpoint.tensors) or f"{kind} data that is no part of a known layer"
        yield Weight(name, Dense(tensor), pinned=why)
