"""Three networks in the versions that training with compression leaves, and what such a training says about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compressor.sources import InputSpec

NDArray = npt.NDArray[Any]

TARGETS = ("iOS16", "iOS17", "iOS18")

FEWEST = 1024
"""Smaller weights are left alone, as training with compression leaves them."""

GROUP = 16
"""Output channels that share a palette, where there are several palettes."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A weight after training.

    values: float32. declared: the fields of Core ML Tools' `CompressionMetadata`; empty for a dense weight.
    """

    values: NDArray
    declared: Mapping[str, Any] = field(default_factory=dict)


Fill = Callable[[np.random.Generator, tuple[int, ...]], Trained]


def _dense(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray:
    """Values away from zero, which the peer's pruning pass would take for zeros."""
    values = random.standard_normal(shape, np.float32) * np.float32(0.05)
    return np.asarray(values + np.copysign(np.float32(0.002), values))


def dense(random: np.random.Generator, shape: tuple[int, ...]) -> Trained:
    return Trained(_dense(random, shape))


def pruned(share: float) -> Fill:
    def fill(random: np.random.Generator, shape: tuple[int, ...]) -> Trained:
        values = np.where(random.random(shape) < share, np.float32(0), _dense(random, shape))
        return Trained(values, {"compression_type": ["pruning"]})

    return fill


def two_of_four(random: np.random.Generator, shape: tuple[int, ...]) -> Trained:
    """The two smaller ones of four neighbours in a row are zero."""
    fours = _dense(random, shape).reshape(-1, 4)
    np.put_along_axis(fours, np.abs(fours).argsort(axis=1)[:, :2], 0, axis=1)
    return Trained(fours.reshape(shape), {"compression_type": ["pruning"]})


def palettized(entries: int, group: int | None = None) -> Fill:
    """So many distinct values in each `group` of output channels, or in all."""

    def fill(random: np.random.Generator, shape: tuple[int, ...]) -> Trained:
        groups = shape[0] // group if group else 1
        lut = _dense(random, (groups, entries))
        indices = random.integers(0, entries, (groups, math.prod(shape) // groups))
        values = np.take_along_axis(lut, indices, axis=1).reshape(shape)
        table = lut.reshape(groups, *(1 for _ in shape[1:]), entries, 1)
        return Trained(values, {"compression_type": ["palettization"], "lut": torch.from_numpy(table)})

    return fill


def pruned_palettized(random: np.random.Generator, shape: tuple[int, ...]) -> Trained:
    made = palettized(16)(random, shape)
    values = np.where(random.random(shape) < 0.6, np.float32(0), made.values)
    return Trained(values, {**made.declared, "compression_type": ["pruning", "palettization"]})


def quantized(random: np.random.Generator, shape: tuple[int, ...]) -> Trained:
    """int8 codes times a scale of each output channel, as floats."""
    values = _dense(random, shape)
    scale = np.abs(values).max(axis=tuple(range(1, len(shape))), keepdims=True) / np.float32(127)
    declared = {
        "compression_type": ["quantization"],
        "quantization_n_bits": 8,
        "quantization_scale": torch.from_numpy(scale),
    }
    return Trained(np.round(values / scale) * scale + np.float32(0), declared)  # no -0


@dataclass(frozen=True)
class Version:
    """What the weights of a network are, by turns, and the targets on which no pipeline of the peer has their form."""

    fills: tuple[Fill, ...]
    ahead: tuple[str, ...] = ()


VERSIONS: Mapping[str, Version] = {
    "pruned 75 %": Version((pruned(0.75),)),
    "pruned 30 %": Version((pruned(0.3),), TARGETS),
    "pruned 2:4": Version((two_of_four,)),
    "palettized, 16 values": Version((palettized(16),)),
    "palettized, 6 values": Version((palettized(6),), ("iOS16", "iOS17")),
    "palettized, 16 values a group": Version((palettized(16, GROUP),), ("iOS18",)),
    "mixed": Version((palettized(16), pruned(0.75), pruned_palettized, quantized, dense), TARGETS),
    "quantized, int8 a channel": Version((quantized,), TARGETS),
}


class Normed(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> Any:
        return self.norm(self.conv(x))


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = Normed(inputs, outputs, 3, 2)
        self.second = Normed(outputs, outputs, 3)
        self.shortcut = Normed(inputs, outputs, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class Convolutional(nn.Module):
    """ResNet, with a block in each of its first two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Normed(3, 32, 7, 2)
        self.blocks = nn.Sequential(Residual(32, 64), Residual(64, 128))
        self.head = nn.Linear(128, 96)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.before(x)
        parts = [
            layer(normed).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        ]
        x = x + self.out(nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return x + torch.as_tensor(self.down(nn.functional.gelu(self.up(self.between(x)))))


class Transformer(nn.Module):
    def __init__(self, words: int, width: int, blocks: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(words, width), nn.Parameter(torch.randn(1, 32, width))
        self.blocks = nn.Sequential(*(Block(width, width // 32) for _ in range(blocks)))
        self.head = nn.Linear(width, 32)

    def forward(self, ids: torch.Tensor) -> Any:
        return self.head(self.blocks(self.words(ids) + self.positions))


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(2048, 64)
        self.lstm = nn.LSTM(64, 128, bidirectional=True, batch_first=True)
        self.head = nn.Linear(256, 32)

    def forward(self, ids: torch.Tensor) -> Any:
        return self.head(self.lstm(self.words(ids))[0])


@dataclass(frozen=True)
class Network:
    create: Callable[[], nn.Module]
    inputs: Mapping[str, InputSpec]


IDS = {"ids": InputSpec((1, 32), "int32")}

NETWORKS: Mapping[str, Network] = {
    "convolutional": Network(Convolutional, {"x": InputSpec((1, 3, 64, 64))}),
    "transformer": Network(lambda: Transformer(1024, 128, 1), IDS),
    "LSTM": Network(Tagger, IDS),
}

LARGE = Network(lambda: Transformer(1024, 768, 12), IDS)
"""86 M parameters, 85 M of them in its blocks."""


def trained(network: Network, version: Version) -> tuple[nn.Module, Mapping[str, Mapping[str, Any]]]:
    """The network with the weights of a version, and what its training declares of each."""
    torch.manual_seed(0)
    random, module = np.random.default_rng(0), network.create()
    declared = {}
    for place, (name, parameter) in enumerate(weights(module)):
        made = version.fills[place % len(version.fills)](random, tuple(parameter.shape))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(made.values))
        declared[name] = made.declared
    for norm in (each for each in module.modules() if isinstance(each, nn.BatchNorm2d)):
        state = norm.state_dict()
        nn.init.normal_(state["running_mean"])
        nn.init.uniform_(state["running_var"], 0.5, 2)
        nn.init.uniform_(state["weight"], 0.5, 2)
    return module.eval(), declared


def weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that training compresses, by name."""
    for owner_name, owner in module.named_modules():
        if isinstance(owner, nn.Conv2d | nn.Linear | nn.Embedding | nn.LSTM):
            for name, parameter in owner.named_parameters(prefix=owner_name, recurse=False):
                if parameter.ndim > 1 and parameter.numel() >= FEWEST:
                    yield name, parameter


def readings(module: nn.Module, declared: Mapping[str, Mapping[str, Any]]) -> Mapping[str, list[NDArray]]:
    """By name, what a weight may be in a program, before rounding: itself, its gates reordered, or folded.

    A quantized one may also be its codes times their scales, folded or not, rounded to float16.
    """
    made: dict[str, list[NDArray]] = {}
    for name, parameter in weights(module):
        values, scale = parameter.detach().numpy(), declared[name].get("quantization_scale")
        made[name] = []
        for rows, gain in _ways(module, name, len(values)):
            made[name].append(values[rows] * gain)
            if scale is not None:
                codes, scales = np.round(values / scale.numpy())[rows], scale.numpy()[rows] * gain
                made[name].append(codes * scales.astype(np.float16).astype(np.float64))
    return made


def _ways(module: nn.Module, name: str, rows: int) -> Iterator[tuple[NDArray, Any]]:
    """The order of the rows and what a batch norm multiplies them with, gamma / sqrt(variance + epsilon) in float64."""
    order, owner = np.arange(rows), module.get_submodule(name.rpartition(".")[0])
    yield order, 1.0
    if isinstance(owner, nn.LSTM):
        first, forget, cell, output = np.split(order, 4)
        yield np.concatenate([first, forget, output, cell]), 1.0
    elif isinstance(owner, nn.Conv2d):
        norm = module.get_submodule(name.rpartition(".conv.")[0]).norm
        assert isinstance(norm, nn.BatchNorm2d)
        state = norm.state_dict()
        gamma, variance = (state[key].numpy().astype(np.float64) for key in ("weight", "running_var"))
        yield order, (gamma / np.sqrt(variance + norm.eps))[:, None, None, None]
