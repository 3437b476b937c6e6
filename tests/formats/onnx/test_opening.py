"""What ONNX Runtime opens, and what is said where it does not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import compressor
from compressor import sources
from compressor.errors import CompressorError
from compressor.formats.onnx.opening import refusal
from compressor.targets.onnxruntime import OnnxRuntime

RNG = np.random.default_rng(0)


def model(path: Path, *, operator: str = "MatMul", opsets: tuple[tuple[str, int], ...] = (("", 17),)) -> Path:
    weight = RNG.standard_normal(100).astype(np.float32)[RNG.integers(0, 100, (128, 128))]
    domain = "" if operator == "MatMul" else "mine"
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 128])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 128])],
        [numpy_helper.from_array(weight, "w")],
    )
    imports = [helper.make_opsetid(*one) for one in (*opsets, *([(domain, 1)] if domain else []))]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def test_a_model_that_runs_is_opened_without_a_copy_of_its_tensors(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx")
    assert refusal(path) == ""
    onnx.save(onnx.load(path), tmp_path / "two.onnx", save_as_external_data=True, location="d", size_threshold=0)
    assert refusal(tmp_path / "two.onnx") == ""


@pytest.mark.parametrize("installed", [True, False])
def test_a_model_that_is_none_is_refused_with_the_words_of_who_looked(
    installed: bool,  # noqa: FBT001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = model(tmp_path / "m.onnx")
    if not installed:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert refusal(path) == ""
    broken = onnx.load(path)
    broken.graph.node[0].op_type = "BitwiseOr"  # opset 18
    onnx.save(broken, path)
    assert refusal(path).startswith("ONNX Runtime " if installed else "onnx ")
    assert "BitwiseOr" in refusal(path)


@pytest.mark.parametrize("opsets", [(("", 17), ("", 17)), (("", 17), ("ai.onnx", 17)), (("ai.onnx", 17), ("", 17))])
def test_an_opset_that_is_imported_twice_is_imported_once(opsets: tuple[tuple[str, int], ...], tmp_path: Path) -> None:
    made = compressor.compress(model(tmp_path / "m.onnx", opsets=opsets), tmp_path / "out")
    assert [weight.encoding for weight in made.weights] == ["palettized7"]
    assert made.notes == ()
    imports = onnx.load(tmp_path / "out" / "model.onnx").opset_import
    assert {(entry.domain, entry.version) for entry in imports} == {("", 18), ("compressor", 1)}


def test_the_last_of_two_opsets_counts_as_in_onnx_runtime(tmp_path: Path) -> None:
    read = sources.read(model(tmp_path / "m.onnx", opsets=(("", 17), ("ai.onnx", 19))))
    assert [(entry.domain, entry.version) for entry in read.graph.opset_import] == [("", 19)]


def test_what_the_runtime_does_not_open_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, words = model(tmp_path / "m.onnx"), "ONNX Runtime 1: no such operator"
    monkeypatch.setattr(OnnxRuntime, "refusal", lambda _, opened: "" if opened == path else words)
    with pytest.raises(CompressorError, match=f"would not open: {words}. Nothing was published"):
        compressor.compress(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_where_the_source_does_not_open_either_that_is_said(tmp_path: Path) -> None:
    made = compressor.compress(model(tmp_path / "m.onnx", operator="Unheard"), tmp_path / "out")
    (note,) = made.notes
    assert note.startswith("neither the artefact nor its source opens here: ONNX Runtime ")
    assert note.endswith("mine:Unheard(-1) is not a registered function/op")
