"""The models that are measured: blocks of 768-wide linear layers, exported as a graph and external data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

NDArray = npt.NDArray[Any]
Fill = Callable[[np.random.Generator, int], NDArray]

WIDTH, HIDDEN = 768, 3072
BLOCK_PARAMETERS = 4 * WIDTH * WIDTH + 2 * WIDTH * HIDDEN
ALIGNMENT = 4096
OPSET = 21


def _dense(random: np.random.Generator, size: int) -> NDArray:
    return random.standard_normal(size, np.float32) * np.float32(0.05)


def _palettized(random: np.random.Generator, size: int) -> NDArray:
    """16 distinct values: 4 bits a weight."""
    palette = np.sort(_dense(random, 16))
    return palette[random.integers(0, 16, size, np.uint8)]


def _pruned(random: np.random.Generator, size: int, kept: float = 0.25) -> NDArray:
    """75 % zeros; the non-zeros stay clear of the pruning threshold."""
    values = _dense(random, size)
    values += np.copysign(np.float32(0.002), values)
    values *= random.random(size, np.float32) < kept
    return values


FILLS: Mapping[str, Fill] = {
    "dense": _dense,
    "palettized": _palettized,
    "pruned": _pruned,
    "masked": partial(_pruned, kept=0.4),  # so few zeros that a mask says where they are
}
KINDS = ("palettized", "pruned", "mixed", "dense")


def write(directory: Path, kind: str, blocks: int) -> None:
    """Writes `model.onnx` and `model.onnx.data`: `blocks` blocks of six linear layers, filled as `kind` says."""
    directory.mkdir(parents=True)
    graph_nodes, tensors = [], []
    random = np.random.default_rng(0)
    last, offset = "x", 0
    with (directory / "model.onnx.data").open("wb") as data:
        for place, (name, rows, columns) in enumerate(layers(blocks)):
            fill = FILLS[kind] if kind != "mixed" else FILLS[("palettized", "pruned", "dense")[place % 3]]
            values = fill(random, rows * columns).reshape(rows, columns)
            data.seek(offset)
            data.write(values.tobytes())
            tensors.append(_external(name, values, offset))
            offset += -(-values.nbytes // ALIGNMENT) * ALIGNMENT
            graph_nodes.append(helper.make_node("MatMul", [last, name], [f"{name}.y"]))
            graph_nodes.append(helper.make_node("Tanh", [f"{name}.y"], [f"{name}.out"]))
            last = f"{name}.out"
    graph = helper.make_graph(
        graph_nodes,
        "blocks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", WIDTH])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.save(model, directory / "model.onnx")


def layers(blocks: int) -> Iterator[tuple[str, int, int]]:
    for block in range(blocks):
        for layer in ("query", "key", "value", "out"):
            yield f"block{block}.{layer}.weight", WIDTH, WIDTH
        yield f"block{block}.up.weight", WIDTH, HIDDEN
        yield f"block{block}.down.weight", HIDDEN, WIDTH


def _external(name: str, values: NDArray, offset: int) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=values.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "model.onnx.data"), ("offset", offset), ("length", values.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
