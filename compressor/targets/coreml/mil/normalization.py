"""Normalizations."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

import math

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var
from coremltools.converters.mil.mil.types.symbolic import is_symbolic

from compressor.targets.coreml.mil.node import Constant, Node, Operators
from compressor.targets.coreml.mil.values import UnsupportedError, like, reshape, shape, static


def _batch_norm(node: Node) -> Var:
    """`(x - mean) / sqrt(variance + epsilon) * gamma + beta`, by channel."""
    if node.attribute("training_mode", 0) or any(node.reads(number) for number in range(1, 5)):
        raise UnsupportedError("training mode")
    x = node.var(0)
    gamma, beta, mean, variance = (node.var(number) for number in range(1, 5))
    given = {"mean": mean, "variance": variance, "gamma": gamma, "beta": beta}
    epsilon = like(x, node.attribute("epsilon", 1e-5))
    if x.rank > 2:
        return mb.batch_norm(x=x, **given, epsilon=epsilon, name=node.output())
    spatial = mb.expand_dims(x=x, axes=[2])  # Core ML's has a spatial axis
    return mb.squeeze(x=mb.batch_norm(x=spatial, **given, epsilon=epsilon), axes=[2], name=node.output())


def _instance_norm(node: Node) -> Var:
    x, gamma, beta = node.var(0), node.var(1), node.var(2)
    epsilon = like(x, node.attribute("epsilon", 1e-5))
    if x.rank in {3, 4} and gamma.val is not None and beta.val is not None:
        return mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=epsilon, name=node.output())
    normal = mb.layer_norm(x=x, axes=list(range(2, x.rank)), epsilon=epsilon)
    return _by_channel(normal, gamma, beta, node.output())


def _by_channel(x: Var, gamma: Var, beta: Var, name: str) -> Var:
    dims = [1, -1, *[1] * (x.rank - 2)]
    gamma, beta = mb.reshape(x=gamma, shape=dims), mb.reshape(x=beta, shape=dims)
    return mb.add(x=mb.mul(x=x, y=gamma), y=beta, name=name)


def _group_norm(node: Node) -> Var:
    """Groups become one axis and what lies in them another; the affine part is by channel, before opset 21 by group."""
    x, groups = node.var(0), node.attribute("num_groups")
    dims = shape(x)
    channels = static(dims[1:2], "the channels")[0]
    grouped = _grouped(x, groups)
    normal = mb.layer_norm(x=grouped, axes=[2], epsilon=like(x, node.attribute("epsilon", 1e-5)))
    gamma, beta = node.constant(1, "the scale"), node.constant(2, "the bias")
    if gamma.size == groups != channels:
        gamma, beta = (np.repeat(one, channels // groups) for one in (gamma, beta))
    consts = [
        node.scope.const(Constant(one), f"{node.output()}.{key}") for key, one in (("gamma", gamma), ("beta", beta))
    ]
    return _by_channel(reshape(normal, dims), consts[0], consts[1], node.output())


def _grouped(x: Var, groups: int) -> Var:
    """`[N, groups, -1]`; of a dynamic N it is each group that has a known size."""
    dims = shape(x)
    if is_symbolic(dims[0]):
        return mb.reshape(x=x, shape=[-1, groups, math.prod(static(dims[1:], "channels and sizes")) // groups])
    return mb.reshape(x=x, shape=[dims[0], groups, -1])


def _layer_norm(node: Node) -> Var:
    """Scale and bias are part of MIL's operator where they are constants of the normalized shape."""
    if node.reads(1) or node.reads(2):
        raise UnsupportedError("the mean and the deviation as outputs")
    x, axis = node.var(0), node.attribute("axis", -1) % node.var(0).rank
    axes, normalized = list(range(axis, x.rank)), shape(x)[axis:]
    epsilon = like(x, node.attribute("epsilon", 1e-5))
    given = [node.known(number) for number in (1, 2) if node.operand(number) is not None]
    if all(one is not None and one.shape == normalized for one in given):
        return mb.layer_norm(
            x=x, axes=axes, gamma=node.var(1), beta=node.optional(2), epsilon=epsilon, name=node.output()
        )
    return _affine(node, mb.layer_norm(x=x, axes=axes, epsilon=epsilon))


def _affine(node: Node, x: Var) -> Var:
    """`x * scale + bias`, with operands 1 and 2."""
    bias = node.optional(2)
    if bias is None:
        return mb.mul(x=x, y=node.var(1), name=node.output())
    return mb.add(x=mb.mul(x=x, y=node.var(1)), y=bias, name=node.output())


def _rms_norm(node: Node) -> Var:
    """`x / sqrt(mean(x²) + epsilon) * scale`."""
    x, axis = node.var(0), node.attribute("axis", -1) % node.var(0).rank
    mean = mb.reduce_mean(x=mb.mul(x=x, y=x), axes=list(range(axis, x.rank)), keep_dims=True)
    inverse = mb.rsqrt(x=mb.add(x=mean, y=like(x, node.attribute("epsilon", 1e-5))), epsilon=like(x, 0))
    return mb.mul(x=mb.mul(x=x, y=inverse), y=node.var(1), name=node.output())


def _local_response(node: Node) -> Var:
    x = node.var(0)
    return mb.local_response_norm(
        x=x, size=node.attribute("size"), alpha=like(x, node.attribute("alpha", 1e-4)),
        beta=like(x, node.attribute("beta", 0.75)), k=like(x, node.attribute("bias", 1.0)), name=node.output(),
    )  # fmt: skip


def _lp_norm(node: Node) -> Var:
    """Zeros stay zeros."""
    x, axis = node.var(0), node.attribute("axis", -1)
    norm = {1: mb.reduce_l1_norm, 2: mb.reduce_l2_norm}[node.attribute("p", 2)]
    found = norm(x=x, axes=[axis], keep_dims=True)
    divisor = mb.select(cond=mb.equal(x=found, y=like(x, 0)), a=mb.add(x=found, y=like(x, 1)), b=found)
    return mb.real_div(x=x, y=divisor, name=node.output())


def _mean_variance(node: Node) -> Var:
    x = node.var(0)
    axes = list(node.attribute("axes", [0, 2, 3]))
    return mb.layer_norm(x=x, axes=axes, epsilon=like(x, 1e-9), name=node.output())


OPERATORS: Operators = {
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _rms_norm,
}
