"""ONNX files as a source: every form of decode nodes, and models from ONNX Runtime's own quantizers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime import quantization
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from compressor import sources
from compressor.arrays import CODE_DTYPES
from compressor.cutting import in_rows
from compressor.encodings import Dense, Palettized, Quantized, decode, name
from compressor.model import Model
from tests.sources.onnx.models import RNG, check_same, floats, run, save, tensor, value

LIMITS = {"int8": (-128, 128), "uint8": (0, 256), "int4": (-8, 8), "uint4": (0, 16), "int2": (-2, 2), "uint2": (0, 4)}


GRANULARITIES: dict[str, tuple[tuple[int, ...], dict[str, Any], tuple[int, ...]]] = {
    "tensor": ((), {}, (1, 1)),
    "tensor1": ((1,), {}, (1, 1)),
    "axis0": ((24,), {"axis": 0}, (24, 1)),
    "axis-1": ((32,), {"axis": -1}, (1, 32)),
    "block0": ((6, 32), {"axis": 0, "block_size": 4}, (6, 32)),
    "block1": ((24, 2), {"axis": 1, "block_size": 16}, (24, 2)),
}
"""The scale's shape, the node's attributes, and the shape of the encoding's scale, for codes [24, 32]."""


def codes(kind: str, *shape: int) -> np.ndarray:
    return RNG.integers(*LIMITS[kind], shape).astype(np.int16).astype(CODE_DTYPES[kind])


def graph_of(path: Path) -> onnx.GraphProto:
    found: onnx.GraphProto = sources.read(path).graph.graph
    return found


def check_decoded(path: Path, weight: str, decoded_value: str) -> None:
    """What the weight decodes to is what ONNX Runtime computes for the `decoded_value` of the original."""
    model = onnx.load(path)
    del model.graph.output[:], model.graph.input[:]
    kept = [node for node in model.graph.node if decoded_value in {*node.output} or node.op_type in {"Cast", "Sub"}]
    del model.graph.node[:]
    model.graph.node.extend([*kept, helper.make_node("Identity", [decoded_value], ["out"])])
    mine = decode({weight.name: weight for weight in sources.read(path).weights}[weight].encoding)
    model.graph.output.append(value("out", mine.shape, helper.np_dtype_to_tensor_dtype(mine.dtype)))
    its = run(model, {})[0]
    assert its.dtype == mine.dtype
    np.testing.assert_array_equal(its, mine)


@pytest.mark.parametrize("kind", list(LIMITS))
@pytest.mark.parametrize("float_type", ["float32", "float16"])
@pytest.mark.parametrize("granularity", list(GRANULARITIES))
@pytest.mark.parametrize("zero_point", [True, False])
def test_dequantize_linear(tmp_path: Path, *, kind: str, float_type: str, granularity: str, zero_point: bool) -> None:
    scales, attributes, parameters = GRANULARITIES[granularity]
    scale = np.abs(floats(*scales)).astype(float_type)
    stored = [tensor("w", codes(kind, 24, 32)), tensor("scale", scale)]
    if zero_point:
        stored.append(tensor("zero", np.maximum(codes(kind, *scales).astype(np.int8), 1).astype(CODE_DTYPES[kind])))
    inputs = [one.name for one in stored]
    nodes = [
        helper.make_node("DequantizeLinear", inputs, ["decoded"], **attributes),
        helper.make_node("Cast", ["decoded"], ["y"], to=TensorProto.FLOAT),
    ]
    opset = 25 if kind.endswith("2") else 21
    path = save(tmp_path / "m.onnx", nodes, stored, outputs=[value("y", [24, 32])], opset=opset)
    encoding = check_same(path)["w"].encoding
    assert isinstance(encoding, Quantized)
    assert isinstance(encoding.data, Dense)
    assert (name(encoding), encoding.scale.shape, encoding.zero_point is None) == (kind, parameters, not zero_point)
    check_decoded(path, "w", "decoded")
    assert [one.name for one in graph_of(path).initializer] == ["w"]
    assert [node.op_type for node in graph_of(path).node] == ["Cast"]


def test_a_zero_point_of_zeros_is_left_out(tmp_path: Path) -> None:
    stored = [tensor("w", codes("int8", 8, 8)), tensor("s", floats(8)), tensor("z", np.zeros(8, np.int8))]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["y"], axis=0),
        helper.make_node("Neg", ["y"], ["n"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, stored, outputs=[value("n", [8, 8])])
    encoding = check_same(path)["w"].encoding
    assert isinstance(encoding, Quantized)
    assert encoding.zero_point is None


def test_int32_codes_stay_in_the_graph(tmp_path: Path) -> None:
    stored = [tensor("b", np.arange(600, dtype=np.int32)), tensor("s", np.array(0.5, np.float32))]
    nodes = [helper.make_node("DequantizeLinear", ["b", "s"], ["d"]), helper.make_node("Neg", ["d"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, stored, outputs=[value("y", [600])])
    assert check_same(path) == {}


@pytest.mark.parametrize("axis", [0, 1])
def test_the_last_block_of_an_axis_may_be_short(tmp_path: Path, axis: int) -> None:
    """As many scales as blocks begin, which is what ONNX asks for."""
    scale = floats(3, 8) if axis == 0 else floats(8, 3)
    node = helper.make_node("DequantizeLinear", ["w", "b"], ["one"], axis=axis, block_size=3)
    path = save(
        tmp_path / "m.onnx",
        [node, helper.make_node("Neg", ["one"], ["y"])],
        [tensor("w", codes("int8", 8, 8)), tensor("b", scale)],
        outputs=[value("y", [8, 8])],
    )
    found = check_same(path)["w"].encoding
    assert isinstance(found, Quantized)
    assert (name(found), found.block) == ("int8", (3, 1) if axis == 0 else (1, 3))


REFUSED = {
    "its codes are decoded in several ways": [
        helper.make_node("DequantizeLinear", ["w", "s"], ["one"]),
        helper.make_node("DequantizeLinear", ["w", "t"], ["two"]),
        helper.make_node("Add", ["one", "two"], ["y"]),
    ],
    "its codes are read by Cast too": [
        helper.make_node("DequantizeLinear", ["w", "s"], ["one"]),
        helper.make_node("Cast", ["w"], ["two"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["one", "two"], ["y"]),
    ],
    "it is an output of the graph": [helper.make_node("DequantizeLinear", ["w", "s"], ["y"])],
    "its scale or zero point is no constant": [
        helper.make_node("Neg", ["s"], ["minus"]),
        helper.make_node("DequantizeLinear", ["w", "minus"], ["one"]),
        helper.make_node("Neg", ["one"], ["y"]),
    ],
}


@pytest.mark.parametrize("reason", list(REFUSED))
def test_codes_that_stay_have_a_reason(tmp_path: Path, reason: str) -> None:
    stored = [
        tensor("w", codes("int8", 8, 8)),
        tensor("s", np.array(0.5, np.float32)),
        tensor("t", np.array(0.25, np.float32)),
    ]
    path = save(tmp_path / "m.onnx", REFUSED[reason], stored, outputs=[value("y", [8, 8])])
    found = check_same(path)
    assert found["w"].pinned == reason
    assert name(found["w"].encoding) == "int8"
    assert isinstance(found["w"].encoding, Dense)


def test_codes_decoded_twice_alike_are_one_weight(tmp_path: Path) -> None:
    stored = [tensor("w", codes("int8", 8, 8)), tensor("s", np.array(0.5, np.float32))]
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], [output]) for output in ("one", "two")]
    nodes.append(helper.make_node("MatMul", ["one", "two"], ["y"]))
    path = save(tmp_path / "m.onnx", nodes, stored, outputs=[value("y", [8, 8])])
    found = check_same(path)
    assert {name: weight.uses for name, weight in found.items()} == {"w": ("MatMul",)}
    assert isinstance(found["w"].encoding, Quantized)


@pytest.mark.parametrize("kind", ["uint8", "uint4", "uint2", "int64", "direct"])
@pytest.mark.parametrize("entries", [1, 3, 4])
def test_gather_from_a_table(tmp_path: Path, kind: str, entries: int) -> None:
    indices = RNG.integers(0, entries, (40, 52)).astype(np.int64)
    stored = [tensor("w", indices.astype(CODE_DTYPES.get(kind, np.int64))), tensor("lut", floats(entries))]
    nodes = [
        helper.make_node("Cast", ["w"], ["places"], to=TensorProto.INT64),
        helper.make_node("Gather", ["lut", "w" if kind == "direct" else "places"], ["decoded"]),
        helper.make_node("MatMul", ["x", "decoded"], ["y"]),
    ]
    if kind == "direct":
        del nodes[0]
    path = save(
        tmp_path / "m.onnx", nodes, stored, inputs=[value("x", [4, 40])], outputs=[value("y", [4, 52])], opset=25
    )
    encoding = check_same(path, {"x": floats(4, 40)})["w"].encoding
    assert isinstance(encoding, Palettized)
    assert encoding.lut.shape == (1, 1, entries, 1)
    check_decoded(path, "w", "decoded")
    assert [node.op_type for node in graph_of(path).node] == ["MatMul"]


def test_a_table_of_codes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["w"], ["places"], to=TensorProto.INT32),
        helper.make_node("Gather", ["lut", "places"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["decoded"], axis=0),
        helper.make_node("Neg", ["decoded"], ["y"]),
    ]
    stored = [tensor("w", codes("uint4", 24, 32)), tensor("lut", codes("int8", 16)), tensor("scale", floats(24))]
    path = save(tmp_path / "m.onnx", nodes, stored, outputs=[value("y", [24, 32])])
    weight = check_same(path)["w"]
    assert name(weight.encoding) == "int8(palettized4)"
    assert [node.op_type for node in graph_of(path).node] == ["Neg"]


@pytest.mark.parametrize("float_type", ["float32", "float16"])
@pytest.mark.parametrize("zero_point", ["none", "codes", "floats"])
@pytest.mark.parametrize("scales", [(), (32,), (24, 1)])
def test_cast_sub_mul(tmp_path: Path, float_type: str, zero_point: str, scales: tuple[int, ...]) -> None:
    to = helper.np_dtype_to_tensor_dtype(np.dtype(float_type))
    zeros = np.array(7, np.uint8)
    stored = [
        tensor("w", codes("uint8", 24, 32)),
        tensor("scale", floats(*scales).astype(float_type)),
        tensor("zero", zeros if zero_point == "codes" else zeros.astype(float_type)),
    ]
    nodes = [
        helper.make_node("Cast", ["w"], ["cast"], to=to),
        helper.make_node("Cast", ["zero"], ["cast_zero"], to=to),
        helper.make_node("Sub", ["cast", "cast_zero" if zero_point == "codes" else "zero"], ["difference"]),
        helper.make_node("Mul", ["scale", "cast" if zero_point == "none" else "difference"], ["decoded"]),
        helper.make_node("Transpose", ["decoded"], ["y"]),
    ]
    nodes = [
        node
        for node in nodes
        if node.output[0] not in {"none": ("cast_zero", "difference"), "floats": ("cast_zero",)}.get(zero_point, ())
    ]
    path = save(tmp_path / "m.onnx", nodes, stored, outputs=[value("y", [32, 24], to)])
    encoding = check_same(path)["w"].encoding
    assert isinstance(encoding, Quantized)
    assert name(encoding) == "uint8"
    check_decoded(path, "w", "decoded")
    assert (encoding.zero_point is None) == (zero_point == "none")
    assert [node.op_type for node in graph_of(path).node] == ["Transpose"]


def test_a_cast_that_changes_codes_is_no_decoding(tmp_path: Path) -> None:
    stored = [tensor("w", codes("uint8", 24, 32)), tensor("scale", np.array(0.5, np.float32))]
    nodes = [
        helper.make_node("Cast", ["w"], ["set"], to=TensorProto.BOOL),
        helper.make_node("Cast", ["set"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cast", "scale"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, stored, outputs=[value("y", [24, 32])])
    assert check_same(path)["w"].pinned == "uint8 data that Cast reads"


def network(path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "fc1.weight"], ["h"]),
        helper.make_node("Gemm", ["h", "fc2.weight", "fc2.bias"], ["y"], transB=1),
    ]
    weights = [
        tensor("conv.weight", floats(32, 3, 3, 3)),
        tensor("conv.bias", floats(32)),
        tensor("fc1.weight", floats(32, 64)),
        tensor("fc2.weight", floats(10, 64)),
        tensor("fc2.bias", floats(10)),
    ]
    return save(path, nodes, weights, inputs=[value("x", [2, 3, 8, 8])], outputs=[value("y", [2, 10])], opset=21)


class Samples(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.left: Iterator[dict[str, np.ndarray]] = iter([{"x": floats(2, 3, 8, 8)} for _ in range(3)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("kind", [quantization.QuantType.QInt8, quantization.QuantType.QUInt8])
def test_static_qdq(tmp_path: Path, *, per_channel: bool, kind: quantization.QuantType) -> None:
    path = tmp_path / "q.onnx"
    quantization.quantize_static(
        network(tmp_path / "m.onnx"), path, Samples(), per_channel=per_channel, weight_type=kind, activation_type=kind
    )
    found = check_same(path, {"x": floats(2, 3, 8, 8)})
    lifted = {name: weight for name, weight in found.items() if isinstance(weight.encoding, Quantized)}
    assert set(lifted) == {"conv.weight_quantized", "fc1.weight_quantized", "fc2.weight_quantized"}
    assert {use for weight in lifted.values() for use in weight.uses} == {"Conv", "MatMul", "Gemm"}
    assert not [weight for weight in found.values() if weight.pinned]
    assert set(found) == set(lifted)


@pytest.mark.parametrize("per_channel", [True, False])
def test_static_qoperator(tmp_path: Path, *, per_channel: bool) -> None:
    path = tmp_path / "q.onnx"
    quantization.quantize_static(
        network(tmp_path / "m.onnx"),
        path,
        Samples(),
        quant_format=quantization.QuantFormat.QOperator,
        per_channel=per_channel,
    )
    found = check_same(path, {"x": floats(2, 3, 8, 8)})
    uses = {weight.uses for weight in found.values()}
    assert uses >= {("QLinearConv",), ("QLinearMatMul",), ("QGemm",)}
    assert {name(weight.encoding) for weight in found.values()} == {"int8"}
    assert not [weight for weight in found.values() if weight.pinned]


@pytest.mark.parametrize("kind", [quantization.QuantType.QInt8, quantization.QuantType.QUInt8])
def test_dynamic(tmp_path: Path, kind: quantization.QuantType) -> None:
    path = tmp_path / "q.onnx"
    quantization.quantize_dynamic(network(tmp_path / "m.onnx"), path, weight_type=kind, op_types_to_quantize=["MatMul"])
    found = check_same(path, {"x": floats(2, 3, 8, 8)})
    weight = found["fc1.weight_quantized"]
    assert (weight.uses, name(weight.encoding)) == (("MatMulInteger",), "int8" if kind.name == "QInt8" else "uint8")
    assert isinstance(found["conv.weight"].encoding, Dense)


def nbits(
    path: Path, columns: int, *, bits: int = 4, block: int = 16, symmetric: bool = False, bias: bool = False
) -> Path:
    """A model whose `MatMulNBits` multiplies the input `x` [4, columns] by 24 columns."""
    blocks = -(-columns // block)
    stored = [
        tensor("w", RNG.integers(0, 256, (24, blocks, block * bits // 8)).astype(np.uint8)),
        tensor("scale", np.abs(floats(24, blocks))),
        tensor("zero", RNG.integers(0, 256, 24 * -(-blocks * bits // 8)).astype(np.uint8)),
        tensor("bias", floats(24)),
    ]
    inputs = ["x", "w", "scale", "" if symmetric else "zero", "", "bias" if bias else ""]
    while not inputs[-1]:
        inputs.pop()
    node = helper.make_node(
        "MatMulNBits", inputs, ["y"], domain="com.microsoft", K=columns, N=24, bits=bits, block_size=block
    )
    used = [one for one in stored if one.name in inputs]
    return save(path, [node], used, inputs=[value("x", [4, columns])], outputs=[value("y", [4, 24])])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("columns", [48, 256])
def test_mat_mul_nbits(tmp_path: Path, *, bits: int, symmetric: bool, bias: bool, columns: int) -> None:
    path = nbits(tmp_path / "m.onnx", columns, bits=bits, symmetric=symmetric, bias=bias)
    found = check_same(path, {"x": floats(4, columns)}, exact=False)
    encoding = found["w"].encoding
    assert (name(encoding), found["w"].uses) == (f"{'int' if symmetric else 'uint'}{bits}", ("MatMul",))
    assert isinstance(encoding, Quantized)
    assert (encoding.scale.shape, encoding.zero_point is None) == ((columns // 16, 24), symmetric)
    assert set(found) == ({"w", "bias"} if bias else {"w"})
    model: Model = sources.read(path)
    assert [node.op_type for node in model.graph.graph.node] == ["MatMul", "Add"][: 2 if bias else 1]
    assert [entry.domain for entry in model.graph.opset_import] == [""]
    seen = run(path, {"x": np.eye(columns, dtype=np.float32)[:4]})[0] if not bias else None
    if seen is not None:
        np.testing.assert_array_equal(seen, decode(encoding)[:4])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("columns", "block"), [(40, 16), (100, 32), (130, 128), (20, 32)])
def test_a_short_last_block_of_mat_mul_nbits(
    tmp_path: Path, *, bits: int, symmetric: bool, columns: int, block: int
) -> None:
    path = nbits(tmp_path / "m.onnx", columns, bits=bits, block=block, symmetric=symmetric)
    encoding = check_same(path, {"x": floats(4, columns)}, exact=False)["w"].encoding
    assert isinstance(encoding, Quantized)
    assert encoding.scale.shape == (-(-columns // block), 24)
    seen = run(path, {"x": np.eye(columns, dtype=np.float32)[-4:]})[0]
    np.testing.assert_array_equal(seen, decode(encoding)[-4:])


def test_rows_of_mat_mul_nbits_are_those_of_the_weight(tmp_path: Path) -> None:
    """Not those of the matrix that lies in the file, which is its transpose."""
    (weight,) = sources.read(nbits(tmp_path / "m.onnx", 1 << 14, block=1 << 14)).weights
    parts = [decode(part) for part in in_rows(weight.encoding)]
    assert len(parts) > 1
    np.testing.assert_array_equal(np.concatenate(parts), decode(weight.encoding))


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [
        ({"block_size": 0}, "MatMulNBits with N = 24, K = 40 and blocks of 0"),
        ({"block_size": 3}, "MatMulNBits with N = 24, K = 40 and blocks of 3"),
        ({"bits": 3}, "MatMulNBits with codes of 3 bits in uint8"),
        ({"weight_prepacked": 1}, "MatMulNBits with codes in an order of its own (g_idx or prepacked)"),
    ],
)
def test_mat_mul_nbits_that_stays(attribute: dict[str, int], reason: str, tmp_path: Path) -> None:
    model = onnx.load(nbits(tmp_path / "m.onnx", 40))
    (node,) = model.graph.node
    kept = [one for one in node.attribute if one.name not in attribute]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in attribute.items())])
    onnx.save(model, tmp_path / "m.onnx")
    assert {weight.name: weight.pinned for weight in sources.read(tmp_path / "m.onnx").weights} == {"w": reason}


def test_scales_of_mat_mul_nbits_that_are_no_floats(tmp_path: Path) -> None:
    model = onnx.load(nbits(tmp_path / "m.onnx", 48))
    next(one for one in model.graph.initializer if one.name == "scale").data_type = onnx.TensorProto.INT32
    onnx.save(model, tmp_path / "m.onnx")
    (weight,) = [one for one in sources.read(tmp_path / "m.onnx").weights if one.name == "w"]
    assert weight.pinned == "the scales of MatMulNBits are int32"


@pytest.mark.parametrize("symmetric", [True, False])
def test_onnxruntimes_mat_mul_nbits_quantizer(tmp_path: Path, *, symmetric: bool) -> None:
    original = network(tmp_path / "m.onnx")
    quantizer = MatMulNBitsQuantizer(onnx.load(original), block_size=16, is_symmetric=symmetric)
    quantizer.process()
    path = tmp_path / "q.onnx"
    onnx.save(quantizer.model.model if hasattr(quantizer.model, "model") else quantizer.model, path)
    found = check_same(path, {"x": floats(2, 3, 8, 8)}, exact=False)
    assert {name for name, weight in found.items() if isinstance(weight.encoding, Quantized)} == {"fc1.weight_Q4"}
