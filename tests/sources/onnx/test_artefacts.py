"""ONNX files as a source: models that decode weights by this project's own functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import compressor
from compressor import sources
from compressor.arrays import UINT4, UINT8
from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse, arrays, decode, spec
from compressor.errors import CompressorError, DamageError
from compressor.formats.onnx.decoding import lower
from compressor.formats.onnx.functions import DOMAIN, VERSION, function
from compressor.formats.onnx.lowered import shared
from compressor.formats.onnx.quantized import Form
from compressor.gaps import of_mask
from compressor.packing import pack, unpack
from tests.sources.onnx.models import RNG, check_same, floats, tensor, value

MASK = RNG.random((32, 48)) < 0.3
COUNT = int(MASK.sum())
INT8_CODES = RNG.integers(-128, 128, (32, 48)).astype(np.int8)
ENCODINGS: dict[str, Encoding] = {
    "palettized": Palettized(RNG.integers(0, 5, (32, 48)).astype(np.uint8), floats(1, 1, 5, 1)),
    "by group": Palettized(RNG.integers(0, 16, (32, 48)).astype(np.uint8), floats(4, 1, 16, 1)),
    "int8": Quantized(Dense(INT8_CODES), floats(32, 1), np.ones((32, 1), np.int8)),
    "by block": Quantized(Dense(INT8_CODES), floats(4, 48)),
    "sparse": Sparse(MASK, Dense(floats(COUNT)), (32, 48)),
    "sparse palettized": Sparse(
        MASK, Palettized(RNG.integers(0, 3, COUNT).astype(np.uint8), floats(1, 1, 3, 1)), (32, 48)
    ),
    "sparse by 4 bits": Sparse(of_mask(MASK, UINT4), Dense(floats(COUNT)), (32, 48)),
    "sparse int8 by 8 bits": Sparse(of_mask(MASK, UINT8), Quantized(Dense(INT8_CODES[MASK]), floats(32, 1)), (32, 48)),
    "sparse int8": Sparse(MASK, Quantized(Dense(INT8_CODES[MASK]), floats(1, 1)), (32, 48)),
}


def artefact(path: Path, encodings: dict[str, Encoding], *, form: Form = "folded", opset: int = 21) -> Path:
    """A model that adds all weights, one before them all and one after, which is dense."""
    lowered = [lower(name, encoding, opset, form) for name, encoding in encodings.items()]
    common = shared(lowered)
    nodes = [*common.nodes, *(node for one in lowered for node in one.nodes)]
    nodes.append(helper.make_node("Sum", ["first", *encodings, "last"], ["y"]))
    parts = []
    for part in (part for one in lowered for part in one.parts):
        made = onnx.TensorProto(name=part.name, data_type=part.data_type, dims=part.dims)
        made.raw_data = part.payload().tobytes().ljust(part.nbytes, b"\0")
        parts.append(made)
    initializers = [tensor("first", floats(32, 48)), *parts, tensor("last", floats(32, 48))]
    graph = helper.make_graph(nodes, "graph", [], [value("y", [32, 48])], initializers)
    graph.value_info.extend(info for one in (common, *lowered) for info in one.values)
    called = sorted({name for one in (common, *lowered) for name in one.functions})
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)],
        functions=[function(name, opset) for name in called],
        ir_version=10,
    )
    model.metadata_props.add(key="compressor.target", value="onnxruntime")
    model.metadata_props.add(key="author", value="somebody")
    onnx.save(model, path)
    return path


def check_equal(one: Encoding, other: Encoding) -> None:
    for mine, its in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(its))
    assert str(spec(one)) == str(spec(other))


@pytest.mark.parametrize("form", ["folded", "linear"])
@pytest.mark.parametrize("opset", [18, 21])
def test_artefacts_are_read_as_the_encodings_that_they_hold(tmp_path: Path, form: Form, opset: int) -> None:
    encodings = ENCODINGS
    if form == "linear":
        encodings = {name: ENCODINGS[name] for name in ("int8", "sparse int8")}
    path = artefact(tmp_path / "m.onnx", encodings, form=form, opset=opset)
    found = check_same(path)
    assert list(found) == ["first", *encodings, "last"]
    for name, encoding in encodings.items():
        check_equal(found[name].encoding, encoding)
        assert (found[name].uses, found[name].pinned) == (("Sum",), "")
    model = sources.read(path)
    assert model.metadata == {"compressor.target": "onnxruntime"}
    normal = model.graph
    assert [node.op_type for node in normal.graph.node] == ["Sum"]
    assert not normal.functions
    assert [entry.key for entry in normal.metadata_props] == ["author"]
    assert not normal.graph.value_info
    assert [entry.domain for entry in normal.opset_import] == [""]
    assert [stub.name for stub in normal.graph.initializer] == list(found)
    assert all(stub.data_type == TensorProto.FLOAT for stub in normal.graph.initializer)


def test_a_mask_that_does_not_fit_its_values_is_no_traceback(tmp_path: Path) -> None:
    sparse = ENCODINGS["sparse"]
    assert isinstance(sparse, Sparse)
    path = artefact(tmp_path / "m.onnx", {"w": sparse})
    model = onnx.load(path)
    next(part for part in model.graph.initializer if part.name == "w.mask").dims[0] = 1
    onnx.save(model, path)
    with pytest.raises(CompressorError, match=r"w\.mask"):
        sources.read(path)


@pytest.mark.parametrize(
    ("form", "part", "dims", "expected"),
    [
        ("palettized", "w.lut", [1, 5, 1], "rank 2"),
        ("sparse", "w.values", [COUNT, 1], "a list of non-zeros"),
        ("by block", "w.scale", [4, 48, 1], r"blocks of \[32, 48\], got \[4, 48, 1\]"),
    ],
)
def test_parts_under_other_shapes_are_no_traceback(
    tmp_path: Path, form: str, part: str, dims: list[int], expected: str
) -> None:
    path = artefact(tmp_path / "m.onnx", {"w": ENCODINGS[form]})
    model = onnx.load(path)
    stored = next(one for one in model.graph.initializer if one.name == part)
    del stored.dims[:]
    stored.dims.extend(dims)
    onnx.save(model, path)
    with pytest.raises(CompressorError, match=f"weight 'w': its stored parts do not fit together: .*{expected}"):
        compressor.dry_run(path)


def test_types_and_attributes_that_no_weight_has_are_no_traceback(tmp_path: Path) -> None:
    path = artefact(tmp_path / "m.onnx", {"w": ENCODINGS["sparse"]})
    integers, negative = onnx.load(path), onnx.load(path)
    next(one for one in integers.graph.initializer if one.name == "w.values").data_type = TensorProto.INT32
    shape = next(a for node in negative.graph.node if node.output[0] == "w" for a in node.attribute)
    shape.ints[:] = [-32, -48]
    for model, expected in ((integers, "floats or codes, got int32"), (negative, r"shape \[-32, -48\]")):
        onnx.save(model, path)
        with pytest.raises(CompressorError, match=expected):
            compressor.dry_run(path)


@pytest.mark.parametrize("opset", [18, 21])
def test_gaps_that_run_over_the_end_are_damage(tmp_path: Path, opset: int) -> None:
    path = artefact(tmp_path / "m.onnx", {"w": ENCODINGS["sparse by 4 bits"]}, opset=opset)
    model = onnx.load(path)
    gaps = next(one for one in model.graph.initializer if one.name == "w.gaps")
    codes = unpack(np.frombuffer(gaps.raw_data, np.uint8), 4, 2 * len(gaps.raw_data))
    gaps.raw_data = pack(np.where(codes < 15, np.uint8(14), codes), 4).tobytes()
    onnx.save(model, path)
    with pytest.raises(CompressorError, match="weight w: gaps between ascending places below 1,536"):
        compressor.compress(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["sparse", "sparse by 4 bits"])
def test_a_small_file_that_claims_a_huge_weight_is_refused(tmp_path: Path, form: str) -> None:
    encoding = ENCODINGS[form] if form != "sparse" else Sparse(np.ones((1, 1), bool), Dense(floats(1536)), (32, 48))
    path = artefact(tmp_path / "m.onnx", {"w": encoding})
    model = onnx.load(path)
    for node in model.graph.node:
        for one in (one for one in node.attribute if node.output[0].startswith("w") and list(one.ints) == [32, 48]):
            one.ints[:] = [1 << 30, 1 << 30]
    onnx.save(model, path)
    with pytest.raises(CompressorError, match="ONNX Runtime folds values of at most 1 GiB, got "):
        compressor.dry_run(path)


def test_gaps_of_another_width_are_not_read(tmp_path: Path) -> None:
    path = artefact(tmp_path / "m.onnx", {"w": ENCODINGS["sparse by 4 bits"]})
    model = onnx.load(path)
    next(node for node in model.graph.node if node.output[0] == "w.places").op_type = "places_by_gaps8"
    model.functions.append(function("places_by_gaps8", 21))
    onnx.save(model, path)
    with pytest.raises(CompressorError, match="weight 'w': its stored parts do not fit together: places_by_gaps8 of u"):
        compressor.dry_run(path)


def test_codes_that_are_not_as_many_as_the_mask_has_set_are_damage() -> None:
    codes = Quantized(Dense(INT8_CODES[MASK][:-1]), floats(32, 1))
    with pytest.raises(DamageError, match=f"a mask of {COUNT} set bits for {COUNT - 1} values"):
        decode(Sparse(MASK, codes, (32, 48)))
