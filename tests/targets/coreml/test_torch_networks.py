"""Networks as people build them, from torch to a package by both routes, beside what torch computes."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import compressor
from compressor import targets
from compressor.formats.coreml.importing import coremltools
from compressor.sources import InputSpec
from tests.targets.coreml.networks import Exported, exported

coremltools()

from tests.targets.coreml.mil_evaluation import evaluate_package  # noqa: E402 - after Core ML Tools, which warns at import

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")


class Inverted(nn.Module):
    """A block of a MobileNet: depthwise convolution between two pointwise ones, squeeze and excitation."""

    def __init__(self, taken: int, given: int, stride: int) -> None:
        super().__init__()
        wide = taken * 3
        self.residual = stride == 1 and taken == given
        self.body = nn.Sequential(
            nn.Conv2d(taken, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.Hardswish(),
            nn.Conv2d(wide, given, 1, bias=False), nn.BatchNorm2d(given),
        )  # fmt: skip
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(given, 4, 1), nn.ReLU(), nn.Conv2d(4, given, 1), nn.Hardsigmoid()
        )

    def forward(self, x):
        y = self.body(x)
        y = y * self.gate(y)
        return x + y if self.residual else y


def mobile() -> nn.Module:
    stem = (nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 64), nn.SiLU(), nn.Dropout(0.2), nn.Linear(64, 10))
    return nn.Sequential(*stem, Inverted(16, 16, 1), Inverted(16, 24, 2), *head)


class UNet(nn.Module):
    """Down, up again by transposed convolutions and by interpolation, and across."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.inner, self.last = (
            nn.Sequential(nn.Conv2d(taken, given, 3, padding=1), norm, nn.LeakyReLU(0.1))
            for taken, given, norm in (
                (3, 16, nn.BatchNorm2d(16)),
                (16, 32, nn.GroupNorm(4, 32)),
                (64, 16, nn.BatchNorm2d(16)),
                (32, 8, nn.InstanceNorm2d(8, affine=True)),
            )
        )
        self.up = nn.Sequential(
            nn.ConvTranspose2d(32, 32, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2d(32)
        )
        self.result = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        a = self.first(x)
        b = self.second(functional.max_pool2d(a, 2))
        y = self.inner(torch.cat([self.up(functional.avg_pool2d(b, 2)), b], 1))
        y = functional.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.sigmoid(self.result(self.last(torch.cat([y, a], 1))))


class Tagger(nn.Module):
    def __init__(self, kind: Callable[..., nn.RNNBase]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.layers = kind(32, 24, 2, batch_first=True, bidirectional=True)
        self.result = nn.Linear(48, 7)

    def forward(self, ids):
        return self.result(self.layers(self.embedding(ids))[0])


IMAGE = {"input": InputSpec((1, 3, 32, 32), dynamic={0: "batch"})}
PICTURE = {"x": InputSpec((1, 3, 32, 32), dynamic={2: "height", 3: "width"})}
IDS = {"ids": InputSpec((2, 9), "int64", dynamic={0: "batch", 1: "length"})}

NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], Mapping[str, InputSpec], Mapping[str, Any], tuple[int, ...]]] = {
    "MobileNet": (mobile, IMAGE, {"batch": (1, 4)}, (3, 3, 32, 32)),
    "U-Net": (UNet, PICTURE, {"height": 32, "width": 32}, (1, 3, 32, 32)),
    "LSTM": (lambda: Tagger(nn.LSTM), IDS, {"batch": 2, "length": (1, 20)}, (2, 17)),
    "GRU": (lambda: Tagger(nn.GRU), IDS, {"batch": 2, "length": (1, 20)}, (2, 17)),
}


def trained(module: nn.Module) -> nn.Module:
    """With statistics of their own, a third of the weights palettized, and a third pruned."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    with torch.no_grad():
        for number, parameter in enumerate(each for each in module.parameters() if each.numel() >= 512):
            if number % 3 == 0:
                table = torch.linspace(-0.3, 0.4, 16)
                parameter.copy_(table[torch.bucketize(parameter, table).clamp(0, 15)])
            elif number % 3 == 1:
                parameter[parameter.abs() < parameter.abs().median()] = 0
    return module.eval()


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Exported]:
    make, inputs, _, _ = NETWORKS[request.param]
    torch.manual_seed(0)
    return request.param, exported(trained(make()), inputs, tmp_path_factory.mktemp("network"))


@pytest.mark.parametrize(("route", "target"), [("torch", "iOS17"), ("ONNX", "iOS18")])
def test_computes_what_torch_does(network: tuple[str, Exported], route: str, target: str, tmp_path: Path) -> None:
    name, made = network
    _, inputs, axes, shape = NETWORKS[name]
    source = made.folder if route == "torch" else made.without_torch()
    options = {"precision": "float32", "axes": axes}
    manifest = compressor.compress(
        source, tmp_path / "out", target=targets.get(target, options), settings=compressor.Settings(min_elements=256)
    )
    assert manifest.weights_nbytes < manifest.weights_dense_nbytes
    is_text = next(iter(inputs.values())).dtype == "int64"
    x = torch.randint(0, 50, shape) if is_text else torch.randn(shape)
    with torch.no_grad():
        expected = made.module(x).numpy()
    (found,) = evaluate_package(tmp_path / "out" / "model.mlpackage", [x.numpy()]).values()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, 2e-3, 2e-4)
