"""The network, before and after its quantized layer is converted."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from torch.ao.nn import quantized
from torch.ao.quantization import DeQuantStub, QuantStub
from torch.nn import functional


@contextmanager
def known_deprecations() -> Iterator[None]:
    """Silence what torch says, at creation and on loading, of quantized tensors going away; nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"torch\.ao\.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", r"torch\.quantize_per_tensor, .* are deprecated", UserWarning)
        warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
        yield


class Digits(nn.Module):
    """Four convolutions with batch norm, four linear layers: `image` float32 [N, 1, 28, 28] -> logits float32 [N, 10].

    Only `fc3` computes in integers; `quant` and `dequant` mark where activations enter and leave them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn4 = nn.BatchNorm2d(64)
        self.fc1 = nn.Linear(64 * 3 * 3, 128)
        self.fc2 = nn.Linear(128, 128)
        self.quant: nn.Module = QuantStub()
        self.fc3: nn.Module = nn.Linear(128, 64)
        self.dequant: nn.Module = DeQuantStub()
        self.fc4 = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(image))), 2)
        x = functional.max_pool2d(functional.relu(self.bn2(self.conv2(x))), 2)
        x = functional.relu(self.bn3(self.conv3(x)))
        x = functional.max_pool2d(functional.relu(self.bn4(self.conv4(x))), 2)
        x = functional.relu(self.fc1(x.flatten(1)))
        x = functional.relu(self.fc2(x))
        x = functional.relu(self.dequant(self.fc3(self.quant(x))))
        return cast(torch.Tensor, self.fc4(x))


def create() -> Digits:
    """The network as `models/finetuned.pt` holds it: `fc3` has qint8 codes, one scale a row, and quint8 activations."""
    model = Digits()
    with known_deprecations():
        model.quant = quantized.Quantize(1.0, 0, torch.quint8)  # type: ignore[no-untyped-call]
        model.fc3 = quantized.Linear(128, 64)  # type: ignore[no-untyped-call]
    model.dequant = quantized.DeQuantize()
    return model.eval()
