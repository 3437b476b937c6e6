"""Graphs that no exporter writes: cycles, depth, expansion, declared sizes. Each is read or refused in a line, soon."""

from __future__ import annotations

import csv
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compressor import sources
from compressor.errors import CompressorError
from compressor.sources.onnx.scopes import Index
from tests.faults.commands import chain, done, refused, weights
from tests.sources.onnx.models import floats, save, tensor, value

CODES = tensor("c", (np.arange(4096) % 16).astype(np.int8).reshape(64, 64))
SCALE = tensor("s", np.float32(0.5))


def cast(name: str, to: str, kind: int = TensorProto.FLOAT) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [to], to=kind)


def multiplied(nodes: list[onnx.NodeProto], last: str) -> Path:
    """`nodes` between constant codes and the product with the value `last`."""
    nodes = [*nodes, helper.make_node("MatMul", ["x", last], ["y"])]
    return save(Path("m.onnx"), nodes, [CODES, SCALE], inputs=[value("x", [1, 64])], outputs=[value("y", [1, 64])])


CYCLES: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "Cast node 'a'": ([cast("a", "a"), helper.make_node("Mul", ["a", "s"], ["m"])], "m"),
    "Cast node 'b', the Cast node 'a'": (
        [cast("b", "a"), cast("a", "b"), helper.make_node("Mul", ["a", "s"], ["m"])],
        "m",
    ),
    "DequantizeLinear node 'q'": ([helper.make_node("DequantizeLinear", ["q", "s"], ["q"])], "q"),
    "Mul node 'm', the Cast node 'a'": ([cast("m", "a"), helper.make_node("Mul", ["a", "s"], ["m"])], "m"),
    "Gather node 'i'": ([helper.make_node("Gather", ["c", "i"], ["i"])], "i"),
    "Identity node 'i'": ([helper.make_node("Identity", ["i"], ["i"])], "i"),
}


@pytest.mark.parametrize("command", ["detect", "inspect", "compress"])
@pytest.mark.parametrize("nodes", CYCLES)
def test_a_cycle_is_named(nodes: str, command: str) -> None:
    multiplied(*CYCLES[nodes])
    says = f"m.onnx: graph 'graph' has a cycle: the {nodes}."
    refused(command, "m.onnx", *(["out"] if command == "compress" else []), status=1, says=says)


def test_a_cycle_through_a_subgraph_is_named() -> None:
    body = helper.make_graph([helper.make_node("Neg", ["h"], ["r"])], "body", [], [value("r", [64])])
    nodes = [helper.make_node("If", ["flag"], ["h"], then_branch=body, else_branch=body, name="either")]
    inputs, outputs = [value("flag", [], TensorProto.BOOL)], [value("h", [64])]
    save(Path("m.onnx"), nodes, inputs=inputs, outputs=outputs)
    refused("detect", "m.onnx", status=1, says="has a cycle: the If node 'either'.")


def test_long_cycles_are_abridged() -> None:
    multiplied([cast(f"k{(place + 1) % 900}", f"k{place}") for place in range(900)], "k0")
    refused("detect", "m.onnx", status=1, says="the Cast node 'k896' and 896 more.")


@pytest.mark.parametrize(
    ("nodes", "output", "says"),
    [
        ([helper.make_node("Neg", ["w"], ["y"], name="n")], "y", "the Neg node 'n' reads 'w', which nothing defines"),
        ([helper.make_node("Neg", ["x"], ["z"])], "y", "it gives 'y', which nothing defines"),
    ],
)
def test_what_nothing_defines_is_named(nodes: list[onnx.NodeProto], output: str, says: str) -> None:
    save(Path("m.onnx"), nodes, inputs=[value("x", [4])], outputs=[value(output, [4])])
    for target in ("onnxruntime", "iOS17"):
        refused("compress", "m.onnx", "out", "--target", target, status=1, says=f"m.onnx: graph 'graph': {says}.")


def alternating(count: int) -> tuple[list[onnx.NodeProto], str]:
    nodes, last = [], "c"
    for place in range(count):
        nodes += [cast(last, f"k{place}"), helper.make_node("Mul", [f"k{place}", "s"], [f"m{place}"])]
        last = f"m{place}"
    return nodes, last


def branching(count: int) -> tuple[list[onnx.NodeProto], str]:
    """Every cast of a chain is multiplied, too."""
    nodes = [cast("c", "k0")]
    for place in range(1, count):
        nodes += [cast(f"k{place - 1}", f"k{place}"), helper.make_node("Mul", [f"k{place}", "s"], [f"m{place}"])]
    return nodes, f"m{count - 1}"


@pytest.mark.parametrize("graph", [alternating, branching])
def test_depth_costs_no_more_than_length(
    graph: Callable[[int], tuple[list[onnx.NodeProto], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, producer = 0, Index.producer

    def counted(index: Index, name: str) -> onnx.NodeProto | None:
        nonlocal asked
        asked += 1
        return producer(index, name)

    monkeypatch.setattr(Index, "producer", counted)
    nodes, last = graph(2000)
    multiplied(nodes, last)
    assert "in all" in done("detect", "m.onnx")
    assert asked < 20 * len(nodes)


def doubling(depth: int, calls: int = 2) -> Path:
    """Functions that each call the one before them twice."""
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    functions = []
    for place in range(depth):
        domain, callee = ("f", f"f{place - 1}") if place else ("", "Neg")
        steps = ["a", *(f"s{number}" for number in range(1, calls)), "b"]
        body = [helper.make_node(callee, [one], [two], domain=domain) for one, two in pairwise(steps)]
        functions.append(helper.make_function("f", f"f{place}", ["a"], ["b"], body, opsets))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node(f"f{depth - 1}", ["m"], ["y"], domain="f")],
        "graph", [value("x", [1, 64])], [value("y", [1, 64])], [tensor("w", floats(64, 64))],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10), "m.onnx")
    return Path("m.onnx")


def test_functions_that_expand_beyond_the_limit_are_refused() -> None:
    doubling(10)
    done("detect", "m.onnx")
    doubling(20)
    refused("detect", "m.onnx", status=1, says="expand to 2,097,150 nodes")
    doubling(90, 20)  # more than fits into any number that a machine counts with
    refused("compress", "m.onnx", "out", status=1, says="expected at most 100,000")


def test_functions_that_call_themselves_are_refused() -> None:
    model = onnx.load(doubling(2))
    model.functions[0].node[0].op_type, model.functions[0].node[0].domain = "f1", "f"
    onnx.save(model, "m.onnx")
    refused("detect", "m.onnx", status=1, says="of 'f' calls itself")


def test_chains_of_functions_that_onnx_does_not_inline_are_refused() -> None:
    doubling(200, 1)
    refused("detect", "m.onnx", status=1, says="its functions cannot be inlined: Function call chain depth exceeds")


@pytest.mark.parametrize(
    ("dims", "says"),
    [
        ([1 << 40] * 3, "impossible dimensions"),
        ([-1, 4], "impossible dimensions"),
        ([1] * 65, "impossible dimensions"),
        ([1 << 20, 1 << 20], "1,099,511,627,776 elements for 1 values, expected at most 67,108,864 or 256 for each"),
    ],
)
def test_sparse_tensors_of_impossible_sizes_are_refused(dims: list[int], says: str) -> None:
    sparse = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], float_data=[1.0])
    made = onnx.SparseTensorProto(values=sparse, indices=tensor("i", np.array([0])), dims=dims)
    nodes = [helper.make_node("Neg", ["w"], ["y"])]
    save(Path("m.onnx"), nodes, outputs=[value("y", ["n"])], sparse_initializer=[made])
    refused("detect", "m.onnx", status=1, says=f"m.onnx: sparse tensor 'w' {dims}: " if "elements" in says else says)
    refused("detect", "m.onnx", status=1, says=says)


@pytest.mark.parametrize(("rows", "columns"), [(1 << 62, 1 << 62), (1 << 40, 16), (64, 1 << 50), (63, 64)])
def test_codes_of_impossible_sizes_are_refused(rows: int, columns: int) -> None:
    node = helper.make_node(
        "MatMulNBits", ["x", "q", "s"], ["y"], domain="com.microsoft", N=rows, K=columns, bits=4, block_size=16
    )
    codes, scales = tensor("q", np.zeros((64, 2, 16), np.uint8)), tensor("s", np.ones(128, np.float32))
    save(Path("m.onnx"), [node], [codes, scales], inputs=[value("x", [1, 64])], outputs=[value("y", [1, "n"])])
    refused("detect", "m.onnx", status=1, says=f"for N = {rows} and K = {columns}, got 2048")


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Neg", ["i"], ["r"]), helper.make_node("Add", ["h", "w"], ["i"])],
        "body",
        [],
        [value("r", [64])],
    )
    other = helper.make_graph([helper.make_node("Neg", ["h"], ["r"])], "other", [], [value("r", [64])])
    nodes = [
        helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=other),
        helper.make_node("Relu", ["x"], ["h"]),
    ]
    inputs = [value("x", [64]), value("flag", [], TensorProto.BOOL)]
    path = save(tmp_path / "m.onnx", nodes, [tensor("w", floats(64))], inputs=inputs, outputs=[value("y", [64])])
    graph = sources.read(path).graph.graph
    assert [node.op_type for node in graph.node] == ["Relu", "If"]
    assert [node.op_type for node in next(a for a in graph.node[1].attribute if a.name == "then_branch").g.node] == [
        "Add",
        "Neg",
    ]


def test_nodes_in_order_stay_where_they_are(tmp_path: Path) -> None:
    names = [(f"v{place}", f"v{place + 1}") for place in (0, 2, 4)]
    nodes = [helper.make_node("Neg", [one], [two]) for one, two in names]
    inputs, outputs = [value(one, [4]) for one, _ in names], [value(two, [4]) for _, two in names]
    found = sources.read(save(tmp_path / "m.onnx", nodes, inputs=inputs, outputs=outputs)).graph.graph
    assert [node.output[0] for node in found.node] == ["v1", "v3", "v5"]


def test_functions_of_others_in_our_domain(tmp_path: Path) -> None:
    """One that is called as ours is, and computes something else, is inlined; one that is not there is named."""
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("compressor", 1)]
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    made = helper.make_function("compressor", "widen_uint8", ["a"], ["b"], body, opsets[:1])
    nodes = [helper.make_node("widen_uint8", ["x"], ["y"], domain="compressor")]
    graph = helper.make_graph(nodes, "graph", [value("x", [4])], [value("y", [4])])
    model = helper.make_model(graph, opset_imports=opsets, functions=[made], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    found = sources.read(tmp_path / "m.onnx").graph
    assert [node.op_type for node in found.graph.node] == ["Add"]
    assert not found.functions
    del model.functions[:]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(CompressorError, match="the function 'widen_uint8' of the domain 'compressor'"):
        sources.read(tmp_path / "m.onnx")


NAMES = ["w\x1b]0;t\x07\x1b[2J\x1b[31mred", '=cmd|"/C calc"!A0', "a\nb\rc\x00d\u202e../../etc", "@x", "+1", "-1", "\tz"]


@pytest.mark.parametrize("command", ["detect", "inspect", "explain"])
def test_a_name_that_is_no_text_is_a_name(command: str) -> None:
    """The attribute of a function in our domain: protobuf gives it as bytes, beside others that are text."""
    path = chain(Path("m.onnx"))
    model = onnx.load(path)
    function = helper.make_function("compressor", "lut_to_dense", ["a"], ["b"], [], [helper.make_opsetid("", 18)])
    function.attribute.extend(["axis", "QQQQ"])
    model.functions.append(function)
    path.write_bytes(model.SerializeToString().replace(b"QQQQ", b"\xff\xfe\xff\xff"))
    assert "49." in done(command, path)  # kilobytes


def test_names_reach_neither_a_terminal_nor_a_spreadsheet_as_they_are() -> None:
    chain(Path("m.onnx"), {name: weights(place)["palette"] for place, name in enumerate(NAMES)})
    printed = done("detect", "m.onnx", "--plots", "sparsity.csv") + done("inspect", "m.onnx")
    printed += done("compress", "m.onnx", "out", "--plots", "bytes.csv") + done("compress", "m.onnx", "o", "--dry-run")
    assert not {one for one in printed if not one.isprintable()} - {"\n"}
    assert "w\\x1b]0;t" in printed
    for file in ("sparsity.csv", "bytes.csv"):
        cells = [cell for row in csv.reader(Path(file).read_text().splitlines()) for cell in row]
        assert not [cell for cell in cells if cell[0] in "=+-@\t\r" or not cell.isprintable()]
    nodes = [helper.make_node("Neg", ["x"], ["y"], name="\x1b[2Jn"), helper.make_node("Neg", ["\x1b[2J"], ["z"])]
    save(Path("m.onnx"), nodes, inputs=[value("x", [4])], outputs=[value("y", [4])])
    assert "\x1b" not in refused("detect", "m.onnx", status=1, says="reads '\\x1b[2J', which nothing defines")


HUGE = 1 << 20
BOMBS: dict[str, list[onnx.NodeProto]] = {
    "Expand": [helper.make_node("Expand", ["one", "dims"], ["b"])],
    "Tile": [helper.make_node("Tile", ["one", "dims"], ["b"])],
    "Range": [helper.make_node("Range", ["zero", "far", "step"], ["r"]), cast("r", "b")],
    "ConstantOfShape": [helper.make_node("ConstantOfShape", ["dims"], ["b"])],
    "Pad": [helper.make_node("Pad", ["one", "pads"], ["b"])],
    "OneHot": [helper.make_node("OneHot", ["dims", "far", "ends"], ["b"])],
    "Concat": [helper.make_node("Concat", [f"d{n}"] * 2, [f"d{n + 1}"], axis=0) for n in range(40)],
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_constants_that_grow_while_a_program_is_built_are_refused(bomb: str) -> None:
    pytest.importorskip("coremltools")
    last = "d40" if bomb == "Concat" else "b"
    nodes = [
        *BOMBS[bomb],
        helper.make_node("ReduceSum", [last], ["s"], keepdims=0),
        helper.make_node("Add", ["x", "s"], ["y"]),
    ]
    constants: dict[str, object] = {
        "one": np.ones((1, 1), np.float32), "dims": np.array([HUGE, HUGE]), "zero": np.int64(0), "step": np.int64(1),
        "far": np.int64(HUGE * HUGE), "pads": np.array([HUGE, HUGE, 0, 0]), "ends": np.array([0, 1], np.float32),
        "d0": np.ones(64, np.float32),
    }  # fmt: skip
    read = {name for node in nodes for name in node.input}
    stored = [tensor(name, np.asarray(array)) for name, array in constants.items() if name in read]
    save(Path("m.onnx"), nodes, stored, inputs=[value("x", [4])], outputs=[value("y", ["n"])], opset=17)
    refused("compress", "m.onnx", "out", "--target", "iOS17", status=1, says=f"{bomb}: number ")
