"""Weights that several layers have in their own shapes: stored once."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import compressor
from compressor import targets
from compressor.arrays import NDArray
from compressor.formats.coreml.importing import coremltools
from compressor.sources import InputSpec
from tests.targets.coreml.networks import Exported, exported, grid, palette, pruned, set_, written

coremltools()

from tests.targets.coreml.mil_evaluation import evaluate_package  # noqa: E402 - after Core ML Tools, which warns at import

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")

INPUTS = {"image": InputSpec((1, 3, 16, 16)), "patches": InputSpec((1, 16, 48))}


class Heads(nn.Module):
    """A classifier of an image and of its patches, as libraries of image models build them.

    Layers that were made of each other: a patch embedding and its linear form, a linear layer and a convolution of
    1x1 for features that keep their places, a head and its transpose.
    """

    def __init__(self, kernel: NDArray, matrix: NDArray) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 4, 4)
        self.patches = nn.Linear(48, 64)
        self.layer = nn.Linear(64, 48)
        self.pointwise = nn.Conv2d(64, 48, 1)
        self.again = nn.Linear(64, 48)
        self.turned = nn.Parameter(torch.zeros(64, 48))
        set_(self.stem.weight, kernel)
        set_(self.patches.weight, kernel.reshape(64, 48))
        set_(self.pointwise.weight, matrix[:, :, None, None])
        for layer in (self.layer, self.again):
            set_(layer.weight, matrix)
        set_(self.turned, matrix.T)

    def forward(self, image, patches):
        y, z = self.pointwise(self.stem(image)), self.patches(patches)
        return y.flatten(2).transpose(1, 2) + self.layer(z) + torch.relu(self.again(z)) + z @ self.turned


RNG = np.random.default_rng(0)


def dense(shape: tuple[int, ...]) -> NDArray:
    return RNG.standard_normal(shape).astype(np.float32) / 8


def jointly(shape: tuple[int, ...]) -> NDArray:
    return np.where(RNG.random(shape) < 0.7, np.float32(0), palette(RNG, 15, shape))


def tables(shape: tuple[int, ...]) -> NDArray:
    """Sixteen values for each four of the first axis."""
    return np.concatenate([palette(RNG, 16, (4, *shape[1:])) * (1 + part) for part in range(shape[0] // 4)])


KINDS: Mapping[str, tuple[Callable[[tuple[int, ...]], NDArray], str, str]] = {
    "dense": (dense, "dense", "dense"),
    "a palette": (lambda shape: palette(RNG, 16, shape), "palettized4", "palettized4"),
    "pruned": (lambda shape: pruned(RNG, 0.7, shape), "sparse", "sparse"),
    "a grid": (lambda shape: grid(RNG, shape), "int8", "int8"),
    "jointly": (jointly, "palettized4", "sparse(palettized4)"),
    "tables": (tables, "palettized8", "palettized4"),
}
"""What the weights are, and their forms at iOS16 and iOS18."""


@pytest.fixture(scope="module", params=KINDS)
def heads(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Exported]:
    make, *_ = KINDS[request.param]
    module = Heads(make((64, 3, 4, 4)), make((48, 64))).eval()
    return request.param, exported(module, INPUTS, tmp_path_factory.mktemp("heads"))


def weight_file(out: Path) -> Path:
    return out / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"


def computed(out: Path, given: Sequence[NDArray]) -> NDArray:
    (found,) = evaluate_package(out / "model.mlpackage", given).values()
    return np.asarray(found)


@pytest.mark.parametrize(("route", "target"), [("torch", "iOS16"), ("ONNX", "iOS18")])
def test_layers_that_were_made_of_each_other_have_one_blob(
    heads: tuple[str, Exported], route: str, target: str, tmp_path: Path
) -> None:
    kind, made = heads
    source = made.folder if route == "torch" else made.without_torch()
    manifest = compressor.compress(source, tmp_path / "out", target=targets.get(target, {"precision": "float32"}))
    matrices = [weight for weight in manifest.weights if len(weight.shape) > 1]
    assert [weight.encoding for weight in matrices] == [KINDS[kind][1 if target == "iOS16" else 2]] * 2
    biases = sum(weight.nbytes for weight in manifest.weights) - sum(weight.nbytes for weight in matrices)
    around = 64 + 2 * 64 * 3 * (len(matrices) + 4)  # a header, and for each part its metadata and what aligns it
    assert (
        weight_file(tmp_path / "out").stat().st_size <= sum(one.nbytes for one in matrices) + biases + 4 * 256 + around
    )
    torch.manual_seed(0)
    given = [torch.randn(spec.shape) for spec in INPUTS.values()]
    with torch.no_grad():
        expected = made.module(*given).numpy()
    arrays = [one.numpy() for one in given]
    np.testing.assert_allclose(computed(tmp_path / "out", arrays), expected, 1e-4, 1e-5 * np.abs(expected).max())

    again = compressor.compress(tmp_path / "out" / "model.mlpackage", tmp_path / "again", target="iOS26")
    assert again.weights_nbytes == sum(weight.nbytes for weight in again.weights)
    assert len(again.weights) == len(compressor.inspect(tmp_path / "out").weights)
    assert sum("read as [64, 48] too" in one.evidence for one in again.weights) == 1
    assert weight_file(tmp_path / "again").stat().st_size <= weight_file(tmp_path / "out").stat().st_size + 256
    assert np.array_equal(computed(tmp_path / "again", arrays), computed(tmp_path / "out", arrays))


class Turned(nn.Module):
    """A table that a convolution reads turned."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 64)
        self.layer = nn.Conv2d(100, 64, 1)
        set_(self.layer.weight, self.table.weight.detach().numpy().T[:, :, None, None])

    def forward(self, ids, image):
        return self.table(ids).sum((0, 1)) + self.layer(image).mean((0, 2, 3))


def test_what_no_operator_can_turn_is_stored_again_and_it_is_said_why(tmp_path: Path) -> None:
    inputs = {"ids": InputSpec((1, 5), "int64"), "image": InputSpec((1, 100, 2, 2))}
    made = exported(Turned().eval(), inputs, tmp_path)
    found = written(made.folder, tmp_path / "out", "iOS18")
    first, second = (weight for weight in found.manifest.weights if len(weight.shape) > 1)
    assert (first.name, second.name) == ("table.weight", "table.weight.1")
    assert first.evidence.endswith("stands for layer.weight (transposed, as [64, 100, 1, 1]) too")
    told = "as table.weight, whose axes conv reads in another order: stored a second time"
    assert told in second.evidence
