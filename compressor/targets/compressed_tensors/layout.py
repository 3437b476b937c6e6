"""Where everything of a folder lies: a part for each shard, and one for all files beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compressor.encodings import Encoding, Quantized, dtype, is_encoded, shape
from compressor.formats import safetensors
from compressor.formats.compressed_tensors import layers
from compressor.formats.compressed_tensors.schemes import scheme
from compressor.formats.compressed_tensors.settings import settings
from compressor.sources.huggingface import weights
from compressor.sources.huggingface.beside import others
from compressor.sources.huggingface.checkpoint import CONFIG, INDEX, QUANTIZATION, Checkpoint, read_json
from compressor.targets.compressed_tensors import fit
from compressor.targets.compressed_tensors.parts import Beside, FolderLayout, Kept, Tensor, shard_layout

METHOD = "compressed-tensors"


def layout(checkpoint: Checkpoint, specs: Mapping[str, Encoding], metadata: Mapping[str, str]) -> FolderLayout:
    """The folder with the weights of `checkpoint` in these forms."""
    copied = {file.relative_to(checkpoint.path).as_posix(): file for file in others(checkpoint).files}
    if _is_kept(checkpoint, specs):
        files = {file.name: file for file in checkpoint.files}
        return FolderLayout((Beside({}, copied | files, dict.fromkeys(specs, Kept())),))
    shards: dict[str, dict[str, Tensor]] = {name: {} for name in _shards(checkpoint)}
    for shard, name, tensor in _tensors(checkpoint, specs):
        shards[shard][name] = tensor
    texts = {CONFIG: _json(_config(checkpoint.config, specs))}
    if any(file.name == INDEX for file in checkpoint.files):
        texts[INDEX] = _json(_index(checkpoint, shards))
    parts = [shard_layout(name, tensors, _said(checkpoint.path / name, metadata)) for name, tensors in shards.items()]
    return FolderLayout((Beside(texts, copied, {}), *parts))


def method(checkpoint: Checkpoint) -> str:
    """How a folder says that its weights are stored; empty for floats."""
    said = checkpoint.quantization
    return str(said.get("quant_method", METHOD)) if said else ""


def _is_kept(checkpoint: Checkpoint, specs: Mapping[str, Encoding]) -> bool:
    """Whether it is a folder of this format already whose layers stay codes: with all that it says of activations."""
    return method(checkpoint) == METHOD and all(is_encoded(specs[name]) for name in weights.read(checkpoint).parts)


def _shards(checkpoint: Checkpoint) -> Iterator[str]:
    return (file.name for file in checkpoint.files if file.suffix == ".safetensors")


def _tensors(checkpoint: Checkpoint, specs: Mapping[str, Encoding]) -> Iterator[tuple[str, str, Tensor]]:
    """The tensors that are written: the shard, the name, and what it is."""
    content = weights.read(checkpoint)
    owned = {part for parts in content.parts.values() for part in parts}
    for name, tensor in checkpoint.tensors.items():
        if name not in owned and not isinstance(specs.get(name), Quantized):
            yield tensor.path.name, name, Tensor(tensor.dtype, tensor.shape, name if name in specs else "", tensor)
    for name, spec in specs.items():
        parts = content.parts.get(name, (name,))
        shard = next(checkpoint.tensors[part].path.name for part in parts if part in checkpoint.tensors)
        if isinstance(spec, Quantized):
            for key, made in layers.tensors(_prefix(name), spec).items():
                yield shard, key, Tensor(*made, name)
        elif name in content.parts:
            yield shard, name, Tensor(dtype(spec), shape(spec), name)


def _prefix(name: str) -> str:
    return name.removesuffix("weight")


def _said(shard: Path, metadata: Mapping[str, str]) -> dict[str, str]:
    """What a shard says about itself, and what is added."""
    said = safetensors.header(shard)[0].get(safetensors.METADATA)
    return {**(said if isinstance(said, Mapping) else {"format": "pt"}), **metadata}


def _config(config: Mapping[str, Any], specs: Mapping[str, Encoding]) -> dict[str, Any]:
    text = config.get("text_config")
    plain = {key: value for key, value in config.items() if key not in QUANTIZATION}
    if isinstance(text, Mapping):
        plain["text_config"] = {key: value for key, value in text.items() if key not in QUANTIZATION}
    schemes = {name: scheme(spec) for name, spec in specs.items() if isinstance(spec, Quantized)}
    if not schemes:
        return plain
    dense = (name for name, spec in specs.items() if name not in schemes and fit.is_layer(name, shape(spec)))
    named = {name.removesuffix(fit.WEIGHT): how for name, how in schemes.items()}
    return {**plain, "quantization_config": settings(named, (name.removesuffix(fit.WEIGHT) for name in dense))}


def _index(checkpoint: Checkpoint, shards: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    told = read_json(checkpoint.path / INDEX).get("metadata")
    total = sum(tensor.nbytes for tensors in shards.values() for tensor in tensors.values())
    placed = {name: shard for shard, tensors in shards.items() for name in tensors}
    return {
        "metadata": {**(told if isinstance(told, Mapping) else {}), "total_size": total},
        "weight_map": dict(sorted(placed.items())),
    }


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
