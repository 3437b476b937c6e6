"""Quantized networks that the tests of the torch source export, each made by torch's own tools."""

from __future__ import annotations

import warnings

import torch
import torch.ao.nn.quantizable as nnqat
import torch.ao.nn.quantized as nnq
import torch.ao.nn.quantized.dynamic as nnqd
import torch.ao.quantization as tq
from torch import nn
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx, prepare_qat_fx
from torch.nn import functional


class Operators(nn.Module):
    """What FX quantizes as functions, methods and modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.hardswish = nn.Hardswish()
        self.rows = nn.Parameter(torch.randn(8, 8, 3))
        self.last = nn.Parameter(torch.randn(10, 8))
        self.layer_norm = nn.LayerNorm(10)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        y = functional.leaky_relu(x, 0.1) + x * 0.5
        y = torch.cat([y * y, x], 0)
        y = functional.conv1d(self.hardswish(y).flatten(2), self.rows, torch.zeros(8), 1, 1, 1, 1).mean(2)
        return self.layer_norm(functional.elu(functional.linear(y, self.last)))


def fx_static(qconfig: str = "x86", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return _fx(Operators(), tq.get_default_qconfig_mapping(qconfig), torch.rand(8, 1, 8, 8))


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(32, 16, batch_first=True)
        self.last = nn.Parameter(torch.randn(10, 16))

    def forward(self, x):
        return functional.relu(functional.linear(self.gru(self.lstm(x)[0])[0], self.last))


def fx_dynamic() -> nn.Module:
    torch.manual_seed(0)
    return _fx(Sequences(), tq.QConfigMapping().set_global(tq.per_channel_dynamic_qconfig), torch.randn(2, 3, 8))


def _fx(model: nn.Module, qconfig: tq.QConfigMapping, x: torch.Tensor) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_fx(model.eval(), qconfig, (x,))
        prepared(x)
        return convert_fx(prepared)


def fx_qat() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
        x = torch.rand(8, 1, 8, 8)
        prepared = prepare_qat_fx(model.train(), tq.get_default_qat_qconfig_mapping("x86"), (x,))
        prepared(x).square().sum().backward()
        for parameter in prepared.parameters():
            parameter.data -= 0.01 * parameter.grad
        prepared(x)
        return convert_fx(prepared.eval())


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTMCell(8, 16), nn.GRUCell(16, 16)
        self.tanh, self.relu = nn.RNNCell(16, 8), nn.RNNCell(8, 8, nonlinearity="relu")

    def forward(self, x):
        h, c = self.lstm(x)
        h, c = self.lstm(x, (h, c))
        return self.relu(self.tanh(self.gru(c, self.gru(h))))


def dynamic_of(model: nn.Module, dtype: torch.dtype = torch.qint8) -> nn.Module:
    kinds = {nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell, nn.Linear}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tq.quantize_dynamic(model.eval(), kinds, dtype=dtype)


def cells() -> nn.Module:
    torch.manual_seed(0)
    return dynamic_of(Cells())


def float16_lstm() -> nn.Module:
    torch.manual_seed(0)
    return dynamic_of(nn.Sequential(nn.LSTM(8, 16, 2)), torch.float16)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.lstm, self.attention = nn.LSTM(8, 8, bidirectional=True), nn.MultiheadAttention(16, 4)

    def forward(self, x):
        x = self.lstm(self.quant(x))[0]
        return self.dequant(self.attention(x, x, x)[0])


def attention() -> nn.Module:
    """The modules that torch quantizes as a whole, in an observed form of their own."""
    observed = {nn.LSTM: nnqat.LSTM, nn.MultiheadAttention: nnqat.MultiheadAttention}
    converted = {nnqat.LSTM: nnq.LSTM, nnqat.MultiheadAttention: nnq.MultiheadAttention}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = Attention().eval()
        model.qconfig = tq.get_default_qconfig("x86")
        model = tq.prepare(model, prepare_custom_config_dict={"float_to_observed_custom_module_class": observed})
        model(torch.randn(3, 2, 8))
        custom = {"observed_to_quantized_custom_module_class": converted}
        return tq.convert(model, convert_custom_config_dict=custom)


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.table = nn.EmbeddingBag(50, 16, mode="sum"), nn.Embedding(50, 16)

    def forward(self, ids):
        return torch.cat([self.bag(ids), self.bag(ids.flatten(), torch.tensor([0, 5])), self.table(ids[0])])


def bags(bits: int = 8) -> nn.Module:
    configs = {8: tq.float_qparams_weight_only_qconfig, 4: tq.float_qparams_weight_only_qconfig_4bit}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = Bags().eval()
        model.bag.qconfig, model.table.qconfig = configs[bits], configs[8]
        return tq.convert(tq.prepare(model))


class Activations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.linear, self.prelu, self.elu = nn.Linear(8, 8), nn.PReLU(init=0.3), nn.ELU()
        self.sigmoid, self.relu6 = nn.Sigmoid(), nn.ReLU6()

    def forward(self, x):
        return self.dequant(self.relu6(self.sigmoid(self.elu(self.prelu(self.linear(self.quant(x)))))))


def activations() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = Activations().eval()
        model.qconfig = tq.get_default_qconfig("x86")
        model.prelu.qconfig = tq.QConfig(activation=tq.default_observer, weight=tq.default_observer)
        model = tq.prepare(model)
        model(torch.randn(64, 8))
        return tq.convert(model)


def transposed() -> nn.Module:
    """All ranks; the engine is the only one of torch 2.13 that computes them correctly."""
    torch.manual_seed(0)
    layers = (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), nn.ConvTranspose2d(6, 8, 3, groups=2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tq.QuantWrapper(nn.Sequential(layers[0], nn.Unflatten(2, (4, 5)), layers[1])).eval()
        model.qconfig = tq.get_default_qconfig("qnnpack")
        model = tq.prepare(model)
        model(torch.randn(8, 4, 9))
        return tq.convert(model)


def dynamic_conv() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = nn.Sequential(nnqd.Conv1d(3, 4, 3), nn.ReLU(), nnqd.ConvTranspose1d(4, 3, 3))
        for layer in (model[0], model[2]):
            weight = torch.quantize_per_tensor(torch.randn(layer.weight().shape), 0.02, 0, torch.qint8)
            layer.set_weight_bias(weight, torch.randn(layer.out_channels))
        return model.eval()
