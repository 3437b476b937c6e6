"""Recurrent layers over codes: torch's float operators over the dequantized weights, whose gates keep their order."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import _VF, Tensor

from compressor.errors import CompressorError
from compressor.sources.torch.legacy.packed import Cell, Linear


def _flat(params: Sequence[Cell], *, biases: bool) -> list[Tensor]:
    return [tensor for cell in params for tensor in cell.flat(biases=biases)]


def _whole(options: Sequence[Any], given: int) -> None:
    # The operators' other overloads, for packed sequences, have no axis order.
    if len(options) != given:
        raise CompressorError("a quantized recurrent layer over a PackedSequence has no ONNX form. Pass a tensor.")


def lstm(x: Tensor, hx: Sequence[Tensor], params: Sequence[Cell], *options: Any, **_: Any) -> tuple[Tensor, ...]:
    _whole(options, 6)
    found: tuple[Tensor, ...] = _VF.lstm(x, list(hx), _flat(params, biases=options[0]), *options)
    return found


def gru(x: Tensor, hx: Tensor, params: Sequence[Cell], *options: Any) -> tuple[Tensor, ...]:
    _whole(options, 6)
    found: tuple[Tensor, ...] = _VF.gru(x, hx, _flat(params, biases=options[0]), *options)
    return found


def lstm_cell(x: Tensor, hx: Sequence[Tensor], w_ih: Linear, w_hh: Linear, *_: Any) -> tuple[Tensor, Tensor]:
    gates = w_ih.dynamic(x) + w_hh.dynamic(hx[0])
    i, f, g, o = gates.chunk(4, 1)
    cell = torch.sigmoid(f) * hx[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def gru_cell(x: Tensor, hx: Tensor, w_ih: Linear, w_hh: Linear, *_: Any) -> Tensor:
    (xr, xz, xn), (hr, hz, hn) = w_ih.dynamic(x).chunk(3, 1), w_hh.dynamic(hx).chunk(3, 1)
    z = torch.sigmoid(xz + hz)
    new = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    return (1 - z) * new + z * hx


def rnn_tanh_cell(x: Tensor, hx: Tensor, w_ih: Linear, w_hh: Linear, *_: Any) -> Tensor:
    return torch.tanh(w_ih.dynamic(x) + w_hh.dynamic(hx))


def rnn_relu_cell(x: Tensor, hx: Tensor, w_ih: Linear, w_hh: Linear, *_: Any) -> Tensor:
    return torch.relu(w_ih.dynamic(x) + w_hh.dynamic(hx))
