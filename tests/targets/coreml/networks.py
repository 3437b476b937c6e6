"""Small torch networks whose weights are as training with compression leaves them, and their way to a package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

import numpy as np
import torch
from torch import nn

import compressor
from compressor import sources
from compressor.arrays import NDArray
from compressor.compilation.manifest import Manifest
from compressor.encodings import decode, name
from compressor.model import Model
from compressor.sources import InputSpec
from compressor.sources.torch import export

IMAGE = {"x": InputSpec((1, 8, 8, 8))}
IDS = {"ids": InputSpec((1, 5), "int64")}
SEQUENCE = {"x": InputSpec((1, 2, 64))}


@dataclass(frozen=True)
class Exported:
    """A module and the folder that it was exported to."""

    module: nn.Module
    folder: Path

    @property
    def state(self) -> dict[str, NDArray]:
        return {key: value.detach().numpy() for key, value in self.module.state_dict().items()}

    def without_torch(self) -> Path:
        """The same export without torch's own graph, so that the ONNX graph is what is converted."""
        folder = self.folder.with_name("onnx_alone")
        if not folder.exists():
            copytree(self.folder, folder)
            (folder / "model.traced.pt").unlink()
        return folder


def exported(module: nn.Module, inputs: Mapping[str, InputSpec], folder: Path, factory: str | None = None) -> Exported:
    """factory: what makes the module, for one that cannot be loaded as a whole."""
    (folder / "exported").mkdir()
    file = folder / "module.pt"
    torch.save(module.eval() if factory is None else module.state_dict(), file)
    export(file, folder / "exported", inputs=inputs, factory=factory, allow_pickle=factory is None)
    return Exported(module, folder / "exported")


@dataclass(frozen=True)
class Written:
    """A package that was made. forms: of its weights, by name. values: what they decode to, by name."""

    manifest: Manifest
    model: Model
    forms: Mapping[str, str]
    values: Mapping[str, NDArray]

    def evidence(self, weight: str) -> str:
        return next(facts.evidence for facts in self.manifest.weights if facts.name == weight)

    def rejected(self, weight: str) -> dict[str, str]:
        """Why a weight has none of the other forms."""
        return dict(next(facts for facts in self.manifest.weights if facts.name == weight).rejected)

    def operators(self) -> list[str]:
        """The operations of the program that compute something when it runs."""
        (block,) = self.model.graph.model.mlProgram.functions["main"].block_specializations.values()
        return [each.type for each in block.operations if each.type != "const" and "constexpr" not in each.type]


def written(source: Path, out: Path, target: object, **settings: float) -> Written:
    manifest = compressor.compress(source, out, target=target, settings=compressor.Settings(**settings))
    model = sources.read(out / "model.mlpackage")
    forms = {weight.name: name(weight.encoding) for weight in model.weights}
    return Written(manifest, model, forms, {weight.name: decode(weight.encoding) for weight in model.weights})


def half(values: NDArray) -> NDArray:
    return values.astype(np.float16)


def set_(parameter: torch.Tensor, values: object) -> None:
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(np.asarray(values)))


def palette(rng: np.random.Generator, entries: int, shape: tuple[int, ...]) -> NDArray:
    """Values of which so many are distinct, in float16 too; none is zero."""
    indices = np.concatenate([np.arange(entries), rng.integers(0, entries, int(np.prod(shape)) - entries)])
    return (rng.permutation(entries)[indices].reshape(shape) / 512 + 0.01).astype(np.float32)


def pruned(rng: np.random.Generator, share: float, shape: tuple[int, ...], scale: float = 1.0) -> NDArray:
    values = (rng.standard_normal(shape) * scale).astype(np.float32)
    return np.where(rng.random(shape) < share, np.float32(0), values + np.copysign(np.float32(0.01 * scale), values))


def grid(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 0.01) -> NDArray:
    """Codes of 8 bits times a scale of each first axis, up to `scale`."""
    codes = rng.integers(-127, 128, shape)
    codes.reshape(shape[0], -1)[:, 0] = 127
    scales = rng.uniform(scale / 10, scale, (shape[0], *(1 for _ in shape[1:])))
    return codes.astype(np.float32) * scales.astype(np.float32)


class Classifier(nn.Module):
    """Convolutions of every kind, with batch norms behind three of them."""

    def __init__(self) -> None:
        super().__init__()
        self.pruned = nn.Conv2d(8, 32, 3, padding=1)
        self.pruned_norm = nn.BatchNorm2d(32)
        self.quantized = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.quantized_norm = nn.BatchNorm2d(32)
        self.palettized = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.palettized_norm = nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 256, 3, padding=1, groups=32)
        self.transposed = nn.ConvTranspose2d(256, 8, 2, stride=2)
        self.fc = nn.Linear(8, 300)

    def forward(self, x):
        x = torch.relu(self.pruned_norm(self.pruned(x)))
        x = torch.relu(self.quantized_norm(self.quantized(x)))
        x = torch.relu(self.palettized_norm(self.palettized(x)))
        return self.fc(self.transposed(self.depthwise(x)).mean((2, 3)))


def classifier() -> nn.Module:
    torch.manual_seed(0)
    rng, made = np.random.default_rng(0), Classifier()
    for norm in (made.pruned_norm, made.quantized_norm, made.palettized_norm):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
    set_(made.pruned.weight, pruned(rng, 0.7, (32, 8, 3, 3)))
    set_(made.quantized.weight, grid(rng, (32, 32, 3, 3)))
    set_(made.palettized.weight, palette(rng, 16, (32, 32, 3, 3)))
    set_(made.depthwise.weight, palette(rng, 4, (256, 1, 3, 3)))
    set_(made.transposed.weight, pruned(rng, 0.5, (256, 8, 2, 2)))
    return made


class Encoder(nn.Module):
    """A transformer whose last layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out = nn.Linear(64, 100, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, ids):
        return self.out(self.encoder(self.embedding(ids)))


def encoder() -> nn.Module:
    torch.manual_seed(0)
    rng, made = np.random.default_rng(0), Encoder()
    layer = made.encoder.layers[0]
    set_(made.embedding.weight, palette(rng, 16, (100, 64)))
    set_(layer.self_attn.in_proj_weight, pruned(rng, 0.6, (192, 64)))
    set_(layer.linear1.weight, grid(rng, (64, 64)))
    joint = palette(rng, 15, (64, 64))
    set_(layer.linear2.weight, np.where(rng.random((64, 64)) < 0.6, np.float32(0), joint))
    return made


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(64, 32, bidirectional=True, batch_first=True)
        self.out = nn.Linear(64, 50)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


def recurrent(kind: Callable[..., nn.RNNBase]) -> nn.Module:
    """Palettized, pruned, quantized and dense, by direction and kind."""
    torch.manual_seed(0)
    rng, made = np.random.default_rng(0), Recurrent(kind)
    rows = len(made.rnn.weight_ih_l0)
    set_(made.rnn.weight_ih_l0, palette(rng, 16, (rows, 64)))
    set_(made.rnn.weight_hh_l0, pruned(rng, 0.8, (rows, 32)))
    set_(made.rnn.weight_ih_l0_reverse, grid(rng, (rows, 64)))
    return made


KINDS = ("seven", "slight", "tiny", "noisy", "joint", "both", "bits3", "bits5", "bits7", "silent")


class Layers(nn.Module):
    """A layer for each kind of weight, then one weight that a layer, a product and a table share."""

    def __init__(self) -> None:
        super().__init__()
        for kind in KINDS:
            setattr(self, kind, nn.Linear(64, 64, bias=False))
        self.shared = nn.Embedding(64, 64)

    def forward(self, x, ids):
        for kind in KINDS:
            x = torch.relu(getattr(self, kind)(x))
        return nn.functional.linear(x, self.shared.weight) + x @ self.shared.weight + self.shared(ids)


def layers() -> nn.Module:
    torch.manual_seed(0)
    rng, made, shape = np.random.default_rng(0), Layers(), (64, 64)
    set_(made.seven.weight, palette(rng, 7, shape))
    set_(made.slight.weight, pruned(rng, 0.3, shape))
    set_(made.tiny.weight, pruned(rng, 0.5, shape, scale=1e-3))
    set_(made.noisy.weight, palette(rng, 16, shape) + rng.uniform(-1e-7, 1e-7, shape).astype(np.float32))
    set_(made.joint.weight, np.where(rng.random(shape) < 0.6, np.float32(0), palette(rng, 15, shape)))
    set_(made.both.weight, np.where(rng.random(shape) < 0.6, np.float32(0), grid(rng, shape)))
    for bits in (3, 5, 7):
        set_(getattr(made, f"bits{bits}").weight, palette(rng, 2**bits, shape))
    silent = grid(rng, shape)
    silent[5] = 0
    set_(made.silent.weight, silent)
    set_(made.shared.weight, palette(rng, 16, shape))
    return made


LAYERS = {"x": InputSpec((1, 5, 64)), "ids": InputSpec((1, 5), "int64")}


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], Mapping[str, InputSpec]]] = {
    "classifier": (classifier, IMAGE),
    "encoder": (encoder, IDS),
    "lstm": (lambda: recurrent(nn.LSTM), SEQUENCE),
    "gru": (lambda: recurrent(nn.GRU), SEQUENCE),
    "layers": (layers, LAYERS),
}
