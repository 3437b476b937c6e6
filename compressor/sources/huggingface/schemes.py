"""The schemes of a compressed-tensors configuration: which layers each is meant for, and what it says of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compressor.arrays import Shape
from compressor.errors import CompressorError
from compressor.sources.huggingface.checkpoint import CONFIG, Checkpoint
from compressor.sources.huggingface.layouts import aligned_words, words

STRATEGIES = ("tensor", "channel", "group", "tensor_group", "block")


@dataclass(frozen=True)
class LayerScheme:
    """How the weights of some layers are quantized; what is not known is None or 0.

    targets: names, `re:` patterns or types of layers. bits: of a code. strategy: one of STRATEGIES.
    group: inputs of a group. block: outputs and inputs of a block. symmetric: whether all zero points are 0.
    """

    targets: tuple[str, ...] = ()
    bits: int = 0
    strategy: str = ""
    group: int = 0
    block: tuple[int, ...] = ()
    symmetric: bool = True

    def names(self, layer: str) -> bool:
        """Whether a target names the layer itself, not its type."""
        return any(target == layer or _matches(target, layer) for target in self.targets)

    def names_types(self) -> bool:
        """Whether it is meant for types of layers: these are not known without the code of the model."""
        return any("." not in target and not target.startswith("re:") for target in self.targets)

    def fits(self, shape: Shape, scale: Shape, packed: int | None) -> bool:
        """Whether a weight with such a scale, and so many words in a row of codes, is what it describes."""
        layouts = (words, aligned_words) if self.bits and packed is not None else ()
        if layouts and not any(layout(shape[-1], self.bits) == packed for layout in layouts):
            return False
        size = math.prod(scale)
        if not shape or not scale:
            return size == 1 and self.strategy == "tensor"
        match self.strategy:
            case "tensor":
                return size == 1
            case "channel":
                return size == shape[0]
            case "group" | "tensor_group":
                return scale[:-1] == shape[:-1] and scale[-1] * self.group == shape[-1]
            case "block":
                return len(self.block) == len(shape) == len(scale) and all(
                    count == -(-dim // block) for count, dim, block in zip(scale, shape, self.block, strict=True)
                )
        return True

    def __str__(self) -> str:
        detail = f" of {self.group}" if self.group > 0 else f" of {list(self.block)}" if self.block else ""
        return f"{self.bits or '?'} bits per {self.strategy or 'anything'}{detail}"


def _matches(target: str, layer: str) -> bool:
    try:
        return target.startswith("re:") and re.match(target.removeprefix("re:"), layer) is not None
    except re.error:
        return False


def schemes(checkpoint: Checkpoint) -> tuple[LayerScheme, ...]:
    """The schemes of the configuration that quantize weights.

    Raises:
        CompressorError: one is not what the format defines.
    """
    found = checkpoint.quantization.get("config_groups") or {}
    if not isinstance(found, Mapping):
        raise CompressorError(f"{checkpoint.path}: {CONFIG}: config_groups is no object.")
    # A list of targets under the name of a preset says nothing of codes and scales: the tensors do.
    return tuple(
        _scheme(checkpoint, name, group)
        for name, group in found.items()
        if isinstance(group, Mapping) and isinstance(group.get("weights"), Mapping)
    )


def _scheme(checkpoint: Checkpoint, name: str, group: Mapping[str, Any]) -> LayerScheme:
    weights = group["weights"]
    targets, bits, size = group.get("targets"), weights.get("num_bits", 8), weights.get("group_size")
    strategy = weights.get("strategy") or _strategy(size)
    block = weights.get("block_structure") or ()
    # Older versions spelled a block as "128x128".
    block = tuple(map(int, re.findall(r"\d+", block))) if isinstance(block, str) else block
    sizes = (*block, size or 0, bits) if isinstance(block, list | tuple) else (None,)
    named = isinstance(targets, list) and all(isinstance(target, str) for target in targets)
    if (
        targets is None
        or not named
        or any(type(each) is not int for each in sizes)
        or not 1 <= bits <= 32
        or strategy not in STRATEGIES
    ):
        raise CompressorError(
            f"{checkpoint.path}: {CONFIG}: config_groups.{name}: expected targets (names), num_bits, group_size, "
            f"block_structure (numbers) and a strategy ({', '.join(STRATEGIES)}), got {str(dict(weights))[:200]}."
        )
    return LayerScheme(tuple(targets), bits, strategy, size or 0, tuple(block), weights.get("symmetric") is not False)


def _strategy(size: Any) -> str:
    if size is None:
        return "tensor"
    return "channel" if size == -1 else "group"
