"""The writer: files that onnx and ONNX Runtime read, of the bytes that were announced, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from compressor.errors import CompressorError
from compressor.formats.onnx import writing
from compressor.formats.onnx.lowered import Part

VALUES = {"a": np.arange(1500, dtype=np.float32), "b": np.arange(3, dtype=np.float32), "c": np.ones(777, np.float32)}


def model() -> onnx.ModelProto:
    names = [*VALUES, "small"]
    nodes = [helper.make_node("Add", ["x", name], [f"{name} out"]) for name in names]
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info(f"{name} out", TensorProto.FLOAT, ["n"]) for name in names],
        [helper.make_tensor("small", TensorProto.FLOAT, [1], [5.0])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, producer_name="someone")
    helper.set_model_props(made, {"key": "value"})
    return made


def parts() -> list[Part]:
    return [Part(name, TensorProto.FLOAT, values.shape, values) for name, values in VALUES.items()]


@pytest.fixture(params=["single", "external"])
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "external":
        monkeypatch.setattr(writing, "SINGLE_FILE_BYTES", 5000)
    writing.write(model(), parts(), parts(), tmp_path)
    assert (tmp_path / "model.onnx.data").exists() == (request.param == "external")
    assert writing.size(model(), parts()) == sum(file.stat().st_size for file in tmp_path.iterdir())
    return tmp_path


def test_onnx_and_onnxruntime_read_it(written: Path) -> None:
    onnx.checker.check_model(written / "model.onnx", full_check=True)
    session = onnxruntime.InferenceSession(written / "model.onnx")
    for name, values in {**VALUES, "small": np.array([5.0], np.float32)}.items():
        (found,) = session.run([f"{name} out"], {"x": np.ones(1, np.float32)})
        np.testing.assert_array_equal(found, values + 1)


def test_everything_else_of_the_model_is_kept(written: Path) -> None:
    found = onnx.load(written / "model.onnx")
    del found.graph.initializer[1:]
    assert found == model()


def test_large_tensors_are_aligned_and_small_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SINGLE_FILE_BYTES", 5000)
    writing.write(model(), parts(), parts(), tmp_path)
    found = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    entries = {t.name: {e.key: e.value for e in t.external_data} for t in found.graph.initializer}
    assert entries == {
        "small": {},
        "a": {"location": "model.onnx.data", "offset": "0", "length": "6000"},
        "b": {},
        "c": {"location": "model.onnx.data", "offset": "8192", "length": "3108"},
    }
    assert (tmp_path / "model.onnx.data").stat().st_size == 8192 + 3108


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    alive: list[str] = []

    class Watched(Part):
        def payload(self) -> np.ndarray:
            alive.append(self.name)
            return super().payload()

    def stream() -> Iterator[Part]:
        for number, part in enumerate(parts()):
            assert len(alive) == number
            yield Watched(part.name, part.data_type, part.dims, part.array)

    writing.write(model(), parts(), stream(), tmp_path)
    assert alive == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (slice(0, 2), r"tensor 'c': expected c type 1 \[777\] 3108 bytes, got nothing"),
        (slice(1, 3), r"tensor 'a': expected a type 1 \[1500\] 6000 bytes, got b type 1 \[3\] 12 bytes"),
    ],
)
def test_tensors_that_were_not_planned_are_refused(wrong: slice, message: str, tmp_path: Path) -> None:
    with pytest.raises(CompressorError, match=message):
        writing.write(model(), parts(), parts()[wrong], tmp_path)


def test_a_graph_that_protobuf_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SINGLE_FILE_BYTES", 100)
    with pytest.raises(CompressorError, match="the graph alone takes"):
        writing.write(model(), parts(), parts(), tmp_path)
    assert list(tmp_path.iterdir()) == []
