"""Small models of transformers as a training leaves them: their weights on grids, saved by save_pretrained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**SMALL, "num_key_value_heads": 2, "vocab_size": 300}
MOE = {**LLAMA, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64, "num_experts": 4}
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (AutoModelForCausalLM, {**LLAMA, "tie_word_embeddings": False}),
    "qwen2_moe": (AutoModelForCausalLM, {**MOE, "num_experts_per_tok": 2}),
    "bert": (AutoModelForMaskedLM, {**SMALL, "vocab_size": 300}),
}


@dataclass(frozen=True)
class Grid:
    """bits: of a code. size: of a group; 0 for a channel, -1 for all. asymmetric: whether it has a zero point."""

    bits: int
    size: int = 0
    asymmetric: bool = False

    def of(self, weight: torch.Tensor) -> torch.Tensor:
        """The nearest values on the grid, in the weight's own type."""
        rows = (
            weight.float().reshape(1, -1)
            if self.size < 0
            else weight.float().reshape(-1, self.size or weight.shape[-1])
        )
        if self.asymmetric:
            low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
            scale = ((high - low) / (2**self.bits - 1)).to(weight.dtype).float()
            least = torch.round(low / scale).clamp(-(2**self.bits) + 1, 0)
            codes = (torch.round(rows / scale) - least).clamp(0, 2**self.bits - 1) + least
        else:
            limit = 2 ** (self.bits - 1)
            scale = (rows.abs().amax(1, keepdim=True) / (limit - 1)).to(weight.dtype).float()
            codes = torch.round(rows / scale).clamp(-limit, limit - 1)
        values: torch.Tensor = (codes * scale).to(weight.dtype).reshape(weight.shape)
        return values


@dataclass(frozen=True)
class Floats:
    """Floats of few bits under a scale. bits: 8 or 4. block: the outputs and inputs of a scale; 0 for all of them.
    unit: of the scales of 16 inputs, which are floats of 8 bits times it; 0 for powers of two.
    """

    bits: int
    block: tuple[int, int] = (0, 0)
    unit: float = 0.0

    def of(self, weight: torch.Tensor) -> torch.Tensor:
        """The nearest of these values, in the weight's own type."""
        *_, rows, columns = weight.shape
        high, wide = self.block[0] or rows, self.block[1] or columns
        by_block = weight.float().reshape(-1, rows // high, high, columns // wide, wide)
        largest = by_block.abs().amax((2, 4), keepdim=True)
        if self.bits == 8:
            scale = (largest / 448).to(weight.dtype).float()
            values = (by_block / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float()
        else:
            entries = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
            entries = torch.cat([-entries.flip(0)[:-1], entries])
            scale = torch.exp2(torch.ceil(torch.log2(largest / 6)))
            if self.unit:
                scale = (largest / 6 / self.unit).to(torch.float8_e4m3fn).float().clamp(min=2**-9) * self.unit
            values = entries[((by_block / scale)[..., None] - entries).abs().argmin(-1)]
        made: torch.Tensor = (values * scale).to(weight.dtype).reshape(weight.shape)
        return made


Rule = Callable[[str], Grid | Floats | None]
"""What the weight of that name lies on."""


def saved(
    path: Path, kind: str, rule: Rule, dtype: torch.dtype = torch.bfloat16, shard: str = "150KB", **config: Any
) -> PreTrainedModel:
    """A model, saved to `path` in several shards; embeddings, heads and routers are as they were."""
    torch.manual_seed(0)
    auto, small = MODELS[kind]
    model: PreTrainedModel = auto.from_config(AutoConfig.for_model(kind, **{**small, **config}), dtype=dtype)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            plain = (
                weight.ndim < 2 or "embed" in name or name.endswith(("lm_head.weight", "gate.weight", "decoder.weight"))
            )
            if not plain and (grid := rule(name)) is not None:
                weight.copy_(grid.of(weight))
    model.save_pretrained(path, max_shard_size=shard)
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(torch.arange(24)[None])[0]
    return found


def loaded(path: Path, kind: str, **options: Any) -> PreTrainedModel:
    """A folder as transformers loads it."""
    found: PreTrainedModel = MODELS[kind][0].from_pretrained(path, **options)
    return found
