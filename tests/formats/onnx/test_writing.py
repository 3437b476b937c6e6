"""The writer: files that onnx and ONNX Runtime read, of the bytes that were announced, one tensor at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from compressor.arrays import MappedArray
from compressor.encodings import Dense, spec
from compressor.errors import CompressorError
from compressor.formats.onnx import writing
from compressor.formats.onnx.decoding import Lowering
from compressor.formats.onnx.lowered import Part
from compressor.formats.onnx.writing import Stored

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


def planned() -> list[Stored]:
    """The tensors as weights, by spec."""
    ways = [Lowering(name, 18) for name in VALUES]
    wholes = [way(spec(Dense(VALUES[way.name]))) for way in ways]
    return [Stored(whole, [(way, whole.parts)]) for way, whole in zip(ways, wholes, strict=True)]


@pytest.fixture(params=["constants", "weights"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["single", "external"])
def written(request: pytest.FixtureRequest, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "external":
        monkeypatch.setattr(writing, "SINGLE_FILE_BYTES", 5000)
    layout = writing.layout(model(), parts()) if kind == "constants" else writing.layout(model(), [], planned())
    layout.begin(tmp_path)
    for name, place in reversed(layout.places.items()):
        place.write(tmp_path, Dense(VALUES[name]))
    layout.check(tmp_path)
    assert (tmp_path / "model.onnx.data").exists() == (request.param == "external")
    assert layout.nbytes == sum(file.stat().st_size for file in tmp_path.iterdir())
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
    writing.layout(model(), parts()).begin(tmp_path)
    found = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    entries = {t.name: {e.key: e.value for e in t.external_data} for t in found.graph.initializer}
    assert entries == {
        "small": {},
        "a": {"location": "model.onnx.data", "offset": "0", "length": "6000"},
        "b": {},
        "c": {"location": "model.onnx.data", "offset": "8192", "length": "3108"},
    }
    assert (tmp_path / "model.onnx.data").stat().st_size == 8192 + 3108


@pytest.mark.parametrize("limit", [writing.SINGLE_FILE_BYTES, 5000])
def test_what_is_no_weight_is_compared(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any byte that differs is found, unless it is a weight's."""
    monkeypatch.setattr(writing, "SINGLE_FILE_BYTES", limit)
    layout, file = writing.layout(model(), [], planned()), tmp_path / "model.onnx"
    layout.begin(tmp_path)
    begun = np.fromfile(file, np.uint8)
    for name, place in layout.places.items():
        place.write(tmp_path, Dense(np.full(VALUES[name].shape, -1, np.int32).view(np.float32)))
    layout.check(tmp_path)
    others = np.flatnonzero(np.fromfile(file, np.uint8) == begun)
    assert begun.size - others.size == (6000 + 12 + 3108 if limit > 5000 else 12)
    for place in others[::50]:
        changed = begun.copy()
        changed[place] ^= 1
        changed.tofile(file)
        with pytest.raises(CompressorError, match=r"read back, are not what was written\. Nothing was published"):
            layout.check(tmp_path)


def test_tensors_that_were_not_planned_are_refused(tmp_path: Path) -> None:
    layout = writing.layout(model(), [], planned())
    layout.begin(tmp_path)
    with pytest.raises(CompressorError, match=r"expected a type 1 \[1500\] 6000 bytes, got a type 1 \[3\] 12 b"):
        layout.places["a"].write(tmp_path, Dense(VALUES["b"]))


def test_data_of_another_length_are_refused() -> None:
    short = MappedArray(Path(__file__), 0, (100,), np.dtype(np.uint8), 8)
    part = Part("w", TensorProto.UINT8, (200,), short, 8)
    with pytest.raises(CompressorError, match=r"tensor 'w': expected 200 bytes of data, got 100"):
        part.payload()


def test_a_graph_that_protobuf_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SINGLE_FILE_BYTES", 100)
    with pytest.raises(CompressorError, match="the graph alone takes"):
        writing.layout(model(), parts())
