"""Networks that the tests of the torch source export, as a training repository would define them."""

from __future__ import annotations

import warnings

import torch
import torch.ao.nn.quantized as nnq
import torch.ao.quantization as tq
from torch import nn


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.b1 = nn.BatchNorm2d(channels)
        self.c2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.b2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.b2(self.c2(torch.relu(self.b1(self.c1(x))))))


class Resnet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.block = Residual(8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.block(self.stem(x)), 2)
        return self.fc(x.mean((2, 3)))


class Transformer(nn.Module):
    """Its embedding and its last layer share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out = nn.Linear(32, 50, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, ids):
        return self.out(self.encoder(self.embedding(ids)))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(16, 24, bidirectional=True, batch_first=True)
        self.out = nn.Linear(48, 5)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


class Tied(nn.Module):
    """A weight of more than the optimizer's folding limit, a buffer, and a table that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 250)
        self.mixing = nn.Linear(250, 250)
        self.norm = nn.LayerNorm(250)
        self.out = nn.Linear(250, 40)
        self.out.weight = self.embedding.weight
        self.register_buffer("position", torch.rand(7, 250))

    def forward(self, ids):
        return self.out(self.norm(self.mixing(self.embedding(ids) + self.position)))


class TwoByTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 16)
        self.b = nn.Linear(16, 4)
        self.p = nn.Parameter(torch.rand(16, 8))

    def forward(self, left, right):
        hidden = torch.relu(self.a(left)) + right @ self.p.T
        return {"hidden": hidden, "logits": self.b(hidden)}


def _randomized(model: nn.Module) -> nn.Module:
    """`model` with statistics of batch norm and factors of norms that a folding would be seen by."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def _seeded(build, seed):
    torch.manual_seed(seed)
    return _randomized(build())


def resnet(seed: int = 1) -> nn.Module:
    return _seeded(Resnet, seed)


def transformer(seed: int = 1) -> nn.Module:
    return _seeded(Transformer, seed)


def lstm(seed: int = 1) -> nn.Module:
    return _seeded(lambda: Recurrent(nn.LSTM), seed)


def gru(seed: int = 1) -> nn.Module:
    return _seeded(lambda: Recurrent(nn.GRU), seed)


def tied(seed: int = 1) -> nn.Module:
    return _seeded(Tied, seed)


def two_by_two(seed: int = 1) -> nn.Module:
    return _seeded(TwoByTwo, seed)


def mlp(dtype: str = "float32", width: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)).to(getattr(torch, dtype)).eval()


def broken(width: int) -> nn.Module:
    raise ValueError(f"no width {width}")


def number() -> int:
    return 3


class Eigenvalues(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x).real


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(2, 2, 2)


def eigenvalues() -> nn.Module:
    return Eigenvalues()


def branching() -> nn.Module:
    return Branching()


def fixed() -> nn.Module:
    return Fixed()


class Mixed(nn.Module):
    """A float part, then a quantized one with a skip connection, then a float one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.quant = tq.QuantStub()
        self.conv2 = nn.Conv2d(8, 8, 3, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.relu2 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
        self.skip = nnq.FloatFunctional()
        self.fc1 = nn.Linear(200, 32)
        self.relu3 = nn.ReLU()
        self.dequant = tq.DeQuantStub()
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        x = self.quant(torch.relu(self.norm(self.conv(x))))
        x = self.pool(self.relu2(self.norm2(self.conv2(x))))
        x = torch.flatten(self.skip.add(x, self.conv3(x)), 1)
        return self.fc2(self.dequant(self.relu3(self.fc1(x))))


def mixed(qconfig: str = "x86", seed: int = 0) -> nn.Module:
    """Calibrated and converted. `x86` quantizes weights by channel, `qnnpack` by tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tq.fuse_modules(_seeded(Mixed, seed), [["conv2", "norm2", "relu2"], ["fc1", "relu3"]])
        for name in ("quant", "conv2", "conv3", "skip", "fc1", "dequant"):
            getattr(model, name).qconfig = tq.get_default_qconfig(qconfig)
        model = tq.prepare(model)
        model(torch.rand(16, 1, 14, 14))
        return tq.convert(model)


def _static(layers: nn.Module, shape: tuple[int, ...], fuse: list[list[str]], qconfig: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tq.QuantWrapper(layers).eval()
        model.qconfig = tq.get_default_qconfig(qconfig)
        model = tq.fuse_modules(model, fuse) if fuse else model
        model = tq.prepare(model)
        model(torch.randn(shape))
        return tq.convert(model)


def static_1d() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose1d(8, 4, 2, stride=2),
        nn.Hardswish(),
        nn.LeakyReLU(0.1),
        nn.ELU(),
    )
    return _static(layers, (16, 3, 20), [], "qnnpack")


def static_3d() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv3d(2, 4, 3, stride=2), nn.ReLU(), nn.BatchNorm3d(4), nn.Conv3d(4, 4, 2, groups=2, dilation=2)
    )
    return _static(_randomized(layers), (4, 2, 9, 9, 9), [["module.0", "module.1"]], "x86")


def static_norms() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.BatchNorm2d(8),
        nn.GroupNorm(2, 8),
        nn.InstanceNorm2d(8),
        nn.Linear(6, 6),
        nn.LayerNorm(6),
    )
    layers[1] = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU())
    return _static(_randomized(layers), (16, 3, 6, 6), [["module.1.0", "module.1.1"]], "x86")


def dynamic(dtype: str = "qint8") -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tq.quantize_dynamic(mlp(), {nn.Linear}, dtype=getattr(torch, dtype))


def embedding(bits: int = 8) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 4)).eval()
        configs = {8: tq.float_qparams_weight_only_qconfig, 4: tq.float_qparams_weight_only_qconfig_4bit}
        model[0].qconfig = configs[bits]
        return tq.convert(tq.prepare(model))


class Arithmetic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.add, self.mul, self.cat, self.both = (nnq.FloatFunctional() for _ in range(4))

    def forward(self, x):
        x = self.quant(x)
        y = self.add.add(x, self.mul.mul(x, x))
        y = self.both.add_relu(y, x)
        return self.dequant(self.cat.cat([y, x], 1))


def arithmetic() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = Arithmetic().eval()
        model.qconfig = tq.get_default_qconfig("x86")
        model = tq.prepare(model)
        model(torch.randn(64, 8))
        return tq.convert(model)
