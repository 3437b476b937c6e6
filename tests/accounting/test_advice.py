"""Advice: what it says is saved is what following it saves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import compressor
from compressor import targets
from compressor.accounting.advice import Advice, advice
from compressor.accounting.explain import explain
from compressor.accounting.look import taken
from compressor.arrays import NDArray
from compressor.errors import UsageError
from compressor.recognition.findings import Settings
from tests.faults.commands import chain, weights
from tests.formats.compressed_tensors import decompressed
from tests.sources.huggingface import folders
from tests.targets.compressed_tensors import checkpoints

RANDOM = np.random.default_rng(0)
SIZE = 64


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def normal(*shape: int) -> NDArray:
    return RANDOM.standard_normal(shape or (SIZE, SIZE)).astype(np.float32)


def advised(
    values: Mapping[str, NDArray], target: str | None = None, pipeline: str = "auto", **settings: float
) -> tuple[Advice, ...]:
    """The advice on a chain of weights."""
    path = chain(Path("m.onnx"), dict(values))
    look = taken(path, None if target is None else targets.get(target), pipeline, Settings(**settings))  # type: ignore[arg-type]
    return advice(explain(path), look)


def about(found: tuple[Advice, ...], word: str) -> Advice:
    (one,) = (one for one in found if word in f"{one.what} {one.do}")
    return one


def made(**settings: object) -> int:
    """The bytes of all weights of an artefact that is made so."""
    return compressor.compress("m.onnx", "out", **settings).weights_nbytes  # type: ignore[arg-type]


def test_compression_saves_what_it_says() -> None:
    found = advised(weights())
    one = about(found, "can be stored smaller")
    assert one.weights == ("palette", "pruned")
    assert one.what == "2 weights can be stored smaller: 1 as palettized4, 1 as sparse"
    assert one.do == "compressor compress m.onnx OUT_DIR --target onnxruntime"
    assert one.saves == 3 * SIZE * SIZE * 4 - made()


def test_what_saves_most_is_first() -> None:
    found = advised({**weights(), "many": RANDOM.choice(normal()[:5].reshape(-1)[:257], (SIZE, SIZE))})
    assert [one.saves for one in found] == sorted((one.saves for one in found), reverse=True)
    assert len(found) > 1


def test_copies_save_what_compress_stores_once() -> None:
    """Those in the same order are found by their bytes, and the others by the look at weights; small ones stay."""
    w, small = normal(), normal(32, 32)
    every = {"w": w, "turned": w.T, "small": small, "small turned": small.T, "again": w, "turned again": w.T}
    found = advised(every)
    assert [(one.saves, one.weights) for one in found if "twice" in one.what] == [
        (2 * SIZE * SIZE * 4, ("again", "turned again")),
        (SIZE * SIZE * 4, ("turned",)),
    ]
    assert about(found, "in another order").do == "compressor compress m.onnx OUT_DIR --target onnxruntime"
    assert made() == SIZE * SIZE * 4 + 2 * 32 * 32 * 4


def test_a_palette_just_missed() -> None:
    table = np.unique(normal())[:257]
    places = RANDOM.permutation(np.resize(np.arange(257), SIZE * SIZE)).reshape(SIZE, SIZE)
    values = table[places]
    one = about(advised({"w": values}), "257 distinct values")
    before = made()
    chain(Path("m.onnx"), {"w": table[np.minimum(places, 255)]})
    assert (one.saves, one.weights) == (before - made(), ("w",))


def test_a_threshold() -> None:
    values = np.where(RANDOM.random((SIZE, SIZE)) < 0.75, 0, normal() + 3).astype(np.float32)
    values[0, :10] = 1e-5
    one = about(advised({"w": values}), "detect.threshold: 0.001")
    assert one.saves == made() - made(settings=Settings(threshold=1e-3))


def test_what_a_pipeline_saves_is_told_once() -> None:
    values = np.where(RANDOM.random((SIZE, SIZE)) < 0.75, 0, normal() + 3).astype(np.float32)
    values[0, :10] = 1e-5
    found = advised({"w": values})
    assert made() - made(pipeline="default_pruning") == about(found, "detect.threshold: 0.001").saves
    assert not [one for one in found if "--pipeline" in one.do]
    found = advised({"w": values}, pipeline="default_quantization")
    assert [one.do for one in found if "--pipeline" in one.do] == ["--pipeline auto"]


def test_a_pipeline_that_makes_values_zero() -> None:
    """Which no near miss tells where a threshold was asked for."""
    values = np.where(RANDOM.random((SIZE, SIZE)) < 0.75, 0, normal() + 3).astype(np.float32)
    values[0, :10] = 1e-5
    found = advised({"w": values}, pipeline="default_palettization", threshold=1e-3)
    one = about(found, "--pipeline auto")
    assert one.do == "--pipeline auto: values up to 0.001 become zero"
    asked = Settings(threshold=1e-3)
    assert one.saves == made(pipeline="default_palettization", settings=asked) - made(settings=asked)


def test_a_tolerance() -> None:
    grid = RANDOM.integers(-127, 128, (SIZE, SIZE)).astype(np.float32) * np.float32(0.01)
    grid[0, 0] = 1.27
    values = (grid * (1 + 1e-7 * normal())).astype(np.float32)
    one = about(advised({"w": values}), "detect.tolerance")
    tolerance = float(one.what.partition("detect.tolerance: ")[2].partition("`")[0])
    assert one.saves == made() - made(settings=Settings(tolerance=tolerance))
    assert one.saves > SIZE * SIZE * 2


def test_values_that_are_all_float16() -> None:
    one = about(advised({"w": normal().astype(np.float16).astype(np.float32)}), "can be stored as float16")
    assert one.saves == SIZE * SIZE * 2


def test_another_opset() -> None:
    codes = (RANDOM.integers(-7, 8, (SIZE, SIZE)) * np.float32(0.37)).astype(np.float32)
    codes[:, 0] = np.float32(7 * 0.37)
    one = about(advised({"w": codes}, "onnx-opset21"), "a graph of opset 21 needs less")
    before = compressor.compress("m.onnx", "out", target="onnx-opset21").nbytes
    model = onnx.load("m.onnx")
    model.opset_import[0].version, model.ir_version = 21, 10
    onnx.save(model, "m.onnx")
    assert abs(one.saves - (before - compressor.compress("m.onnx", "out", target="onnx-opset21").nbytes)) < 50
    assert one.do == "export.opset: 21, or onnx.version_converter"
    assert not [other for other in advised({"w": codes}, "onnx-opset18") if "a graph of" in other.what]


def test_another_pipeline() -> None:
    one = about(advised(weights(), pipeline="default_pruning"), "--pipeline auto")
    assert one.weights == ("palette",)
    assert one.what == "default_pruning takes part of the schemes"
    assert one.saves == made(pipeline="default_pruning") - made()


def test_no_pipeline_whose_weights_take_less_and_need_more_to_decode() -> None:
    values = RANDOM.integers(-40, 40, (SIZE, SIZE)).astype(np.float32)
    found = advised({"w": values})
    assert about(found, "can be stored as int8").weights == ("w",)
    assert made(pipeline="default_palettization") < made()
    assert not any("--pipeline" in one.do for one in found)


def test_no_pipeline_for_layers_that_loaders_keep_alike() -> None:
    torch = pytest.importorskip("torch")
    kinds = {"q": checkpoints.Grid(4, 128), "k": checkpoints.Floats(8, (1, 0)), "v": checkpoints.Grid(4, 128)}
    values = {name: kind.of(torch.from_numpy(normal(256, 256)).to(torch.bfloat16)) for name, kind in kinds.items()}
    tensors = {
        f"model.layers.0.self_attn.{name}_proj.weight": decompressed.array(each) for name, each in values.items()
    }
    folder = folders.dense(Path("folder"), tensors)
    look = taken(folder, targets.get("compressed-tensors"), "auto", Settings())
    assert look.plan.nbytes == look.plan.dense_nbytes
    assert not any("--pipeline" in one.do for one in advice(explain(folder), look))


def test_the_smallest_weight_that_is_looked_at() -> None:
    values = RANDOM.choice(normal()[0, :2], (SIZE, 30)).astype(np.float32)
    path = chain(Path("m.onnx"), {"w": normal()})
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "small"))
    model.graph.node.append(helper.make_node("MatMul", ["h0", "small"], ["y"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 30]))
    onnx.save(model, path)
    found = advice(explain(path), taken(path, None, "auto", Settings()))
    one = about(found, "detect.min_elements=0")
    smaller = made() - made(settings=Settings(min_elements=0))
    assert one.weights == ("small",)
    assert 0 < one.saves < smaller  # what decodes it is subtracted


def test_what_a_target_rounds_and_what_a_later_one_holds() -> None:
    pytest.importorskip("coremltools")
    joint = RANDOM.choice(np.array([0, 0, 0, 0.25, 0.5], np.float32), (4 * SIZE, SIZE)).T.copy()
    found = advised({"w": normal(), "joint": joint}, "iOS16")
    assert about(found, "iOS16 has its weights in float16").saves == 5 * SIZE * SIZE * 2
    one = about(found, "iOS16 does not hold sparse(palettized1); iOS18 does")
    assert one.weights == ("joint",)
    assert 0 < made(target="iOS16") - made(target="iOS18") - one.saves < 500  # less what decoding takes


def test_a_model_that_has_nothing_to_save() -> None:
    assert advised({"w": normal()}) == ()


def test_bytes_of_no_use() -> None:
    path = chain(Path("m.onnx"), {"w": normal()}, external=True)
    model = onnx.load(path, load_external_data=False)
    model.graph.doc_string = "d" * 5000
    onnx.save(model, path)
    with Path("m.onnx.data").open("ab") as file:
        file.write(b"\1" * 3000)
    Path("stale.data").write_bytes(b"\1" * 2000)
    found = advice(explain(Path()), None)
    assert [(one.saves, one.weights) for one in found if "documentation" in one.what] == [(5003, ())]
    assert [one.saves for one in found if one.do.startswith("compressor compress, or an export")] == [3000]
    assert [one.saves for one in found if one.do.startswith("delete stale.data")] == [2000]


def test_weights_that_no_graph_holds() -> None:
    from safetensors.numpy import save_file

    values = weights()["palette"]
    save_file({"a.weight": values}, "m.safetensors")
    found = advice(explain("m.safetensors"), taken(Path("m.safetensors"), None, "auto", Settings()))
    assert about(found, "can be stored as palettized4").saves == SIZE * SIZE * 4 - SIZE * SIZE // 2 - 64


def test_weights_that_no_graph_is_made_of() -> None:
    import gguf

    writer = gguf.GGUFWriter("m.gguf", "llama")
    writer.add_tensor("a.weight", weights()["palette"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = advice(explain("m.gguf"), taken(Path("m.gguf"), None, "auto", Settings()))
    (smaller,) = found
    assert smaller.do == "export the model whose weights these are, and compress that with --target onnxruntime"


def test_a_wrong_request_is_one() -> None:
    with pytest.raises(UsageError, match="unknown pipeline 'none'"):
        advised(weights(), pipeline="none")
