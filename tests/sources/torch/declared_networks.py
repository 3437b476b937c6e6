"""Networks whose layers are compressed one by one, as a training repository would define them."""

from __future__ import annotations

import torch
import torch.ao.quantization as tq
from torch import nn
from torch.nn.utils import parametrize

QCONFIG = tq.QConfig(
    activation=tq.FakeQuantize.with_args(observer=tq.MovingAverageMinMaxObserver, quant_min=0, quant_max=127),
    weight=tq.FakeQuantize.with_args(
        observer=tq.PerChannelMinMaxObserver,
        quant_min=-8,
        quant_max=7,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
    ),
)


class Layers(nn.Module):
    """A convolution, if there is one of that name, then fully connected layers, 64 to 64, by their names."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(16, 64, 3) if "conv" in names else None
        self.layers = nn.ModuleDict({name: nn.Linear(64, 64) for name in names if name != "conv"})

    def forward(self, x):
        x = x if self.conv is None else self.conv(x).mean((2, 3))
        for layer in self.layers.values():
            x = torch.relu(layer(x))
        return x


class Trained(nn.Module):
    """With a quantized input, batch norm, and a layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.quant = tq.QuantStub()
        self.conv = nn.Conv2d(8, 32, 3, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(32, 80)
        self.dequant = tq.DeQuantStub()

    def forward(self, x):
        x = self.relu(self.norm(self.conv(self.quant(x))))
        return self.dequant(self.fc(x.mean((2, 3))))


def layers(names: list[str], dtype: str = "float32") -> nn.Module:
    return Layers(names).to(getattr(torch, dtype))


def sequential() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(16, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 80)
    )


def prepared() -> nn.Module:
    """A model in quantization-aware training."""
    model = tq.fuse_modules_qat(Trained().train(), [["conv", "norm", "relu"]])
    model.qconfig = QCONFIG
    return tq.prepare_qat(model)


def parametrized() -> nn.Module:
    model = Layers(["rounded", "free"])
    parametrize.register_parametrization(model.layers["rounded"], "weight", QCONFIG.weight())
    return model
