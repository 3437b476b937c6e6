"""Small ONNX models, and the check that their normal form computes what ONNX Runtime computes for the original."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from compressor import sources
from compressor.encodings import decode
from compressor.formats.onnx import reading
from compressor.formats.onnx.graphs import walk
from compressor.model import Model
from compressor.weight import Weight

RNG = np.random.default_rng(0)


def value(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(","), [output], **attributes)


def tensor(name: str, values: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values), name)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto],
    opset: int = 21,
    **more: Any,
) -> Path:
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), list(initializers), **more)
    opsets = [helper.make_opsetid("", opset)]
    if any(node.domain == "com.microsoft" for node in nodes):
        opsets.append(helper.make_opsetid("com.microsoft", 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10 if opset < 25 else 13)
    onnx.save(model, path)
    return path


def run(model: onnx.ModelProto | Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    outputs: list[np.ndarray] = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(
        None, feeds
    )
    return outputs


def loaded(path: Path, *, in_floats: bool, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    """A session. in_floats: without integer kernels, whose int8 codes saturate on processors without VNNI."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if in_floats:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def decoded(model: Model) -> onnx.ModelProto:
    """The normal form with every weight put in, as one model in memory."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.graph)
    weights = {weight.name: weight for weight in model.weights}
    for graph in walk(proto.graph):
        for stub in graph.initializer:
            if stub.name in weights:
                assert not stub.HasField("raw_data")
                assert not stub.external_data
                values = decode(weights[stub.name].encoding)
                assert tuple(stub.dims) == values.shape
                stub.CopyFrom(tensor(stub.name, values))
            elif stub.external_data:
                stub.CopyFrom(tensor(stub.name, np.asarray(reading.array(stub, model.path.parent))))
    assert {stub.name for graph in walk(proto.graph) for stub in graph.initializer} >= set(weights)
    return proto


def check_same(path: Path, feeds: dict[str, np.ndarray] | None = None, *, exact: bool = True) -> dict[str, Weight]:
    """Read `path`, compare the outputs of its normal form with its own in ONNX Runtime, and return the weights."""
    model = sources.read(path)
    normal = decoded(model)
    onnx.checker.check_model(normal)
    for mine, its in zip(run(normal, feeds or {}), run(path, feeds or {}), strict=True):
        assert mine.dtype == its.dtype
        if exact:
            np.testing.assert_array_equal(mine, its)
        else:
            np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-4)
    assert len({weight.name for weight in model.weights}) == len(model.weights)
    return {weight.name: weight for weight in model.weights}
