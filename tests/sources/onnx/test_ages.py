"""Models of every age: old opsets and files, the newest ones, and those that import none of ONNX's own operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import compressor
from compressor import sources
from compressor.errors import CompressorError
from tests.sources.onnx.models import check_same, floats, run, save, tensor, value

FEW = np.eye(2, 64, dtype=np.float32)
"""An input whose products with whole numbers are exact in any order of summation."""


def palette(entries: int, *shape: int) -> np.ndarray:
    """Whole numbers from 1 to `entries`."""
    return np.random.default_rng(entries).integers(1, entries + 1, shape).astype(np.float32)


def old(path: Path, opset: int, weight: np.ndarray, *, ir: int = 3, operator: str = "Softmax") -> Path:
    """What older exporters wrote: every initializer an input too, axes as attributes, weights in `Constant` nodes."""
    nodes = [
        helper.make_node("Constant", [], ["k"], value=tensor("k", weight.T)),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Unsqueeze", ["h"], ["u"], axes=[0]),
        helper.make_node("Squeeze", ["u"], ["s"], axes=[0]),
        helper.make_node("Dropout", ["s"], ["d"], ratio=0.5)
        if opset < 12
        else helper.make_node("Dropout", ["s"], ["d"]),
        helper.make_node("MatMul", ["d", "k"], ["m"]),
        helper.make_node(operator, ["m"], ["y"], axis=1),
    ]
    inputs = [value("x", [2, 64]), *([value("w", weight.shape)] if ir < 4 else [])]
    save(path, nodes, [tensor("w", weight)], inputs=inputs, outputs=[value("y", [2, 64])], opset=opset)
    model = onnx.load(path)
    model.ir_version = ir
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("opset", range(7, 13))
@pytest.mark.parametrize("entries", [7, 16, 0])
def test_an_old_model_is_converted_as_far_as_decoding_needs_it(opset: int, entries: int, tmp_path: Path) -> None:
    weight = palette(entries, 64, 4096) if entries else floats(64, 4096)
    path = old(tmp_path / "m.onnx", opset, weight)
    made = compressor.compress(path, tmp_path / "out")
    assert {found.encoding for found in made.weights} == {{7: "palettized3", 16: "palettized4", 0: "dense"}[entries]}
    written = onnx.load(tmp_path / "out/model.onnx")
    assert written.opset_import[0].version == {7: 18, 16: 13, 0: opset}[entries]
    feeds = {"x": FEW}
    np.testing.assert_array_equal(run(tmp_path / "out/model.onnx", feeds)[0], run(path, feeds)[0])


def test_an_initializer_that_a_caller_may_override_stays(tmp_path: Path) -> None:
    path = old(tmp_path / "m.onnx", 9, palette(4, 64, 4096), ir=3)
    model = onnx.load(path)
    model.ir_version = 4
    onnx.save(model, path)
    found = {weight.name: weight for weight in sources.read(path).weights}
    assert found["w"].pinned == "it is an input of the graph too: a caller may override it"
    assert not found["k"].pinned
    made = compressor.compress(path, tmp_path / "out")
    assert [weight.encoding for weight in made.weights] == ["dense", "palettized2"]
    feeds = {"x": FEW, "w": palette(3, 64, 4096)}
    np.testing.assert_array_equal(run(tmp_path / "out/model.onnx", feeds)[0], run(path, feeds)[0])


@pytest.mark.parametrize(("entries", "encoding"), [(np.arange(7), "int4"), (np.arange(7) ** 1.5, "palettized4")])
def test_a_form_that_needs_what_the_model_cannot_be_converted_to_is_refused(
    tmp_path: Path, entries: np.ndarray, encoding: str
) -> None:
    """ONNX Runtime has a LayerNormalization before ONNX has it, which no converter knows."""
    weight = entries.astype(np.float32)[np.random.default_rng(0).integers(0, 7, (64, 4096))]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("LayerNormalization", ["h", "g"], ["y"], axis=-1),
    ]
    stored = [tensor("w", weight), tensor("g", floats(4096))]
    path = save(
        tmp_path / "m.onnx", nodes, stored, inputs=[value("x", [2, 64])], outputs=[value("y", [2, 4096])], opset=13
    )
    made = compressor.compress(path, tmp_path / "out")
    (found,) = (one for one in made.weights if one.name == "w")
    assert found.encoding == encoding
    refused = dict(found.rejected)["palettized3"]
    assert refused.startswith("the model has opset 13, decoding needs 18, and it cannot be converted: ")
    assert onnx.load(tmp_path / "out/model.onnx").opset_import[0].version == 13
    feeds = {"x": FEW}
    np.testing.assert_array_equal(run(tmp_path / "out/model.onnx", feeds)[0], run(path, feeds)[0])


def test_models_without_operators_of_onnx(tmp_path: Path) -> None:
    """Trees and the like of `ai.onnx.ml`, and products with packed codes: the latter become operators of ONNX."""
    nodes = [helper.make_node("Normalizer", ["x"], ["y"], domain="ai.onnx.ml", norm="L2")]
    graph = helper.make_graph(nodes, "graph", [value("x", [2, 64])], [value("y", [2, 64])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    compressor.compress(tmp_path / "m.onnx", tmp_path / "out")
    feeds = {"x": FEW}
    np.testing.assert_array_equal(run(tmp_path / "out/model.onnx", feeds)[0], run(tmp_path / "m.onnx", feeds)[0])

    codes, scales = tensor("q", np.zeros((64, 2, 16), np.uint8) + 0x5A), tensor("s", np.abs(floats(128)))
    attributes = {"N": 64, "K": 64, "bits": 4, "block_size": 32}
    node = helper.make_node("MatMulNBits", ["x", "q", "s"], ["y"], domain="com.microsoft", **attributes)
    graph = helper.make_graph([node], "graph", [value("x", [2, 64])], [value("y", [2, 64])], [codes, scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("com.microsoft", 1)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    check_same(tmp_path / "m.onnx", feeds, exact=False)
    compressor.compress(tmp_path / "m.onnx", tmp_path / "packed")
    assert onnxruntime.InferenceSession(tmp_path / "packed/model.onnx").run(None, feeds)[0].shape == (2, 64)

    graph.node.append(helper.make_node("Relu", ["y"], ["z"]))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("com.microsoft", 1)]), tmp_path / "m.onnx")
    with pytest.raises(CompressorError, match="imports no opset of ONNX's own operators, of which Relu is one, only"):
        sources.read(tmp_path / "m.onnx")


def test_functions_of_an_older_opset_are_inlined_as_they_mean(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    body = [
        helper.make_node("Constant", [], ["w"], value=tensor("w", palette(4, 64, 64))),
        helper.make_node("MatMul", ["a", "w"], ["h"]),
        helper.make_node("Unsqueeze", ["h"], ["b"], axes=[0]),
    ]
    made = helper.make_function("f", "project", ["a"], ["b"], body, [helper.make_opsetid("", 11)])
    node = helper.make_node("project", ["x"], ["y"], domain="f")
    graph = helper.make_graph([node], "graph", [value("x", [2, 64])], [value("y", [1, 2, 64])])
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[made], ir_version=8), tmp_path / "m.onnx")
    compressor.compress(tmp_path / "m.onnx", tmp_path / "out")
    x = floats(2, 64)
    (found,) = run(tmp_path / "out/model.onnx", {"x": x})
    np.testing.assert_allclose(found, (x @ palette(4, 64, 64))[None], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "INT2", "UINT2"])
def test_initializers_of_few_bits(kind: str, tmp_path: Path) -> None:
    """Codes that nothing dequantizes stay as they are, those that something does are a weight."""
    opset = 25 if "2" in kind else 21
    width = 2 if "2" in kind else 4
    packed = np.arange(64 * 64 * width // 8).astype(np.uint8).tobytes()
    stored = TensorProto(name="q", data_type=getattr(TensorProto, kind), dims=[64, 64], raw_data=packed)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    inputs, outputs = [value("x", [2, 64])], [value("y", [2, 64])]
    initializers = [stored, tensor("s", np.float32(0.5))]
    path = save(tmp_path / "m.onnx", nodes, initializers, inputs=inputs, outputs=outputs, opset=opset)
    assert set(check_same(path, {"x": floats(2, 64)})) == {"q"}
    nodes = [helper.make_node("Cast", ["q"], ["w"], to=TensorProto.FLOAT), nodes[1]]
    path = save(tmp_path / "m.onnx", nodes, [stored], inputs=inputs, outputs=outputs, opset=opset)
    (weight,) = check_same(path, {"x": floats(2, 64)}).values()
    assert weight.pinned == f"{kind.lower()} data that Cast reads"
    compressor.compress(path, tmp_path / "out")
    feeds = {"x": FEW}
    np.testing.assert_array_equal(run(tmp_path / "out/model.onnx", feeds)[0], run(path, feeds)[0])
