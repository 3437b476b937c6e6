"""ONNX Runtime: an artefact computes with codes where its source does, and what it computes no processor changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import compressor
from compressor import sources, targets
from compressor.arrays import CODE_DTYPES, NDArray
from compressor.encodings import Quantized, name
from tests.conformance import codes as random_codes
from tests.conformance import operators
from tests.sources.onnx.models import loaded, save, value

EXTREMES = np.array([-128, -127, -1, 1, 127], np.int8)
"""Pairs of products of the largest of them and of activations of 255 do not fit 16 bits."""


def constants(**values: Any) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(np.asarray(one), key) for key, one in values.items()]


def between_quantizers(
    path: Path, *middle: onnx.NodeProto, stored: list[onnx.TensorProto], data: tuple[int, ...]
) -> Path:
    """`middle` computes `product` from `xd`; activations are steps of 1, results of 1,024."""
    grids = constants(xs=np.float32(1), xz=np.uint8(0), ys=np.float32(1024), yz=np.uint8(128))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        *middle,
        helper.make_node("QuantizeLinear", ["product", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    rank = [f"d{axis}" for axis in range(len(data))]
    return save(path, nodes, [*grids, *stored], inputs=[value("x", data)], outputs=[value("y", rank)])


def run(path: Path, data: NDArray, optimized: Path) -> NDArray:
    (found,) = loaded(path, in_floats=False, optimized=optimized).run(None, {"x": data})
    return np.asarray(found)


def written(path: Path, directory: Path) -> Path:
    """The artefact, also where it is larger than so small a source."""
    model, target = sources.read(path), targets.get("onnxruntime")
    directory.mkdir()
    targets.write(target, model, directory)
    return directory / "model.onnx"


def codes(path: Path) -> list[onnx.TensorProto]:
    """The stored matrices of bytes."""
    return [one for one in onnx.load(path).graph.initializer if len(one.dims) > 1 and one.data_type in {2, 3}]


@pytest.mark.parametrize(
    ("operator", "kernel", "by_column"),
    [
        ("MatMul", "QLinearMatMul", False),
        ("MatMul", "QLinearMatMul", True),
        ("Gemm", "QGemm", False),
        ("Gemm", "QGemm", True),
        ("Conv", "QLinearConv", False),
        ("Conv", "QLinearConv", True),
    ],
)
def test_products_of_codes_are_exact(operator: str, kernel: str, tmp_path: Path, *, by_column: bool) -> None:
    """uint8 codes with a zero point of 128 in the place of int8 ones: no processor adds their products in 16 bits."""
    rng = np.random.default_rng(0)
    inner, channels, axis = 96, 32, 0 if operator == "Conv" else 1
    shape = (channels, inner, 1, 1) if operator == "Conv" else (inner, channels)
    weight = np.where(rng.random(shape) < 0.9, rng.choice(EXTREMES, shape), rng.integers(-128, 128, shape, np.int8))
    data = rng.choice(np.array([0, 1, 254, 255], np.float32), (2, inner, 3, 3) if operator == "Conv" else (5, inner))
    scale = np.full(channels if by_column else (), 0.5, np.float32)
    path = between_quantizers(
        tmp_path / "m.onnx",
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], axis=axis),
        helper.make_node(operator, ["xd", "wd"], ["product"]),
        stored=constants(w=weight, s=scale, z=np.zeros(scale.shape, np.int8)),
        data=data.shape,
    )
    artefact = written(path, tmp_path / "out")
    wide = weight.astype(np.int64)
    exact = np.einsum("nihw,oi->nohw", data, wide[:, :, 0, 0]) if operator == "Conv" else data @ wide
    expected = (np.clip(np.round(exact * 0.5 / 1024) + 128, 0, 255) - 128) * 1024
    np.testing.assert_array_equal(run(artefact, data, tmp_path / "o.onnx"), expected)
    assert operators(tmp_path / "o.onnx")[kernel] == 1
    assert {one.data_type for one in codes(tmp_path / "o.onnx")} == {TensorProto.UINT8}
    (read,) = [one.encoding for one in sources.read(artefact).weights if one.name == "w"]
    assert isinstance(read, Quantized)
    assert name(read) == "int8"
    assert read.zero_point is None
    np.testing.assert_array_equal(np.asarray(read.data.values), weight, strict=True)


def test_codes_stay_codes_where_quantization_moves_through_an_operator(tmp_path: Path) -> None:
    """ONNX Runtime quantizes floats there anew, with one scale for all channels: rows of 0.01 would be lost."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-128, 128, (8, 4, 3, 3)).astype(np.int8)
    scale = np.geomspace(1e-2, 10, 8).astype(np.float32)
    path = between_quantizers(
        tmp_path / "m.onnx",
        helper.make_node("MaxPool", ["xd"], ["pooled"], kernel_shape=[2, 2]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"], axis=0),
        helper.make_node("Conv", ["pooled", "wd"], ["product"]),
        stored=constants(w=weight, s=scale),
        data=(2, 4, 9, 9),
    )
    data = rng.integers(0, 256, (2, 4, 9, 9)).astype(np.float32)
    found = run(written(path, tmp_path / "out"), data, tmp_path / "o.onnx")
    exact = loaded(path, in_floats=True).run(None, {"x": data})[0]
    assert operators(tmp_path / "o.onnx")["QLinearConv"] == 1
    np.testing.assert_array_equal(found, exact)


def test_floats_that_lie_on_a_grid_stay_floats(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-128, 128, (64, 64)).astype(np.float32) * np.float32(0.03)
    path = between_quantizers(
        tmp_path / "m.onnx",
        helper.make_node("MatMul", ["xd", "w"], ["product"]),
        stored=constants(w=weight),
        data=(3, 64),
    )
    for place in ("out", "again"):
        manifest = compressor.compress(path, tmp_path / place)
        path = tmp_path / place / "model.onnx"
        assert {one.name: one.encoding for one in manifest.weights} == {"w": "int8"}
        data = rng.integers(0, 256, (3, 64)).astype(np.float32)
        exact = np.clip(np.round(data.astype(np.float64) @ weight / 1024) + 128, 0, 255) - 128
        np.testing.assert_allclose(run(path, data, tmp_path / "o.onnx"), exact * 1024, atol=1024)
        assert operators(tmp_path / "o.onnx") == {"QuantizeLinear": 2, "DequantizeLinear": 2, "MatMul": 1}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("level", [0, 1, 4])
@pytest.mark.parametrize(("symmetric", "bias"), [(True, False), (False, True)])
@pytest.mark.parametrize(("columns", "block"), [(240, 16), (100, 32), (20, 32)])
def test_mat_mul_n_bits_computes_what_it_does_in_the_source(
    bits: int, level: int, tmp_path: Path, *, symmetric: bool, bias: bool, columns: int, block: int
) -> None:
    """At level 4, activations of 8 bits move results by half a percent."""
    rng = np.random.default_rng(0)
    rows, blocks = 33, -(-columns // block)
    stored = constants(
        w=rng.integers(0, 256, (rows, blocks, block * bits // 8), np.uint8),
        s=np.abs(rng.standard_normal((rows, blocks))).astype(np.float32),
        z=rng.integers(0, 256, (rows, -(-blocks * bits // 8)), np.uint8),
        b=rng.standard_normal(rows).astype(np.float32),
    )
    inputs = ["x", "w", "s", "" if symmetric else "z", *(["", "b"] if bias else [])]
    attributes = {"K": columns, "N": rows, "bits": bits, "block_size": block, "accuracy_level": level}
    node = helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", **attributes)
    used = [one for one in stored if one.name in inputs]
    shapes = [value("x", [7, columns])], [value("y", [7, rows])]
    path = save(tmp_path / "m.onnx", [node], used, inputs=shapes[0], outputs=shapes[1])
    artefact, data = written(path, tmp_path / "out"), rng.standard_normal((7, columns)).astype(np.float32)
    expected = run(path, data, tmp_path / "o.onnx")
    np.testing.assert_array_equal(run(artefact, data, tmp_path / "o.onnx"), expected)
    assert operators(tmp_path / "o.onnx") == {"MatMulNBits": 1}
    before, after = (
        sorted(numpy_helper.to_array(one).nbytes for one in onnx.load(file).graph.initializer)
        for file in (path, artefact)
    )
    assert before == after


@pytest.mark.parametrize(("kind", "zero_point"), [("int8", False), ("uint4", True), ("int4", False), ("int2", True)])
@pytest.mark.parametrize(
    ("operator", "scales", "attributes"),
    [
        ("MatMul", (36,), {"axis": 1}),
        ("Gemm", (36,), {"axis": 1}),
        ("Gemm", (4, 36), {"axis": 0, "block_size": 32}),
        ("Conv", (8,), {"axis": 0}),
    ],
)
def test_weights_alone_are_multiplied_as_in_the_source(
    kind: str, operator: str, scales: tuple[int, ...], attributes: dict[str, int], tmp_path: Path, *, zero_point: bool
) -> None:
    """ONNX Runtime makes `MatMulNBits` of the products, which rounds activations to 8 bits by default."""
    rng = np.random.default_rng(0)
    shape, data = ((8, 4, 3, 3), (2, 4, 9, 9)) if operator == "Conv" else ((128, 36), (5, 128))
    stored = constants(
        w=random_codes(rng, shape, CODE_DTYPES[kind]),
        s=np.abs(rng.standard_normal(scales)).astype(np.float32),
        **({"z": random_codes(rng, scales, CODE_DTYPES[kind])} if zero_point else {}),
    )
    nodes = [
        helper.make_node("DequantizeLinear", [one.name for one in stored], ["wd"], **attributes),
        helper.make_node(operator, ["x", "wd"], ["y"]),
    ]
    shapes = {"inputs": [value("x", data)], "outputs": [value("y", [f"d{axis}" for axis in data])]}
    path = save(tmp_path / "m.onnx", nodes, stored, opset=25, **shapes)
    x = rng.standard_normal(data).astype(np.float32)
    expected = run(path, x, tmp_path / "before.onnx")
    found = run(written(path, tmp_path / "out"), x, tmp_path / "after.onnx")
    if operator == "Conv":  # nothing is left of the decoding
        assert "DequantizeLinear" not in operators(tmp_path / "after.onnx")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    else:
        assert operators(tmp_path / "after.onnx") == operators(tmp_path / "before.onnx")
        np.testing.assert_array_equal(found, expected)


def test_rows_of_2_bits_that_end_inside_of_a_byte_are_right(tmp_path: Path) -> None:
    """ONNX Runtime's own `MatMulNBits` of such a model multiplies something else."""
    rng = np.random.default_rng(0)
    weight, scale = random_codes(rng, (128, 33), CODE_DTYPES["int2"]), np.full(33, 0.5, np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"], axis=1),
        helper.make_node("MatMul", ["x", "wd"], ["y"]),
    ]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        constants(w=weight, s=scale),
        opset=25,
        inputs=[value("x", [5, 128])],
        outputs=[value("y", [5, 33])],
    )
    data = rng.standard_normal((5, 128)).astype(np.float32)
    found = run(written(path, tmp_path / "out"), data, tmp_path / "o.onnx")
    np.testing.assert_allclose(found, data @ (weight.astype(np.float32) * 0.5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name_of", "codes_of"),
    [
        ("sparse(int8)", lambda rng, shape: rng.integers(-128, 128, shape) * (rng.random(shape) < 0.2)),
        ("int8(palettized4)", lambda rng, shape: rng.choice(np.linspace(-120, 120, 16).astype(np.int64), shape)),
    ],
)
@pytest.mark.parametrize("quantizes", [True, False])
def test_smaller_codes_are_multiplied_as_in_the_source(
    name_of: str, codes_of: Any, tmp_path: Path, *, quantizes: bool
) -> None:
    rng = np.random.default_rng(0)
    stored = constants(w=codes_of(rng, (256, 256)).astype(np.int8), s=np.linspace(0.5, 1, 256, dtype=np.float32))
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"], axis=1),
        helper.make_node("MatMul", ["xd" if quantizes else "x", "wd"], ["product" if quantizes else "y"]),
    ]
    if quantizes:
        path = between_quantizers(tmp_path / "m.onnx", *nodes, stored=stored, data=(5, 256))
    else:
        shapes = {"inputs": [value("x", [5, 256])], "outputs": [value("y", [5, 256])]}
        path = save(tmp_path / "m.onnx", nodes, stored, **shapes)
    manifest = compressor.compress(path, tmp_path / "out")
    assert {one.name: one.encoding for one in manifest.weights} == {"w": name_of}
    data = rng.integers(0, 100, (5, 256)).astype(np.float32)
    found = run(tmp_path / "out" / "model.onnx", data, tmp_path / "after.onnx")
    if quantizes:  # in floats, since the source's own codes saturate on some processors
        expected = loaded(path, in_floats=True).run(None, {"x": data})[0]
        assert operators(tmp_path / "after.onnx")["QLinearMatMul"] == 1
    else:
        expected = run(path, data, tmp_path / "before.onnx")
        assert operators(tmp_path / "after.onnx") == operators(tmp_path / "before.onnx")
    np.testing.assert_array_equal(found, expected)


def test_products_inside_of_branches_stay_mat_mul_n_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = constants(
        w=rng.integers(0, 256, (8, 2, 8), np.uint8), s=rng.random((8, 2), np.float32), zero=np.float32(0)
    )
    attributes = {"K": 32, "N": 8, "bits": 4, "block_size": 16, "accuracy_level": 4}
    product = helper.make_node("MatMulNBits", ["x", "w", "s"], ["t"], domain="com.microsoft", **attributes)
    shape = ["a", "b"]
    then = helper.make_graph([product], "then", [], [value("t", shape)])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "else", [], [value("e", shape)])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=then, else_branch=other),
    ]
    path = tmp_path / "m.onnx"
    graph = helper.make_graph(nodes, "g", [value("x", [3, 32])], [value("y", shape)], stored)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    artefact = written(path, tmp_path / "out")
    for data in (rng.random((3, 32), np.float32), -rng.random((3, 32), np.float32)):
        expected = run(path, data, tmp_path / "o.onnx")
        np.testing.assert_array_equal(run(artefact, data, tmp_path / "o.onnx"), expected)
