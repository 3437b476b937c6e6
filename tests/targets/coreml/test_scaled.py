"""Floats in a table that scales multiply (NF4, MXFP4, FP8, a scale for each channel), declared and found in values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import compressor
from compressor import sources, targets
from compressor.arrays import CODE_DTYPES, STORED_DTYPES, NarrowArray, NDArray
from compressor.encodings import Dense, Encoding, Palettized, Quantized, decode
from compressor.model import Model
from compressor.weight import Weight

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")

RNG = np.random.default_rng(0)
SHAPE, F32 = (256, 192), np.dtype(np.float32)
NF4 = np.array(
    """-1 -0.6961928 -0.52507305 -0.3949175 -0.28444138 -0.18477343 -0.091050036 0
    0.0795803 0.1609302 0.2461123 0.33791524 0.44070983 0.562617 0.72295684 1""".split(),
    F32,
)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], F32)


def table(values: NDArray) -> Palettized:
    return Palettized(RNG.integers(0, 16, SHAPE).astype(np.uint8), values.reshape(1, 1, 16, 1))


def scales(*counts: int) -> NDArray:
    return RNG.uniform(0.01, 0.1, counts).astype(F32)


FORMS: Mapping[str, Encoding] = {
    "NF4": Quantized(table(NF4), scales(4, 192)),
    "a scale a channel": Quantized(table(NF4), scales(1, 192)),
    "MXFP4": Quantized(table(E2M1), np.exp2(RNG.integers(-8, -3, (8, 192))).astype(F32)),
    "FP8": Quantized(
        Dense(NarrowArray(RNG.standard_normal(SHAPE).astype(F32).astype(STORED_DTYPES["float8_e4m3fn"]), F32)),
        scales(1, 192),
    ),
}


def source(encoding: Encoding, folder: Path) -> Path:
    """An ONNX artefact that multiplies by the weight."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    given, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, size))
        for name, size in zip("xy", SHAPE, strict=True)
    )
    stub = onnx.TensorProto(name="w", dims=SHAPE, data_type=TensorProto.FLOAT)
    graph = helper.make_graph(nodes, "scaled", [given], [made], [stub])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    targets.write(targets.get("onnxruntime"), Model(folder / "m.onnx", [Weight("w", encoding)], proto), folder)
    return folder / "model.onnx"


@pytest.mark.parametrize(
    ("form", "target", "stored", "bits"),
    [
        ("NF4", "iOS16", "dense", 16),
        ("NF4", "iOS18", "palettized4", 8),
        ("NF4", "iOS26", "scaled(palettized4)", 4.26),
        ("a scale a channel", "iOS18", "palettized4", 5),
        ("a scale a channel", "iOS26", "scaled(palettized4)", 4.07),
        ("MXFP4", "iOS16", "palettized6", 6.02),
        ("MXFP4", "iOS26", "scaled(palettized4)", 4.51),
        ("FP8", "iOS16", "dense", 16),
        ("FP8", "iOS26", "scaled(palettized8)", 8.15),
    ],
)
def test_what_a_target_holds_of_it(form: str, target: str, stored: str, bits: float, tmp_path: Path) -> None:
    manifest = compressor.compress(source(FORMS[form], tmp_path), tmp_path / "out", target=target)
    (facts,) = manifest.weights
    assert facts.encoding == stored
    assert facts.nbytes * 8 / np.prod(SHAPE) == pytest.approx(bits, abs=0.01)
    weight = next(one for one in sources.read(tmp_path / "out/model.mlpackage").weights if one.name == "w")
    expected, got = decode(FORMS[form]).T, decode(weight.encoding).astype(F32)
    roundings = 1 if target == "iOS16" else 0 if form == "MXFP4" else 3  # of the table, the scale and the product
    allowed = np.maximum(
        np.abs(expected) * F32.type(2**-11 + 2**-20), F32.type(2**-25)
    )  # subnormal ones are as far apart
    assert (np.abs(got - expected) <= roundings * allowed).all()


def plain(values: NDArray, folder: Path) -> Path:
    """An ONNX model that multiplies by floats, of which nobody says what they are."""
    return source(Dense(values), folder)


INT4, INT8 = (RNG.integers(1 - top, top, SHAPE).astype(np.int8) for top in (8, 128))
KEPT = RNG.random(SHAPE) < 0.2
PLAIN: Mapping[str, NDArray] = {
    **{name: decode(form) for name, form in FORMS.items()},
    "NF4, half zeros": decode(FORMS["NF4"]) * (RNG.random(SHAPE) < 0.5),
    "int8 by block": decode(Quantized(Dense(INT8), scales(4, 192))),
    "int4 by block, 80 % zeros": decode(Quantized(Dense(INT4.astype(CODE_DTYPES["int4"])), scales(8, 192))) * KEPT,
    "int4 by block, powers of two": decode(
        Quantized(Dense(INT4.astype(CODE_DTYPES["int4"])), np.exp2(RNG.integers(-8, -3, (8, 192))).astype(F32))
    ),
    "int8 by channel, 80 % zeros": decode(Quantized(Dense(INT8), scales(1, 192))) * KEPT,
}


@pytest.mark.parametrize(
    ("values", "target", "stored", "bits"),
    [
        ("NF4", "iOS18", "palettized4", 8),
        ("NF4", "iOS26", "scaled(palettized4)", 4.26),
        ("a scale a channel", "iOS18", "palettized4", 5),
        ("a scale a channel", "iOS26", "scaled(palettized4)", 4.07),
        ("MXFP4", "iOS18", "palettized6", 6.02),
        ("MXFP4", "iOS26", "scaled(palettized4)", 4.51),
        ("FP8", "iOS26", "scaled(palettized8)", 8.15),
        ("NF4, half zeros", "iOS26", "sparse(scaled(palettized4))", 3.14),
        ("int8 by block", "iOS18", "int8", 8.25),
        ("int8 by block", "iOS17", "dense", 16),
        ("int4 by block, 80 % zeros", "iOS17", "sparse", 4.02),
        ("int4 by block, 80 % zeros", "iOS18", "sparse(int4)", 2.25),
        ("int4 by block, powers of two", "iOS17", "palettized6", 6.02),
        ("int8 by channel, 80 % zeros", "iOS17", "sparse", 4.21),
        ("int8 by channel, 80 % zeros", "iOS18", "sparse(int8)", 2.67),
    ],
)
def test_floats_get_the_form_that_is_smallest_on_the_target(
    values: str, target: str, stored: str, bits: float, tmp_path: Path
) -> None:
    manifest = compressor.compress(plain(PLAIN[values], tmp_path), tmp_path / "out", target=target)
    (facts,) = manifest.weights
    assert (facts.encoding, facts.nbytes * 8 / np.prod(SHAPE)) == (stored, pytest.approx(bits, abs=0.01))
    weight = next(one for one in sources.read(tmp_path / "out/model.mlpackage").weights if one.name == "w")
    expected, got = PLAIN[values].T, decode(weight.encoding).astype(F32)
    if stored in {"dense", "sparse", "palettized6"}:  # values, rounded once
        assert np.array_equal(got, expected.astype(np.float16))
    assert (np.abs(got - expected) <= 3 * np.abs(expected) * F32.type(2**-11 + 2**-20)).all()


def test_declared_blocks_that_a_version_has_not_are_the_values_that_they_are(tmp_path: Path) -> None:
    """Codes of a source, too: floats under a mask are smaller than the products as they are."""
    codes = Quantized(Dense((INT4 * KEPT).astype(CODE_DTYPES["int4"])), scales(8, 192))
    manifest = compressor.compress(source(codes, tmp_path), tmp_path / "out", target="iOS17")
    (facts,) = manifest.weights
    assert facts.encoding == "sparse"
    assert "kept as values: scales by block need iOS18" in facts.evidence


def test_one_pipeline_of_tables_has_those_that_scales_multiply(tmp_path: Path) -> None:
    model = plain(PLAIN["NF4"], tmp_path)
    manifest = compressor.compress(model, tmp_path / "out", target="iOS26", pipeline="default_palettization")
    assert [facts.encoding for facts in manifest.weights] == ["scaled(palettized4)"]
    manifest = compressor.compress(model, tmp_path / "out", target="iOS26", pipeline="default_quantization")
    assert [facts.encoding for facts in manifest.weights] == ["dense"]


def test_a_rule_leaves_scales_over_tables_out(tmp_path: Path) -> None:
    rules = {"*": ["sparsify", "palettize", "linear_quantize", "narrow"]}
    model = plain(PLAIN["a scale a channel"], tmp_path)
    manifest = compressor.compress(model, tmp_path / "out", target="iOS26", rules=rules)
    assert [facts.encoding for facts in manifest.weights] == ["palettized4"]


@pytest.mark.parametrize("form", FORMS)
def test_at_float32_it_is_exact(form: str, tmp_path: Path) -> None:
    target = targets.get("iOS26", {"precision": "float32"})
    manifest = compressor.compress(source(FORMS[form], tmp_path), tmp_path / "out", target=target)
    assert manifest.weights[0].encoding.startswith("scaled(palettized")
    weight = next(one for one in sources.read(tmp_path / "out/model.mlpackage").weights if one.name == "w")
    assert np.array_equal(decode(weight.encoding), decode(FORMS[form]).T)
