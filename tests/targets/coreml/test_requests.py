"""What can be asked of a Core ML conversion, and what is said where it cannot be had."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from typer.testing import CliRunner

import compressor
from compressor import targets
from compressor.arrays import NDArray
from compressor.errors import CompressorError, UsageError
from compressor.formats.coreml import blob, importing, package
from compressor.formats.coreml.importing import messages
from compressor.sources import InputSpec
from compressor.stages import app
from tests.targets.coreml.networks import Exported, exported, written

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A model of images in batches of any size, which scores three classes."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    inputs = {"input": InputSpec((2, 3, 16, 16), dynamic={0: "batch"})}
    return exported(module, inputs, tmp_path_factory.mktemp("scores"))


@pytest.fixture(scope="module")
def described(scores: Exported, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """The description of the package that is made with some options."""

    def made(**options: Any) -> Any:
        package_ = written(scores.folder, tmp_path_factory.mktemp("out") / "out", targets.get("iOS17", options))
        return package_.model.graph.model.description

    return made


def test_images_and_classes(described: Callable[..., Any]) -> None:
    image = {"color": "BGR", "scale": 1 / 255, "bias": (-0.5, -0.4, -0.3)}
    found = described(images={"input": image}, classes=("cat", "dog", "bird"))
    (taken,) = found.input
    assert (taken.name, taken.type.imageType.width, taken.type.imageType.height) == ("input", 16, 16)
    assert taken.type.imageType.colorSpace == messages("Model").FeatureTypes__pb2.ImageFeatureType.BGR
    assert found.predictedFeatureName == "classLabel"
    kinds = {each.name: each.type.WhichOneof("Type") for each in found.output}
    assert kinds == {"classLabel": "stringType", "classLabel_probs": "dictionaryType"}


def test_axes_of_a_fixed_size_and_of_any(described: Callable[..., Any]) -> None:
    (fixed,) = described(axes={"batch": 4}).input
    assert list(fixed.type.multiArrayType.shape) == [4, 3, 16, 16]
    (flexible,) = described(axes={"batch": (1, 8)}).input
    (batch, *others) = flexible.type.multiArrayType.shapeRange.sizeRanges
    assert (batch.lowerBound, batch.upperBound) == (1, 8)
    assert [(each.lowerBound, each.upperBound) for each in others] == [(3, 3), (16, 16), (16, 16)]
    (default,) = described().input
    assert list(default.type.multiArrayType.shape) == [1, 3, 16, 16]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"axes": {"batch": (8, 2)}}, r"coreml.axes.batch: the least size, 8, is larger than the largest one, 2\."),
        ({"images": {"x": {}}}, r"coreml.images names x: the inputs of .* are: input\."),
    ],
)
def test_options_that_name_what_there_is_not(
    options: dict[str, Any], says: str, scores: Exported, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        compressor.compress(scores.folder, tmp_path / "out", target=targets.get("iOS17", options))
    assert not (tmp_path / "out").exists()


def test_axes_of_other_models_are_told_of(scores: Exported, tmp_path: Path) -> None:
    """So that one params file serves several models."""
    made = compressor.compress(
        scores.folder, tmp_path / "out", target=targets.get("iOS17", {"axes": {"lenght": 3, "batch": 2}})
    )
    assert made.notes == ("coreml.axes has lenght, which this model lacks; its dynamic axes are: batch",)


def test_axes_without_a_name_are_called_by_their_input_and_place(tmp_path: Path) -> None:
    file = graph(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], [None, None, 64])
    with pytest.raises(UsageError, match=r"axis 1 \(unnamed\) of the input x .*: set coreml.axes.x.1 to a size"):
        compressor.compress(file, tmp_path / "out", target="iOS17")
    made = targets.get("iOS17", {"axes": {"x.0": (1, 4), "x.1": 12}})
    (given,) = written(file, tmp_path / "out", made).model.graph.model.description.input
    sizes = given.type.multiArrayType.shapeRange.sizeRanges
    assert [(each.lowerBound, each.upperBound) for each in sizes] == [(1, 4), (12, 12), (64, 64)]


def test_what_becomes_of_inputs_and_outputs_is_told(tmp_path: Path) -> None:
    given = helper.make_tensor_value_info("ids", TensorProto.INT64, [3])
    result = helper.make_tensor_value_info("y/out", TensorProto.FLOAT, None)
    table = numpy_helper.from_array(np.zeros((9, 4), np.float32), "w")
    made = helper.make_graph([helper.make_node("Gather", ["w", "ids"], ["y/out"])], "g", [given], [result], [table])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    says = ("input ids: int64 became int32", "output y/out: called 'y_out'")
    assert compressor.dry_run(tmp_path / "m.onnx", target="iOS17").notes == says
    assert compressor.compress(tmp_path / "m.onnx", tmp_path / "out", target="iOS17").notes == says
    again = compressor.compress(
        tmp_path / "out" / "model.mlpackage",
        tmp_path / "again",
        target=targets.get("iOS18", {"axes": {"x.0": 1}, "classes": ("a",)}),
    )
    assert again.notes == ("the model is a package already, so coreml.axes, coreml.classes change nothing in it",)


def graph(path: Path, nodes: list[Any], shape: list[Any]) -> Path:
    """A graph of one input `x` and a weight `w`, whose output is `y`."""
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32), "w")
    taken, given = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    made = helper.make_graph(nodes, "g", [taken], [given], [weight])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my.own", 1)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=8), path)
    return path


def test_an_axis_without_a_size(tmp_path: Path) -> None:
    file = graph(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], ["batch", "length", 64])
    says = r"axis 1 \(length\) of the input x has no fixed size, .*: set coreml.axes.length to a size, or to the least"
    with pytest.raises(UsageError, match=says):
        compressor.compress(file, tmp_path / "out", target="iOS17")
    assert not (tmp_path / "out").exists()


def test_all_operators_that_core_ml_lacks_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="product"),
        helper.make_node("Mine", ["a"], ["b"], name="first", domain="my.own"),
        helper.make_node("Det", ["x"], ["c"], name="second"),
        helper.make_node("Add", ["b", "c"], ["d"], name="sum"),
        helper.make_node("Mine", ["d"], ["y"], name="third", domain="my.own"),
    ]
    file = graph(tmp_path / "m.onnx", nodes, [64, 64])
    with pytest.raises(CompressorError) as error:
        compressor.compress(file, tmp_path / "out", target="iOS17")
    assert "Core ML has no form for 3 nodes: Det: second; my.own.Mine: first, third." in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def whole(scores: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    compressor.compress(scores.folder, out, target="iOS17")
    return out / "model.mlpackage"


def truncated(path: Path) -> None:
    file = path / package.MODEL
    file.write_bytes(file.read_bytes()[:-100])


def without_weights(path: Path) -> None:
    (path / package.WEIGHTS).unlink()


def short_of_weights(path: Path) -> None:
    file = path / package.WEIGHTS
    file.write_bytes(file.read_bytes()[:-40])


def without_manifest(path: Path) -> None:
    (path / package.MANIFEST).unlink()


def a_neural_network(path: Path) -> None:
    model = messages("Model").Model(specificationVersion=4)
    model.neuralNetwork.SetInParent()
    (path / package.MODEL).write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncated, "model.mlmodel: not a Core ML model, or truncated"),
        (without_weights, "weight.bin: the weights' file cannot be read: No such file"),
        (short_of_weights, r"weight.bin: the blob at \d+: its data are bytes \d+ to \d+, the file has \d+"),
        (without_manifest, "Manifest.json: the package's manifest cannot be read: No such file"),
        (
            a_neural_network,
            "a neuralNetwork, expected an mlProgram. Give what it was converted from, ONNX or torch, or",
        ),
    ],
)
def test_packages_that_are_not_whole(damage: Callable[[Path], None], says: str, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.mlpackage"
    shutil.copytree(whole, path)
    damage(path)
    for use in (compressor.inspect, lambda each: compressor.compress(each, tmp_path / "out", target="iOS18")):
        with pytest.raises(CompressorError, match=says) as error:
            use(path)
        assert str(error.value).count(str(path)) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("m.mlmodel", "expected an .mlpackage of an ML Program. Give what it was converted from, ONNX or torch"),
        ("m.mlmodelc", "give the .mlpackage that it was compiled from"),
        ("m.aimodel", "a model of Core AI, whose format is not read here"),
    ],
)
@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_other_files_of_apple_s(name: str, says: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises(CompressorError, match=says):
        compressor.inspect(tmp_path / name)


def test_systems_of_another_format() -> None:
    with pytest.raises(UsageError, match=r"target 'ios27' is none yet\. Core AI's format, .* choose iOS26\."):
        targets.get("ios27")


@pytest.mark.parametrize("call", range(2))
def test_a_disk_that_fills_up(call: int, scores: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = blob.Stored.payload, []

    def full(self: blob.Stored) -> NDArray:
        calls.append(self)
        if len(calls) > call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self)

    monkeypatch.setattr(blob.Stored, "payload", full)
    with pytest.raises(CompressorError, match=r"out: cannot be written: No space left on device\. Nothing was changed"):
        compressor.compress(scores.folder, tmp_path / "out", target="iOS17")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As it is where coremltools is not installed."""
    find = importlib.util.find_spec
    importing.coremltools.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "coremltools" else find(name))
    yield
    importing.coremltools.cache_clear()


@pytest.mark.usefixtures("nothing_installed")
def test_core_ml_tools_are_not_installed(scores: Exported, tmp_path: Path) -> None:
    with pytest.raises(
        CompressorError, match=r'Core ML needs coremltools. Install it: pip install "coremltools>=9.0" "numpy<2.4"'
    ):
        compressor.compress(scores.folder, tmp_path / "out", target="iOS17")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("nothing_installed")
def test_what_is_missing_is_known_before_a_weight_is_read(
    scores: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.compress", lambda *given, **named: pytest.fail("weights were read"))
    ended = CliRunner().invoke(app.app, ["compress", str(scores.folder), str(tmp_path / "out"), "--target", "iOS17"])
    assert ended.exit_code == 1
    assert ended.stderr.startswith("error: Core ML needs coremltools. Install it: pip install")


def test_a_package_is_not_exported_and_runs_nowhere_else(whole: Path, tmp_path: Path) -> None:
    ended = CliRunner().invoke(app.app, ["export", str(whole), str(tmp_path / "exported")])
    assert ended.exit_code == 2
    assert "has no ONNX graph: give it to compress as it is." in ended.stderr
    with pytest.raises(CompressorError, match="has no ONNX graph: onnxruntime needs one"):
        compressor.compress(whole, tmp_path / "out", target="onnxruntime")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is here")
def test_what_was_made_of_a_package_needs_core_ml(whole: Path, tmp_path: Path) -> None:
    fitted = compressor.write_baseline(whole, tmp_path / "out", target="iOS17")
    with pytest.raises(
        CompressorError, match="label: was made of a package, which runs in Core ML alone: evaluate it on"
    ):
        targets.get("iOS17").session(tmp_path / "out", fitted, "label")
