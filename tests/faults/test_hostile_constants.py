"""Constants that no exporter writes, on their way into a Core ML program: refused in a line, nothing left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import compressor
from compressor.errors import CompressorError
from tests.faults.commands import chain, refused
from tests.sources.onnx.models import save, tensor, value

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

SIZES = helper.make_node("Constant", [], ["sizes"], value_ints=[1] * 70)


def added(*nodes: onnx.NodeProto) -> Path:
    """A model that adds `c`, which the nodes give, to its input."""
    weight = tensor("w", np.ones((4, 4), np.float32))
    nodes = (*nodes, helper.make_node("Add", ["x", "c"], ["y"]))
    return save(Path("m.onnx"), list(nodes), [weight], inputs=[value("x", [4, 4])], outputs=[value("y", ["n"])])


def constant(kind: int, dims: list[int], **data: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], name="odd", value=TensorProto(data_type=kind, dims=dims, **data))


CONSTANTS: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "70 axes": ([constant(TensorProto.STRING, [1] * 70, string_data=[b"s"])], "odd (tensor '': impossible dimensions"),
    "too few bytes": (
        [constant(TensorProto.FLOAT8E4M3FN, [4], raw_data=b"12")],
        "odd (tensor '' float8_e4m3fn[4]: expected 4 bytes of data, got 2 bytes",
    ),
    "no such type": ([constant(99, [4], raw_data=b"1234")], "odd (tensor '': not what it declares: 99)"),
    "no value": ([helper.make_node("Constant", [], ["c"])], "Constant: number 0 (ValueError: not enough values"),
    "a value that is no tensor": ([helper.make_node("Constant", [], ["c"], value=1)], "Constant: number 0 (Attribute"),
    "a text": ([helper.make_node("Constant", [], ["c"], value_string="a")], "Add: number 1 (values of type |S1)"),
    "three values for one": (
        [
            helper.make_node("Constant", [], ["one"], value_ints=[1]),
            helper.make_node("ConstantOfShape", ["one"], ["c"], value=tensor("", np.ones(3, np.float32))),
        ],
        "ConstantOfShape: number 1 (ValueError: cannot reshape array of size 3",
    ),
    "a weight in 70 axes": ([SIZES, helper.make_node("Reshape", ["w", "sizes"], ["c"])], "Reshape: number 1 (Value"),
    "a cast to a text": ([helper.make_node("Cast", ["w"], ["c"], to="x")], "Cast: number 0 (TypeError"),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_odd_constants_are_named(name: str) -> None:
    nodes, says = CONSTANTS[name]
    refused("compress", added(*nodes), "out", "--target", "iOS17", status=1, says=says)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_conversion_that_fails_leaves_no_files(scratch: Path) -> None:
    model = added(SIZES, helper.make_node("Expand", ["x", "sizes"], ["c"]))
    with pytest.raises(CompressorError, match="Core ML Tools cannot convert the model") as caught:
        compressor.compress(model, "out", target="iOS17")
    assert list(scratch.iterdir()) == []
    assert caught.value.__cause__ is not None  # whose frames have their own temporary folders


def test_a_plan_leaves_no_files_while_it_lives(scratch: Path) -> None:
    plan = compressor.dry_run(chain(Path("m.onnx")), target="iOS17")
    assert list(scratch.iterdir()) == []
    assert plan.choices
