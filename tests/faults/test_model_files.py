"""ONNX files that are cut off, damaged, incomplete or dangerous, and odd places of good ones."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from compressor.stages import app
from tests.faults.commands import SIZE, chain, done, encodings, refused, snapshot, weights


@pytest.mark.parametrize("command", ["compress", "detect", "inspect", "export"])
@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.01, 0.5, 0.99, 0.99999])
def test_a_model_that_is_cut_off(command: str, kept: float) -> None:
    content = chain(Path("m.onnx")).read_bytes()
    Path("m.onnx").write_bytes(content[: int(len(content) * kept)])
    says = "the file is empty" if kept == 0.0 else "m.onnx: not an ONNX model, or truncated: "
    refused(command, "m.onnx", *(["out"] if command in {"compress", "export"} else []), status=1, says=says)


@pytest.mark.parametrize("content", [b"PK\3\4" + bytes(100), b"\x08\x0a", b"\x89HDF\r\n", b"{}" * 600, b"\xff" * 2000])
def test_a_file_that_is_no_model(content: bytes) -> None:
    Path("m.onnx").write_bytes(content)
    refused("compress", "m.onnx", "out", status=1, says="m.onnx: not an ONNX model")


@pytest.mark.parametrize("command", ["compress", "detect", "inspect", "export", "explain"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "m.tflite",
            "m.tflite: a model of TensorFlow Lite: give the ONNX file that `python -m tf2onnx.convert --tflite",
        ),
        ("m.KERAS", "m.KERAS: a model of Keras: give the ONNX file that"),
        ("m.ort", "m.ort: a model in ONNX Runtime's own format: give the ONNX file that it was made of."),
    ],
)
def test_a_format_that_becomes_onnx_by_others(command: str, name: str, says: str) -> None:
    Path(name).write_bytes(b"TFL3")
    refused(command, name, *(["out"] if command in {"compress", "export"} else []), status=1, says=says)


def loads(path: Path) -> bool:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - whatever is thrown says no
        return False
    return True


def test_a_byte_that_flipped_is_refused_or_compressed_into_what_loads_as_the_source_does() -> None:
    rng, seen = np.random.default_rng(7), Counter[str]()
    content = chain(Path("m.onnx"), {"w": weights()["palette"]}).read_bytes()
    graph = [place for place in range(len(content)) if place < 120 or place > len(content) - 120]
    for place in rng.choice(graph, 80, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        Path("damaged.onnx").write_bytes(damaged)
        before = snapshot(Path())
        ended = CliRunner().invoke(app.app, ["compress", "damaged.onnx", "out"])
        if ended.exit_code == 0:
            assert loads(Path("out/model.onnx")) == loads(Path("damaged.onnx"))
        else:
            assert ended.exit_code == 1, ended.stderr
            assert len(ended.stderr.splitlines()) == 1
            assert ended.stderr.startswith("error: damaged.onnx: ")
            assert snapshot(Path()) == before
            assert not loads(Path("damaged.onnx"))
        seen["made" if ended.exit_code == 0 else "refused"] += 1
    assert min(seen["made"], seen["refused"]) > 10


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dims": [65, 64]}, "'palette' float32[65, 64]: expected 16640 bytes of data, got 16384 bytes in m.onnx"),
        ({"dims": [-64, 64]}, "'palette': impossible dimensions [-64, 64]"),
        ({"dims": [1 << 40, 1 << 40]}, "'palette': impossible dimensions"),
        ({"data_type": 11}, "'palette' float64[64, 64]: expected 32768 bytes of data, got 16384 bytes in m.onnx"),
        ({"raw_data": b""}, "'palette' float32[64, 64]: expected 16384 bytes of data, got 0 bytes in the model"),
        ({"name": "pruned"}, "several values have the same name: pruned"),
        ({"name": "another"}, "reads 'palette', which nothing defines"),
    ],
)
def test_a_weight_that_is_not_what_it_declares(change: dict[str, object], says: str) -> None:
    model = onnx.load(chain(Path("m.onnx")))
    weight = model.graph.initializer[0]
    for field, content in change.items():
        if field == "dims":
            del weight.dims[:]
            weight.dims.extend(content)
        else:
            setattr(weight, field, content)
    onnx.save(model, "m.onnx")
    refused("compress", "m.onnx", "out", status=1, says=says)


def test_an_opset_that_nobody_knows() -> None:
    model = onnx.load(chain(Path("m.onnx")))
    model.opset_import[0].version = 99
    onnx.save(model, "m.onnx")
    refused("compress", "m.onnx", "out", status=1, says="opset 99; the installed onnx")


def test_external_data_that_are_missing() -> None:
    chain(Path("m.onnx"), external=True)
    Path("m.onnx.data").unlink()
    says = "tensor 'palette': its data file m.onnx.data cannot be read (No such file or directory); put it beside"
    refused("compress", "m.onnx", "out", status=1, says=says)


@pytest.mark.parametrize("kept", [0, 100, 3 * 4 * SIZE * SIZE - 1])
def test_external_data_that_are_too_short(kept: int) -> None:
    chain(Path("m.onnx"), external=True)
    data = Path("m.onnx.data")
    data.write_bytes(data.read_bytes()[:kept])
    refused("compress", "m.onnx", "out", status=1, says=f"of m.onnx.data, which has {kept}")


def test_external_data_that_are_a_folder() -> None:
    chain(Path("m.onnx"), external=True)
    Path("m.onnx.data").unlink()
    Path("m.onnx.data").mkdir()
    refused("compress", "m.onnx", "out", status=1, says="of m.onnx.data, which has 0")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "", "a/../../secret", "nul\0l"])
def test_external_data_outside_of_the_model_s_folder(location: str) -> None:
    model = onnx.load(chain(Path("m.onnx"), external=True), load_external_data=False)
    for weight in model.graph.initializer:
        weight.external_data[0].value = location
    Path("m.onnx").write_bytes(model.SerializeToString())
    refused("compress", "m.onnx", "out", status=1, says=f"tensor 'palette': the location {location!r} of its data ")


def test_external_data_behind_a_link_that_leads_out(tmp_path_factory: pytest.TempPathFactory) -> None:
    chain(Path("m.onnx"), external=True)
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    Path("m.onnx.data").rename(secret)
    Path("m.onnx.data").symlink_to(secret)
    refused("compress", "m.onnx", "out", status=1, says="is a link that leads out of the model's folder")


@pytest.mark.parametrize(
    ("model", "status", "says"),
    [
        ("absent.onnx", 1, "absent.onnx: no such file or directory"),
        ("absent", 1, "absent: no such file or directory"),
        ("empty", 1, "empty: a directory without model.mlpackage or model.gguf or model.onnx or model.safetensors"),
        ("holder", 1, "or a model file. It holds inner, net.pt: name what you mean."),
        ("folder", 1, "folder/model.onnx: cannot be read: Is a directory"),
        ("notes.txt", 2, "unknown kind of model file '.txt'"),
        ("pipe.onnx", 1, "pipe.onnx: no such file or directory"),
    ],
)
def test_what_is_no_model_file(model: str, status: int, says: str) -> None:
    Path("empty").mkdir()
    Path("folder/model.onnx").mkdir(parents=True)
    Path("holder/inner").mkdir(parents=True)
    for name in ("inner/model.onnx", "net.pt", "notes.txt"):
        Path("holder", name).touch()
    Path("notes.txt").write_text("notes")
    os.mkfifo("pipe.onnx")  # opening it would wait for its writer
    refused("compress", model, "out", status=status, says=says)
    refused("detect", model, status=status, says=says)


@pytest.mark.parametrize("place", ["a folder/my model.onnx", "ünï çødé/模型.onnx", "-dash/[x]{y}'\"$HOME.onnx"])
@pytest.mark.parametrize("external", [False, True])
def test_any_name_of_a_file_will_do(place: str, external: bool) -> None:  # noqa: FBT001
    path = Path(place)
    path.parent.mkdir()
    chain(path, external=external)
    out = path.with_name(f"{path.stem} out")
    done("compress", "--", path, out)
    done("inspect", "--", out)
    assert encodings(out) == {"palette": "palettized4", "pruned": "sparse", "plain": "dense"}


def test_a_read_only_model_in_a_read_only_folder() -> None:
    Path("models").mkdir()
    chain(Path("models/m.onnx"), external=True)
    for path, mode in (("models/m.onnx", 0o400), ("models/m.onnx.data", 0o400), ("models", 0o500)):
        Path(path).chmod(mode)
    before = snapshot(Path("models"))
    done("compress", "models/m.onnx", "out")
    assert snapshot(Path("models")) == before
    Path("models").chmod(0o700)


def test_a_model_of_which_every_file_is_a_link_into_a_cache() -> None:
    """Its data are looked for in the folder that was named, whatever lies in the cache."""
    chain(Path("exported.onnx"), external=True, location="model.onnx.data")
    for name, digits in {"exported.onnx": "a" * 30, "model.onnx.data": "b" * 30}.items():
        Path("cache/ab").mkdir(parents=True, exist_ok=True)
        Path(name).rename(f"cache/ab/{digits}")
    Path("cache/ab/model.onnx.data").write_bytes(b"of another one")
    Path("exported").mkdir()
    Path("exported/model.onnx").symlink_to("../cache/ab/" + "a" * 30)
    Path("exported/model.onnx.data").symlink_to("../cache/ab/" + "b" * 30)
    before = snapshot(Path("cache"))
    done("compress", "exported", "new")
    done("export", "exported", "copied")
    assert encodings(Path("new")) == {"palette": "palettized4", "pruned": "sparse", "plain": "dense"}
    assert {file["name"] for file in json.loads(done("inspect", "exported", "--json"))["files"]} == {
        "model.onnx",
        "model.onnx.data",
    }
    assert snapshot(Path("cache")) == before
    assert not any(path.is_symlink() for folder in ("new", "copied") for path in Path(folder).iterdir())


def test_a_model_through_a_link() -> None:
    Path("real").mkdir()
    chain(Path("real/m.onnx"), external=True)
    Path("link.onnx").symlink_to("real/m.onnx")
    done("compress", "link.onnx", "out")
    assert encodings(Path("out"))["palette"] == "palettized4"


@pytest.mark.parametrize("name", ["same", "h0"])
def test_two_values_of_the_same_name(name: str) -> None:
    model = onnx.load(chain(Path("m.onnx")))
    for node in model.graph.node[:2]:
        node.output[0] = name
    onnx.save(model, "m.onnx")
    refused("compress", "m.onnx", "out", status=1, says=f"several values have the same name: {name}")


def test_an_output_that_is_named_twice_stays_so() -> None:
    model = onnx.load(chain(Path("m.onnx")))
    model.graph.output.append(model.graph.output[0])
    onnx.save(model, "m.onnx")
    done("compress", "m.onnx", "out")
    names = [output.name for output in onnx.load("out/model.onnx").graph.output]
    assert names == ["h2", "h2"]


def test_a_model_without_weights_that_are_worth_it_is_the_model_and_says_so() -> None:
    path = chain(Path("m.onnx"), {"plain": weights()["plain"], "more": weights(3)["plain"]})
    said = done("compress", path, "out")
    assert "not smaller than dense" in said
    assert "more than 256 distinct values" in said
    found, source = onnx.load("out/model.onnx"), onnx.load(path)
    del found.metadata_props[:]
    assert found.graph == source.graph
    assert found.opset_import == source.opset_import


def test_a_model_without_any_weight_says_so() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph(nodes, "empty", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), "m.onnx")
    said = done("compress", "m.onnx", "out")
    assert "not smaller than dense" in said
    assert encodings(Path("out")) == {}
