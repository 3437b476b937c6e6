"""ONNX files as a source: plain weights, names, graphs, and faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor import sources
from compressor.arrays import MappedArray, NDArray
from compressor.encodings import Dense, Sparse, decode
from compressor.errors import CompressorError, UsageError
from compressor.formats.onnx.dtypes import DTYPES
from tests.sources.onnx.models import RNG, check_same, decoded, floats, run, save, tensor, value


def test_plain_initializers_are_dense_weights_in_graph_order(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "fc.weight"], ["h"]),
        helper.make_node("Add", ["h", "fc.bias"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["y"]),
    ]
    weights = [
        tensor("fc.weight", floats(32, 16)),
        tensor("shape", np.array([1, -1], np.int64)),
        tensor("fc.bias", floats(16)),
    ]
    path = save(
        tmp_path / "m.onnx", nodes, weights, inputs=[value("x", [4, 32])], outputs=[value("y", [1, 64])], opset=13
    )
    found = check_same(path, {"x": floats(4, 32)})
    assert list(found) == ["fc.weight", "fc.bias"]
    assert [weight.uses for weight in found.values()] == [("MatMul",), ("Add",)]
    assert all(isinstance(weight.encoding, Dense) and not weight.pinned for weight in found.values())
    shape = sources.read(path).graph.graph.initializer[1]
    assert numpy_helper.to_array(shape).tolist() == [1, -1]


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_float_types(tmp_path: Path, kind: str) -> None:
    values = floats(40, 40).astype(kind if kind != "bfloat16" else DTYPES[TensorProto.BFLOAT16])
    stored = tensor("w", values)
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT)],
        [stored],
        outputs=[value("y", [40, 40])],
    )
    np.testing.assert_array_equal(decode(check_same(path)["w"].encoding), values)


def test_external_data(tmp_path: Path) -> None:
    values = floats(64, 64)
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Neg", ["w"], ["y"])],
        [tensor("w", values)],
        outputs=[value("y", [64, 64])],
    )
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.data")
    weight = check_same(path)["w"]
    assert isinstance(weight.encoding, Dense)
    assert isinstance(weight.encoding.values, MappedArray)
    assert weight.encoding.values.path == tmp_path / "m.data"
    np.testing.assert_array_equal(decode(weight.encoding), values)


def test_small_constants_stay_and_large_ones_become_weights(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["large"], value=tensor("", floats(32, 16))),
        helper.make_node("Constant", [], ["small"], value=tensor("", floats(16))),
        helper.make_node("MatMul", ["x", "large"], ["h"]),
        helper.make_node("Add", ["h", "small"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, inputs=[value("x", [4, 32])], outputs=[value("y", [4, 16])])
    assert list(check_same(path, {"x": floats(4, 32)})) == ["large"]
    assert [node.op_type for node in sources.read(path).graph.graph.node] == ["Constant", "MatMul", "Add"]


def test_a_weight_under_several_names_is_one(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["w"], ["tied"]),
        helper.make_node("Identity", ["tied"], ["again"]),
        helper.make_node("Identity", ["w"], ["copy"]),
        helper.make_node("MatMul", ["x", "again"], ["h"]),
        helper.make_node("Gemm", ["h", "w"], ["y"]),
    ]
    outputs = [value("y", [4, 32]), value("copy", [32, 32])]
    path = save(
        tmp_path / "m.onnx", nodes, [tensor("w", floats(32, 32))], inputs=[value("x", [4, 32])], outputs=outputs
    )
    found = check_same(path, {"x": floats(4, 32)})
    assert {name: weight.uses for name, weight in found.items()} == {"w": ("Gemm", "Identity", "MatMul")}


def test_initializers_that_are_inputs_or_outputs_are_pinned(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        [tensor("w", floats(32, 32)), tensor("b", floats(32))],
        inputs=[value("x", [4, 32]), value("w", [32, 32])],
        outputs=[value("y", [4, 32]), value("b", [32])],
    )
    found = check_same(path, {"x": floats(4, 32)})
    assert "input of the graph" in found["w"].pinned
    assert "output of the graph" in found["b"].pinned


def test_before_ir_version_4_an_input_is_no_override(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("w", floats(32, 32))],
        inputs=[value("x", [4, 32]), value("w", [32, 32])],
        outputs=[value("y", [4, 32])],
        opset=13,
    )
    old = onnx.load(path)
    old.ir_version = 3
    onnx.save(old, path)
    assert check_same(path, {"x": floats(4, 32)})["w"].pinned == ""


def branch(name: str, weights: list[onnx.TensorProto], nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [value(output, [4, 32])], weights)


def test_subgraphs_with_repeated_and_shadowing_names(tmp_path: Path) -> None:
    inner = branch("inner", [tensor("w", floats(32, 32))], [helper.make_node("MatMul", ["x", "w"], ["r"])], "r")
    deepest = branch(
        "deepest",
        [],
        [
            helper.make_node("Constant", [], ["c"], value=tensor("", floats(32, 32))),
            helper.make_node("MatMul", ["x", "c"], ["m"]),
            helper.make_node("Add", ["m", "b"], ["r"]),
        ],
        "r",
    )
    nested = branch(
        "nested",
        [tensor("w", floats(32, 32)), tensor("b", floats(32))],
        [
            helper.make_node("If", ["flag"], ["z"], then_branch=inner, else_branch=deepest),
            helper.make_node("Gemm", ["z", "w", "b"], ["r"]),
        ],
        "r",
    )
    other = branch("other", [tensor("w_1", floats(4, 32))], [helper.make_node("Add", ["x", "w_1"], ["r"])], "r")
    path = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("If", ["flag"], ["h"], then_branch=nested, else_branch=other),
            helper.make_node("MatMul", ["h", "w"], ["y"]),
        ],
        [tensor("w", floats(32, 32))],
        inputs=[value("x", [4, 32]), value("flag", [], TensorProto.BOOL)],
        outputs=[value("y", [4, 32])],
    )
    x = floats(4, 32)
    for flag in (True, False):
        found = check_same(path, {"x": x, "flag": np.array(flag)})
        assert len(found) == 6
        assert {"w", "b", "c", "w_1"} <= set(found)


def test_duplicate_names_in_one_graph_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, inputs=[value("x", [4])], outputs=[value("y", [4])])
    with pytest.raises(CompressorError, match="same name: y"):
        sources.read(path)


@pytest.mark.parametrize("constants", [0, 1, 2])
@pytest.mark.parametrize("size", [2, 64])
def test_constants_that_are_there_twice_are_one_if_they_are_the_same(tmp_path: Path, constants: int, size: int) -> None:
    """Which one of others ONNX Runtime takes depends on their size, so these are refused."""
    one, other = np.round(floats(size, size)), np.round(floats(size, size))

    def saved(values: list[np.ndarray]) -> Path:
        made = [helper.make_node("Constant", [], ["w"], value=tensor("", array)) for array in values[:constants]]
        first, second = helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])
        stored = [tensor("w", array) for array in values[constants:]]
        ends = {"inputs": [value("x", [1, size])], "outputs": [value("y", [1, size])]}
        return save(tmp_path / "m.onnx", [*made[:1], first, *made[1:], second], stored, **ends)

    with pytest.raises(CompressorError, match="several values have the same name: w"):
        sources.read(saved([one, other]))
    x = np.round(floats(1, size))
    np.testing.assert_array_equal(run(decoded(sources.read(saved([one, one]))), {"x": x})[0], x @ one @ one)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("as_constant", [True, False])
def test_sparse_initializer(tmp_path: Path, *, linear: bool, as_constant: bool) -> None:
    dense = floats(32, 40) * (RNG.random((32, 40)) < 0.1)
    places = np.flatnonzero(dense) if linear else np.argwhere(dense)
    sparse = helper.make_sparse_tensor(tensor("w", dense[dense != 0]), tensor("", places.astype(np.int64)), [32, 40])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    more: dict[str, Any] = {} if as_constant else {"sparse_initializer": [sparse]}
    if as_constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    path = save(tmp_path / "m.onnx", nodes, inputs=[value("x", [4, 32])], outputs=[value("y", [4, 40])], **more)
    encoding = check_same(path, {"x": floats(4, 32)})["w"].encoding
    assert isinstance(encoding, Sparse)
    np.testing.assert_array_equal(decode(encoding), dense)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 5], "ascending indices inside"),
        ([1, 1], "ascending"),
        ([-1, 1], "ascending"),
        ([1], "expected int64 indices"),
    ],
)
def test_impossible_sparse_initializers_are_refused(tmp_path: Path, indices: list[int], message: str) -> None:
    values, places = tensor("w", floats(2)), tensor("", np.array(indices, np.int64))
    sparse = helper.make_sparse_tensor(values, places, [5])
    nodes = [helper.make_node("Neg", ["w"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, outputs=[value("y", [5])], sparse_initializer=[sparse])
    with pytest.raises(CompressorError, match=message):
        sources.read(path)


def test_value_info_of_what_changed_is_dropped(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["w"], ["copy"]), helper.make_node("Neg", ["copy"], ["h"])]
    nodes.append(helper.make_node("Neg", ["h"], ["y"]))
    path = save(
        tmp_path / "m.onnx",
        nodes,
        [tensor("w", floats(4, 4))],
        outputs=[value("y", [4, 4])],
        value_info=[value("w", [4, 4]), value("copy", [4, 4]), value("h", [4, 4])],
    )
    check_same(path)
    assert [info.name for info in sources.read(path).graph.graph.value_info] == ["h"]


def test_versions_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["w"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, [tensor("w", floats(4))], outputs=[value("y", [4])])
    model = onnx.load(path)
    model.opset_import[0].version, model.ir_version = 21, 99
    onnx.save(model, path)
    with pytest.raises(CompressorError, match=r"IR version 99.*upgrade"):
        sources.read(path)


def test_where_models_are_looked_for(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["w"], ["y"])]
    path = save(tmp_path / "model.onnx", nodes, [tensor("w", floats(4))], outputs=[value("y", [4])])
    assert sources.read(tmp_path).path == path
    (tmp_path / "link.onnx").symlink_to(path)
    assert sources.read(tmp_path / "link.onnx").path == path
    (tmp_path / "empty").mkdir()
    with pytest.raises(CompressorError, match=r"a directory without .*model\.onnx"):
        sources.read(tmp_path / "empty")
    for name in ("m.onxx", "m.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match=r"unknown kind of model file '\.onxx'\. Did you mean '\.onnx'\?"):
        sources.read(tmp_path / "m.onxx")
    with pytest.raises(CompressorError, match=r"first run `compressor export .*m\.pt DIRECTORY`"):
        sources.read(tmp_path / "m.pt")
    with pytest.raises(CompressorError, match=r"missing\.onnx: no such file or directory"):
        sources.read(tmp_path / "missing.onnx")


def test_mutated_files_end_in_a_model_or_an_error(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor("", floats(32, 16))),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["w"], axis=0, block_size=8),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Cast", ["indices"], ["places"], to=TensorProto.INT64),
        helper.make_node("Gather", ["lut", "places"], ["p"]),
        helper.make_node("MatMul", ["h", "p"], ["m"]),
        helper.make_node("Add", ["m", "s"], ["y"]),
    ]
    sparse = helper.make_sparse_tensor(tensor("s", floats(2)), tensor("", np.array([1, 5], np.int64)), [16])
    weights = [
        tensor("codes", RNG.integers(-8, 8, (32, 48)).astype(np.int8)),
        tensor("scale", floats(4, 48)),
        tensor("zero", np.ones((4, 48), np.int8)),
        tensor("indices", RNG.integers(0, 4, (48, 32)).astype(np.uint8)),
        tensor("lut", floats(4)),
    ]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        weights,
        inputs=[value("x", [4, 32])],
        outputs=[value("y", [4, 32])],
        sparse_initializer=[sparse],
    )
    content = path.read_bytes()
    read, refusals = 0, []
    for trial in range(300):
        changed = bytearray(content)
        if trial % 3 == 0:
            del changed[int(RNG.integers(len(content))) :]
        for _ in range(trial % 3):
            # where the structure is, not in the data of the tensors alone
            place = int(RNG.integers(len(content)))
            changed[place if trial % 2 else place % 900] = int(RNG.integers(256))
        path.write_bytes(changed)
        try:
            for weight in sources.read(path).weights:
                decode(weight.encoding) if isinstance(weight.encoding, Dense) else None
            read += 1
        except CompressorError as error:
            refusals.append(str(error))
    assert read > 30
    assert len(refusals) > 100
    assert not [message for message in refusals if "\n" in message]


def test_constants_that_are_no_weights_keep_their_data(tmp_path: Path) -> None:
    places = np.arange(500)
    body = helper.make_graph(
        [helper.make_node("Gather", ["w", "inner"], ["r"])], "body", [], [value("r", [500])], [tensor("inner", places)]
    )
    nodes = [
        helper.make_node("Constant", [], ["constant"], value=tensor("", places)),
        helper.make_node("Gather", ["w", "constant"], ["one"]),
        helper.make_node("Gather", ["w", "outer"], ["two"]),
        helper.make_node("If", ["flag"], ["three"], then_branch=body, else_branch=body),
        helper.make_node("Sum", ["one", "two", "three"], ["y"]),
    ]
    stored = [tensor("w", floats(600)), tensor("outer", places), tensor("unread", floats(600))]
    flag = value("flag", [], TensorProto.BOOL)
    path = save(tmp_path / "m.onnx", nodes, stored, inputs=[flag], outputs=[value("y", [500])])
    assert list(check_same(path, {"flag": np.array(True)})) == ["w"]
    normal = sources.read(path).graph
    assert [one.name for one in normal.graph.initializer] == ["w", "outer"]
    assert normal.graph.initializer[1].external_data[0].value == "m.onnx"
    assert len(normal.graph.node[3].attribute) == 2
    for branch in normal.graph.node[3].attribute:
        assert branch.g.initializer[0].raw_data == places.tobytes()
    assert normal.graph.node[0].attribute[0].t.raw_data == places.tobytes()


def with_functions(path: Path, functions: list[onnx.FunctionProto], calls: list[onnx.NodeProto]) -> Path:
    save(path, calls, inputs=[value("x", [4, 128])], outputs=[value("y", [4, 128])])
    model = onnx.load(path)
    model.functions.extend(functions)
    model.opset_import.add(domain="own", version=1)
    onnx.save(model, path)
    return path


def function(name: str, nodes: list[onnx.NodeProto], opset: int = 21) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_function("own", name, ["a"], ["b"], nodes, imports)


def call(name: str, read: str, made: str) -> onnx.NodeProto:
    return helper.make_node(name, [read], [made], domain="own")


def palette_in_function(opset: int, *nodes: onnx.NodeProto) -> tuple[NDArray, onnx.FunctionProto]:
    """A palette of 16 values, and a function that multiplies by it before `nodes`."""
    values = floats(16)[RNG.integers(0, 16, (128, 128))]
    constant = helper.make_node("Constant", [], ["w"], value=tensor("", values))
    product = helper.make_node("MatMul", ["a", "w"], ["m" if nodes else "b"])
    return values, function("inner", [constant, product, *nodes], opset)


def test_constants_of_functions_are_weights_one_for_all_calls(tmp_path: Path) -> None:
    """A function that another one and the graph call."""
    values, inner = palette_in_function(21)
    outer = function("outer", [call("inner", "a", "h"), helper.make_node("Neg", ["h"], ["b"])])
    path = with_functions(tmp_path / "m.onnx", [inner, outer], [call("inner", "x", "h"), call("outer", "h", "y")])
    (found,) = check_same(path, {"x": floats(4, 128)}).values()
    np.testing.assert_array_equal(decode(found.encoding), values)
    assert (found.uses, found.pinned) == (("MatMul",), "")
    assert isinstance(found.encoding, Dense)
    assert isinstance(found.encoding.values, MappedArray)
    assert not sources.read(path).graph.functions


def test_functions_of_another_opset_are_converted(tmp_path: Path) -> None:
    values, inner = palette_in_function(18)
    path = with_functions(tmp_path / "m.onnx", [inner], [call("inner", "x", "y")])
    (found,) = check_same(path, {"x": floats(4, 128)}).values()
    np.testing.assert_array_equal(decode(found.encoding), values)


def test_operators_that_only_functions_use_are_imported(tmp_path: Path) -> None:
    gelu = helper.make_node("FastGelu", ["m"], ["b"], domain="com.microsoft")
    path = with_functions(tmp_path / "m.onnx", [palette_in_function(21, gelu)[1]], [call("inner", "x", "y")])
    assert len(check_same(path, {"x": floats(4, 128)})) == 1


def test_functions_that_cannot_be_inlined_are_refused_where_constants_are_in_them(tmp_path: Path) -> None:
    """A conversion needs the type of what a function reads, which ONNX does not infer through another one."""
    stays = function("f", [helper.make_node("Neg", ["a"], ["b"])], 18)
    path = with_functions(tmp_path / "m.onnx", [stays], [call("f", "x", "h"), call("f", "h", "y")])
    assert check_same(path, {"x": floats(4, 128)}) == {}
    assert [made.name for made in sources.read(path).graph.functions] == ["f"]
    with_functions(path, [palette_in_function(18)[1]], [call("inner", "x", "h"), call("inner", "h", "y")])
    with pytest.raises(CompressorError, match=r"m\.onnx: the function 'inner' of 'own' holds constants.*Export"):
        sources.read(path)


def test_the_files_of_a_model_are_those_that_its_tensors_lie_in(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor("", floats(32, 32))),
        helper.make_node("Add", ["w", "c"], ["h"]),
        helper.make_node("Add", ["h", "v"], ["y"]),
    ]
    stored = [tensor("w", floats(32, 32)), tensor("v", floats(32, 32))]
    path = save(tmp_path / "m.onnx", nodes, stored, outputs=[value("y", [32, 32])])
    assert sources.read(path).files == (path,)
    model = onnx.load(path)
    for one, location in zip(model.graph.initializer, ("weights/w.bin", "shared.bin"), strict=True):
        onnx.external_data_helper.set_external_data(one, location)
    onnx.external_data_helper.set_external_data(model.graph.node[0].attribute[0].t, "./shared.bin")
    (tmp_path / "weights").mkdir()
    for name, one in (("weights/w.bin", stored[0]), ("shared.bin", stored[1])):
        (tmp_path / name).write_bytes(one.raw_data)
    for one in (*model.graph.initializer, model.graph.node[0].attribute[0].t):
        one.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    (tmp_path / "m.onnx.other").write_bytes(b"beside it")
    assert sources.read(path).files == (path, tmp_path / "weights/w.bin", tmp_path / "shared.bin")
    assert len(sources.read(path).weights) == 3


def test_a_file_of_many_tensors_is_looked_up_as_often_as_one_of_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looks(count: int) -> int:
        nodes = [helper.make_node("MatMul", [f"h{at}", f"w{at}"], [f"h{at + 1}"]) for at in range(count)]
        weights = [tensor(f"w{at}", floats(32, 32)) for at in range(count)]
        inputs, outputs = [value("h0", [4, 32])], [value(f"h{count}", [4, 32])]
        path = save(tmp_path / f"{count}.onnx", nodes, weights, inputs=inputs, outputs=outputs, opset=13)
        asked: list[Path] = []

        def looked(self: Path, **given: bool) -> object:
            asked.append(self)
            return stat(self, **given)

        monkeypatch.setattr(Path, "stat", looked)
        assert len(sources.read(path).weights) == count
        monkeypatch.undo()
        return len(asked)

    stat = Path.stat
    assert looks(100) == looks(3)
