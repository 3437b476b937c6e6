"""Weights that several layers have in their own shapes: stored once."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import compressor
from compressor import targets
from compressor.formats.coreml.importing import coremltools
from compressor.sources import InputSpec
from tests.targets.coreml.networks import Exported, exported

coremltools()

from tests.targets.coreml.mil_evaluation import evaluate_package  # noqa: E402 - after Core ML Tools, which warns at import

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")

INPUTS = {"image": InputSpec((1, 3, 16, 16)), "patches": InputSpec((1, 16, 48))}


class Heads(nn.Module):
    """A classifier of an image and of its patches, as libraries of image models build them.

    Layers that were made of each other: a patch embedding and its linear form, a linear layer and a convolution of
    1x1 for features that keep their places, a head and its transpose.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 4, 4)
        self.patches = nn.Linear(48, 64)
        self.layer = nn.Linear(64, 48)
        self.pointwise = nn.Conv2d(64, 48, 1)
        self.again = nn.Linear(64, 48)
        self.turned = nn.Parameter(torch.zeros(64, 48))
        with torch.no_grad():
            self.patches.weight.copy_(self.stem.weight.flatten(1))
            self.pointwise.weight.copy_(self.layer.weight[:, :, None, None])
            self.again.weight.copy_(self.layer.weight)
            self.turned.copy_(self.layer.weight.T)

    def forward(self, image, patches):
        y, z = self.pointwise(self.stem(image)), self.patches(patches)
        return y.flatten(2).transpose(1, 2) + self.layer(z) + torch.relu(self.again(z)) + z @ self.turned


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    return exported(Heads().eval(), INPUTS, tmp_path_factory.mktemp("heads"))


@pytest.mark.parametrize("route", ["torch", "ONNX"])
@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_layers_that_were_made_of_each_other_compute_what_they_did(
    heads: Exported, route: str, target: str, tmp_path: Path
) -> None:
    source = heads.folder if route == "torch" else heads.without_torch()
    compressor.compress(source, tmp_path / "out", target=targets.get(target, {"precision": "float32"}))
    given = [torch.randn(spec.shape) for spec in INPUTS.values()]
    with torch.no_grad():
        expected = heads.module(*given).numpy()
    (found,) = evaluate_package(tmp_path / "out" / "model.mlpackage", [one.numpy() for one in given]).values()
    np.testing.assert_allclose(found, expected, 1e-4, 1e-5)
