"""Constants that nodes compute from constants: the artefact has what the runtime computes with, and gives the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper

import compressor
from compressor import sources
from compressor.encodings import decode, is_encoded, name
from compressor.errors import CompressorError
from tests.sources.onnx.models import floats, node, run, save, tensor, value

Tensors = Mapping[str, np.ndarray]

W = floats(96, 64)
BY_COLUMN = (np.abs(W).max(0) / 127).astype(np.float32)
MASK = np.random.default_rng(1).random(W.shape) < 0.2
F32 = np.float32


QUANTIZED = node("QuantizeLinear", "w,s,z", "q", axis=1)
CODES = {"w": W, "s": BY_COLUMN, "z": np.zeros(64, np.int8)}
FAKE = [node("Div", "w,s", "a"), node("Round", "a", "b"), node("Clip", "b,low,high", "c"), node("Mul", "c,s", "v")]
FAKE_CONSTANTS = {"w": W, "s": BY_COLUMN, "low": F32(-127), "high": F32(127)}


@dataclass(frozen=True)
class Case:
    """Nodes that compute `v` from constants.

    form: what the weight is stored as. most: bytes that all weights take at most.
    """

    nodes: list[NodeProto]
    constants: Tensors
    form: str
    most: int


CASES = {
    "quantized": Case([QUANTIZED, node("DequantizeLinear", "q,s,z", "v", axis=1)], CODES, "int8", 6500),
    "quantized by tensor": Case(
        [node("QuantizeLinear", "w,s,z", "q"), node("DequantizeLinear", "q,s,z", "v")],
        {"w": W, "s": F32(0.03), "z": np.uint8(128)},
        "uint8",
        6200,
    ),
    "clipped to four bits": Case(
        [QUANTIZED, node("Clip", "q,low,high", "c"), node("DequantizeLinear", "c,s,z", "v", axis=1)],
        CODES | {"s": (np.abs(W).max(0) / 7).astype(F32), "low": np.int8(-7), "high": np.int8(7)},
        "int8(palettized4)",
        3600,
    ),
    "transposed between": Case(
        [
            QUANTIZED,
            node("Transpose", "q", "t"),
            node("DequantizeLinear", "t,s,z", "u", axis=0),
            node("Transpose", "u", "v"),
        ],
        CODES,
        "int8",
        6500,
    ),
    "masked": Case([node("Mul", "w,mask", "v")], {"w": W, "mask": MASK.astype(F32)}, "sparse", 6000),
    "masked by bits": Case(
        [node("Cast", "mask", "m", to=1), node("Mul", "w,m", "v")], {"w": W, "mask": MASK}, "sparse", 6000
    ),
    "chosen": Case([node("Where", "mask,w,zero", "v")], {"w": W, "mask": MASK, "zero": F32(0)}, "sparse", 6000),
    "rounded to a grid": Case(FAKE, FAKE_CONSTANTS, "int8", 6500),
    "reshaped on the way": Case(
        [node("Reshape", "w,flat", "r"), node("Mul", "r,mask", "m"), node("Reshape", "m,to", "v")],
        {"w": W, "mask": MASK.astype(F32).reshape(-1), "flat": np.array([-1]), "to": np.array([96, 64])},
        "sparse",
        6000,
    ),
}


def built(path: Path, nodes: list[NodeProto], constants: Tensors, opset: int = 21) -> Path:
    return save(
        path,
        [*nodes, node("MatMul", "x,v", "y")],
        [tensor(key, np.asarray(values)) for key, values in constants.items()],
        inputs=[value("x", ["n", 96])],
        outputs=[value("y", ["n", 64])],
        opset=opset,
    )


@pytest.mark.parametrize("case", CASES.values(), ids=[*CASES])
def test_the_weight_is_what_the_runtime_computes(case: Case, tmp_path: Path) -> None:
    path = built(tmp_path / "m.onnx", case.nodes, case.constants)
    made = compressor.compress(path, tmp_path / "out")
    (weight,) = (one for one in made.weights if one.shape in {W.shape, W.shape[::-1]})
    assert (weight.name, weight.encoding) == ("w", case.form)
    assert sum(one.nbytes for one in made.weights) <= case.most
    feeds = {"x": floats(5, 96)}
    assert np.array_equal(run(tmp_path / "out" / "model.onnx", feeds)[0], run(path, feeds)[0])


def test_what_was_not_folded_is_not_folded_in_the_artefact(tmp_path: Path) -> None:
    """Another weight raises the opset to one at which it could be."""
    few = np.sign(W.T) * np.float32(0.3)
    case = CASES["quantized by tensor"]
    nodes = [*case.nodes, node("MatMul", "x,v", "a"), node("MatMul", "a,few", "b"), node("Neg", "b", "x2")]
    path = save(
        tmp_path / "m.onnx",
        [*nodes, node("MatMul", "x2,v", "y")],
        [tensor(key, np.asarray(values)) for key, values in (case.constants | {"few": few}).items()],
        inputs=[value("x", ["n", 96])],
        outputs=[value("y", ["n", 64])],
        opset=12,
    )
    made = compressor.compress(path, tmp_path / "out")
    assert [one.encoding for one in made.weights if one.name in {"w", "few"}] == ["dense", "palettized1"]
    feeds = {"x": floats(5, 96)}
    assert np.array_equal(run(tmp_path / "out" / "model.onnx", feeds)[0], run(path, feeds)[0])
    again = compressor.compress(tmp_path / "out", tmp_path / "again")
    assert [one.encoding for one in again.weights] == [one.encoding for one in made.weights]
    compressor.write_baseline(path, tmp_path / "baseline")
    dense = compressor.inspect(tmp_path / "baseline").weights
    assert [(one.name, one.shape) for one in dense] == [(one.name, one.shape) for one in made.weights]


@pytest.mark.parametrize("case", CASES.values(), ids=[*CASES])
def test_its_values_are_those_of_the_folded_constant(case: Case, tmp_path: Path) -> None:
    path = built(tmp_path / "m.onnx", case.nodes, case.constants)
    show = save(
        tmp_path / "show.onnx",
        case.nodes,
        [tensor(key, np.asarray(values)) for key, values in case.constants.items()],
        outputs=[value("v", [96, 64])],
    )
    (found,) = (one for one in sources.read(path).weights if one.name == "w")
    values = decode(found.encoding)
    expected = run(show, {})[0]
    assert np.array_equal(values if values.shape == expected.shape else values.T, expected)


def test_large_constants_in_a_file_of_their_own(tmp_path: Path) -> None:
    path = built(tmp_path / "m.onnx", FAKE, FAKE_CONSTANTS)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0)
    made = compressor.compress(path, tmp_path / "out")
    assert [(one.name, one.encoding) for one in made.weights if len(one.shape) == 2] == [("w", "int8")]


@pytest.mark.parametrize(
    ("nodes", "constants", "names"),
    [
        pytest.param([node("Mul", "w,s", "v")], {"w": W, "s": BY_COLUMN}, {"w", "s"}, id="scaled only"),
        pytest.param([node("Transpose", "w", "t"), node("Transpose", "t", "v")], {"w": W}, {"w"}, id="moved only"),
        pytest.param(
            [node("Mul", "w,mask", "m"), node("MatMul", "x2,w", "z"), node("Identity", "m", "v")],
            {"w": W, "mask": MASK.astype(F32)},
            {"w"},
            id="read elsewhere too",
        ),
    ],
)
def test_what_is_trained_stays_a_weight(
    nodes: list[NodeProto], constants: Tensors, names: set[str], tmp_path: Path
) -> None:
    path = save(
        tmp_path / "m.onnx",
        [*nodes, node("MatMul", "x,v", "y")],
        [tensor(key, np.asarray(values)) for key, values in constants.items()],
        inputs=[value("x", ["n", 96]), *([value("x2", ["n", 96])] if "x2" in str(nodes) else [])],
        outputs=[value("y", ["n", 64]), *([value("z", ["n", 64])] if "x2" in str(nodes) else [])],
    )
    weights = {one.name: one for one in sources.read(path).weights}
    assert weights.keys() >= names
    assert np.array_equal(decode(weights["w"].encoding), W)


def test_a_value_that_is_larger_than_its_constants_stays_computed(tmp_path: Path) -> None:
    nodes = [node("Where", "mask,column,zero", "v")]
    constants = {"mask": MASK, "column": floats(96, 1), "zero": F32(0)}
    path = built(tmp_path / "m.onnx", nodes, constants)
    assert "v" not in {one.name for one in sources.read(path).weights}
    made = compressor.compress(path, tmp_path / "out")
    feeds = {"x": floats(5, 96)}
    assert np.array_equal(run(tmp_path / "out" / "model.onnx", feeds)[0], run(path, feeds)[0])
    assert made.nbytes <= path.stat().st_size


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m.graph.input.append(value("w", [96, 64])), id="a caller may override it"),
        pytest.param(lambda m: m.graph.output.append(value("m", [96, 64])), id="an output of the graph"),
    ],
)
def test_what_others_see_stays_computed(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    path = built(
        tmp_path / "m.onnx", [node("Mul", "w,mask", "m"), node("Mul", "m,m", "v")], {"w": W, "mask": MASK.astype(F32)}
    )
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    compressor.compress(path, tmp_path / "out")
    feeds = {"x": floats(5, 96)}
    for got, expected in zip(run(tmp_path / "out" / "model.onnx", feeds), run(path, feeds), strict=True):
        assert np.array_equal(got, expected)


def test_codes_of_an_opset_that_has_no_channels_stay_computed(tmp_path: Path) -> None:
    """Converted to a later one, the model would run by other kernels."""
    case = CASES["quantized by tensor"]
    path = built(tmp_path / "m.onnx", case.nodes, case.constants, opset=12)
    (weight,) = (one for one in sources.read(path).weights if one.name == "w")
    assert weight.pinned == "its codes are computed at opset 12: export it at opset 13 or later"
    assert compressor.compress(path, tmp_path / "out").nbytes <= path.stat().st_size


def test_a_cast_of_nothing_computes_no_weight(tmp_path: Path) -> None:
    path = built(tmp_path / "m.onnx", [node("Cast", "w", "v", to=1)], {"w": W.astype(np.float16)})
    model = onnx.load(path)
    del model.graph.node[0].input[:]
    onnx.save(model, path)
    assert [one.encoding for one in sources.read(path).weights if is_encoded(one.encoding)] == []


def test_a_cast_to_nothing_is_told_of(tmp_path: Path) -> None:
    path = built(tmp_path / "m.onnx", [node("Cast", "w", "v", to=1)], {"w": W.astype(np.float16)})
    model = onnx.load(path)
    del model.graph.node[0].output[:]
    onnx.save(model, path)
    with pytest.raises(CompressorError, match="reads 'v', which nothing defines"):
        sources.read(path)


def test_a_tower_of_constants_takes_no_time_and_no_memory(tmp_path: Path) -> None:
    nodes = [node("Round", "w", "v0")]
    nodes += [node("Concat", f"v{place},v{place}", f"v{place + 1}", axis=0) for place in range(40)]
    nodes += [node("Slice", "v40,start,end", "v")]
    constants = {"w": W, "start": np.array([0]), "end": np.array([96])}
    path = built(tmp_path / "m.onnx", nodes, constants)
    (weight,) = (one for one in sources.read(path).weights if one.name == "w")
    assert "computes a constant from it" in weight.pinned
    assert name(weight.encoding) == "dense"


def test_a_constant_node_that_is_the_first_node(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["w"], value=tensor("", W))
    path = built(tmp_path / "m.onnx", [constant, node("Round", "w", "v")], {})
    assert [one.name for one in sources.read(path).weights] == ["w"]
    compressor.compress(path, tmp_path / "out")
    feeds = {"x": floats(5, 96)}
    assert np.array_equal(run(tmp_path / "out" / "model.onnx", feeds)[0], run(path, feeds)[0])


def test_a_value_that_more_is_computed_from_is_a_weight_that_may_change(tmp_path: Path) -> None:
    nodes = [node("Round", "w", "r"), node("MatMul", "x,r", "u"), node("Transpose", "r", "t"), node("Abs", "t", "a")]
    path = built(
        tmp_path / "m.onnx", [*nodes, node("MatMul", "u,a", "x3"), node("Round", "w2", "v")], {"w": W, "w2": W}
    )
    (weight,) = (one for one in sources.read(path).weights if one.name == "w")
    assert (weight.pinned, np.array_equal(decode(weight.encoding), np.round(W))) == ("", True)


HALF, OTHER = W.astype(np.float16), floats(96, 64).astype(np.float16)


@pytest.mark.parametrize(
    ("nodes", "values"),
    [
        pytest.param([node("Mul", "w,m", "v")], HALF * OTHER, id="one node"),
        pytest.param(
            [node("Transpose", "w", "a"), node("Mul", "a,n", "b"), node("Transpose", "b", "v")],
            HALF * OTHER,
            id="one among moves",
        ),
        pytest.param([node("Mul", "w,m", "a"), node("Add", "a,m", "v")], HALF, id="two"),
        pytest.param(
            [node("Mul", "w,m", "a"), node("Transpose", "a", "b"), node("Mul", "b,n", "v")],
            HALF,
            id="two around a move",
        ),
        pytest.param([node("Cast", "wide", "a", to=10), node("Mul", "a,m", "v")], W, id="rounded by a cast"),
    ],
)
def test_float16_is_rounded_where_a_graph_says_so(nodes: list[NodeProto], values: np.ndarray, tmp_path: Path) -> None:
    """ONNX Runtime's processor kernels do not: what more than one node computes stays computed."""
    read = {name for one in nodes for name in one.input}
    constants = {"w": HALF, "wide": W, "m": OTHER, "n": OTHER.T}
    path = built(tmp_path / "m.onnx", nodes, {name: one for name, one in constants.items() if name in read})
    found = {one.name: one for one in sources.read(path).weights}
    weight = found.get("w") or found["wide"]
    assert np.array_equal(decode(weight.encoding), values)


def test_codes_that_nothing_decodes_to_use(tmp_path: Path) -> None:
    case = CASES["quantized by tensor"]
    dead = [node("QuantizeLinear", "w,s,z", "q2"), node("DequantizeLinear", "q2,s,z", "unread")]
    path = built(tmp_path / "m.onnx", [*dead, node("Round", "u", "v")], {**case.constants, "u": W})
    assert {one.name for one in compressor.compress(path, tmp_path / "out").weights} >= {"w", "u"}


def test_the_baseline_of_a_weight_that_is_masked_after_it_is_decoded(tmp_path: Path) -> None:
    """Stored as values it could be folded with its mask, which the artefact's codes cannot be."""
    case = CASES["quantized by tensor"]
    decoded = [node("QuantizeLinear", "w,s,z", "q"), node("DequantizeLinear", "q,s,z", "d")]
    path = built(
        tmp_path / "m.onnx", [*decoded, node("Mul", "d,mask", "v")], case.constants | {"mask": MASK.astype(F32)}
    )
    made = compressor.compress(path, tmp_path / "out")
    compressor.write_baseline(path, tmp_path / "baseline")
    dense = compressor.inspect(tmp_path / "baseline").weights
    assert [(one.name, one.shape) for one in dense] == [(one.name, one.shape) for one in made.weights]
    values = {one.name: decode(one.encoding) for one in sources.read(tmp_path / "baseline" / "model.onnx").weights}
    assert np.array_equal(values["w"], decode(next(o.encoding for o in sources.read(path).weights if o.name == "w")))
