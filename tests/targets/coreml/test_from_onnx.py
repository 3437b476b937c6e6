"""ONNX graphs as MIL programs: what they compute, operator by operator, and where the weights are in them.

No Core ML is here to run a program: `mil_evaluation` reads the documentation of MIL's operators, ONNX Runtime says what
is expected.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import CompressorError
from compressor.formats.coreml.importing import coremltools
from compressor.targets.coreml.request import Input

ct = coremltools()

from compressor.targets.coreml.conversion import quiet  # noqa: E402 - after Core ML Tools, which warns when it is imported
from compressor.targets.coreml.mil import program  # noqa: E402
from compressor.targets.coreml.mil.operators import OPERATORS  # noqa: E402
from compressor.targets.coreml.origins import traced  # noqa: E402
from compressor.targets.coreml.slots import find, fold  # noqa: E402
from tests.targets.coreml.mil_evaluation import evaluate  # noqa: E402

RNG = np.random.default_rng(0)
DTYPES = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "float32"}
I64 = np.int64


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values):
    return np.array(values, I64)


def one(operator, feeds, constants=(), outputs=1, opset=18, **attributes):
    """A model of one node and what it is fed; operands are feeds and then constants, None for one that is left out."""
    names = [f"x{number}" for number in range(len(feeds))]
    given = [("" if value is None else f"c{number}", value) for number, value in enumerate(constants)]
    node = helper.make_node(
        operator, [*names, *(name for name, _ in given)], [f"y{n}" for n in range(outputs)], **attributes
    )
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in zip(names, feeds, strict=True)
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in given if name]
    return build([node], inputs, [f"y{n}" for n in range(outputs)], tensors, opset), feeds


def build(nodes, inputs, outputs, tensors=(), opset=18):
    values = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes, "g", inputs, values, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def stubbed(model, names=None):
    """The normal form: the weights out of the graph, by name."""
    made, weights = onnx.ModelProto(), {}
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        is_weight = tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1
        if (names is None and is_weight) or (names is not None and tensor.name in names):
            weights[tensor.name] = numpy_helper.to_array(tensor).copy()
            tensor.CopyFrom(TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type))
    return made, weights


def inputs(model):
    initialized = {tensor.name for tensor in model.graph.initializer}
    return [
        Input(
            value.name,
            tuple(dim.dim_value or (1, 16) for dim in value.type.tensor_type.shape.dim),
            DTYPES.get(value.type.tensor_type.elem_type, "int32"),
        )
        for value in model.graph.input
        if value.name not in initialized
    ]


def translate(model, version=None, names=None):
    made, weights = stubbed(model, names)
    return *program(made, Path(), weights, inputs(made), version or ct.target.iOS17), weights


def narrow(value):
    return value.astype(
        np.int32 if value.dtype.kind in "iub" else np.float16 if value.dtype == np.float16 else np.float32
    )


def check(model, feeds, version=None, tolerance=2e-5):
    """That the program computes what ONNX Runtime does; the program."""
    found, _, _ = translate(model, version)
    names = [each.name for each in inputs(model)]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, dict(zip(names, feeds, strict=True)))
    actual = evaluate(found, {name: np.atleast_1d(narrow(value)) for name, value in zip(names, feeds, strict=True)})
    for want, name in zip(expected, (output.name for output in model.graph.output), strict=True):
        assert actual[name].shape == want.shape, name
        np.testing.assert_allclose(actual[name].astype(np.float64), want.astype(np.float64), tolerance, tolerance)
    return found


IMG = f(2, 3, 6, 8)
X = f(3, 4)
POS = np.abs(X) + np.float32(0.1)
BOOL = X > 0
INT = RNG.integers(-9, 9, (3, 4)).astype(I64)
LSTM = (f(2, 20, 6), f(2, 20, 5), f(2, 40))
GRU = (f(2, 15, 6), f(2, 15, 5), f(2, 30))
SEQ = f(7, 2, 6)


def padded(x, value):
    """`Pad` by a value that is fed."""
    node = helper.make_node("Pad", ["x", "p", "v"], ["y"])
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(one.dtype), one.shape)
        for name, one in (("x", x), ("v", value))
    ]
    return build([node], given, ["y"], [numpy_helper.from_array(ints(0, 0, 1, 1, 0, 0, 1, 2), "p")]), [x, value]


def divided(number, x):
    """A constant by `x`."""
    given = [helper.make_tensor_value_info("x", TensorProto.INT64, x.shape)]
    tensors = [numpy_helper.from_array(np.array(number), "c")]
    return build([helper.make_node("Div", ["c", "x"], ["y"])], given, ["y"], tensors), [x]


CASES = {
    **{op: one(op, [X]) for op in "Abs Atan Ceil Cos Cosh Erf Exp Floor Identity IsNaN Neg Relu Sigmoid Sign".split()},
    **{op: one(op, [X]) for op in "Sin Sinh Softplus Softsign Tan Tanh Asinh Round Mish HardSwish Selu".split()},
    **{op: one(op, [X], alpha=0.3) for op in "Celu Elu LeakyRelu ThresholdedRelu HardSigmoid".split()},
    **{op: one(op, [POS / 10]) for op in "Acos Asin Atanh Log Sqrt Reciprocal".split()},
    **{op: one(op, [X], [f(4)]) for op in "Add Sub Mul Div Max Min Sum Mean PRelu".split()},
    **{op: one(op, [INT], [ints(0, 1, -2, 3)]) for op in "Equal Greater GreaterOrEqual Less LessOrEqual".split()},
    **{op: one(op, [BOOL, ~BOOL[::-1]]) for op in "And Or Xor".split()},
    **{f"Reduce{op}": one(f"Reduce{op}", [IMG], [ints(1, -1)]) for op in "L1 L2 Max Mean Min Prod Sum".split()},
    **{f"Reduce{op}": one(f"Reduce{op}", [POS], [ints(0)], keepdims=0) for op in "LogSum LogSumExp SumSquare".split()},
    "Acosh": one("Acosh", [POS + 1]),
    "ArgMax": one("ArgMax", [IMG], axis=1, keepdims=0),
    "ArgMin": one("ArgMin", [IMG], axis=-1),
    "Attention": one("Attention", [f(2, 4, 5, 8), f(2, 2, 6, 8), f(2, 2, 6, 8)], opset=23, is_causal=1),
    "AveragePool": one("AveragePool", [IMG], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "AveragePool, pads count": one("AveragePool", [IMG], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "BatchNormalization": one("BatchNormalization", [IMG], [f(3), f(3), f(3), np.abs(f(3))]),
    "BatchNormalization of vectors": one("BatchNormalization", [f(5, 3)], [f(3), f(3), f(3), np.abs(f(3))]),
        "Not": one("Not", [BOOL]),
    "Cast": one("Cast", [X], to=TensorProto.INT64),
    "Cast to bool": one("Cast", [INT], to=TensorProto.BOOL),
    "CastLike": one("CastLike", [INT], [np.float32(1)]),
    "Clip": one("Clip", [X], [np.float32(-0.3), np.float32(0.4)]),
    "Clip from below": one("Clip", [X], [np.float32(0.1), np.finfo(np.float32).max]),
    "Concat": one("Concat", [X, f(3, 2)], axis=1),
    "Conv": one("Conv", [IMG], [f(4, 3, 3, 3), f(4)], pads=[0, 1, 2, 1], strides=[2, 1]),
    "Conv, depthwise and dilated": one("Conv", [IMG], [f(6, 1, 3, 3)], group=3, dilations=[2, 2], pads=[1, 0, 2, 2]),
    "Conv of signals": one("Conv", [f(2, 3, 9)], [f(4, 3, 4), f(4)], auto_pad="SAME_UPPER", strides=[2]),
    "ConvTranspose": one(
        "ConvTranspose", [IMG], [f(3, 4, 3, 3), f(4)], strides=[2, 2], pads=[1, 0, 1, 1], output_padding=[1, 0]
    ),
    "ConvTranspose, padded beyond": one(
        "ConvTranspose", [IMG], [f(3, 2, 2, 2), f(2)], strides=[3, 3], output_padding=[2, 2]
    ),
    "ConvTranspose of a shape": one("ConvTranspose", [IMG], [f(3, 2, 3, 3)], strides=[2, 2], output_shape=[12, 15]),
    "ConstantOfShape": one("ConstantOfShape", [ints(2, 3)]),
    "CumSum": one("CumSum", [X], [np.array(1, I64)], exclusive=1, reverse=1),
    "DepthToSpace": one("DepthToSpace", [f(1, 8, 2, 3)], blocksize=2),
    "DepthToSpace, CRD": one("DepthToSpace", [f(1, 8, 2, 3)], blocksize=2, mode="CRD"),
    "Div of integers": one("Div", [INT], [ints(2, -3, 4, 5)]),
    "Dropout": one("Dropout", [X]),
    "Einsum": one("Einsum", [f(2, 3, 4), f(4, 5, 3)], equation="abc,cdb->dab"),
    "Einsum of many": one("Einsum", [f(2, 3, 4), f(4, 5, 6)], equation="abc,cde->abde"),
    "Einsum of one": one("Einsum", [f(2, 3, 4)], equation="...ij->...j"),
    "Expand": one("Expand", [f(3, 1)], [ints(2, 3, 4)]),
    "Flatten": one("Flatten", [IMG], axis=2),
    "GRU": one("GRU", [SEQ], GRU, 2, direction="bidirectional", hidden_size=5, linear_before_reset=1),
    "GRU, reset before": one("GRU", [SEQ], [p[:1] for p in GRU], 2, hidden_size=5, direction="reverse"),
    "Gather": one("Gather", [IMG], [ints(-1, 0)], axis=2),
    "Gather of one": one("Gather", [IMG], [np.array(-2, I64)], axis=3),
    "Gather by an input": one("Gather", [IMG, ints(-1, 2)], axis=1),
    "GatherElements": one("GatherElements", [X, INT % 3], axis=0),
    "GatherND": one("GatherND", [IMG], [ints([0, 1], [1, 2])]),
    "Gelu": one("Gelu", [X], opset=20),
    "Gelu, tanh": one("Gelu", [X], opset=20, approximate="tanh"),
    "Gemm": one("Gemm", [X], [f(4, 5), f(5)]),
    "Gemm, scaled": one("Gemm", [f(4, 3)], [f(5, 4), f(3, 5)], alpha=0.5, beta=2.0, transA=1, transB=1),
    "GlobalAveragePool": one("GlobalAveragePool", [IMG]),
    "GlobalMaxPool": one("GlobalMaxPool", [IMG]),
    "GridSample": one("GridSample", [IMG, np.tanh(f(2, 4, 5, 2))], opset=20, align_corners=1),
    "GroupNormalization": one("GroupNormalization", [f(2, 6, 4, 4)], [f(6), f(6)], num_groups=3, opset=21),
    "InstanceNormalization": one("InstanceNormalization", [IMG], [f(3), f(3)]),
    "IsInf": one("IsInf", [np.array([[1, np.inf, -np.inf]], np.float32)], detect_negative=0),
    "LRN": one("LRN", [IMG], size=3, alpha=0.2, beta=0.6, bias=1.5),
    "LSTM": one("LSTM", [SEQ], LSTM, 3, direction="bidirectional", hidden_size=5),
    "LSTM, peepholes and states": one(
        "LSTM", [SEQ], [*(part[:1] for part in LSTM), None, f(1, 2, 5), f(1, 2, 5), f(1, 15)], 3, hidden_size=5
    ),
    "LayerNormalization": one("LayerNormalization", [IMG], [f(6, 8), f(6, 8)], axis=2),
    "LayerNormalization, scaled alone": one("LayerNormalization", [X], [f(1, 4)]),
    "LogSoftmax": one("LogSoftmax", [IMG], axis=1),
    "LpNormalization": one("LpNormalization", [X], p=1, axis=0),
    "LpPool": one("LpPool", [IMG], kernel_shape=[2, 2], strides=[2, 2]),
    "MatMul": one("MatMul", [f(2, 3, 4)], [f(4, 5)]),
    "MatMul of four axes": one("MatMul", [f(2, 3, 4, 5)], [f(5, 6)]),
    "MatMul of inputs": one("MatMul", [f(2, 3, 4), f(2, 4, 5)]),
    "MatMul with a vector": one("MatMul", [f(2, 3, 4)], [f(4)]),
    "MaxPool": one("MaxPool", [IMG], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "MeanVarianceNormalization": one("MeanVarianceNormalization", [IMG]),
    "Mod of integers": one("Mod", [INT], [ints(3, -3, 4, 5)]),
    "Mod, fmod": one("Mod", [X], [np.float32(0.3)], fmod=1),
    "NonZero": one("NonZero", [X]),
    "OneHot": one("OneHot", [INT % 5], [ints(5), np.array([0.5, 2], np.float32)], axis=1),
    "Pad": one("Pad", [IMG], [ints(0, 1, 2, 0, 0, 0, 1, 3), np.float32(1.5)]),
    "Pad, cut": one("Pad", [IMG], [ints(0, 0, -1, 2, 0, 0, 1, -2)]),
    "Pad, reflected": one("Pad", [IMG], [ints(2, 1, 0, 3), None, ints(2, 3)], mode="reflect"),
    "Pad, edge": one("Pad", [IMG], [ints(0, 0, 2, 1, 0, 0, 0, 3)], mode="edge"),
    "PRelu of channels": one("PRelu", [IMG], [f(3, 1, 1)]),
    "Pow": one("Pow", [X], [np.array(2, I64)]),
    "RMSNormalization": one("RMSNormalization", [X], [f(4)], opset=23),
    "RNN": one("RNN", [SEQ], [f(2, 5, 6), f(2, 5, 5), f(2, 10)], 2, direction="bidirectional", hidden_size=5),
    "Range": one("Range", [np.array(1, I64), np.array(9, I64), np.array(3, I64)]),
    "Reshape": one("Reshape", [IMG], [ints(0, -1, 4)]),
    "Resize": one("Resize", [IMG], [None, np.array([1, 1, 2, 3], np.float32)], mode="nearest"),
    "Resize, linear": one("Resize", [IMG], [None, None, ints(2, 3, 9, 5)], mode="linear"),
    "Resize, cubic": one("Resize", [IMG], [None, None, ints(2, 3, 9, 5)], mode="cubic", cubic_coeff_a=-0.5),
    "Resize, corners": one(
        "Resize", [IMG], [None, None, ints(2, 3, 9, 5)], mode="linear", coordinate_transformation_mode="align_corners"
    ),
    "Resize, nearest of any size": one("Resize", [IMG], [None, None, ints(2, 3, 4, 11)], nearest_mode="ceil"),
    "ScatterElements": one("ScatterElements", [X], [INT % 3, X[::-1].copy()], axis=0, reduction="add"),
    "ScatterND": one("ScatterND", [X], [ints([0], [2]), f(2, 4)]),
    "Shape": one("Shape", [IMG], start=1),
    "Shrink": one("Shrink", [X], lambd=0.4, bias=0.2),
    "Size": one("Size", [IMG]),
    "Slice": one("Slice", [IMG], [ints(5, 1), ints(-100, 7), ints(2, 3), ints(-2, 3)]),
    "Softmax": one("Softmax", [IMG], axis=1),
    "SpaceToDepth": one("SpaceToDepth", [IMG], blocksize=2),
    "Split": one("Split", [f(3, 7)], [], 3, axis=1, num_outputs=3),
    "Split by sizes": one("Split", [X], [ints(1, 3)], 2, axis=1),
    "Squeeze": one("Squeeze", [f(1, 3, 1)], [ints(-1)]),
    "Tile": one("Tile", [X], [ints(2, 3)]),
    "TopK": one("TopK", [IMG], [ints(2)], 2, axis=2, largest=0),
    "Transpose": one("Transpose", [IMG], perm=[0, 2, 3, 1]),
    "Trilu": one("Trilu", [f(4, 4)], [np.array(1, I64)]),
    "Trilu, lower": one("Trilu", [f(4, 5)], [np.array(-1, I64)], upper=0),
    "Unsqueeze": one("Unsqueeze", [X], [ints(0, -1)]),
    "Attention whose queries see nothing": one(
        "Attention", [f(1, 1, 2, 4), f(1, 1, 2, 4), f(1, 1, 2, 4), np.array([[True, True], [False, False]])], opset=23
    ),
    "Cast of integers to short ones": one("Cast", [ints([300, -300], [7, 65537])], to=TensorProto.INT8),
    "Cast of integers to short ones without sign": one("Cast", [ints([300, -300], [7, -1])], to=TensorProto.UINT8),
    "DequantizeLinear by a zero point that is fed": one(
        "DequantizeLinear", [np.uint8([[5, 6], [7, 8]]), np.float32([0.5]), np.uint8([3])]
    ),
    "DequantizeLinear by channels that are fed": one(
        "DequantizeLinear", [np.int8([[5, 6], [7, -8]]), np.float32([0.5, 2]), np.int8([3, -1])], axis=0
    ),
    "Div of a constant integer": divided(-7, ints(2, -2, 3)),
    "DynamicQuantizeLinear": one("DynamicQuantizeLinear", [np.linspace(-1, 2, 8, dtype=np.float32)], [], 3),
    "DynamicQuantizeLinear of zeros": one("DynamicQuantizeLinear", [np.zeros(4, np.float32)], [], 3),
    "GatherND from the end": one("GatherND", [X, ints([0, -1], [-2, 1])]),
    "LayerNormalization by a bias that is fed": one("LayerNormalization", [X, f(4), f(4)]),
    "LpNormalization of zeros": one("LpNormalization", [np.float32([[0, 0, 0], [3, 0, 4]])], axis=-1, p=2),
    "MatMulInteger": one("MatMulInteger", [np.uint8([[5, 6], [7, 8]]), np.uint8([[1, 2], [3, 4]])]),
    "MatMulInteger by zero points that are fed": one(
        "MatMulInteger", [np.uint8([[5, 6], [7, 8]]), np.uint8([[1, 2], [3, 4]]), np.uint8([3]), np.uint8([2])]
    ),
    "Pad by a value that is fed": padded(f(1, 1, 2, 2), np.array(1.25, np.float32)),
    "Pad of integers": padded(np.array([[[[1 << 26, (1 << 26) + 1], [-3, 4]]]]), np.array(7)),
    "Pad of integers by their edges": one(
        "Pad", [np.array([[(1 << 26) + 1, 5, 9]])], [ints(0, 2, 0, 1)], mode="reflect"
    ),
    "ScatterND from the end": one("ScatterND", [X, ints([-1], [0]), f(2, 4)]),
    "Split whose first part nobody reads": (
        build(
            [helper.make_node("Split", ["x", "s"], ["u", "y"], axis=1)],
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
            ["y"],
            [numpy_helper.from_array(ints(1, 3), "s")],
        ),
        [X],
    ),
    "Where": one("Where", [BOOL, X], [np.float32(2)]),
    "Where of numbers": one("Where", [BOOL], [np.float32(0), np.float32(-1e4)]),
    "Where of one row": one("Where", [BOOL, X[:1]], [np.float32([-1e4])]),
    "Where of integers": one("Where", [BOOL], [np.array([3]), np.array([-4])]),
}  # fmt: skip


@pytest.mark.parametrize(("model", "feeds"), CASES.values(), ids=CASES)
def test_computes_what_onnx_runtime_does(model, feeds):
    check(model, feeds, ct.target.iOS18)


@pytest.mark.parametrize("name", ["Conv", "ConvTranspose", "Gather by an input", "LSTM", "Resize", "Slice", "TopK"])
def test_older_targets_have_other_operators(name):
    model, feeds = CASES[name]
    check(model, feeds, ct.target.iOS16)


def chain():
    """A residual block, pooled, with a matrix that is stored transposed."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Add", ["r", "x"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Transpose", ["l"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["f", "t"], ["y/out"]),
    ]
    values = {"w": f(3, 3, 3, 3), "g": f(3), "b": f(3), "m": f(3), "v": np.abs(f(3)), "l": f(5, 3)}
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    return build(nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 6, 8])], ["y/out"], tensors)


def convert(found, version):
    with quiet():
        return ct.convert(
            found,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=version,
            skip_model_load=True,
        )


@pytest.mark.parametrize("version", [ct.target.iOS16, ct.target.iOS18], ids=["iOS16", "iOS18"])
def test_core_ml_tools_takes_the_program_with_a_batch_that_varies(version):
    found, notes, _ = translate(chain(), version)
    assert notes == {"y/out": "called 'y_out'"}
    spec = convert(found, version).get_spec()
    (given,) = spec.description.input
    (size, *_) = given.type.multiArrayType.shapeRange.sizeRanges
    assert (size.lowerBound, size.upperBound) == (1, 16)
    assert [output.name for output in spec.description.output] == ["y_out"]


def test_a_batch_that_varies_is_computed():
    model, x = chain(), f(3, 3, 6, 8)
    found, _, _ = translate(model)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(evaluate(found, {"x": x})["y_out"], expected, 1e-5, 1e-5)


def slots_of(model, names=None):
    found, _, weights = translate(model, names=names)
    origins = traced(found, {name: value.shape for name, value in weights.items()})
    with quiet():
        fold(found)
    return weights, find(found, origins, np.asarray)


def test_a_weight_reaches_its_layer_by_its_name():
    weights, slots = slots_of(chain())
    assert {slot.name: slot.uses for slot in slots} == {"w": ("conv",), "l": ("linear",)}
    for slot in slots:  # the transposed matrix was transposed again: it is the weight itself
        np.testing.assert_array_equal(slot.values, weights[slot.name])
        assert slot.move is None


@pytest.mark.parametrize(
    ("name", "count"), [("LSTM", 4), ("GRU", 4), ("GRU, reset before", 3), ("Gemm", 1), ("MatMul", 1)]
)
def test_the_way_of_a_weight_is_known(name, count):
    weights, slots = slots_of(CASES[name][0])
    assert len(slots) == count
    for slot in slots:
        assert slot.origin is not None, slot.name
        assert slot.move is not None
        np.testing.assert_array_equal(slot.values, slot.move(weights[slot.origin.weight]))


def test_directions_that_were_joined_keep_their_weights():
    parts = {name: f(1, *shape) for name, shape in (("wf", (20, 6)), ("wb", (20, 6)), ("rf", (20, 5)), ("rb", (20, 5)))}
    nodes = [
        helper.make_node("Concat", ["wf", "wb"], ["w"], axis=0),
        helper.make_node("Concat", ["rf", "rb"], ["r"], axis=0),
        helper.make_node("LSTM", ["x", "w", "r"], ["y"], direction="bidirectional", hidden_size=5),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in parts.items()]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SEQ.shape)]
    model = build(nodes, given, ["y"], tensors)
    check(model, [SEQ])
    _, slots = slots_of(model)
    assert {slot.origin.weight for slot in slots} == set(parts)


def test_a_tied_weight_is_one():
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["e"]),
        helper.make_node("Transpose", ["table"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["e", "t"], ["y"]),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.INT64, [2, 3])]
    model = build(nodes, given, ["y"], [numpy_helper.from_array(f(9, 4), "table")])
    check(model, [ints([0, 8, 1], [2, 3, 4])])
    (slot,) = slots_of(model)[1]
    assert (slot.name, slot.uses) == ("table", ("gather", "linear"))


def test_what_is_computed_of_weights_is_a_constant():
    nodes = [helper.make_node("Mul", ["v", "g"], ["w"]), helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)]
    tensors = [numpy_helper.from_array(f(5, 4), "v"), numpy_helper.from_array(f(5, 1), "g")]
    check(build(nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])], ["y"], tensors), [X])


def quantized(kind=np.uint8):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Mul", ["d", "d"], ["y"]),
    ]
    tensors = [
        numpy_helper.from_array(np.array(0.02, np.float32), "s"),
        numpy_helper.from_array(np.array(0, kind), "z"),
    ]
    return build(nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])], ["y"], tensors, 21)


def test_quantized_activations_from_ios17_on():
    found = check(quantized(), [X])
    assert [op.op_type for op in found.functions["main"].operations if op.op_type != "const"] == [
        "quantize",
        "dequantize",
        "mul",
    ]


def cut(kind):
    """As a quantizer of 3 bits writes its codes."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("Clip", ["q", "low", "high"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    values = {"s": np.float32(0.02), "z": kind(0), "low": kind(0), "high": kind(7)}
    tensors = [numpy_helper.from_array(np.array(value), name) for name, value in values.items()]
    return build(nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])], ["y"], tensors, 21)


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("version", [ct.target.iOS16, ct.target.iOS17])
def test_codes_that_a_quantizer_of_fewer_bits_cuts(version, kind):
    found, _, _ = translate(cut(kind), version)
    expected = np.clip(np.round(X / np.float32(0.02)), 0, 7) * np.float32(0.02)
    np.testing.assert_allclose(evaluate(found, {"x": X})["y"], expected, 1e-6)


@pytest.mark.parametrize(("version", "kind"), [(ct.target.iOS16, np.uint8), (ct.target.iOS18, np.uint16)])
def test_other_quantized_activations_stay_float_within_their_range(version, kind):
    found, notes, _ = translate(quantized(kind), version)
    assert notes["activations"].startswith("activations stay float")
    high = np.float32(0.02 * np.iinfo(kind).max)
    np.testing.assert_allclose(evaluate(found, {"x": X * 9})["y"], np.clip(X * 9, 0, high) ** 2, 1e-5)


def test_swish_which_onnx_runtime_has_not_yet():
    model, _ = one("Swish", [X], opset=24, alpha=1.5)
    np.testing.assert_allclose(evaluate(translate(model)[0], {"x0": X})["y0"], X / (1 + np.exp(-1.5 * X)), 1e-5)


def test_dynamically_quantized_layers_are_computed_in_float():
    """Exactly where the activations are on the grid that would be found for them."""
    codes, zero = RNG.integers(-128, 128, (4, 5)).astype(np.int8), np.array([3, 0, -2, 1, 5], np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["p"]),
        helper.make_node("Cast", ["p"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["c", "s"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(codes, "w"), numpy_helper.from_array(zero, "wz")]
    model = build(nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])], ["y"], tensors)
    x = np.array([[0, 255, 3, 9], [8, 7, 2, 200], [1, 1, 0, 128]], np.float32)
    check(model, [x])
    assert translate(model)[1]["activations"].startswith("activations stay float")


def branches(condition):
    def body(operator):
        node = helper.make_node(operator, ["x", "x"], [f"{operator}.y"])
        return helper.make_graph([node], operator, [], [onnx.ValueInfoProto(name=f"{operator}.y")])

    node = helper.make_node("If", ["c"], ["y"], then_branch=body("Add"), else_branch=body("Mul"))
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])]
    tensors = []
    if condition is None:
        given.append(helper.make_tensor_value_info("c", TensorProto.BOOL, [1]))
    else:
        tensors.append(numpy_helper.from_array(np.array([condition]), "c"))
    return build([node], given, ["y"], tensors)


@pytest.mark.parametrize("condition", [True, False])
def test_a_branch_that_is_known(condition):
    found = check(branches(condition), [X])
    assert all(op.op_type != "cond" for op in found.functions["main"].operations)


@pytest.mark.parametrize("condition", [True, False])
def test_a_branch_that_an_input_chooses(condition):
    found = check(branches(None), [X, np.array([condition])])
    convert(found, ct.target.iOS17)


def test_truth_values_by_condition_which_onnx_runtime_has_not():
    feeds = [BOOL, BOOL[:, :1], np.array([True])]
    found = evaluate(translate(one("Where", feeds)[0])[0], dict(zip(("x0", "x1", "x2"), feeds, strict=True)))
    np.testing.assert_array_equal(found["y0"], np.where(*feeds))


def test_an_integer_beyond_32_bits_bounds_and_is_not_added():
    check(one("Min", [INT], [np.array(1 << 40)])[0], [INT])
    with pytest.raises(CompressorError, match=r"Add: number 0 \(the integer 1099511627776, which 32 bits do not hold"):
        translate(one("Add", [INT], [np.array(1 << 40)])[0])


def test_an_output_that_32_bits_do_not_hold_is_named():
    model = build(
        [helper.make_node("Identity", ["c0"], ["y0"])], [], ["y0"], [numpy_helper.from_array(ints(1 << 40), "c0")]
    )
    with pytest.raises(
        CompressorError, match="the output y0 is a constant that Core ML cannot hold: the integer 1099511627776"
    ):
        translate(model)


def test_a_value_that_nothing_defines_is_named():
    model = build([helper.make_node("Relu", ["x0"], ["y0"], name="relu")], [], ["y0"])
    with pytest.raises(CompressorError, match="relu reads 'x0', which nothing defines"):
        translate(model)


def test_all_that_has_no_form_is_named():
    nodes = [
        helper.make_node("Det", ["x"], ["d"], name="first"),
        helper.make_node("Unique", ["x"], ["u"], name="second"),
        helper.make_node("Det", ["d"], ["e"], name="third"),
        helper.make_node("Pad", ["x", "p"], ["f"], mode="wrap", name="fourth"),
        helper.make_node("Gelu", ["x"], ["g"], name="fifth", domain="com.microsoft"),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])]
    graph = helper.make_graph(
        nodes, "g", given, [onnx.ValueInfoProto(name="f")], [numpy_helper.from_array(ints(1, 0, 0, 0), "p")]
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    )
    with pytest.raises(CompressorError) as error:
        program(model, Path(), {}, inputs(model), ct.target.iOS18)
    assert str(error.value) == (
        "Core ML has no form for 5 nodes: Det: first, third; Pad: fourth (mode 'wrap'); Unique: second; "
        "com.microsoft.Gelu: fifth. Export the model with other operators, or choose the target onnxruntime."
    )


def attention():
    """Attention as exporters write it for a batch and a length that vary: shapes are computed in the graph."""
    heads, size = numpy_helper.from_array(ints(2), "heads"), numpy_helper.from_array(ints(4), "size")
    flat = numpy_helper.from_array(ints(0, 0, -1), "flat")
    places = [numpy_helper.from_array(np.array(number, I64), f"at{number}") for number in (0, 1)]
    axes = numpy_helper.from_array(ints(0), "axes")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Shape", ["x"], ["shape"])]
    for number in (0, 1):
        nodes.append(helper.make_node("Gather", ["shape", f"at{number}"], [f"n{number}"]))
        nodes.append(helper.make_node("Unsqueeze", [f"n{number}", "axes"], [f"d{number}"]))
    nodes += [
        helper.make_node("Concat", ["d0", "d1", "heads", "size"], ["split"], axis=0),
        helper.make_node("Reshape", ["p", "split"], ["h"]),
        helper.make_node("Transpose", ["h"], ["q"], perm=[0, 2, 1, 3]),
        helper.make_node("Transpose", ["h"], ["k"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["q", "k"], ["s"]),
        helper.make_node("Softmax", ["s"], ["a"]),
        helper.make_node("MatMul", ["a", "q"], ["v"]),
        helper.make_node("Transpose", ["v"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "flat"], ["y"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", 8])
    weight = numpy_helper.from_array(f(8, 8), "w")
    return build(nodes, [given], ["y"], [weight, heads, size, flat, axes, *places])


def test_attention_whose_batch_and_length_vary():
    found = check(attention(), [f(3, 7, 8)])
    (given,) = convert(found, ct.target.iOS17).get_spec().description.input
    assert [size.upperBound for size in given.type.multiArrayType.shapeRange.sizeRanges] == [16, 16, 8]


def test_every_operator_of_the_table_is_here():
    models = [model for model, _ in CASES.values()]
    tested = {node.op_type for model in models for node in model.graph.node}
    functions = "Compress ConvInteger EyeLike Hardmax Loop MaxUnpool NonMaxSuppression QLinearConv RoiAlign Scan"
    elsewhere = {
        "If",
        "QLinearMatMul",
        "QuantizeLinear",
        "ReverseSequence",
        "Swish",
        "TensorScatter",
        *functions.split(),
    }  # see test_from_onnx_functions.py
    assert OPERATORS.keys() - tested - elsewhere == set()
