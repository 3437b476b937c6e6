"""Layers of MIL by their documented formulas: convolutions, pools, norms, recurrent ones, activations."""

# ruff: noqa: FBT002 - the operators call their parameters so, and these have the same

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional


def as_tensor(x):
    return torch.from_numpy(np.array(x))


def _pads(pad_type, pad, rank):
    assert pad_type in {"valid", "custom"}, pad_type
    pad = [0] * 2 * rank if pad_type == "valid" else list(map(int, pad))
    return [(pad[2 * i], pad[2 * i + 1]) for i in range(rank)]


def _same(x, weight, strides, dilations):
    """As much as makes the output `ceil(size / stride)` long; one more at the end where it is odd."""
    pads = []
    for size, kernel, stride, dilation in zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
        pads.append((total // 2, total - total // 2))
    return pads


def _padded(x, pads, value=0.0):
    return functional.pad(x, [int(p) for pair in reversed(pads) for p in pair], value=value)


def _conv(x, weight, strides, pad_type, pad, dilations, groups, bias=None):
    rank = x.ndim - 2
    emit = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    pads = _same(x, weight, strides, dilations) if pad_type == "same" else _pads(pad_type, pad, rank)
    x = _padded(as_tensor(x), pads)
    return emit(
        x,
        as_tensor(weight),
        None if bias is None else as_tensor(bias),
        strides.tolist(),
        0,
        dilations.tolist(),
        int(groups),
    ).numpy()


def _conv_transpose(x, weight, strides, pad_type, pad, dilations, groups, bias=None, output_shape=None):
    """An output shape adds to the end what pads and the formula leave out."""
    rank = x.ndim - 2
    emit = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
    y = emit(as_tensor(x), as_tensor(weight), None, strides.tolist(), 0, 0, int(groups), dilations.tolist()).numpy()
    cut = [slice(None)] * 2 + [slice(b, y.shape[2 + i] - e) for i, (b, e) in enumerate(_pads(pad_type, pad, rank))]
    extra = [0] * rank
    if output_shape is not None:
        extra = [int(size) - len(range(y.shape[2 + i])[cut[2 + i]]) for i, size in enumerate(output_shape[-rank:])]
        cut = [slice(None)] * 2 + [slice(one.start, one.stop + extra[i]) for i, one in enumerate(cut[2:])]
    y = y[tuple(cut)]
    return y if bias is None else y + bias.reshape(1, -1, *[1] * rank)


def _windows(x, kernel_sizes, strides, pads, value, ceil_mode):
    rank = x.ndim - 2
    extra = []
    for axis, (begin, end) in enumerate(pads):
        dim, k, s = x.shape[2 + axis] + begin + end, int(kernel_sizes[axis]), int(strides[axis])
        count = -(-(dim - k) // s) + 1
        if (count - 1) * s >= x.shape[2 + axis] + begin:
            count -= 1
        extra.append((begin, end + max((count - 1) * s + k - dim, 0)) if ceil_mode else (begin, end))
    y = _padded(as_tensor(x), extra, value)
    for axis in range(rank):
        y = y.unfold(2 + axis, int(kernel_sizes[axis]), int(strides[axis]))
    return y.flatten(2 + rank)


def _max_pool(x, kernel_sizes, strides, pad_type, pad, ceil_mode=False):
    pads = _pads(pad_type, pad, x.ndim - 2)
    return _windows(x, kernel_sizes, strides, pads, -np.inf, ceil_mode).amax(-1).numpy()


def _avg_pool(x, kernel_sizes, strides, pad_type, pad, exclude_padding_from_average=False, ceil_mode=False):
    pads = _pads(pad_type, pad, x.ndim - 2)
    total = _windows(x, kernel_sizes, strides, pads, 0.0, ceil_mode).sum(-1)
    if exclude_padding_from_average:
        ones = np.ones_like(x)
        count = _windows(ones, kernel_sizes, strides, pads, 0.0, ceil_mode).sum(-1)
    else:  # the pads count, what lies beyond them for ceil_mode does not
        inside = np.ones((*x.shape[:2], *(d + b + e for d, (b, e) in zip(x.shape[2:], pads, strict=True))), np.float32)
        count = _windows(inside, kernel_sizes, strides, [(0, 0)] * len(pads), 0.0, ceil_mode).sum(-1)
    return (total / count).numpy()


def _l2_pool(x, kernel_sizes, strides, pad_type, pad, ceil_mode=False):
    return (
        _windows(x * x, kernel_sizes, strides, _pads(pad_type, pad, x.ndim - 2), 0.0, ceil_mode).sum(-1).sqrt().numpy()
    )


def _by_channel(value, x):
    return np.reshape(value, (1, -1, *[1] * (x.ndim - 2)))


def _batch_norm(x, mean, variance, gamma, beta, epsilon):
    mean, variance, gamma, beta = (_by_channel(one, x) for one in (mean, variance, gamma, beta))
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def _instance_norm(x, gamma, beta, epsilon):
    axes = tuple(range(2, x.ndim))
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)
    return normal * _by_channel(gamma, x) + _by_channel(beta, x)


def _local_response_norm(x, size, alpha, beta, k):
    return functional.local_response_norm(as_tensor(x), int(size), float(alpha), float(beta), float(k)).numpy()


def _linear(x, weight, bias):
    return x @ weight.T + bias


def _layer_norm(x, axes, epsilon, gamma=1.0, beta=0.0):
    axes = tuple(int(axis) for axis in axes)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon) * gamma + beta


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


_ACTIVATIONS = {"sigmoid": _sigmoid, "tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}


def _lstm_direction(x, h, c, weight_ih, weight_hh, bias, peephole, activations):
    recurrent, cell, last = activations
    states = []
    for step in x:
        gates = step @ weight_ih.T + h @ weight_hh.T + bias
        i, f, o, z = np.split(gates, 4, axis=1)
        p_i, p_f, p_o = np.split(peephole, 3) if peephole is not None else (0, 0, 0)
        i, f, z = recurrent(i + p_i * c), recurrent(f + p_f * c), cell(z)
        c = f * c + i * z
        h = recurrent(o + p_o * c) * last(c)
        states.append(h)
    return np.stack(states), h, c


def _lstm(x, initial_h, initial_c, weight_ih, weight_hh, direction, output_sequence, recurrent_activation,
          cell_activation, activation, bias=0.0, peephole=None, **back):  # fmt: skip
    assert output_sequence
    activations = [_ACTIVATIONS[name] for name in (recurrent_activation, cell_activation, activation)]
    first = (weight_ih, weight_hh, bias, peephole)
    second = (
        back.get("weight_ih_back"),
        back.get("weight_hh_back"),
        back.get("bias_back", 0.0),
        back.get("peephole_back"),
    )
    runs = {"forward": [(first, 1)], "reverse": [(first, -1)], "bidirectional": [(first, 1), (second, -1)]}[
        str(direction)
    ]
    hs, cs = np.split(initial_h, len(runs), 1), np.split(initial_c, len(runs), 1)
    found = []
    for (weights, way), h, c in zip(runs, hs, cs, strict=True):
        states, *last = _lstm_direction(x[::way], h, c, *weights, activations)
        found.append((states[::way], *last))
    return tuple(np.concatenate([one[part] for one in found], -1) for part in range(3))


def _rnn(x, initial_h, weight_ih, weight_hh, direction, output_sequence, activation, bias=0.0):
    assert output_sequence
    assert direction == "forward"
    h, states = initial_h, []
    for step in x:
        h = _ACTIVATIONS[str(activation)](step @ weight_ih.T + h @ weight_hh.T + bias)
        states.append(h)
    return np.stack(states), h


def _gelu(x, mode):
    return functional.gelu(as_tensor(x), approximate="tanh" if mode == "TANH_APPROXIMATION" else "none").numpy()


OPERATORS = {
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "elu": lambda x, alpha: np.where(x >= 0, x, alpha * (np.exp(np.minimum(x, 0)) - 1)),
    "gelu": _gelu,
    "instance_norm": _instance_norm,
    "l2_pool": _l2_pool,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "local_response_norm": _local_response_norm,
    "lstm": _lstm,
    "max_pool": _max_pool,
    "rnn": _rnn,
    "silu": lambda x: x * _sigmoid(x),
}
