"""ONNX files: each byte by what it is for, in files of one's own making and in those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import compressor
from compressor.accounting.account import Account, What
from compressor.accounting.explain import explain
from compressor.errors import CompressorError
from tests.accounting.sums import of

SIZE = 64
RANDOM = np.random.default_rng(0)
TEST_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
GOLDEN = Path(__file__).parents[1] / "golden" / "artefacts"


def square() -> np.ndarray[Any, Any]:
    return RANDOM.standard_normal((SIZE, SIZE)).astype(np.float32)


def chain(*weights: onnx.TensorProto, nodes: list[Any] | None = None, **graph: Any) -> onnx.ModelProto:
    """A model that multiplies by one weight after the other."""
    made, value = [], "x"
    for number, weight in enumerate(weights):
        made.append(helper.make_node("MatMul", [value, weight.name], [f"h{number}"]))
        value = f"h{number}"
    value_info = helper.make_tensor_value_info
    output = [value_info(value, TensorProto.FLOAT, ["N", SIZE])]
    inner = helper.make_graph(
        nodes or made, "g", [value_info("x", TensorProto.FLOAT, ["N", SIZE])], output, weights, **graph
    )
    return helper.make_model(inner, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def tensor(name: str, values: np.ndarray[Any, Any] | None = None) -> onnx.TensorProto:
    return numpy_helper.from_array(square() if values is None else values, name)


def external(name: str, offset: int, length: int | None = None, location: str = "m.data") -> onnx.TensorProto:
    made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[SIZE, SIZE], data_location=TensorProto.EXTERNAL)
    entries = {"location": location, "offset": offset, "length": length}
    for key, value in entries.items():
        if value is not None:
            made.external_data.add(key=key, value=str(value))
    return made


NBYTES = SIZE * SIZE * 4


def told(model: onnx.ModelProto, folder: Path = Path()) -> Account:
    onnx.save(model, folder / "m.onnx")
    found = explain(folder / "m.onnx")
    assert found.nbytes == sum((folder / name).stat().st_size for name in found.files)
    return found


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_plain_model() -> None:
    model = chain(tensor("w"))
    model.doc_string, model.graph.node[0].name = "d" * 100, "n" * 50
    model.metadata_props.add(key="k" * 10, value="v" * 20)
    found = told(model)
    assert of(found, What.WEIGHTS) == {"w": NBYTES}
    names = of(found, What.NAMES)
    assert (names["documentation"], names["names of operators"], names["properties"]) == (102, 52, 2 + 12 + 22)
    assert of(found, What.NODES)["MatMul"] == 2 + 3 + 3 + 4 + 8  # its key and length, two inputs, output, type


def test_typed_data_and_raw_data_are_the_same_bytes() -> None:
    values = square()
    typed = helper.make_tensor("typed", TensorProto.FLOAT, values.shape, values.reshape(-1).tolist())
    assert of(told(chain(tensor("raw"), typed)), What.WEIGHTS) == {"raw": NBYTES, "typed": NBYTES}


def test_a_copy_is_told_and_named() -> None:
    values = square()
    found = told(chain(tensor("first", values), tensor("again", values), tensor("other")))
    assert of(found, What.COPIES) == {"again": NBYTES}
    assert [one.detail for one in found.portions if one.what is What.COPIES] == ["the same bytes as first"]


def test_tensors_that_differ_in_a_byte_are_no_copies() -> None:
    values = square()
    other = values.copy()
    other[SIZE // 4, 0] += 1  # where no sample is taken
    assert of(told(chain(tensor("a", values), tensor("b", other))), What.COPIES) == {}


def test_external_data_and_what_lies_between() -> None:
    parts = [square().tobytes(), bytes(4096 - NBYTES % 4096), square().tobytes(), b"left", square().tobytes()]
    Path("m.data").write_bytes(b"".join(parts))
    second = len(parts[0]) + len(parts[1])
    found = told(chain(external("a", 0, NBYTES), external("b", second)))
    assert of(found, What.WEIGHTS) == {"a": NBYTES, "b": NBYTES}
    assert of(found, What.PADDING) == {"between parts": 4096 - NBYTES % 4096}
    assert of(found, What.UNREFERENCED) == {"bytes that nothing refers to": NBYTES + 4}


def test_data_that_two_tensors_refer_to_are_counted_once() -> None:
    Path("m.data").write_bytes(square().tobytes())
    found = told(chain(external("a", 0, NBYTES), external("b", 0, NBYTES)))
    assert (of(found, What.WEIGHTS), of(found, What.COPIES)) == ({"a": NBYTES}, {})


@pytest.mark.parametrize(
    ("made", "note"),
    [
        (external("a", 0, NBYTES, "gone.data"), "its data file gone.data is missing: not counted"),
        (external("a", 0, NBYTES, "../m.data"), "leads out of the model's folder: not counted"),
        (external("a", 0, NBYTES, "/etc/passwd"), "is an absolute path: not counted"),
        (external("a", 1 << 40, NBYTES), "expected bytes 1099511627776 to 1099511644160 of m.data, which has 16384"),
        (external("a", -8, NBYTES), "expected bytes -8 to 16376 of m.data, which has 16384"),
    ],
)
def test_places_that_lie_are_notes(made: onnx.TensorProto, note: str) -> None:
    Path("m.data").write_bytes(square().tobytes())
    assert note in told(chain(made)).notes[-1]


def test_a_file_that_no_model_refers_to_is_left_over_in_a_folder() -> None:
    Path("m.data").write_bytes(square().tobytes())
    Path("stale.data").write_bytes(bytes(1000))
    Path("README.md").write_text("read me")
    onnx.save(chain(external("a", 0, NBYTES)), "m.onnx")
    found = explain(Path())
    assert of(found, What.UNREFERENCED) == {"stale.data": 1000}
    assert of(found, What.OTHER) == {"README.md": 7}
    assert found.nbytes == sum(file.stat().st_size for file in Path().iterdir())


def test_weights_of_branches_constants_and_functions() -> None:
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "inner"], ["y"])],
        "then",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", SIZE])],
        [tensor("inner")],
    )
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("", TensorProto.BOOL, [], [1])),
        helper.make_node("If", ["yes"], ["h"], then_branch=branch, else_branch=branch),
        helper.make_node("Constant", [], ["c"], value=tensor("")),
        helper.make_node("F", ["h", "c"], ["h0"], domain="d"),
    ]
    body = [
        helper.make_node("Constant", [], ["own"], value=tensor("")),
        helper.make_node("MatMul", ["a", "b"], ["ab"]),
        helper.make_node("MatMul", ["ab", "own"], ["abc"]),
    ]
    model = chain(tensor("unused"), nodes=nodes)
    model.functions.append(helper.make_function("d", "F", ["a", "b"], ["abc"], body, [helper.make_opsetid("", 21)]))
    model.opset_import.add(domain="d", version=1)
    found = told(model)
    weights = of(found, What.WEIGHTS)
    assert sum(weights.values()) == 3 * NBYTES
    assert sum(of(found, What.COPIES).values()) == NBYTES  # the other branch
    assert of(found, What.CONSTANTS)["unused"] == NBYTES  # nothing reads it


def test_scales_belong_to_what_they_scale() -> None:
    codes, scales = RANDOM.integers(-9, 9, (SIZE, SIZE)).astype(np.int8), np.ones(SIZE, np.float32)
    parts = [tensor("codes", codes), tensor("scales", scales), tensor("x_scale", np.float32(0.5).reshape(()))]
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scales"], ["w"], axis=0),
        helper.make_node("QuantizeLinear", ["x", "x_scale"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "x_scale"], ["xq"]),
        helper.make_node("MatMul", ["xq", "w"], ["h2"]),
    ]
    found = told(chain(*parts, nodes=nodes))
    assert of(found, What.WEIGHTS) == {"codes": SIZE * SIZE + SIZE * 4}
    quantization = of(found, What.QUANTIZATION)
    assert quantization["x_scale"] == 4
    assert quantization.keys() == {"x_scale", "QuantizeLinear", "DequantizeLinear"}


def test_what_is_made_of_a_weight_that_was_looked_at_before() -> None:
    codes = tensor("codes", RANDOM.integers(-9, 9, (SIZE, SIZE)).astype(np.int8))
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Transpose", ["w"], ["wt"]),
        helper.make_node("MatMul", ["h", "wt"], ["h1"]),
    ]
    found = told(chain(codes, tensor("scale", np.float32(0.5).reshape(())), nodes=nodes))
    assert of(found, What.DECODING).keys() == {"Transpose"}
    assert of(found, What.WEIGHTS) == {"codes": SIZE * SIZE + 4}


def test_values_that_are_quantized_when_a_session_loads() -> None:
    parts = [tensor("w"), tensor("w_scale", np.float32(0.5).reshape(()))]
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "w_scale"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "w_scale"], ["wq"]),
        helper.make_node("MatMul", ["x", "wq"], ["h1"]),
    ]
    found = told(chain(*parts, nodes=nodes))
    (weight,) = (one for one in found.portions if one.what is What.WEIGHTS)
    assert (weight.name, weight.nbytes) == ("w", NBYTES + 4)
    assert weight.detail == "dense, quantized when a session loads"


def test_a_sparse_initializer() -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [100], RANDOM.standard_normal(100).astype(np.float32))
    places = helper.make_tensor("", TensorProto.INT64, [100], np.arange(0, 4000, 40))
    sparse = helper.make_sparse_tensor(values, places, [SIZE, SIZE])
    model = chain(sparse_initializer=[sparse], nodes=[helper.make_node("MatMul", ["x", "w"], ["x_"])])
    model.graph.output[0].name = "x_"
    weights = of(told(model), What.WEIGHTS)
    assert weights.keys() == {"w"}
    assert weights["w"] == 100 * 4 + 4 + 96 * 2  # the places are varints, four of them below 128


@pytest.mark.parametrize("pipeline", ["auto", "default_palettization"])
def test_an_artefact_keeps_its_weights_names_and_forms(pipeline: str) -> None:
    pruned = square() * (RANDOM.random((SIZE, SIZE)) < 0.2)
    palette = RANDOM.choice(square()[0, :12], (SIZE, SIZE))
    onnx.save(chain(tensor("pruned", pruned), tensor("palette", palette), tensor("dense")), "m.onnx")
    made = compressor.compress("m.onnx", "out", pipeline=pipeline)
    found = explain("out")
    assert found.nbytes == sum(file.stat().st_size for file in Path("out").iterdir())
    assert of(found, What.WEIGHTS) == {weight.name: weight.nbytes for weight in made.weights}
    forms = {one.name: one.detail for one in found.portions if one.what is What.WEIGHTS}
    assert forms == {weight.name: weight.encoding for weight in made.weights}
    assert of(found, What.CONSTANTS) == {}
    assert of(found, What.OTHER) == {"manifest.json": Path("out/manifest.json").stat().st_size}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.onnx")), ids=lambda path: path.stem)
def test_every_form_of_every_artefact_of_before(path: Path) -> None:
    found = explain(path)
    assert found.nbytes == path.stat().st_size
    # What an encoding takes by itself, and what it is stored as: a zero point that is said, bits at the end of a byte.
    assert 0 <= sum(of(found, What.WEIGHTS).values()) - compressor.inspect(path).weights_nbytes <= 16
    assert of(found, What.CONSTANTS) == {}


def test_the_models_that_onnx_ships() -> None:
    """Some 140 models, exported by torch's first versions and written by hand; two thirds have constants."""
    paths = sorted(TEST_DATA.rglob("*.onnx"))
    weighty = 0
    for path in paths:
        found = explain(path)
        assert found.nbytes == path.stat().st_size, path
        assert found.notes == (), path
        weighty += bool(of(found, What.WEIGHTS))
    assert len(paths) > 100
    assert weighty > 40


def changed(content: bytes, place: int, to: int) -> bytes:
    return content[:place] + bytes([to]) + content[place + 1 :]


@pytest.mark.parametrize("kept", [0.9999, 0.5, 0.0003, 0.0])
def test_a_file_that_is_cut_off_is_refused(kept: float) -> None:
    content = chain(tensor("w")).SerializeToString()
    Path("m.onnx").write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CompressorError, match=r"^m\.onnx: not an ONNX model") as caught:
        explain("m.onnx")
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_refused_or_accounted_for() -> None:
    """Bytes of the graph replaced, one at a time."""
    content = chain(tensor("w"), tensor("v")).SerializeToString()
    ends = [*range(120), *range(len(content) - 120, len(content))]
    accounted, refused = 0, list[str]()
    for place in ends[::2]:
        Path("m.onnx").write_bytes(changed(content, place, int(RANDOM.choice([0, 255, 128, 18]))))
        try:
            accounted += explain("m.onnx").nbytes == len(content)
        except CompressorError as error:
            refused.append(str(error))
    assert 20 < accounted < 120
    assert [error for error in refused if not error.startswith("m.onnx: ") or "\n" in error] == []


def test_one_damaged_model_of_a_folder_is_one_portion() -> None:
    onnx.save(chain(tensor("w")), "good.onnx")
    Path("bad.onnx").write_bytes(b"PK\3\4" + bytes(100))
    found = explain(Path())
    assert of(found, What.UNREADABLE) == {"bad.onnx": 104}
    assert of(found, What.WEIGHTS) == {"w": NBYTES}
    assert "bad.onnx: not an ONNX model" in found.notes[0]
