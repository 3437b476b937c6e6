"""Weights in ONNX models, and what ONNX Runtime makes of those in their artefacts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from compressor.arrays import NDArray
from compressor.formats.onnx.dtypes import DATA_TYPES
from tests.conformance import elements

SIGNED = "signed"
"""What the name of a weight begins with whose -0.0 is told from 0.0: the rows that are read are an output."""


def save(path: Path, weights: Mapping[str, NDArray], opset: int) -> Path:
    """A model that reads rows of each weight, which nothing can fold, and gives them, or their sum with an input."""
    nodes, outputs, tensors = [], [], []
    inputs = [helper.make_tensor_value_info("one", TensorProto.FLOAT, [])]
    for name, values in weights.items():
        kind = DATA_TYPES[values.dtype.name]
        tensors.append(helper.make_tensor(name, kind, values.shape, values.tobytes(), raw=True))
        rows = f"{name} rows"
        inputs.append(helper.make_tensor_value_info(f"{name} places", TensorProto.INT64, [f"{name} n"]))
        nodes.append(helper.make_node("Gather", [name, f"{name} places"], [rows]))
        if not name.startswith(SIGNED):
            nodes.append(helper.make_node("Cast", [rows], [f"{name} wide"], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Add", [f"{name} wide", "one"], [f"{name} more"]))
        out = rows if name.startswith(SIGNED) else f"{name} more"
        outputs.append(helper.make_tensor_value_info(out, kind if out == rows else TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "weights", inputs, outputs, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


def values(path: Path, weights: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Every weight as ONNX Runtime reads it from a model that `save` wrote, or from its artefact."""
    model = onnx.load(path)
    have = {output.name for output in model.graph.output}
    for name, array in weights.items():
        if f"{name} rows" not in have:
            model.graph.output.append(helper.make_tensor_value_info(f"{name} rows", DATA_TYPES[array.dtype.name], None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), _options(), providers=["CPUExecutionProvider"])
    feeds = {f"{name} places": np.arange(array.shape[0]) for name, array in weights.items()}
    feeds["one"] = np.array(1, np.float32)
    known = {one.name for one in session.get_inputs()}
    given = {key: onnxruntime.OrtValue.ortvalue_from_numpy(value) for key, value in feeds.items() if key in known}
    found = session.run_with_ort_values([f"{name} rows" for name in weights], given)
    return {name: elements(value, array.dtype) for (name, array), value in zip(weights.items(), found, strict=True)}


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return options
