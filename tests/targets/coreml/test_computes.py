"""What whole packages compute: an ONNX graph, compressed for a version of Core ML, beside ONNX Runtime.

No Core ML is here to run a package: `mil_evaluation` reads the documentation of MIL's operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import compressor
from compressor import targets
from compressor.arrays import NDArray
from compressor.errors import CompressorError
from compressor.formats.coreml import blob
from compressor.formats.coreml.importing import coremltools

coremltools()

from tests.targets.coreml.mil_evaluation import evaluate_package  # noqa: E402 - after Core ML Tools, which warns at import

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 64)).astype(np.float32)
PALETTE = np.linspace(-1, 1.3, 16).astype(np.float32)[RNG.integers(0, 16, (64, 256))]


def saved(
    path: Path,
    nodes: Sequence[Any],
    feeds: Mapping[str, NDArray],
    constants: Mapping[str, NDArray],
    outputs: Mapping[str, int],
    opset: int = 18,
) -> Path:
    """An ONNX model; outputs: their types."""
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    results = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", given, results, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


def check(
    folder: Path,
    nodes: Sequence[Any],
    feeds: Mapping[str, NDArray],
    constants: Mapping[str, NDArray] = {},
    outputs: Mapping[str, int] = {"y": TensorProto.FLOAT},
    opset: int = 18,
    target: str = "iOS18",
) -> Path:
    """That the package computes what ONNX Runtime does; the package."""
    model = saved(folder / "m.onnx", nodes, feeds, constants, outputs, opset)
    expected = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, dict(feeds))
    settings = compressor.Settings(min_elements=1)
    compressor.compress(model, folder / "out", target=targets.get(target, {"precision": "float32"}), settings=settings)
    package = folder / "out" / "model.mlpackage"
    found = evaluate_package(package, list(feeds.values()))
    for want, got in zip(expected, found.values(), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), 1e-4, 1e-4)
    return package


def test_integer_tables_lie_in_the_folder_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the current directory, where a file of the same name holds another table."""
    table = np.arange(600)[::-1].copy()
    nodes = [helper.make_node("Gather", ["t", "i"], ["j"]), helper.make_node("Gather", ["w", "j"], ["y"])]
    constants = {"t": table, "w": RNG.standard_normal((600, 16)).astype(np.float32)}
    feeds = {"i": np.array([3, 5])}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    saved(elsewhere / "m.onnx", nodes, feeds, {"t": np.zeros(600, np.int64), "w": constants["w"]}, {"y": 1})
    monkeypatch.chdir(elsewhere)
    check(tmp_path, nodes, feeds, constants)


def test_a_constant_that_is_written_wrongly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Biases, tables and the like are compared as well as weights."""
    written = blob.Stored.payload

    def wrong(stored: blob.Stored) -> NDArray:
        made = np.array(written(stored))
        if stored.dims == (256,):
            made[3] ^= 1
        return made

    monkeypatch.setattr(blob.Stored, "payload", wrong)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    with pytest.raises(
        CompressorError, match=r"the constant float32\[256\] at \d+, read back, is not that of the model"
    ):
        check(tmp_path, nodes, {"x": X}, {"w": PALETTE, "b": RNG.standard_normal(256).astype(np.float32)})
    assert not (tmp_path / "out").exists()


def test_a_constant_that_is_subtracted_behind_a_convolution(tmp_path: Path) -> None:
    """A pass of Core ML Tools negates it where it is, though others read it, and then leaves the subtraction."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Sub", ["a", "c"], ["b"]),
        helper.make_node("Mul", ["b", "c"], ["y"]),
    ]
    feeds = {"x": RNG.standard_normal((1, 3, 5, 5)).astype(np.float32)}
    check(tmp_path, nodes, feeds, {"w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32), "c": np.float32([[[2]]])})


def test_a_constant_that_is_subtracted_behind_a_convolution_and_a_transpose(tmp_path: Path) -> None:
    """As in a network of TensorFlow with its batch norms in parts; passes of Core ML Tools move the transposes away."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Transpose", ["a"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Sub", ["t", "mean"], ["b"]),
        helper.make_node("Mul", ["b", "scale"], ["c"]),
        helper.make_node("Transpose", ["c"], ["y"], perm=[0, 3, 1, 2]),
    ]
    feeds = {"x": RNG.standard_normal((1, 3, 5, 5)).astype(np.float32)}
    floats = {"w": (16, 3, 3, 3), "mean": (16,), "scale": (16,)}
    check(tmp_path, nodes, feeds, {name: RNG.standard_normal(dims).astype(np.float32) for name, dims in floats.items()})


def test_a_weight_on_a_grid_whose_rows_are_reordered(tmp_path: Path) -> None:
    grid = RNG.integers(-127, 128, (64, 128)).astype(np.float32) * np.float32(0.0137)
    grid[0, 0] = 127 * np.float32(0.0137)
    nodes = [helper.make_node("Gather", ["w", "order"], ["v"], axis=0), helper.make_node("MatMul", ["x", "v"], ["y"])]
    package = check(tmp_path, nodes, {"x": X}, {"w": grid, "order": np.arange(64)[::-1].copy()})
    assert [weight.encoding for weight in compressor.inspect(package).weights if weight.shape == (128, 64)] == ["int8"]


def test_a_weight_that_is_an_output_too(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    package = check(tmp_path, [node], {"x": X}, {"w": PALETTE}, {"y": TensorProto.FLOAT, "w": TensorProto.FLOAT})
    assert {weight.name: weight.encoding for weight in compressor.inspect(package).weights}["w"] == "palettized4"


def test_whole_numbers_without_sign_are_divided_as_such(tmp_path: Path) -> None:
    feeds = {"a": np.uint32([7, 9, 1]), "b": np.uint32([2, 4, 3])}
    check(tmp_path, [helper.make_node("Div", ["a", "b"], ["y"])], feeds, outputs={"y": TensorProto.UINT32})


def test_inputs_of_types_that_core_ml_has_not(tmp_path: Path) -> None:
    given = [helper.make_tensor_value_info("names", TensorProto.STRING, [3])]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["names"], ["y"])], "g", given, [onnx.ValueInfoProto(name="y")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(CompressorError, match="the input names is of ONNX's type 8, which Core ML has not"):
        compressor.compress(tmp_path / "m.onnx", tmp_path / "out", target="iOS17")


W = RNG.standard_normal((96, 64)).astype(np.float32)
SCALE = (np.abs(W).max(1) / 127).astype(np.float32)


@pytest.mark.parametrize(
    ("nodes", "constants", "form"),
    [
        pytest.param(
            [
                helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=0),
                helper.make_node("DequantizeLinear", ["q", "s", "z"], ["v"], axis=0),
            ],
            {"w": W, "s": SCALE, "z": np.zeros(96, np.int8)},
            "int8",
            id="quantized floats",
        ),
        pytest.param(
            [helper.make_node("Mul", ["w", "mask"], ["v"])],
            {"w": W, "mask": (RNG.random(W.shape) < 0.2).astype(np.float32)},
            "sparse",
            id="masked floats",
        ),
    ],
)
def test_constants_that_constants_compute(
    nodes: Sequence[Any], constants: Mapping[str, NDArray], form: str, tmp_path: Path
) -> None:
    package = check(
        tmp_path,
        # MatMul would become MatMulNBits in ONNX Runtime, which rounds activations.
        [*nodes, helper.make_node("Gemm", ["x", "v"], ["y"], transB=1)],
        {"x": X},
        constants,
        {"y": TensorProto.FLOAT},
    )
    assert {one.encoding for one in compressor.inspect(package).weights} >= {form}
