"""ONNX Runtime: which form a weight takes in a graph, and which kernels run then."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor import targets
from compressor.arrays import CODE_DTYPES, NDArray, Shape
from compressor.compilation.pipelines import PIPELINES
from compressor.compilation.planning import Request
from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse, decode, name, shape, spec
from compressor.errors import CompressorError, UsageError
from compressor.formats.onnx import decoding, writing
from compressor.model import Model
from compressor.recognition.findings import Settings
from compressor.targets import Illegal, Target
from compressor.targets.onnxruntime import opsets
from compressor.weight import Weight
from tests.conformance import codes, operators

RNG = np.random.default_rng(0)
DATA = {"Conv": (1, 4, 9, 9), "MatMul": (3, 64), "Gemm": (3, 64)}


def fitted(model: Model) -> Target:
    target = targets.get("onnxruntime")
    return target.fit(model, Request(target, PIPELINES["auto"], Settings())).target


def scale(*counts: int) -> NDArray:
    return (np.abs(RNG.standard_normal(counts)) * 0.01 + 0.001).astype(np.float32)


def quantized(code: str, to: Shape, counts: Shape, *, zero_point: bool = False) -> Quantized:
    of = CODE_DTYPES[code]
    return Quantized(Dense(codes(RNG, to, of)), scale(*counts), codes(RNG, counts, of) if zero_point else None)


def sparse(code: str, counts: Shape, *, zero_point: bool = False) -> Sparse:
    mask = RNG.random((64, 32)) < 0.3
    return Sparse(mask, quantized(code, (int(mask.sum()),), counts, zero_point=zero_point), (64, 32))


def pruned_table_of_codes() -> Sparse:
    """As `sparse`, the codes of its non-zeros from a table of 20."""
    made = sparse("int8", (1, 32))
    (count,) = shape(made.values)
    table = np.arange(-60, 60, 6).astype(np.int8).reshape(1, 1, 20, 1)
    codes_ = Palettized(RNG.integers(0, 20, count).astype(np.uint8), table)
    return Sparse(made.mask, Quantized(codes_, scale(1, 32)), (64, 32))


def build(
    nodes: list[onnx.NodeProto],
    encoding: Encoding,
    data: Shape,
    opset: int,
    constants: Any = (),
    *,
    linear: bool = True,
) -> Model:
    """linear: as a source that decodes the weight by `DequantizeLinear`."""
    rank = len(data)
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, data)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{axis}" for axis in range(rank)])],
        [*constants, TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape(encoding))],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return Model(Path("one.onnx"), [Weight("w", encoding, linear=linear)], proto)


def one(operator: str, encoding: Encoding, opset: int = 21, data: Shape = (3, 64), *, linear: bool = True) -> Model:
    return build([helper.make_node(operator, ["x", "w"], ["y"])], encoding, data, opset, linear=linear)


def between_quantizers(operator: str, encoding: Encoding, opset: int = 21) -> Model:
    """`operator` on a quantized activation and the weight, whose result is quantized too."""
    constants = [
        numpy_helper.from_array(np.asarray(value), key)
        for key, value in {
            "xs": np.float32(0.02),
            "xz": np.uint8(128),
            "ys": np.float32(0.05),
            "yz": np.uint8(120),
        }.items()
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node(operator, ["xd", "w"], ["product"]),
        helper.make_node("QuantizeLinear", ["product", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    return build(nodes, encoding, DATA[operator], opset, constants)


def write(model: Model, directory: Path, target: str = "onnxruntime") -> Path:
    targets.write(targets.get(target), model, directory)
    onnx.checker.check_model(directory / "model.onnx")
    return directory / "model.onnx"


def run(file: Path | bytes, data: NDArray, optimized: Path | None = None) -> NDArray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if optimized is None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    else:
        options.optimized_model_filepath = str(optimized)
    (found,) = onnxruntime.InferenceSession(file, options).run(None, {"x": data})
    return np.asarray(found)


def dense(model: Model) -> bytes:
    """The same model with its weight decoded."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.graph)
    (weight,) = model.weights
    kept = [tensor for tensor in proto.graph.initializer if tensor.name != weight.name]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([*kept, numpy_helper.from_array(decode(weight.encoding), weight.name)])
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize(
    ("operator", "encoding", "opset", "kernel"),
    [
        ("Conv", quantized("int8", (8, 4, 3, 3), (8, 1, 1, 1)), 21, "QLinearConv"),
        ("Conv", quantized("int8", (8, 4, 3, 3), (8, 1, 1, 1)), 13, "QLinearConv"),
        ("Conv", quantized("int4", (8, 4, 3, 3), (8, 1, 1, 1)), 21, "QLinearConv"),
        ("Conv", quantized("int4", (8, 4, 3, 3), (1, 1, 1, 1)), 18, "QLinearConv"),
        ("MatMul", quantized("uint8", (64, 32), (1, 1), zero_point=True), 21, "QLinearMatMul"),
        ("MatMul", sparse("uint8", (1, 32), zero_point=True), 21, "QLinearMatMul"),
        ("MatMul", sparse("int8", (1, 1)), 18, "QLinearMatMul"),
        ("MatMul", pruned_table_of_codes(), 18, "QLinearMatMul"),
        ("Gemm", quantized("int8", (64, 32), (1, 1)), 21, "QGemm"),
        ("Gemm", quantized("int8", (64, 32), (1, 32)), 13, "QGemm"),
    ],
)
def test_integer_kernels_run_where_activations_are_quantized(
    operator: str, encoding: Encoding, opset: int, kernel: str, tmp_path: Path
) -> None:
    model = between_quantizers(operator, encoding, opset)
    data = RNG.standard_normal(DATA[operator]).astype(np.float32)
    found = run(write(model, tmp_path), data, tmp_path / "optimized.onnx")
    np.testing.assert_allclose(found, run(dense(model), data), atol=0.051)  # one step of the output's grid
    left = operators(tmp_path / "optimized.onnx")
    assert left.pop(kernel) == 1
    assert set(left) <= {"QuantizeLinear", "DequantizeLinear", "Transpose"}
    assert left["DequantizeLinear"] == 1


@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("code", ["int2", "uint2", "int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize(("rows", "block"), [(128, None), (100, (32, 1))])
def test_codes_by_blocks_become_mat_mul_n_bits(
    code: str, tmp_path: Path, *, zero_point: bool, rows: int, block: Shape | None
) -> None:
    encoding = replace(quantized(code, (rows, 32), (4, 32), zero_point=zero_point), block=block)
    model = one("MatMul", encoding, 25 if code.endswith("2") else 21, data=(3, rows))
    data = RNG.standard_normal((3, rows)).astype(np.float32)
    found, expected = run(write(model, tmp_path), data, tmp_path / "optimized.onnx"), run(dense(model), data)
    assert operators(tmp_path / "optimized.onnx") == {"MatMulNBits": 1}
    # The kernel quantizes activations to 8 bits by blocks (session.qdq_matmulnbits_accuracy_level, 4 by default).
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("encoding", "opset", "linear"),
    [
        (quantized("int4", (64, 32), (2, 32)), 18, True),
        (quantized("int4", (64, 32), (8, 32)), 21, True),
        (quantized("int4", (64, 32), (64, 2)), 21, True),
        (quantized("int4", (64, 32), (2, 32)), 21, False),
        (quantized("int8", (64, 32), (1, 32)), 21, False),
        (sparse("int8", (1, 32)), 21, False),
    ],
    ids=["opset", "blocks of 8", "blocks along N", "4-bit grid", "8-bit grid", "sparse grid"],
)
def test_other_quantized_weights_are_folded(encoding: Encoding, opset: int, tmp_path: Path, *, linear: bool) -> None:
    model = one("MatMul", encoding, opset, linear=linear)
    data = RNG.standard_normal((3, 64)).astype(np.float32)
    found = run(write(model, tmp_path), data, tmp_path / "optimized.onnx")
    np.testing.assert_allclose(found, run(dense(model), data), rtol=1e-4, atol=1e-5)
    assert operators(tmp_path / "optimized.onnx") == {"MatMul": 1}


def palettized(entries: int) -> Palettized:
    lut = RNG.standard_normal((1, 1, entries, 1)).astype(np.float32)
    return Palettized(RNG.integers(0, entries, (64, 32)).astype(np.uint8), lut)


def test_codes_that_cannot_be_codes_in_the_graph_are_refused_beside_quantized_activations() -> None:
    """Codes under a mask in blocks: as floats they would be quantized anew."""
    encoding = sparse("int8", (4, 32))
    model = between_quantizers("MatMul", quantized("int8", (64, 32), (1, 32)))
    with pytest.raises(Illegal, match="would quantize its floats anew"):
        fitted(model).legalize(spec(encoding))
    other = one("MatMul", quantized("int8", (64, 32), (1, 32)), linear=False)
    assert fitted(other).legalize(spec(encoding)) == spec(encoding)


def test_a_model_newer_than_the_target_is_refused(tmp_path: Path) -> None:
    model = one("MatMul", palettized(4), 21)
    model.graph.graph.node.append(helper.make_node("Cast", ["y"], ["z"], to=TensorProto.INT4))
    says = r"opset 21, onnx-opset18 takes up to 18, which has other forms of Cast: .*`export.opset: 18`"
    with pytest.raises(CompressorError, match=says):
        write(model, tmp_path, "onnx-opset18")
    assert list(tmp_path.iterdir()) == []


def test_an_older_model_is_converted_where_codes_need_it(tmp_path: Path) -> None:
    model = one("MatMul", palettized(64), 13)
    data = RNG.standard_normal((3, 64)).astype(np.float32)
    file = write(model, tmp_path)
    made = onnx.load(file)
    assert {entry.domain: entry.version for entry in made.opset_import} == {"": 18, "compressor": 1}
    assert not made.graph.value_info  # the converter infers the shape of every value
    np.testing.assert_allclose(run(file, data, tmp_path / "o.onnx"), run(dense(model), data), rtol=1e-4, atol=1e-5)


def test_a_model_without_compressed_weights_is_the_model(tmp_path: Path) -> None:
    model = one("MatMul", Dense(RNG.standard_normal((64, 32)).astype(np.float32)), 18)
    found = onnx.load(write(model, tmp_path))
    assert found == onnx.load_from_string(dense(model))


def test_weights_of_subgraphs_are_decoded_outside_of_them(tmp_path: Path) -> None:
    """One branch multiplies by its weight, the other returns its own."""
    first, second = palettized(16), palettized(3)
    stubs = {key: TensorProto(name=key, data_type=1, dims=(64, 32)) for key in ("first", "second")}
    out = [helper.make_tensor_value_info("then out", TensorProto.FLOAT, ["a", "b"])]
    then = helper.make_graph([helper.make_node("MatMul", ["x", "first"], ["then out"])], "t", [], out, [stubs["first"]])
    returned = [helper.make_tensor_value_info("second", TensorProto.FLOAT, ["a", "b"])]
    other = helper.make_graph([], "e", [], returned, [stubs["second"]])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=then, else_branch=other),
    ]
    model = build(nodes, first, (3, 64), 18, [numpy_helper.from_array(np.asarray(0, np.float32), "zero")])
    del model.graph.graph.initializer[1:]
    model = Model(model.path, [Weight("first", first), Weight("second", second)], model.graph)
    file = write(model, tmp_path)
    data = np.ones((3, 64), np.float32)
    np.testing.assert_allclose(run(file, data, tmp_path / "o.onnx"), data @ decode(first), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(run(file, -data, tmp_path / "o.onnx"), decode(second))
    found = {weight.name: name(weight.encoding) for weight in targets.get("onnxruntime").read(tmp_path).weights}
    assert found == {"zero": "dense", "first": "palettized4", "second": "palettized2"}


def test_constants_that_lie_in_files_are_copied(tmp_path: Path) -> None:
    model = build(
        [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Gather", ["p", "rows"], ["y"])],
        palettized(4),
        (3, 64),
        18,
        [TensorProto(name="rows", data_type=TensorProto.INT64, dims=(2,), data_location=TensorProto.EXTERNAL)],
    )
    (tmp_path / "data").write_bytes(b"----" + np.array([2, 0]).tobytes())
    rows = model.graph.graph.initializer[0]
    for key, value in (("location", "data"), ("offset", "4"), ("length", "16")):
        rows.external_data.add(key=key, value=value)
    (tmp_path / "out").mkdir()
    file = write(Model(tmp_path / "one.onnx", model.weights, model.graph), tmp_path / "out")
    (found,) = [tensor for tensor in onnx.load(file).graph.initializer if tensor.name == "rows"]
    assert numpy_helper.to_array(found).tolist() == [2, 0]


def test_parts_do_not_take_names_that_the_graph_has(tmp_path: Path) -> None:
    model = build(
        [helper.make_node("MatMul", ["x", "w"], ["w.lut"]), helper.make_node("Relu", ["w.lut"], ["y"])],
        palettized(16),
        (3, 64),
        18,
    )
    names = {tensor.name for tensor in onnx.load(write(model, tmp_path)).graph.initializer}
    assert names == {"w_.indices", "w_.lut"}
    assert [weight.name for weight in targets.get("onnxruntime").read(tmp_path).weights] == ["w"]


def test_writing_again_what_was_read_changes_nothing(tmp_path: Path) -> None:
    model = one("MatMul", sparse("int8", (1, 32)), 18)
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
        write(model, tmp_path / place)
        model = targets.get("onnxruntime").read(tmp_path / place)
    assert (tmp_path / "first/model.onnx").read_bytes() == (tmp_path / "second/model.onnx").read_bytes()


def test_a_copy_that_is_decoded_once_is_written_as_the_page_says(tmp_path: Path) -> None:
    page = Path(__file__).parents[2].joinpath("docs", "targets.md").read_text(encoding="utf-8")
    script = textwrap.dedent(page.split("```python\n")[1].split("```")[0])
    artefact = write(one("MatMul", sparse("uint8", (1, 32)), linear=False), tmp_path / "models" / "compressed")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    copy = tmp_path / "models" / "decoded.onnx"
    (weight,) = onnx.load(copy, load_external_data=False).graph.initializer
    assert (weight.data_type, weight.data_location) == (TensorProto.FLOAT, TensorProto.EXTERNAL)
    assert operators(copy) == {"MatMul": 1}
    data = RNG.standard_normal((3, 64)).astype(np.float32)
    assert np.array_equal(run(copy, data), run(artefact, data))


def test_targets_are_known_by_name_in_any_case() -> None:
    assert {"onnxruntime", "onnx-opset18", "onnx-opset21", "onnx-opset25"} <= {*targets.names()}
    assert targets.get("ONNX-Opset21").name == "onnx-opset21"
    with pytest.raises(UsageError, match=r"unknown target 'onnx-opset1'.*onnx-opset18, onnx-opset21"):
        targets.get("onnx-opset1")


def test_the_newest_opset_is_the_one_that_the_runtime_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = opsets.installed.__wrapped__()  # not what it remembers
    assert opsets.opens(newest)
    assert not opsets.opens(newest + 1)
    opens = onnxruntime.InferenceSession

    def session(content: bytes, *arguments: object, **more: object) -> object:
        if onnx.ModelProto.FromString(content).opset_import[0].version > 23:
            raise RuntimeError("Opset 24 is under development")
        return opens(content, *arguments, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    assert opsets.installed.__wrapped__() == 23


def test_without_onnxruntime_the_newest_known_opset_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert opsets.installed.__wrapped__() == onnx.defs.onnx_opset_version()


def test_the_runtime_is_asked_for_opsets_only_by_a_late_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opsets, "installed", lambda: pytest.fail("it is imported before weights are written"))
    write(one("MatMul", palettized(4), opsets.OF_ALL), tmp_path)
    with pytest.raises(pytest.fail.Exception, match="before weights"):
        write(one("MatMul", palettized(4), opsets.OF_ALL + 1), tmp_path)


def test_a_later_opset_is_stamped_back_where_no_operator_differs(tmp_path: Path) -> None:
    later = one("MatMul", palettized(4), 25)
    later.graph.opset_import[0].version = 28
    for target, opset in (("onnxruntime", min(28, opsets.installed())), ("onnx-opset18", 18)):
        (tmp_path / target).mkdir()
        write(later, tmp_path / target, target)
        assert onnx.load(tmp_path / target / "model.onnx").opset_import[0].version == opset
    later.graph.graph.node.append(helper.make_node("Cast", ["y"], ["z"], to=TensorProto.INT4))
    with pytest.raises(CompressorError, match=r"opset 28, onnx-opset18 takes up to 18, .* forms of Cast: "):
        write(later, tmp_path / "other", "onnx-opset18")


def test_metadata_are_written_as_given_and_read_back(tmp_path: Path) -> None:
    model = one("MatMul", palettized(4), 18)
    specs = {weight.name: spec(weight.encoding) for weight in model.weights}
    metadata = {"compressor.target": "somewhere", "compressor.a": "b", "author": "somebody"}
    target = targets.get("onnxruntime")
    targets.write(target, model, tmp_path, metadata)
    written = [(entry.key, entry.value) for entry in onnx.load(tmp_path / "model.onnx").metadata_props]
    assert written == sorted(metadata.items())
    assert target.read(tmp_path).metadata == {"compressor.target": "somewhere", "compressor.a": "b"}
    assert target.layout(model, specs, metadata).nbytes == (tmp_path / "model.onnx").stat().st_size


@pytest.mark.parametrize(
    ("kind", "limit", "count"),
    [
        ("compressed", writing.SINGLE_FILE_BYTES, 1),
        ("dense", writing.SINGLE_FILE_BYTES, 1),
        ("converted", writing.SINGLE_FILE_BYTES, 1),
        ("dense", 2800, 2),
        ("converted", 2800, 2),
    ],
)
def test_the_size_is_known_before_there_are_data(
    kind: str, limit: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SINGLE_FILE_BYTES", limit)
    model = one("MatMul", palettized(64) if kind == "converted" else sparse("int8", (1, 32)), 13)
    if kind == "dense":
        weights = [Weight(weight.name, Dense(decode(weight.encoding))) for weight in model.weights]
        model = Model(model.path, weights, model.graph)
    specs = {weight.name: spec(weight.encoding) for weight in model.weights}
    expected = targets.get("onnxruntime").layout(model, specs).nbytes
    write(model, tmp_path)
    files = list(tmp_path.iterdir())
    assert len(files) == count
    assert sum(file.stat().st_size for file in files) == expected


def test_onnxruntime_runs_the_newest_opset(tmp_path: Path) -> None:
    newest = opsets.installed()
    write(one("MatMul", palettized(4), newest), tmp_path)
    assert run(tmp_path / "model.onnx", np.ones((3, 64), np.float32)).shape == (3, 32)


def test_types_that_an_opset_lacks_are_refused() -> None:
    encoding = Dense(codes(RNG, (4, 4), CODE_DTYPES["int4"]))
    assert targets.get("onnx-opset21").legalize(encoding) is encoding
    with pytest.raises(targets.Illegal, match="int4 needs opset 21, onnx-opset18 has 18"):
        targets.get("onnx-opset18").legalize(encoding)


def test_what_decoding_takes_is_found_once_for_all_weights_of_one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    lower = decoding.lower

    def counted(name: str, *given: Any) -> decoding.Lowered:
        asked.append(name)
        return lower(name, *given)

    monkeypatch.setattr(decoding, "lower", counted)
    target = targets.get("onnx-opset18")
    form = Palettized(RNG.integers(0, 12, (61, 67)).astype(np.uint8), np.zeros((1, 1, 12, 1), np.float32))
    found = [target.overhead(name, form) for name in ("layers.10", "layers.11", "layers.100", "schicht-ä")]
    assert len(asked) == 2  # names of as many bytes take the same
    assert found[0]["layers.10"] == found[1]["layers.11"] < found[2]["layers.100"]
    assert found[3]["schicht-ä"] == found[2]["layers.100"]
    assert len({tuple(one.items())[1:] for one in found}) == 1  # the functions
