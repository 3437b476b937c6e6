"""Where 0.0 may stand for -0.0: not where a reader tells them apart, on either family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import compressor
from compressor import sources
from compressor.compilation.stream import InexactError
from compressor.compilation.verify import verify
from compressor.encodings import Dense, decode
from compressor.formats.negative_zeros import Reader, shown_by
from compressor.recognition.schemes import EXACT
from compressor.weight import Weight

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((64, 64)).astype(np.float32)
WEIGHT *= RNG.random((64, 64)) < 0.25  # as pruning leaves it: half of the zeros are negative


def model(path: Path, nodes: list[onnx.NodeProto], weight: np.ndarray = WEIGHT) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.array(2, np.float32), "two"),
            numpy_helper.from_array(np.array(-1, np.float32), "minus_one"),
            numpy_helper.from_array(np.array([64, 64]), "shape"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def node(operator: str, *names: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, names[:-1], names[-1:], **attributes)


TRANSPOSED = node("Transpose", "w", "t", perm=[1, 0])


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([node("MatMul", "x", "w", "y")], ""),
        ([TRANSPOSED, node("Gemm", "x", "t", "y")], ""),
        ([node("Reshape", "w", "shape", "t"), node("MatMul", "x", "t", "y")], ""),
        ([node("Pow", "w", "two", "t"), node("Add", "x", "t", "y")], ""),
        ([node("Div", "w", "two", "t"), node("Add", "x", "t", "y")], ""),
        ([node("Cast", "w", "t", to=7), node("Cast", "t", "y", to=1)], ""),
        ([node("Div", "x", "w", "y")], "Div 'y'"),
        ([TRANSPOSED, node("Reciprocal", "t", "r"), node("MatMul", "x", "r", "y")], "Reciprocal 'r'"),
        ([node("Pow", "w", "minus_one", "t"), node("Add", "x", "t", "y")], "Pow 't'"),
        ([node("Identity", "w", "y")], "an output of the graph"),
        ([node("Einsum", "w", "y", equation="ab->ba")], "an output of the graph"),
        ([node("Einsum", "x", "w", "y", equation="ab,bc->ac")], ""),
        ([node("Mul", "x", "w", "y")], "an output of the graph"),
        ([node("MatMul", "x", "w", "p"), node("Div", "p", "w", "y")], "Div 'y'"),
        ([node("NobodyKnows", "x", "w", "y", domain="foreign")], "NobodyKnows 'y'"),
    ],
)
def test_readers_are_followed_to_what_shows_the_sign(nodes: list[onnx.NodeProto], told: str, tmp_path: Path) -> None:
    weights = {weight.name: weight for weight in sources.read(model(tmp_path / "m.onnx", nodes)).weights}
    assert weights["w"].signed == told


@pytest.mark.parametrize(
    "operator", "CumSum GridSample MaxUnpool Resize RoiAlign TensorScatter Transpose Upsample".split()
)
def test_what_moves_or_interpolates_values_carries_the_sign_on(operator: str, tmp_path: Path) -> None:
    moved = node(operator, "w", "x", "t")
    for last, told in (("MatMul", ""), ("Div", "Div 'y'")):
        made = model(tmp_path / "m.onnx", [moved, node(last, "x", "t", "y")])
        assert {weight.name: weight.signed for weight in sources.read(made).weights}["w"] == told


def test_a_cycle_of_carriers_ends() -> None:
    readers = {"a": [Reader("b", "carries", ["b"])], "b": [Reader("a", "carries", ["a"])]}
    assert shown_by("a", lambda name: readers.get(name, ()), lambda _: False, {}) == ""


@pytest.mark.parametrize("told", ["an output of the graph", ""])
def test_no_value_is_followed_twice(told: str) -> None:
    """A chain of weights, each of which carries the sign on: asked from either end."""
    asked: list[str] = []

    def readers(name: str) -> list[Reader]:
        asked.append(name)
        return [Reader("Mul", "carries", [f"{int(name) + 1}"])] if int(name) < 100 else []

    known: dict[str, str] = {}
    for name in map(str, (*range(50), *range(99, 49, -1))):
        assert shown_by(name, readers, lambda value: bool(told) and value == "100", known) == told
    assert len(asked) == 101


@pytest.mark.parametrize(
    ("nodes", "weight", "encoding"),
    [
        ([node("MatMul", "x", "w", "y")], WEIGHT, "sparse"),
        ([node("Div", "x", "w", "y")], WEIGHT, "dense"),
        ([node("Div", "x", "w", "y")], WEIGHT + np.float32(0.0), "sparse"),
    ],
)
def test_a_form_with_one_zero_is_refused_where_two_are_told_apart(
    nodes: list[onnx.NodeProto], weight: np.ndarray, encoding: str, tmp_path: Path
) -> None:
    made = compressor.compress(model(tmp_path / "m.onnx", nodes, weight), tmp_path / "out")
    facts = {fact.name: fact for fact in made.weights}["w"]
    assert facts.encoding == encoding
    (stored,) = (one for one in sources.read(tmp_path / "out").weights if one.name == "w")
    if encoding == "dense":
        assert facts.evidence == "it holds -0.0, which Div 'y' tells from 0.0: smaller forms have one zero"
        assert decode(stored.encoding).tobytes() == weight.tobytes()


def test_verification_tells_the_zeros_apart_where_the_graph_does() -> None:
    source, stored = (Dense(np.array([[1, zero]], np.float32)) for zero in (-0.0, 0.0))
    verify(Weight("w", source), stored, EXACT)
    with pytest.raises(InexactError, match="1 values read back from dense differ"):
        verify(Weight("w", source, signed="Div 'y'"), stored, EXACT)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([TRANSPOSED, node("MatMul", "x", "t", "y")], False),
        ([node("Div", "x", "w", "y")], True),
        ([TRANSPOSED, node("Mul", "x", "t", "y")], True),
    ],
)
def test_core_ml_programs_are_followed_too(nodes: list[onnx.NodeProto], told: bool, tmp_path: Path) -> None:  # noqa: FBT001
    made = compressor.compress(model(tmp_path / "m.onnx", nodes), tmp_path / "out", target="iOS18")
    (facts,) = (fact for fact in made.weights if fact.shape == (64, 64))
    assert facts.encoding == ("dense" if told else "sparse")
    read = sources.read(tmp_path / "out" / "model.mlpackage")
    assert [bool(weight.signed) for weight in read.weights if weight.name == facts.name] == [told]
