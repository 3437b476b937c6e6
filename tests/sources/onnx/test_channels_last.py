"""Weights of TensorFlow and Keras: channels last, behind the nodes with which exporters reach ONNX's order.

The graphs are those of tf2onnx 1.17 (from a SavedModel, where it does not fold, and from a TensorFlow Lite file) and of
Keras 3's own export.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto

import compressor
from compressor.recognition.findings import Settings
from tests.sources.onnx.models import floats, node, run, save, tensor, value

Tensors = Mapping[str, np.ndarray]
RNG = np.random.default_rng(0)
F32 = np.float32


def pruned(*shape: int) -> np.ndarray:
    weight = floats(*shape)
    return np.asarray(np.where(np.abs(weight) < np.quantile(np.abs(weight), 0.8), F32(0), weight))


def palettized(*shape: int) -> np.ndarray:
    return np.take(floats(16), RNG.integers(0, 16, shape))


def scales(weight: np.ndarray, axis: int) -> np.ndarray:
    """A scale for each place along `axis`."""
    others = tuple(one for one in range(weight.ndim) if one != axis)
    return np.asarray(np.abs(weight).max(others) / 127, F32)


def quantized(weight: np.ndarray, axis: int) -> np.ndarray:
    """On a grid for each place along `axis`."""
    step = scales(weight, axis).reshape([-1 if one == axis else 1 for one in range(weight.ndim)])
    return np.asarray(np.rint(weight / step) * step, F32)


def codes(*shape: int) -> np.ndarray:
    return RNG.integers(-127, 128, shape).astype(np.int8)


def shape(name: str, *dims: int) -> Tensors:
    return {name: np.array(dims, np.int64)}


@dataclass(frozen=True)
class Case:
    """Nodes from `x` `[2, 8, 8, channels]`, or `[2, channels]`, to `y`.

    forms: of the weights that take 1 KB or more, by name. most: the bytes that these take.
    """

    nodes: list[NodeProto]
    constants: Tensors
    channels: int
    forms: Mapping[str, str]
    most: int
    rank: int = 4


IN, OUT = node("Transpose", "x", "h", perm=[0, 3, 1, 2]), node("Transpose", "c", "y", perm=[0, 2, 3, 1])
OIHW = [3, 2, 0, 1]
"""From the order of Keras, HWIO."""


def convolution(weight: np.ndarray, *before: NodeProto, form: str, most: int, more: Tensors | None = None) -> Case:
    name = before[-1].output[0] if before else "w"
    nodes = [*before, IN, node("Transpose", name, "t", perm=OIHW), node("Conv", "h,t", "c", pads=[1] * 4), OUT]
    return Case(nodes, {"w": weight, **(more or {})}, 16, {"w": form}, most)


def depthwise(weight: np.ndarray, form: str, most: int) -> Case:
    height, width, channels, multiplier = weight.shape
    nodes = [
        node("Reshape", "w,to", "r"),
        node("Transpose", "r", "t", perm=OIHW),
        IN,
        node("Conv", "h,t", "c", group=channels),
        OUT,
    ]
    to = shape("to", height, width, 1, channels * multiplier)
    return Case(nodes, {"w": weight, **to}, channels, {"w": form}, most)


HWIO = (3, 3, 16, 32)
KERNEL = floats(*HWIO)
BY_OUTPUT = {"s": scales(KERNEL, 3), "z": np.zeros(32, np.int8)}
FAKE = (node("QuantizeLinear", "w,s,z", "q", axis=3), node("DequantizeLinear", "q,s,z", "d", axis=3))
BY_TENSOR: Tensors = {"s": np.array(0.03, F32), "z": np.array(128, np.uint8)}
MASK = {"mask": (RNG.random(HWIO) < 0.2).astype(F32)}

CASES = {
    "pruned": convolution(pruned(*HWIO), form="sparse", most=4400),
    "palettized": convolution(palettized(*HWIO), form="palettized4", most=2400),
    "on a grid by output": convolution(quantized(KERNEL, 3), form="int8", most=4800),
    "fake quantized by output": convolution(KERNEL, *FAKE, form="int8", most=4800, more=BY_OUTPUT),
    "fake quantized by tensor, as of tfmot": convolution(
        KERNEL,
        node("QuantizeLinear", "w,s,z", "q"),
        node("DequantizeLinear", "q,s,z", "d"),
        form="uint8",
        most=4700,
        more=BY_TENSOR,
    ),
    "masked, still in training": convolution(KERNEL, node("Mul", "w,mask", "d"), form="sparse", most=4420, more=MASK),
    "clustered, still in training": Case(
        [node("Gather", "table,w", "d"), IN, node("Transpose", "d", "t", perm=OIHW), node("Conv", "h,t", "c"), OUT],
        {"table": floats(16), "w": RNG.integers(0, 16, HWIO)},
        16,
        {"w": "palettized4"},
        2400,
    ),
    "depthwise, pruned": depthwise(pruned(3, 3, 512, 1), "sparse", 4400),
    "depthwise, palettized": depthwise(palettized(3, 3, 64, 2), "palettized4", 700),
    "depthwise, on a grid by channel": depthwise(quantized(floats(3, 3, 64, 2), 2), "int8", 1500),
    "separable": Case(
        [
            node("Reshape", "w,to", "r"),
            node("Transpose", "r", "t", perm=OIHW),
            IN,
            node("Conv", "h,t", "d", group=64),
            node("Transpose", "p", "u", perm=OIHW),
            node("Conv", "d,u", "c"),
            OUT,
        ],
        {"w": quantized(floats(3, 3, 64, 1), 2), "p": palettized(1, 1, 64, 32), **shape("to", 3, 3, 1, 64)},
        64,
        {"w": "int8", "p": "palettized4"},
        2000,
    ),
    "transposed convolution, on a grid by output": Case(
        # Keras has [height, width, outputs, inputs]
        [IN, node("Transpose", "w", "t", perm=OIHW), node("ConvTranspose", "h,t", "c", strides=[2, 2]), OUT],
        {"w": quantized(floats(2, 2, 32, 16), 2)},
        16,
        {"w": "int8"},
        2300,
    ),
    "dense": Case([node("MatMul", "x,w", "y")], {"w": quantized(floats(64, 48), 1)}, 64, {"w": "int8"}, 3400, 2),
    "TensorFlow Lite, convolution": Case(
        [
            node("DequantizeLinear", "w,s,z", "d", axis=0),
            node("Transpose", "d", "t", perm=[0, 3, 1, 2]),
            IN,
            node("Conv", "h,t", "c"),
            OUT,
        ],
        {"w": codes(32, 3, 3, 16), "s": scales(KERNEL, 3), "z": np.zeros(32, np.int8)},
        16,
        {"w": "int8"},
        4800,
    ),
    "TensorFlow Lite, depthwise": Case(
        [
            node("DequantizeLinear", "w,s,z", "d", axis=3),
            node("Transpose", "d", "t", perm=[3, 0, 1, 2]),
            IN,
            node("Conv", "h,t", "c", group=128),
            OUT,
        ],
        {"w": codes(1, 3, 3, 128), "s": np.full(128, 0.01, F32), "z": np.zeros(128, np.int8)},
        128,
        {"w": "int8"},
        1700,
    ),
    "TensorFlow Lite, fully connected": Case(
        [
            node("DequantizeLinear", "w,s,z", "d", axis=0),
            node("Transpose", "d", "t", perm=[1, 0]),
            node("MatMul", "x,t", "y"),
        ],
        {"w": codes(48, 64), "s": np.full(48, 0.01, F32), "z": np.zeros(48, np.int8)},
        64,
        {"w": "int8"},
        3400,
        2,
    ),
}


@pytest.mark.parametrize("target", ["onnx-opset18", "onnxruntime"])
@pytest.mark.parametrize("case", CASES)
def test_weights_are_recognised_along_their_own_axes(case: str, target: str, tmp_path: Path) -> None:
    found = CASES[case]
    dims = [8, 8, found.channels] if found.rank == 4 else [found.channels]
    constants = [tensor(name, np.asarray(values)) for name, values in found.constants.items()]
    ends = {
        "inputs": [value("x", ["n", *dims])],
        "outputs": [value("y", ["n", *(f"d{place}" for place in range(1, found.rank))])],
    }
    path = save(tmp_path / "m.onnx", found.nodes, constants, opset=18, **ends)
    compressor.compress(path, tmp_path / "out", target=target, settings=Settings(min_elements=256))
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())["weights"]
    large = [one for one in told if int(np.prod(one["shape"])) >= 256]
    assert {one["name"]: one["encoding"] for one in large} == found.forms
    assert sum(one["nbytes"] for one in large) <= found.most
    x = {"x": floats(2, *dims)}
    (expected,), (got,) = run(path, x), run(tmp_path / "out" / "model.onnx", x)
    assert got.tobytes() == expected.tobytes()
