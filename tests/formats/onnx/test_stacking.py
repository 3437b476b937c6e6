"""Small weights side by side: decoded together, each written and read by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from compressor import targets
from compressor.accounting.explain import explain
from compressor.arrays import CODE_DTYPES, UINT4, ArraySpec, NDArray, Shape
from compressor.compilation.compile import compress
from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse, nbytes, shape, spec
from compressor.errors import CompressorError
from compressor.formats.onnx import stacking
from compressor.formats.onnx.functions import DOMAIN
from compressor.recognition.findings import Settings
from compressor.sources import onnx as source
from tests import conformance
from tests.conformance import Case
from tests.test_conformance import run_onnx

F32, U8, BOOL = np.dtype(np.float32), np.dtype(np.uint8), np.dtype(np.bool_)


def palettized(to: Shape, entries: int = 16, vector: int | None = None) -> Palettized:
    return Palettized(
        ArraySpec(to, U8), ArraySpec((*(1,) * len(to), entries, 2 if vector is not None else 1), F32), vector
    )


def quantized(to: Shape, counts: Shape, block: Shape | None = None) -> Quantized:
    return Quantized(Dense(ArraySpec(to, CODE_DTYPES["int4"])), ArraySpec(counts, F32), None, block)


def sparse(values: int, gaps: int, to: Shape = (8, 8)) -> Sparse:
    return Sparse(ArraySpec((gaps,), UINT4), Dense(ArraySpec((values,), F32)), to)


@pytest.mark.parametrize("name", ["onnxruntime", "onnx-opset18"])
def test_every_form_side_by_side(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime folds all of it, and gives, as the reader does, what was written: three weights of each form."""
    monkeypatch.setattr(stacking, "FEWEST", 2)
    columns = [*zip(*(conformance.forms(seed) for seed in range(3)), strict=True)][::31]
    cases: list[Case] = [
        (f"{name} of {seed}", one)
        for column in columns
        if len(shape(column[0][1])) > 1
        for seed, (name, one) in enumerate(column)
    ]
    together = [name for names in stacking.alike({name: spec(one) for name, one in cases}) for name in names]
    assert len(together) > len(cases) / 3
    assert conformance.wrong(targets.get(name), run_onnx, cases, tmp_path) == []


@pytest.mark.parametrize(
    ("one", "lies"),
    [
        (palettized((8, 8)), True),
        (palettized((8, 8), vector=1), True),
        (palettized((3, 3)), False),  # half a byte is left
        (palettized((64,)), False),  # one axis: a table has no group
        (palettized((256, 128)), True),
        (palettized((256, 129)), False),  # large
        (quantized((8, 8), (2, 8)), True),
        (quantized((8, 8), (3, 8), (3, 1)), False),  # the last block is shorter
        (sparse(11, 14), True),
        (sparse(0, 14), False),  # nothing but zeros
        (Sparse(ArraySpec((3,), np.dtype(np.int32)), Dense(ArraySpec((3,), F32)), (8, 8)), False),
        (
            Sparse(ArraySpec((8, 8), BOOL), Palettized(ArraySpec((5,), U8), ArraySpec((1, 1, 16, 1), F32)), (8, 8)),
            False,
        ),
        (Dense(ArraySpec((8, 8), F32)), False),
        (Dense(ArraySpec((8, 8), F32, np.dtype(np.float16))), True),
    ],
)
def test_what_lies_beside_its_like(one: Encoding, lies: bool) -> None:  # noqa: FBT001 - what is expected
    assert [*stacking.alike({f"{number}": one for number in range(stacking.FEWEST)})] == [
        tuple(f"{number}" for number in range(stacking.FEWEST))
    ] * lies


def test_a_few_weights_stay_by_themselves_and_many_are_several_stacks() -> None:
    def lengths(count: int) -> list[int]:
        specs = {f"{number}": [palettized((8, 8)), palettized((8, 9))][number % 2] for number in range(2 * count)}
        return [len(names) for names in stacking.alike(specs)]

    assert lengths(stacking.FEWEST - 1) == []
    assert lengths(stacking.MOST + stacking.FEWEST) == [stacking.MOST, stacking.FEWEST] * 2
    assert lengths(stacking.MOST + 1) == [stacking.MOST] * 2


def test_non_zeros_of_any_number_lie_side_by_side() -> None:
    some = [sparse(11 + number, 14 + 2 * number) for number in range(3)]
    assert stacking.stacked(some) == sparse(36, 48, (24, 8))
    assert stacking.ends(some) == (14, 30)


def experts(kinds: Sequence[str], count: int, folder: Path) -> dict[str, NDArray]:
    """A model whose outputs are the rows of many small weights; its weights."""
    rng, weights = np.random.default_rng(0), {}
    for number in range(count):
        kind = kinds[number % len(kinds)]
        values = rng.standard_normal((48, 48)).astype(np.float32)
        if kind == "palette":
            values = np.unique(values)[rng.integers(0, 16, (48, 48))]
        elif kind == "grid":
            values = (rng.integers(-8, 8, (48, 48)) * np.abs(values[:, :1])).astype(np.float32)
            values[:, 0] = 7 * np.abs(values[:, 0]).max()
        elif kind == "pruned":
            values[rng.random((48, 48)) < 0.8] = 0
        weights[f"experts.{number}.weight"] = values
    ports = [helper.make_tensor_value_info(f"{name} rows", TensorProto.INT64, ["n"]) for name in weights]
    outputs = [helper.make_tensor_value_info(f"{name} out", TensorProto.FLOAT, ["n", 48]) for name in weights]
    nodes = [helper.make_node("Gather", [name, f"{name} rows"], [f"{name} out"]) for name in weights]
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "experts", ports, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    return weights


def decoded(path: Path, weights: Mapping[str, NDArray]) -> dict[str, NDArray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [f"{name} out" for name in weights]
    found = session.run(names, {f"{name} rows": np.arange(48) for name in weights})
    return dict(zip(weights, found, strict=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, NDArray]]:
    folder = tmp_path_factory.mktemp("experts")
    weights = experts(("palette", "dense", "pruned", "palette", "grid"), 100, folder)
    compress(folder / "model.onnx", folder / "out")
    return folder, weights


def test_the_nodes_of_a_form_do_not_grow_with_its_weights(made: tuple[Path, dict[str, NDArray]]) -> None:
    folder, weights = made
    nodes = onnx.load(folder / "out" / "model.onnx").graph.node
    assert sorted(len(node.output) for node in nodes if node.op_type == "Split") == [20, 20, 40]
    assert sum(node.domain == DOMAIN for node in nodes) < 16
    for name, values in decoded(folder / "out" / "model.onnx", weights).items():
        assert values.tobytes() == weights[name].tobytes()


def test_compressing_it_again_changes_nothing(made: tuple[Path, dict[str, NDArray]], tmp_path: Path) -> None:
    folder, _ = made
    compress(folder / "out", tmp_path / "again")
    compress(tmp_path / "again", tmp_path / "third")
    again, third = (tmp_path / name / "model.onnx" for name in ("again", "third"))
    assert again.stat().st_size == (folder / "out" / "model.onnx").stat().st_size
    assert third.read_bytes() == again.read_bytes()


def test_each_weight_is_accounted_for(made: tuple[Path, dict[str, NDArray]]) -> None:
    folder, weights = made
    read = {weight.name: weight.encoding for weight in source.read(folder / "out" / "model.onnx").weights}
    told = explain(folder / "out" / "model.onnx").portions
    assert read.keys() == weights.keys()
    for portion in told:
        if portion.name in read:
            assert (
                abs(portion.nbytes - nbytes(read[portion.name])) < 1024
            )  # small scales and tables count for the first weight


def test_a_stack_that_lies_about_its_weights_is_refused(made: tuple[Path, dict[str, NDArray]], tmp_path: Path) -> None:
    folder, _ = made
    model = onnx.load(folder / "out" / "model.onnx")
    gaps = next(node for node in model.graph.node if node.op_type.endswith("_of_weights"))
    ends = next(found for found in gaps.attribute if found.name == "ends")
    ends.ints[0] += 2
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(CompressorError, match=r"The file is damaged|do not fit together"):
        compress(tmp_path / "model.onnx", tmp_path / "out")


def renamed(model: onnx.ModelProto, name: Callable[[str], str]) -> onnx.ModelProto:
    """Call all values otherwise, as tools do."""
    graph = model.graph
    for value in (*graph.initializer, *graph.value_info, *graph.input, *graph.output):
        value.name = name(value.name)
    for node in graph.node:
        node.input[:], node.output[:] = map(name, node.input), map(name, node.output)
    return model


@pytest.mark.parametrize("way", ["values", "to numbers", "functions too"])
def test_another_tool_may_call_the_values_otherwise(
    way: str, made: tuple[Path, dict[str, NDArray]], tmp_path: Path
) -> None:
    folder, weights = made
    numbers: dict[str, str] = {}

    def name(old: str) -> str:
        return numbers.setdefault(old, f"v{len(numbers)}") if way == "to numbers" else f"first/{old}"

    model = onnx.load(folder / "out" / "model.onnx")
    made_of = onnx.compose.add_prefix(model, "first/") if way == "functions too" else renamed(model, name)
    onnx.save(made_of, tmp_path / "model.onnx")
    compress(tmp_path / "model.onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(
        [name(f"{one} out") for one in weights], {name(f"{one} rows"): np.arange(48) for one in weights}
    )
    assert [values.tobytes() for values in found] == [values.tobytes() for values in weights.values()]
    if way == "values":  # only names tell that these are several weights, but for gaps
        read = {weight.name for weight in source.read(tmp_path / "out" / "model.onnx").weights}
        assert read == {*map(name, weights)}


@pytest.mark.parametrize(
    ("called", "others"),
    [*((f"{stacking.NAME}{end}", stacking.FEWEST) for end in ("", "0", "0.scale", "0.values_of_all")), ("w", 0)],
)
def test_weights_may_be_called_like_stacks_and_parts(called: str, others: int, tmp_path: Path) -> None:
    """One of them is cut by a `Split` of its own, and others are called as parts of theirs would be."""
    names = [called, f"{called}_", f"{called}.codes", *(f"w{number}" for number in range(others))]
    rng = np.random.default_rng(0)
    tensors = [
        onnx.numpy_helper.from_array((rng.integers(-8, 8, (8, 8)) * np.float32(0.3)).astype(np.float32), name)
        for name in names
    ]
    halves = ("first half", "second half")
    nodes = [helper.make_node("Identity", [name], [f"{name} out"]) for name in names]
    nodes.append(helper.make_node("Split", [called], halves, num_outputs=2))
    outputs = [helper.make_tensor_value_info(f"{name} out", TensorProto.FLOAT, [8, 8]) for name in names]
    outputs += [
        helper.make_tensor_value_info(f"{half} half", TensorProto.FLOAT, [4, 8]) for half in ("first", "second")
    ]
    graph = helper.make_graph(nodes, "named", [], outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    compress(tmp_path / "m.onnx", tmp_path / "out", settings=Settings(min_elements=1))
    before, after = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {})
        for path in (tmp_path / "m.onnx", tmp_path / "out" / "model.onnx")
    )
    assert [values.tobytes() for values in after] == [values.tobytes() for values in before]
    assert {weight.name for weight in source.read(tmp_path / "out" / "model.onnx").weights} == {*names}


def test_a_split_of_nothing_is_no_stack(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Split", [], ["half"])],
        "split",
        [],
        [helper.make_tensor_value_info("half", TensorProto.FLOAT, [8, 8])],
        [onnx.numpy_helper.from_array(np.ones((8, 8), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    assert source.read(tmp_path / "m.onnx").onnx is not None
