"""Weights that are one under several names: stored once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor import compress
from compressor.arrays import NDArray
from compressor.sources import read

VALUES = np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32)
DIFFERENT = VALUES.copy()
DIFFERENT[-1, -1] += 1


def model(path: Path, **weights: NDArray) -> Path:
    """Every weight multiplied with an input of its own."""
    nodes = [helper.make_node("MatMul", [f"{name} x", name], [f"{name} y"]) for name in weights]
    inputs, outputs = (
        [
            helper.make_tensor_value_info(f"{name} {letter}", TensorProto.FLOAT, ["n", values.shape[axis]])
            for name, values in weights.items()
        ]
        for letter, axis in (("x", 0), ("y", 1))
    )
    tensors = [numpy_helper.from_array(np.ascontiguousarray(values), name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "tied", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("weights", "left", "notes"),
    [
        pytest.param({"a": VALUES, "b": VALUES}, ["a"], {"a": "b"}, id="under two names"),
        pytest.param({"a": VALUES, "b": VALUES.T, "c": VALUES}, ["a"], {"a": "b (transposed), c"}, id="and transposed"),
        pytest.param(
            {"a": VALUES, "b": DIFFERENT, "c": DIFFERENT.T}, ["a", "b"], {"b": "c (transposed)"}, id="but one value"
        ),
        pytest.param({"a": VALUES, "b": VALUES.reshape(48, 64)}, ["a", "b"], {}, id="reshaped"),
        pytest.param({"a": VALUES[:32], "b": VALUES[:32]}, ["a", "b"], {}, id="small"),
    ],
)
def test_a_copy_is_stored_once(
    weights: dict[str, NDArray], left: list[str], notes: dict[str, str], tmp_path: Path
) -> None:
    path = model(tmp_path / "model.onnx", **weights)
    found = read(path)
    assert [weight.name for weight in found.weights] == left
    assert {key: text for key, text in found.metadata.items() if ".note." in key} == {
        f"compressor.note.{name}": f"the same values as {text}: stored once" for name, text in notes.items()
    }
    manifest = compress(path, tmp_path / "out")
    assert manifest.weights_dense_nbytes == sum(weights[name].nbytes for name in left)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", options, providers=["CPUExecutionProvider"])
    feeds = {f"{name} x": np.eye(len(values), dtype=np.float32) for name, values in weights.items()}
    for values, got in zip(weights.values(), session.run(None, feeds), strict=True):
        assert np.array_equal(got, values)
    assert {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node} == {"MatMul"}


def test_who_reads_a_copy_reads_the_weight(tmp_path: Path) -> None:
    (weight,) = read(model(tmp_path / "model.onnx", a=VALUES, b=VALUES.T)).weights
    assert weight.uses == ("MatMul", "Transpose")
