"""Train the digits network, fine-tune it with compression in the loop, and write `models/finetuned.pt`.

Run from the repository's root: `python -m examples.digits.finetune`.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_type_hints

if __name__ == "__main__":
    # A seed gives the same weights on every x86-64 processor that has AVX2: kernels for wider registers add in another
    # order. ATen, oneDNN and MKL read it when they are loaded.
    os.environ.update(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2", MKL_CBWR="COMPATIBLE")

import torch
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from torch import Tensor, nn
from torch.ao import quantization
from torch.nn import functional
from torch.nn.utils import parametrize

from examples.digits import data
from examples.digits.model import Digits, create, known_deprecations
from examples.digits.projections import (
    Projection,
    StraightThrough,
    blocks,
    magnitude,
    n_of_m,
    palette,
    sparse_palette,
)

# Sums are split by thread: another count would give other weights for the same seed. One is what every machine has, and
# layers as small as these gain little from a second.
THREADS = 1


@dataclass(frozen=True)
class Settings:
    """The `finetune` group of params.yaml.

    seed: initial weights, order of the samples and their augmentation
    dense_epochs, compressed_epochs: passes over the training set before and with compression
    batch_size, learning_rate: the peak rate of the dense phase; fine-tuning starts at a third of it
    shift, rotation: augmentation, at most this many pixels and degrees
    sparsity: the share of zeros in conv2 and fc2, and of zero blocks in conv4
    n, m: how many of m neighbouring input channels conv3 keeps
    block: how many neighbouring output channels conv4 prunes together
    palette_bits: fc1, and the survivors of fc2, have 2**palette_bits values
    """

    seed: int
    dense_epochs: int
    compressed_epochs: int
    batch_size: int
    learning_rate: float
    shift: float
    rotation: float
    sparsity: float
    n: int
    m: int
    block: int
    palette_bits: int

    def __post_init__(self) -> None:
        limits = {
            "dense_epochs": self.dense_epochs >= 0,
            "compressed_epochs": self.compressed_epochs >= 1,
            "batch_size": self.batch_size >= 2,
            "sparsity": 0 <= self.sparsity < 1,
            "n": 0 < self.n <= self.m,
            "block": self.block >= 1,
            "palette_bits": 1 <= self.palette_bits <= 8,
        }
        if broken := [f"finetune.{name}: {getattr(self, name)}" for name, holds in limits.items() if not holds]:
            raise ValueError(f"out of range: {', '.join(broken)}")


def read_settings(path: Path) -> Settings:
    """The `finetune` group of the YAML file at `path`; other groups are not looked at.

    Raises: ValueError when the group is missing, or a key is missing, unknown, not a number or out of range.
    """
    document = YAML(typ="safe").load(path)
    found = document.get("finetune") if isinstance(document, Mapping) else None
    group = found if isinstance(found, Mapping) else {}
    wanted = get_type_hints(Settings)
    if wrong := sorted(set(group) ^ set(wanted)):
        raise ValueError(f"{path}: finetune: missing or unknown: {', '.join(wrong)}; expected {', '.join(wanted)}")
    for key, value in group.items():
        if type(value) is not int and (wanted[key] is int or type(value) is not float):
            raise ValueError(f"{path}: finetune.{key}: expected {wanted[key].__name__}, got {value!r}")
    return Settings(**group)


def augment(images: Tensor, settings: Settings, generator: torch.Generator) -> Tensor:
    """Each of the images [N, 1, 28, 28] turned and shifted a little, by amounts of its own."""
    turn, across, down = torch.rand(3, len(images), generator=generator) * 2 - 1
    angle = turn.double() * math.radians(settings.rotation)  # so that its cosine is rounded alike everywhere
    reach = settings.shift * 2 / images.shape[-1]
    cosine, sine = angle.cos().float(), angle.sin().float()
    rows = (cosine, -sine, across * reach, sine, cosine, down * reach)
    grid = functional.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, rate: float, settings: Settings) -> float:
    """Move the model's weights for `epochs` passes with Adam and a cosine schedule; the last pass's mean loss."""
    generator = torch.Generator().manual_seed(settings.seed)
    steps = epochs * math.ceil(len(images) / settings.batch_size)
    # Fused, its square roots are the processor's, which are exact; those of MKL differ with the width of registers.
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(images), generator=generator).split(settings.batch_size):  # type: ignore[no-untyped-call]
            logits = model(augment(images[rows], settings, generator))
            loss = functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
    return total / len(images)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of the images whose largest logit is their label's."""
    model.eval()
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def projections(settings: Settings) -> dict[str, Projection]:
    """Which layer is compressed how. The layers that are not named stay dense, `fc3` is quantized."""
    entries = 2**settings.palette_bits
    return {
        "conv2": partial(magnitude, sparsity=settings.sparsity),
        "conv3": partial(n_of_m, n=settings.n, m=settings.m),
        "conv4": partial(blocks, sparsity=settings.sparsity, block=settings.block),
        "fc1": partial(palette, entries=entries),
        "fc2": partial(sparse_palette, sparsity=settings.sparsity, entries=entries),
    }


def fake_quantization() -> quantization.QConfig:
    """qint8 weights with a scale a row, quint8 activations with one scale.

    Activations use 0..127 only: on processors without VNNI the 16-bit sums of integer kernels saturate above that.
    """
    activation = partial(
        quantization.FusedMovingAvgObsFakeQuantize,
        observer=quantization.MovingAverageMinMaxObserver,
        quant_min=0,
        quant_max=127,
        dtype=torch.quint8,
    )
    weight = quantization.default_fused_per_channel_wt_fake_quant
    return quantization.QConfig(activation=activation, weight=weight)  # type: ignore[no-untyped-call]


def compress_in_the_loop(model: Digits, images: Tensor, labels: Tensor, settings: Settings) -> Digits:
    """Fine-tune with projected and fake-quantized weights, then put what the layers computed with in their place."""
    compressed = projections(settings)
    for name, project in compressed.items():
        parametrize.register_parametrization(model.get_submodule(name), "weight", StraightThrough(project))
    for module in (model.quant, model.fc3):
        module.qconfig = fake_quantization()  # type: ignore[assignment]
    rate = settings.learning_rate / 3
    with known_deprecations():
        quantization.prepare_qat(model.train(), inplace=True)  # type: ignore[no-untyped-call]
        train(model, images, labels, epochs=settings.compressed_epochs, rate=rate, settings=settings)
        for name in compressed:
            parametrize.remove_parametrizations(model.get_submodule(name), "weight", leave_parametrized=True)
        quantization.convert(model.eval(), inplace=True)  # type: ignore[no-untyped-call]
        finished = create()
        finished.load_state_dict(model.state_dict())
    return finished


def save(model: nn.Module, path: Path) -> None:
    """Write the state dict beside `path`, then rename: at no time is there half a checkpoint at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(path.name + ".partial")
    try:
        # Through an open file: given a path, torch writes the file's name into the archive.
        with partial_file.open("wb") as file:
            torch.save(model.state_dict(), file)
        partial_file.replace(path)
    finally:
        partial_file.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.digits.finetune", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, default=Path("models/finetuned.pt"))
    arguments = parser.parse_args(argv)
    try:
        settings = read_settings(arguments.params)
        for name, project in projections(settings).items():
            project(Digits().get_parameter(f"{name}.weight").detach())
    except (OSError, ValueError, YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    started = time.monotonic()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(settings.seed)
    images, labels = map(torch.from_numpy, data.training())
    inputs, answers = data.held_out()
    unseen = torch.from_numpy(inputs["image"]), torch.from_numpy(answers)

    model = Digits()
    loss = train(model, images, labels, epochs=settings.dense_epochs, rate=settings.learning_rate, settings=settings)
    print(f"dense: {settings.dense_epochs} epochs, loss {loss:.4f}, held-out accuracy {accuracy(model, *unseen):.4f}")
    finished = compress_in_the_loop(model, images, labels, settings)
    # Integer sums have one result, but torch has not marked its quantized operators as deterministic.
    torch.use_deterministic_algorithms(False)
    print(f"compressed: {settings.compressed_epochs} epochs, held-out accuracy {accuracy(finished, *unseen):.4f}")
    save(finished, arguments.out)
    print(f"wrote {arguments.out} after {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
