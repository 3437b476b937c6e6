"""Folders as compressed-tensors itself decompresses them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.utils.match import match_name
from safetensors.torch import load_file

from compressor.arrays import FLOAT_DTYPES, NDArray


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Those of all shards."""
    return {name: one for file in sorted(folder.glob("*.safetensors")) for name, one in load_file(file).items()}


def weights(folder: Path) -> dict[str, NDArray]:
    """What loads from a folder: layers decompressed, all else as it is."""
    said = json.loads((folder / "config.json").read_text()).get("quantization_config")
    config = QuantizationConfig.model_validate(said) if said else None
    by_layer: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors(folder).items():
        layer, _, own = name.rpartition(".")
        by_layer.setdefault(layer, {})[own] = tensor
    return {
        ".".join(filter(None, (layer, name))): array(tensor)
        for layer, own in by_layer.items()
        for name, tensor in _decompressed(layer, own, config).items()
        if name in own or name == "weight"
    }


def _decompressed(layer: str, own: Mapping[str, Any], config: QuantizationConfig | None) -> Mapping[str, Any]:
    if config is None or "weight_scale" not in own:
        return own
    assert not any(match_name(layer, target) for target in config.ignore or ())
    (scheme,) = {
        name: group
        for name, group in config.config_groups.items()
        if any(match_name(layer, target) for target in group.targets)
    }.values()
    made = BaseCompressor.get_value_from_registry(str(scheme.format)).decompress(dict(own), scheme)
    return {name: tensor for name, tensor in made.items() if not name.startswith("weight_")}


def array(tensor: torch.Tensor) -> NDArray:
    """The elements, bfloat16 too."""
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(FLOAT_DTYPES["bfloat16"])
    return tensor.contiguous().numpy()
