"""Weights that are one under several names: stored once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor import compress
from compressor.arrays import MappedArray, NDArray
from compressor.packing import pack
from compressor.patterns import patterns
from compressor.sources import read
from compressor.sources.onnx.copies import copies
from compressor.weight import Copy

VALUES = np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32)
DIFFERENT = VALUES.copy()
DIFFERENT[-1, -1] += 1
KERNEL = np.random.default_rng(1).normal(size=(32, 12, 3, 3)).astype(np.float32)
CUBE = np.random.default_rng(2).normal(size=(16, 16, 16)).astype(np.float32)
MOVED = VALUES.copy()
MOVED[30:34] = VALUES[[31, 30, 33, 32]]  # the same sums, corners and ends
ZEROS = np.where(VALUES > 10, VALUES, 0)


def model(path: Path, weights: Mapping[str, NDArray], opset: int = 18, operator: str = "Max") -> Path:
    """Every weight read with an input of its own: matrices are multiplied, for others there is an operator."""
    nodes, inputs, outputs = [], [], []
    for name, values in weights.items():
        reader = "MatMul" if values.ndim == 2 else operator
        nodes.append(helper.make_node(reader, [f"{name} x", name], [f"{name} y"]))
        given: list[str | int | None] = ["n", len(values)] if values.ndim == 2 else [*values.shape]
        inputs.append(helper.make_tensor_value_info(f"{name} x", TensorProto.FLOAT, given))
        outputs.append(helper.make_tensor_value_info(f"{name} y", TensorProto.FLOAT, None))
    tensors = [numpy_helper.from_array(np.ascontiguousarray(values), name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "tied", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def feeds(weights: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Inputs with which each result is the weight."""
    return {
        f"{name} x": np.eye(len(values), dtype=np.float32) if values.ndim == 2 else np.full_like(values, -np.inf)
        for name, values in weights.items()
    }


def check_run(folder: Path, weights: dict[str, NDArray]) -> None:
    """The artefact computes these weights, each in one node once it is optimized."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = onnxruntime.InferenceSession(folder / "out" / "model.onnx", options, providers=["CPUExecutionProvider"])
    for values, got in zip(weights.values(), session.run(None, feeds(weights)), strict=True):
        assert np.array_equal(got, values)
    assert len(onnx.load(folder / "optimized.onnx").graph.node) == len(weights)


@pytest.mark.parametrize(
    ("weights", "left", "notes"),
    [
        pytest.param({"a": VALUES, "b": VALUES}, ["a"], {"a": "b"}, id="under two names"),
        pytest.param({"a": VALUES, "b": VALUES.T, "c": VALUES}, ["a"], {"a": "b (transposed), c"}, id="and transposed"),
        pytest.param(
            {"a": VALUES, "b": DIFFERENT, "c": DIFFERENT.T}, ["a", "b"], {"b": "c (transposed)"}, id="but one value"
        ),
        pytest.param(
            {"a": VALUES, "b": VALUES.reshape(48, 64), "c": VALUES.reshape(-1)},
            ["a"],
            {"a": "b (as [48, 64]), c (as [3072])"},
            id="reshaped",
        ),
        pytest.param(
            {"linear": VALUES, "convolution": VALUES[:, :, None, None]},
            ["linear"],
            {"linear": "convolution (as [64, 48, 1, 1])"},
            id="a 1x1 convolution",
        ),
        pytest.param(
            {"convolution": VALUES[:, :, None, None], "product": VALUES.T},
            ["convolution"],
            {"convolution": "product (transposed, as [48, 64])"},
            id="a 1x1 convolution and a product",
        ),
        pytest.param(
            {"kernel": KERNEL, "patches": KERNEL.reshape(32, -1).T},
            ["kernel"],
            {"kernel": "patches (transposed, as [108, 32])"},
            id="a flattened kernel",
        ),
        pytest.param(
            {"patches": KERNEL.reshape(32, -1).T, "kernel": KERNEL},
            ["patches"],
            {"patches": "kernel (transposed, as [32, 12, 3, 3])"},
            id="a flattened kernel first",
        ),
        pytest.param(
            {"last": KERNEL.transpose(2, 3, 1, 0), "first": KERNEL},
            ["last"],
            {"last": "first (transposed)"},
            id="channels last",
        ),
        pytest.param(
            {"cube": CUBE, "turned": CUBE.transpose(1, 0, 2)},
            ["cube"],
            {"cube": "turned (transposed)"},
            id="an order that the shape does not show",
        ),
        pytest.param({"flat": VALUES.reshape(-1), "b": VALUES}, ["b"], {"b": "flat (as [3072])"}, id="flat first"),
        pytest.param({"a": VALUES, "b": MOVED, "c": ZEROS}, ["a", "b", "c"], {}, id="the same values elsewhere"),
        pytest.param({"a": VALUES[:32], "b": VALUES[:32]}, ["a", "b"], {}, id="small"),
    ],
)
def test_a_copy_is_stored_once(
    weights: dict[str, NDArray], left: list[str], notes: dict[str, str], tmp_path: Path
) -> None:
    path = model(tmp_path / "model.onnx", weights)
    found = read(path)
    assert [weight.name for weight in found.weights] == left
    assert {key: text for key, text in found.metadata.items() if ".note." in key} == {
        f"compressor.note.{name}": f"stands for {text} too" for name, text in notes.items()
    }
    manifest = compress(path, tmp_path / "out")
    assert manifest.weights_dense_nbytes == sum(weights[name].nbytes for name in left)
    check_run(tmp_path, weights)


@pytest.mark.parametrize(
    ("kernel", "form"),
    [
        (KERNEL.reshape(-1)[KERNEL.view(np.uint32) % 200], "palettized8"),
        (np.where(np.abs(KERNEL) > 1, KERNEL, 0), "sparse"),
        (KERNEL.astype(np.float16).astype(np.float32), "float16"),
    ],
)
def test_nothing_of_a_copy_runs_whatever_the_form_of_its_weight(kernel: NDArray, form: str, tmp_path: Path) -> None:
    weights = {
        "kernel": kernel,
        "patches": kernel.reshape(32, -1).T,
        "flat": kernel.reshape(-1),
        "last": kernel.transpose(2, 3, 1, 0),
    }
    manifest = compress(model(tmp_path / "model.onnx", weights), tmp_path / "out")
    assert [(weight.name, weight.encoding) for weight in manifest.weights] == [("kernel", form)]
    check_run(tmp_path, weights)


def test_who_reads_a_copy_reads_the_weight(tmp_path: Path) -> None:
    (weight,) = read(model(tmp_path / "model.onnx", {"a": VALUES, "b": VALUES.T})).weights
    assert weight.uses == ("MatMul", "Transpose")


def test_who_reads_a_copy_in_another_shape(tmp_path: Path) -> None:
    (weight,) = read(model(tmp_path / "model.onnx", {"a": VALUES, "b": VALUES[:, :, None]})).weights
    assert weight.uses == ("MatMul", "Reshape")


def test_a_copy_that_keeps_the_sign_of_a_zero_keeps_it_in_the_weight(tmp_path: Path) -> None:
    """A division tells -0.0 from 0.0, a product does not."""
    values = np.where(VALUES > 0, np.float32(1), np.float32(-0.0))
    (weight,) = read(model(tmp_path / "model.onnx", {"a": values, "b": values[:, :, None]}, operator="Div")).weights
    assert weight.signed == "Div 'b y'"


def test_before_there_were_shapes_to_read_nothing_is_reshaped(tmp_path: Path) -> None:
    path = model(tmp_path / "model.onnx", {"a": VALUES, "b": VALUES.T, "c": VALUES.reshape(48, 64)}, opset=4)
    assert [weight.name for weight in read(path).weights] == ["a", "c"]


def test_an_artefact_with_copies_stays_as_it_is(tmp_path: Path) -> None:
    path = model(tmp_path / "model.onnx", {"kernel": KERNEL, "patches": KERNEL.reshape(32, -1).T})
    compress(path, tmp_path / "out")
    compress(tmp_path / "out" / "model.onnx", tmp_path / "again")
    first, second = (onnx.load(tmp_path / name / "model.onnx") for name in ("out", "again"))
    assert first.graph == second.graph


def test_names_that_are_taken(tmp_path: Path) -> None:
    weights = {"a": VALUES, "b": VALUES[:, :, None], "b shape 1": VALUES[:, :, None, None]}
    path = model(tmp_path / "model.onnx", weights)
    compress(path, tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    for values, got in zip(weights.values(), session.run(None, feeds(weights)), strict=True):
        assert np.array_equal(got, values)


def test_many_constants_that_look_alike_are_read_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    read_elements = 0

    def counted(values: NDArray) -> NDArray:
        nonlocal read_elements
        read_elements += values.size
        return patterns(values)

    monkeypatch.setattr("compressor.sources.onnx.copies.patterns", counted)
    ones = np.ones((64, 64), np.float32)
    many = {}
    for number in range(60):
        many[f"w{number}"] = ones.copy()
        many[f"w{number}"].flat[2000] = number + 2
    assert copies(many) == {}
    assert read_elements < 3 * sum(values.size for values in many.values())


@pytest.mark.parametrize("dims", [(4096, 257), (9669, 256)])
def test_large_constants_are_found_transposed_whatever_blocks_they_are_read_in(dims: tuple[int, int]) -> None:
    values = np.random.default_rng(4).normal(size=dims).astype(np.float32)
    assert copies({"a": values, "b": np.ascontiguousarray(values.T)}) == {"b": Copy("a", dims[::-1], dims, (1, 0))}


@pytest.mark.parametrize("width", [2, 3, 4, 6])
@pytest.mark.parametrize("dims", [(64, 48), (63, 47)])
def test_packed_codes_are_found_transposed(width: int, dims: tuple[int, int], tmp_path: Path) -> None:
    """The last of several codes in a byte, also beside codes that lie in memory, one in a byte."""
    codes = np.random.default_rng(3).integers(0, 2**width, dims).astype(np.uint8)
    codes.reshape(-1)[-2:] = 1, 2
    path = tmp_path / "codes"
    path.write_bytes(b"four" + pack(codes.reshape(-1), width).tobytes() + pack(codes.T.reshape(-1), width).tobytes())
    packed = MappedArray(path, 4, dims, codes.dtype, width)
    turned = MappedArray(path, 4 + packed.nbytes, dims[::-1], codes.dtype, width)
    found = copies({"a": packed, "b": turned, "c": codes})
    assert {name: (copy.weight, copy.order) for name, copy in found.items()} == {"b": ("a", (1, 0)), "c": ("a", ())}
