"""Operators that are made of others: by the functions that define them, step by step, or by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compressor.errors import CompressorError
from compressor.formats.coreml.importing import coremltools
from tests.targets.coreml.mil_evaluation import evaluate
from tests.targets.coreml.test_from_onnx import IMG, RNG, build, check, f, ints, one, translate

ct = coremltools()

Q = [f(2, 4, 3, 8), f(2, 2, 3, 8), f(2, 2, 3, 8)]
PAST = [None, f(2, 2, 5, 8), f(2, 2, 5, 8)]
BOXES = np.array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, -0.1, 1, 0.9], [1, 11, 0, 10], [0, 10.1, 1, 11.1]]], np.float32)
SCORES = np.array([[[0.9, 0.75, 0.6, 0.95, 0.5], [0.1, 0.8, 0.7, 0.3, 0.2]]], np.float32)
# Within the image, over two borders, with points just at its limits, outside, over all, empty, the wrong way round.
REGIONS = np.float32(
    [[2, 1, 9, 7], [-3, -2, 3, 5], [-2, 2, 6, 14], [20, 2, 30, 9], [-4, -4, 19, 16], [5, 5, 5, 5], [9, 8, 4, 3]]
)
BLOCK = f(2, 2, 3, 5, 4)
PEAKS, PLACES = f(2, 3, 3, 4), RNG.permutation(2 * 3 * 6 * 8)[:72].reshape(2, 3, 3, 4)
IMAGES = ints(1, 0, 0, 1, 0, 1, 1)
BINS = {"output_height": 3, "output_width": 2, "spatial_scale": 0.5}

CASES = {
    "Attention behind past keys": one("Attention", Q, PAST, 3, opset=23, is_causal=1),
    "Attention with its scores": one("Attention", Q, [], 4, opset=23),
    "NonMaxSuppression": one("NonMaxSuppression", [BOXES, SCORES], [ints(3), np.float32([0.5]), np.float32([0.4])]),
    "NonMaxSuppression, all scores": one("NonMaxSuppression", [BOXES, SCORES], [ints(2), np.float32([0.5])]),
    "RotaryEmbedding": one(
        "RotaryEmbedding", [f(2, 4, 3, 8)], [f(9, 4), f(9, 4), ints([0, 3, 8], [2, 2, 1])], opset=23
    ),
    "RotaryEmbedding, interleaved": one(
        "RotaryEmbedding", [f(2, 3, 32)], [f(2, 3, 2), f(2, 3, 2)], opset=23, num_heads=4, interleaved=1,
        rotary_embedding_dim=4,
    ),
    "SoftmaxCrossEntropyLoss": one("SoftmaxCrossEntropyLoss", [f(3, 5)], [ints(1, 0, 4), f(5)], 2, ignore_index=0),
    "ArgMax, the last one": one("ArgMax", [np.round(f(3, 4))], axis=1, select_last_index=1),
    "AveragePool, dilated": one(
        "AveragePool", [IMG], kernel_shape=[2, 2], dilations=[2, 3], pads=[1, 0, 1, 1], opset=19
    ),
    "AveragePool, pads count, rounded up": one(
        "AveragePool", [IMG], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1], count_include_pad=1, ceil_mode=1
    ),
    "Compress": one("Compress", [f(3, 4)], [np.array([False, True, True])], axis=0),
    "EyeLike": one("EyeLike", [f(3, 4)], k=1),
    **{
        f"GridSample, {mode}, {padding}, {align}": one(
            "GridSample", [image], [3 * np.tanh(f(*grid))], opset=20, mode=mode, padding_mode=padding,
            align_corners=align,
        )
        for mode, image, grid in [("cubic", IMG, (2, 5, 3, 2)), ("linear", BLOCK, (2, 3, 2, 4, 3)),
                                  ("nearest", BLOCK, (2, 3, 2, 4, 3))]
        for padding, align in [("zeros", 1), ("border", 0), ("reflection", 0), ("reflection", 1)]
    },
    "GridSample of opset 16, cubic": one("GridSample", [IMG, np.tanh(f(2, 4, 5, 2))], opset=16, mode="bicubic"),
    "Hardmax": one("Hardmax", [f(3, 4)], axis=0),
    "LayerNormalization with its mean": one("LayerNormalization", [f(3, 4)], [f(4), f(4)], 3),
    "LpPool of three": one("LpPool", [IMG], kernel_shape=[2, 2], p=3, dilations=[1, 2], opset=18),
    "MaxPool, dilated": one(
        "MaxPool", [IMG], kernel_shape=[2, 3], dilations=[3, 2], pads=[1, 2, 0, 1], strides=[2, 1], ceil_mode=1
    ),
    "MaxPool with its indices": one("MaxPool", [IMG], [], 2, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    "MaxPool of bytes": one("MaxPool", [RNG.integers(0, 255, (1, 2, 5, 6)).astype(np.uint8)], kernel_shape=[2, 2]),
    "MaxUnpool": one("MaxUnpool", [PEAKS, PLACES], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 0]),
    "MaxUnpool to a shape": one(
        "MaxUnpool", [PEAKS], [PLACES, ints(2, 3, 6, 8)], kernel_shape=[2, 2], strides=[2, 2]
    ),
    "Resize, antialiased": one(
        "Resize", [IMG], [None, np.array([1, 1, 0.6, 0.5], np.float32)], mode="linear", antialias=1
    ),
    "Resize, antialiased and cubic": one(
        "Resize", [IMG], [None, np.array([1, 1, 0.6, 0.5], np.float32)], mode="cubic", antialias=1, exclude_outside=1
    ),
    "Resize of a part": one(
        "Resize", [IMG], [np.float32([0, 0, 0.4, 0.6, 1, 1, 1.25, 1.7]), None, ints(2, 3, 5, 6)], mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=9.0,
    ),
    "Resize, not larger": one(
        "Resize", [IMG], [None, None, ints(11, 15)], mode="linear", axes=[2, 3], keep_aspect_ratio_policy="not_larger"
    ),
    "ReverseSequence": one("ReverseSequence", [f(4, 3, 2)], [ints(1, 4, 2)]),
    "RoiAlign": one("RoiAlign", [IMG, REGIONS, IMAGES], **BINS, sampling_ratio=2),
    "RoiAlign of one image": one("RoiAlign", [IMG[:1], REGIONS], [IMAGES * 0], **BINS, sampling_ratio=3),
    "RoiAlign, the largest": one("RoiAlign", [IMG, REGIONS], [IMAGES], **BINS, sampling_ratio=2, mode="max"),
    "RoiAlign, pixels behind their coordinates": one(
        "RoiAlign", [IMG], [REGIONS, IMAGES], **BINS, sampling_ratio=2,
        coordinate_transformation_mode="output_half_pixel",
    ),
    "RoiAlign of opset 10, adaptive": one("RoiAlign", [IMG], [REGIONS, IMAGES], opset=10, **BINS),
    "RoiAlign, adaptive": one("RoiAlign", [IMG], [REGIONS[:6], IMAGES[:6]], **BINS),
    "RoiAlign, the largest, adaptive": one("RoiAlign", [IMG], [REGIONS[:6], IMAGES[:6]], **BINS, mode="max"),
    "TensorScatter": one("TensorScatter", [f(2, 3, 6, 4), f(2, 3, 2, 4), ints(1, 4)], opset=24),
    "TensorScatter from the start": one("TensorScatter", [f(2, 3, 6, 4), f(2, 3, 2, 4)], opset=24),
    "TensorScatter, circular": one(
        "TensorScatter", [f(2, 6, 4), f(2, 3, 4)], [ints(5, 4)], opset=24, mode="circular", axis=1
    ),
}  # fmt: skip


@pytest.mark.parametrize("version", [ct.target.iOS16, ct.target.iOS18], ids=["iOS16", "iOS18"])
@pytest.mark.parametrize(("model", "feeds"), CASES.values(), ids=CASES)
def test_computes_what_onnx_runtime_does(model, feeds, version):
    check(model, feeds, version)


CODES = RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)


def quantized(nodes, weight, opset=18):
    """A model that quantizes an image to bytes, computes with codes, and turns the result back into values."""
    step, zero = np.float32(0.02), np.uint8(120)
    values = {
        "xs": step,
        "xz": zero,
        "w": weight,
        "ws": np.float32(0.01),
        "wz": np.int8(0),
        "ys": np.float32(0.1),
        "yz": zero,
    }
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]), *nodes,
        helper.make_node("DequantizeLinear", ["c", "ys", "yz"], ["y"]),
    ]  # fmt: skip
    shape = [2, 3, 6, 8] if weight.ndim == 4 else [2, 3, 4]
    return build(nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], ["y"], tensors, opset), [
        f(*shape)
    ]


INTEGER = {
    "QLinearConv": quantized(
        [helper.make_node("QLinearConv", "q xs xz w ws wz ys yz".split(), ["c"], pads=[1, 1, 1, 1])], CODES
    ),
    "QLinearMatMul": quantized(
        [helper.make_node("QLinearMatMul", "q xs xz w ws wz ys yz".split(), ["c"])], CODES[:, :2, 0, 0]
    ),
}


@pytest.mark.parametrize("version", [ct.target.iOS16, ct.target.iOS18], ids=["iOS16", "iOS18"])
@pytest.mark.parametrize("name", INTEGER)
def test_layers_between_codes_compute_what_they_stand_for(name, version):
    model, feeds = INTEGER[name]
    # A value that lies between two codes may become either; for iOS16 the input is not rounded to codes.
    check(model, feeds, version, 0.2 if version == ct.target.iOS16 else 0.101)


def test_codes_that_something_reads_are_integers():
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("Cast", ["q"], ["y"], to=1)]
    tensors = [numpy_helper.from_array(np.float32(0.01), "s"), numpy_helper.from_array(np.int16(-5), "z")]
    model = build(nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])], ["y"], tensors, 21)
    check(model, [f(3, 4)])


def body(nodes, inputs, outputs, tensors=()):
    """A graph inside of a node; inputs are (name, type, shape)."""
    given = [helper.make_tensor_value_info(*one) for one in inputs]
    return helper.make_graph(nodes, "body", given, [onnx.ValueInfoProto(name=name) for name in outputs], tensors)


def loop(count, condition="c"):
    """`x` becomes `x * w + step`; the squares of each are collected."""
    nodes = [
        helper.make_node("Mul", ["h", "w"], ["m"]),
        helper.make_node("Cast", ["i"], ["s"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["m", "s"], ["n"]),
        helper.make_node("Mul", ["n", "n"], ["q"]),
        helper.make_node("Identity", [condition], ["c_out"]),
    ]
    inputs = [("i", TensorProto.INT64, []), ("c", TensorProto.BOOL, []), ("h", TensorProto.FLOAT, [2, 3])]
    step = body(nodes, inputs, ["c_out", "n", "q"])
    tensors = [numpy_helper.from_array(value, name) for name, value in count.items()]
    tensors.append(numpy_helper.from_array(f(2, 3), "w"))
    return [helper.make_node("Loop", ["count", "", "x"], ["y", "z"], body=step)], tensors


def test_a_loop_of_known_length_becomes_its_steps():
    nodes, tensors = loop({"count": np.array(4, np.int64)})
    x = f(2, 3)
    found = check(
        build(nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])], ["y", "z"], tensors), [x]
    )
    assert [op.op_type for op in found.functions["main"].operations].count("mul") == 8


def test_a_scan_goes_along_any_axis_and_backwards():
    nodes = [helper.make_node("Add", ["h", "s"], ["n"]), helper.make_node("Mul", ["n", "s"], ["q"])]
    step = body(nodes, [("h", TensorProto.FLOAT, [2]), ("s", TensorProto.FLOAT, [2])], ["n", "q"])
    scan = helper.make_node(
        "Scan", ["h0", "x"], ["y", "z"], body=step, num_scan_inputs=1, scan_input_axes=[1], scan_input_directions=[1],
        scan_output_axes=[1],
    )  # fmt: skip
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("h0", [2]), ("x", [2, 5]))
    ]
    check(build([scan], inputs, ["y", "z"]), [f(2), f(2, 5)])


def test_a_loop_whose_length_is_found_at_run_time_is_refused():
    nodes, tensors = loop({})
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
        helper.make_tensor_value_info("count", TensorProto.INT64, []),
    ]
    with pytest.raises(CompressorError, match=r"1 node: Loop: number 0 \(the number of steps must be a constant\)"):
        translate(build(nodes, inputs, ["y", "z"], tensors))


def test_a_box_that_is_the_wrong_way_round_has_no_points_of_its_own():
    # ONNX Runtime fails here; ONNX's reference gives 0.
    model, feeds = one("RoiAlign", [IMG], [REGIONS[[6, 0]], IMAGES[[6, 0]]], **BINS)
    found = evaluate(translate(model)[0], {"x0": feeds[0]})["y0"]
    expected = ReferenceEvaluator(model).run(None, {"x0": feeds[0]})[0]
    assert not found[0].any()
    np.testing.assert_allclose(found, expected, 2e-5, 2e-5)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, "sampling_ratio 0 of boxes that are no constants"),
        ({"sampling_ratio": 1, "mode": "median"}, "mode 'median'"),
        ({"sampling_ratio": 1, "coordinate_transformation_mode": "pixel"}, "coordinates 'pixel'"),
    ],
)
def test_boxes_that_cannot_be_sampled_are_refused(attributes, reason):
    model, _ = one("RoiAlign", [IMG, REGIONS], [IMAGES], **attributes)
    with pytest.raises(CompressorError, match=rf"RoiAlign: number 0 \({reason}"):
        translate(model)


def test_maxima_are_not_put_into_another_shape_than_that_of_their_windows():
    shape = ints(2, 3, 7, 8)
    model, _ = one("MaxUnpool", [PEAKS], [PLACES, shape], kernel_shape=[2, 2], strides=[2, 2])
    with pytest.raises(CompressorError, match=r"MaxUnpool: number 0 \(an output \[2, 3, 7, 8\] that is not what"):
        translate(model)


def test_a_volume_is_not_sampled_by_cubics():
    model, _ = one("GridSample", [BLOCK, np.tanh(f(2, 3, 2, 4, 3))], opset=20, mode="cubic")
    with pytest.raises(CompressorError, match=r"GridSample: number 0 \(mode 'cubic' of 5 axes"):
        translate(model)


def test_a_function_whose_nodes_have_no_form_names_them():
    # The most boxes of a class are not known: no box can be selected.
    model, _ = one("NonMaxSuppression", [BOXES, SCORES, ints(3)], [np.float32([0.5])])
    with pytest.raises(
        CompressorError, match=r"NonMaxSuppression: number 0 \(the most boxes of a class must be a const"
    ):
        translate(model)
    model, _ = one("Bernoulli", [f(3, 4)], opset=22)
    with pytest.raises(CompressorError, match=r"Bernoulli: number 0 \(made of RandomUniformLike: number 0\)"):
        translate(model)
