"""Running models: what a session says of a file, whatever runs it. Core ML's own runtime is played by a double."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compressor.errors import CompressorError
from compressor.formats.coreml.importing import messages
from compressor.targets.coreml import session as coreml
from compressor.targets.onnxruntime import session as onnxruntime
from compressor.targets.session import Port


def described(**inputs: Any) -> Any:
    model = messages("Model").Model()
    for name, (shape, dtype, least) in inputs.items():
        array = model.description.input.add(name=name).type.multiArrayType
        array.shape.extend(shape)
        array.dataType = dtype
        if least:
            array.shapeRange.sizeRanges.add(lowerBound=least, upperBound=8)
    model.description.output.add(name="score")
    return model


class Package:
    """What `coremltools.models.MLModel` is on a Mac: it doubles the first input."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def get_spec(self) -> Any:
        return self.model

    def predict(self, feeds: dict[str, Any]) -> dict[str, Any]:
        return {"score": 2 * next(iter(feeds.values()))}


def test_a_package_has_ports_and_runs() -> None:
    spec = described(x=([2, 3], 65568, 0), ids=([1, 5], 131104, 1), half=([4], 65552, 0))
    session = coreml.CoreMLSession(Package(spec), "out")
    assert session.inputs == [
        Port("x", (2, 3), np.dtype(np.float32)),
        Port("ids", (None, 5), np.dtype(np.int32)),
        Port("half", (4,), np.dtype(np.float16)),
    ]
    assert session.outputs == ["score"]
    assert session.runtime == "coreml"
    (found,) = session.run(["score"], {"x": np.ones((2, 3), np.float32)})
    assert found.tolist() == [[2, 2, 2], [2, 2, 2]]


def test_a_package_is_loaded_by_core_ml_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def model(path: str) -> Package:
        opened.append(path)
        if "broken" in path:
            raise RuntimeError("not\na model")
        return Package(described(x=([1, 2], 65568, 0)))

    tools = SimpleNamespace(models=SimpleNamespace(MLModel=model))
    monkeypatch.setattr(coreml, "coremltools", lambda: tools)
    assert coreml.load(Path("a/model.mlpackage"), "a").runtime == "coreml"
    assert opened == ["a/model.mlpackage"]
    with pytest.raises(CompressorError, match="label: Core ML cannot load it: not a model"):
        coreml.load(Path("broken/model.mlpackage"), "label")


def test_a_file_runs_in_onnx_runtime(tmp_path: Path) -> None:
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", sides[:1], sides[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "model.onnx"
    )
    session = onnxruntime.load(tmp_path / "model.onnx", "model")
    assert session.inputs == [Port("x", (None, 2), np.dtype(np.float32))]
    (found,) = session.run(session.outputs, {"x": np.ones((1, 2), np.float32)})
    assert (session.runtime, found.tolist()) == ("onnxruntime", [[2, 2]])


def test_an_input_without_axes_has_no_samples() -> None:
    spec = described(x=([], 65568, 0))
    with pytest.raises(CompressorError, match="out: input x is a scalar"):
        _ = coreml.CoreMLSession(Package(spec), "out").inputs
