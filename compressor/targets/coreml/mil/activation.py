"""Activations."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.targets.coreml.mil.node import Node, Operator, Operators
from compressor.targets.coreml.mil.values import like

_SELU = (1.67326319217681884765625, 1.05070102214813232421875)  # alpha, gamma: the defaults of the operator


def _plain(emit: Callable[..., Var]) -> Operator:
    return lambda node: emit(x=node.var(0), name=node.output())


def _with(emit: Callable[..., Var], **defaults: float) -> Operator:
    """An operator with float attributes that have the same names in both."""

    def lower(node: Node) -> Var:
        x = node.var(0)
        given = {name: like(x, node.attribute(name, default)) for name, default in defaults.items()}
        return emit(x=x, **given, name=node.output())

    return lower


def _prelu(node: Node) -> Var:
    """A slope for each channel; any other slope is multiplied with the negative part."""
    x, slope = node.var(0), node.known(1)
    if slope is not None and x.rank >= 3:
        channels = x.shape[1]
        aligned = slope.reshape((1,) * (x.rank - slope.ndim) + slope.shape)
        if slope.size == 1 or aligned.shape == (1, channels, *(1,) * (x.rank - 2)):
            alpha = np.broadcast_to(slope.reshape(-1), (channels,))
            return mb.prelu(x=x, alpha=np.ascontiguousarray(alpha), name=node.output())
    negative = mb.mul(x=mb.minimum(x=x, y=like(x, 0)), y=node.var(1))
    return mb.add(x=mb.relu(x=x), y=negative, name=node.output())


def _gelu(node: Node) -> Var:
    mode = "TANH_APPROXIMATION" if node.attribute("approximate", "none") == "tanh" else "EXACT"
    return mb.gelu(x=node.var(0), mode=mode, name=node.output())


def _softmax(node: Node) -> Var:
    return mb.softmax(x=node.var(0), axis=node.attribute("axis", -1), name=node.output())


def _log_softmax(node: Node) -> Var:
    """Not the logarithm of the softmax: that underflows in float16."""
    x, axis = node.var(0), node.attribute("axis", -1)
    shifted = mb.sub(x=x, y=mb.reduce_max(x=x, axes=[axis], keep_dims=True))
    total = mb.reduce_log_sum_exp(x=shifted, axes=[axis], keep_dims=True)
    return mb.sub(x=shifted, y=total, name=node.output())


def _hard_swish(node: Node) -> Var:
    x = node.var(0)
    return mb.mul(x=x, y=mb.sigmoid_hard(x=x, alpha=like(x, 1 / 6), beta=like(x, 0.5)), name=node.output())


def _swish(node: Node) -> Var:
    x, alpha = node.var(0), node.attribute("alpha", 1.0)
    if alpha == 1:
        return mb.silu(x=x, name=node.output())
    return mb.mul(x=x, y=mb.sigmoid(x=mb.mul(x=x, y=like(x, alpha))), name=node.output())


def _mish(node: Node) -> Var:
    x = node.var(0)
    return mb.mul(x=x, y=mb.tanh(x=mb.softplus(x=x)), name=node.output())


def _selu(node: Node) -> Var:
    x = node.var(0)
    alpha, gamma = node.attribute("alpha", _SELU[0]), node.attribute("gamma", _SELU[1])
    return mb.mul(x=mb.elu(x=x, alpha=like(x, alpha)), y=like(x, gamma), name=node.output())


def _celu(node: Node) -> Var:
    """`alpha elu(x / alpha)`."""
    x, alpha = node.var(0), node.attribute("alpha", 1.0)
    if alpha == 1:
        return mb.elu(x=x, alpha=like(x, 1), name=node.output())
    inner = mb.elu(x=mb.mul(x=x, y=like(x, 1 / alpha)), alpha=like(x, 1))
    return mb.mul(x=inner, y=like(x, alpha), name=node.output())


def _thresholded_relu(node: Node) -> Var:
    """A value at the threshold is cut, which `thresholded_relu` keeps."""
    x = node.var(0)
    passes = mb.greater(x=x, y=like(x, node.attribute("alpha", 1.0)))
    return mb.select(cond=passes, a=x, b=like(x, 0), name=node.output())


def _shrink(node: Node) -> Var:
    x, bound, bias = node.var(0), node.attribute("lambd", 0.5), node.attribute("bias", 0.0)
    above = mb.select(
        cond=mb.greater(x=x, y=like(x, bound)), a=mb.sub(x=x, y=like(x, bias)), b=mb.mul(x=x, y=like(x, 0))
    )
    below = mb.less(x=x, y=like(x, -bound))
    return mb.select(cond=below, a=mb.add(x=x, y=like(x, bias)), b=above, name=node.output())


OPERATORS: Operators = {
    "Celu": _celu,
    "Elu": _with(mb.elu, alpha=1.0),
    "Gelu": _gelu,
    "HardSigmoid": _with(mb.sigmoid_hard, alpha=0.2, beta=0.5),
    "HardSwish": _hard_swish,
    "LeakyRelu": _with(mb.leaky_relu, alpha=0.01),
    "LogSoftmax": _log_softmax,
    "Mish": _mish,
    "PRelu": _prelu,
    "Relu": _plain(mb.relu),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": _plain(mb.sigmoid),
    "Softmax": _softmax,
    "Softplus": _plain(mb.softplus),
    "Softsign": _plain(mb.softsign),
    "Swish": _swish,
    "Tanh": _plain(mb.tanh),
    "ThresholdedRelu": _thresholded_relu,
}
