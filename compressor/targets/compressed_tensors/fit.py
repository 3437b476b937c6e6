"""Which weights of a folder the format has room for: those of linear layers, as the loaders of such folders know them.

There is no code of the model here, so that names tell: what could be something else stays dense.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from compressor import encodings
from compressor.arrays import Shape, is_float
from compressor.cutting import in_blocks
from compressor.sources.huggingface.checkpoint import Checkpoint
from compressor.weight import Weight

WEIGHT = ".weight"
_EMBEDDING = re.compile(r"embed|^wte$|^wpe$|^shared$|^relative_attention_bias$", re.IGNORECASE)
_EXPERT = re.compile(r"\.experts\.\d+\.")
_ROUTER = re.compile(r"(^|\.)(gate|router|shared_expert_gate)(\.(classifier|layer|weight))?$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output|decoder)$")
_TIED = "a head that is tied to the embedding, which stays dense"
TRANSPOSED = {
    "gpt2": r"c_attn|c_proj|c_fc|q_attn",
    "openai-gpt": r"c_attn|c_proj|c_fc",
    "imagegpt": r"c_attn|c_proj|c_fc|q_attn",
    "decision_transformer": r"c_attn|c_proj|c_fc|q_attn",
}
"""The layers of a type of model that are transformers' `Conv1D`: matrices [in, out], of no linear layer."""

_RENAMED = frozenset({"beit", "deit", "dinov2", "dinov2_with_registers", "segformer", "swin", "vit", "vit_mae"})
"""Types of models whose layers transformers calls otherwise than their files do: no target names them."""
_READ = frozenset({"hubert", "mt5", "t5", "umt5", "wav2vec2"})
"""Types of models whose code in transformers reads weights of layers before they are decompressed."""


def fitted(weights: tuple[Weight, ...], checkpoint: Checkpoint) -> tuple[Weight, ...]:
    """The weights, those pinned that stay dense, with the reason."""
    reasons = {one.name: _why_dense(one, checkpoint) for one in weights}
    return tuple(replace(one, pinned=one.pinned or reasons[one.name]) if reasons[one.name] else one for one in weights)


def is_layer(name: str, shape: Shape) -> bool:
    """Whether a weight may be one of a linear layer."""
    return name.endswith(WEIGHT) and len(shape) == 2 and not _is_embedding(name)


def is_expert(name: str, shape: Shape) -> bool:
    """Whether a weight is one of many that a router chooses from."""
    return is_layer(name, shape) and _EXPERT.search(name) is not None


def _is_embedding(name: str) -> bool:
    return _EMBEDDING.search(name.removesuffix(WEIGHT).rpartition(".")[2]) is not None


def _why_dense(weight: Weight, checkpoint: Checkpoint) -> str:
    """Why a weight is none that a linear layer could decode; empty where it may be one, or needs no reason."""
    shape, config = encodings.shape(weight.encoding), checkpoint.config
    layer, kind = weight.name.removesuffix(WEIGHT), str(config.get("model_type", ""))
    if len(shape) < 2:
        return ""
    if not weight.name.endswith(WEIGHT) or len(shape) != 2:
        return "no matrix of a linear layer, which the format has alone"
    if _is_embedding(weight.name):
        return "an embedding, which loaders read dense"
    if _ROUTER.search(layer):
        return "a router of experts, which loaders read dense"
    if _HEAD.search(layer) and (
        config.get("tie_word_embeddings", False) or _repeats_embedding(weight.name, checkpoint)
    ):
        return _TIED
    if kind in _RENAMED:
        return f"transformers calls layers of {kind} otherwise than the files do: it would not find its codes"
    if kind in _READ:
        return f"transformers reads weights of {kind} before they are decoded"
    if re.fullmatch(TRANSPOSED.get(kind, "(?!)"), layer.rpartition(".")[2]):
        return f"a transposed layer of {kind} (Conv1D): the format has linear layers alone"
    loaded, dtype = _dtype(config), encodings.dtype(weight.encoding)
    if loaded and is_float(dtype) and dtype.name != loaded:
        return f"config.json has it loaded as {loaded}: scales of {dtype} would be rounded"
    return ""


def _repeats_embedding(name: str, checkpoint: Checkpoint) -> bool:
    """Whether a tensor is the same as an embedding: saved twice, loaded once."""
    head = checkpoint.tensors.get(name)
    return head is not None and any(
        _is_embedding(other)
        and (tensor.shape, tensor.dtype) == (head.shape, head.dtype)
        and all(map(np.array_equal, in_blocks(head), in_blocks(tensor)))
        for other, tensor in checkpoint.tensors.items()
    )


def _dtype(config: Mapping[str, Any]) -> str:
    """The type that a model is loaded in; empty where config.json does not say it."""
    text = config.get("text_config")
    for holder in (config, text if isinstance(text, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            if isinstance(holder.get(key), str):
                return str(holder[key]).removeprefix("torch.")
    return ""
