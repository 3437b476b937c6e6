"""Requests that name what is not there, or ask for what would lose something."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from safetensors.numpy import save

from tests.faults.commands import chain, done, encodings, refused, snapshot, weights


@pytest.fixture(autouse=True)
def model(folder: Path) -> Path:
    return chain(Path("m.onnx"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--target", "tensorrt"],
            "unknown target 'tensorrt'. Choices: compressed-tensors, iOS16, iOS17, iOS18",
        ),
        (["--target", "onnx-opset20"], "unknown target 'onnx-opset20'. Did you mean 'onnx-opset2"),
        (["-S", "target=iOS15"], "-S target=iOS15: target 'iOS15' has no compressed weights. The targets"),
        (["--pipeline", "best"], "unknown pipeline 'best'. Choices: auto, default_palettization, default_pruning"),
        (["-S", "compress.pipeline=best"], "-S compress.pipeline=best: unknown pipeline 'best'"),
        (["-S", "detect.min_element=3"], "unknown key detect.min_element. Did you mean 'min_elements'?"),
        (["-S", "detect.min_elements=many"], "detect.min_elements is 'many': expected a whole number"),
        (["-S", "detect.threshold=-1"], "detect.threshold is -1: expected greater than or equal to 0"),
        (["-S", "detect.threshold=.nan"], "detect.threshold is nan: expected a finite number"),
        (["-S", "detect.max_thresholded=2"], "detect.max_thresholded is 2: expected less than or equal to 1"),
        (["-S", "detekt.threshold=1"], "unknown group 'detekt'. Did you mean 'detect'?"),
        (["-S", "evaluate.metric=r2_score"], "evaluate is not read here; this command reads"),
        (["-S", "detect"], "-S detect: expected = and a value after the key"),
        (["-S", "detect=3"], "detect is 3: expected a mapping"),
        (["-S", "detect.threshold={"], "-S detect.threshold={"),
        (["--params", "absent.yaml"], "absent.yaml: cannot be read: No such file or directory"),
        (["--params", "broken.yaml"], "broken.yaml: not valid YAML in line 1"),
        (["--params", "list.yaml"], "list.yaml: expected groups such as `detect:`, got a list"),
        (["--params", "m.onnx"], "m.onnx: not "),
        (["--plots", "bytes.png"], "bytes.png: expected a name that ends with .csv or .json"),
    ],
)
def test_a_setting_that_does_not_exist(options: list[str], says: str) -> None:
    Path("broken.yaml").write_text("detect: {threshold: [")
    Path("list.yaml").write_text("- detect")
    refused("compress", "m.onnx", "out", *options, status=2, says=says)


@pytest.mark.parametrize("file", ["m.onnx", "findings.csv", "out"])
def test_findings_go_to_a_json_file_only(file: str) -> None:
    refused("detect", "m.onnx", "--out", file, status=2, says=f"{file}: expected a name that ends with .json")
    refused("toolchain", "--out", file, status=2, says=f"{file}: expected a name that ends with .json")
    refused("evaluate", "m.onnx", "out", "--out", file, status=2, says=f"{file}: expected a name that ends with .json")


@pytest.mark.parametrize(
    "kept", ["notes.txt", "model.pt", "model.safetensors", "model.bin", "model.onnx.bak", "model.onnx.data/x", ".git/x"]
)
@pytest.mark.parametrize("command", ["compress", "export"])
def test_an_output_directory_that_holds_something_else(command: str, kept: str) -> None:
    file = Path("models") / kept
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    says = f"models: holds {Path(kept).parts[0]}, which this package has not written and would delete"
    refused(command, "m.onnx", "models", status=2, says=says)


@pytest.mark.parametrize("out", [".", "link", "out/.."])
def test_the_model_s_own_folder(out: str, folder: Path) -> None:
    Path("link").symlink_to(folder, target_is_directory=True)
    refused("compress", "m.onnx", out, status=2, says="which would be replaced by the output")


def test_the_exported_directory_itself() -> None:
    done("export", "m.onnx", "exported")
    refused("compress", "exported", "exported", status=2, says="exported: holds exported, which would be replaced")


@pytest.mark.parametrize("command", ["compress", "export"])
@pytest.mark.parametrize("how", ["beside", "hard link", "link", "folder"])
def test_the_data_of_the_model_in_the_output_directory(command: str, how: str) -> None:
    """What is deleted with OUT_DIR may be the weights themselves, whose graph lies elsewhere."""
    source, place, out = Path("m.onnx"), "m.onnx.data", Path("models")
    out.mkdir()
    if how in ("beside", "folder"):
        place = "models/model.onnx.data" if how == "beside" else "models/model.mlpackage/m.data"
        Path(place).parent.mkdir(exist_ok=True)
    chain(source, external=True, location=place)
    if how == "hard link":
        (out / "model.onnx.data").hardlink_to(place)
    elif how == "link":
        (out / "model.onnx.data").symlink_to(Path(place).resolve())
    refused(command, source, out, status=2, says="which would be replaced by the output")


def test_a_link_to_the_model_in_the_output_directory() -> None:
    Path("models").mkdir()
    Path("models/model.onnx").symlink_to("../m.onnx")
    refused("compress", "models/model.onnx", "models", status=2, says="which would be replaced by the output")


@pytest.mark.parametrize("command", ["compress", "export"])
def test_the_shards_of_a_folder_in_the_output_directory(command: str) -> None:
    Path("models").mkdir()
    Path("folder").mkdir()
    content = save({"w": np.zeros((2, 2), np.float32)})
    Path("models/model.onnx").write_bytes(content)
    Path("folder/model.safetensors").hardlink_to("models/model.onnx")
    Path("folder/config.json").write_text("{}")
    refused(
        command,
        "folder",
        "models",
        status=2,
        says="models/model.onnx (folder/model.safetensors), which would be replaced",
    )


def test_the_module_that_was_traced_in_the_output_directory() -> None:
    Path("models").mkdir()
    Path("model.traced.pt").write_text("traced")
    Path("models/model.traced.pt").hardlink_to("model.traced.pt")
    refused(
        "compress",
        "m.onnx",
        "models",
        status=2,
        says="models/model.traced.pt (model.traced.pt), which would be replaced",
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["detect", "{m}", "--out", "weights.json"], "weights.json: would replace weights.json"),
        (["detect", "{m}", "--plots", "link.json"], "link.json: would replace weights.json"),
        (["compress", "{m}", "new", "--plots", "hard.json"], "hard.json: would replace weights.json"),
        (["detect", "m.onnx", "--out", "a.json", "--plots", "./a.json"], "a.json: would replace a.json"),
        (["evaluate", "{m}", "out", "--out", "weights.json"], "weights.json: would replace weights.json"),
        (["detect", "folder", "--out", "folder/config.json"], "folder/config.json: would replace folder/config.json"),
    ],
)
def test_results_in_place_of_what_is_read(arguments: list[str], says: str) -> None:
    chain(Path("e.onnx"), external=True, location="weights.json")
    Path("link.json").symlink_to("weights.json")
    Path("hard.json").hardlink_to("weights.json")
    Path("folder").mkdir()
    Path("folder/model.safetensors").write_bytes(save({"w": np.zeros((2, 2), np.float32)}))
    Path("folder/config.json").write_text("{}")
    refused(*(one.format(m="e.onnx") for one in arguments), status=2, says=says)


@pytest.mark.parametrize(
    ("out", "status", "says"),
    [
        ("file", 2, "file: a file; expected a directory"),
        ("file/out", 1, "file is a file, expected a directory"),
        ("file/a/b", 1, "file is a file, expected a directory"),
        ("file/..", 1, "file is a file, expected a directory"),
        ("dangling", 2, "dangling: a link that leads nowhere"),
        ("x" * 300, 1, "File name too long"),
    ],
)
def test_an_output_directory_that_cannot_be(out: str, status: int, says: str) -> None:
    Path("file").write_text("precious")
    Path("dangling").symlink_to("nowhere")
    refused("compress", "m.onnx", out, status=status, says=says)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that nobody may write to")
def test_an_output_directory_that_is_unwritable() -> None:
    refused("compress", "m.onnx", "/proc/out", status=1, says="/proc/out: cannot be written: ")


def test_an_output_directory_behind_a_link_is_replaced_and_the_link_stays(tmp_path_factory) -> None:
    disk = tmp_path_factory.mktemp("disk")
    Path("out").rename(disk / "out")
    Path("out").symlink_to(disk / "out", target_is_directory=True)
    done("compress", "m.onnx", "out")
    assert Path("out").readlink() == disk / "out"
    assert encodings(disk / "out") == {"palette": "palettized4", "pruned": "sparse", "plain": "dense"}
    assert [path.name for path in disk.iterdir()] == ["out"]


def test_the_current_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("here").mkdir()
    monkeypatch.chdir("here")
    refused("compress", "../m.onnx", ".", status=2, says=".: is the current directory, which cannot be replaced")


def test_findings_of_another_model() -> None:
    done("detect", "m.onnx", "--out", "detection.json")
    other = onnx.load("m.onnx")
    other.graph.initializer[0].name = other.graph.node[0].input[1] = "renamed"
    onnx.save(other, "renamed.onnx")
    says = "the detection is of another model: weight renamed is float32[64, 64], the detection has nothing. Run"
    refused("compress", "renamed.onnx", "out", "--detection", "detection.json", status=1, says=says)
    refused("compress", "renamed.onnx", "out", "--detection", "detection.json", "--dry-run", status=1, says=says)


def test_findings_of_other_values_under_the_same_names() -> None:
    """The model was trained once more: names and shapes agree, and the values are no palette any longer."""
    done("detect", "m.onnx", "--out", "detection.json")
    values = weights()
    values["palette"], values["plain"] = values["plain"], values["palette"]
    chain(Path("m.onnx"), values)
    says = "weight palette float32[64, 64]: cannot be stored as palettized4: "
    assert "Run `compressor detect` again" in refused(
        "compress", "m.onnx", "out", "--detection", "detection.json", status=1, says=says
    )


@pytest.mark.parametrize("change", ["threshold", "shape", "cut off", "list"])
def test_findings_that_were_damaged(change: str) -> None:
    done("detect", "m.onnx", "--out", "detection.json")
    content = json.loads(Path("detection.json").read_text())
    if change == "threshold":
        content["findings"][0]["candidates"][0]["threshold"] = "many"
    elif change == "shape":
        content["findings"][0]["shape"] = "64"
    text = json.dumps([] if change == "list" else content)
    Path("detection.json").write_text(text[:300] if change == "cut off" else text)
    refused("compress", "m.onnx", "out", "--detection", "detection.json", status=1, says="detection.json: ")


def test_a_newer_model_than_the_target() -> None:
    chain(Path("m.onnx"))
    newer = onnx.load("m.onnx")
    newer.opset_import[0].version = 21
    newer.graph.node.append(helper.make_node("Flatten", ["x"], ["flat"]))
    newer.ir_version = 10
    onnx.save(newer, "m.onnx")
    says = "opset 21, onnx-opset18 takes up to 18, which has other forms of Flatten: export it with `export.opset: 18`"
    refused("compress", "m.onnx", "out", "--target", "onnx-opset18", status=1, says=says)


def test_an_artefact_that_is_damaged_is_no_model_to_inspect() -> None:
    content = Path("out/model.onnx").read_bytes()
    Path("out/model.onnx").write_bytes(content[:-50])
    refused("inspect", "out", status=1, says="out/model.onnx: not an ONNX model, or truncated")
    refused("evaluate", "m.onnx", "out", status=1, says="out/model.onnx: not an ONNX model, or truncated")


def test_a_dry_run_changes_nothing() -> None:
    before = snapshot(Path())
    done("compress", "m.onnx", "out", "--dry-run")
    assert snapshot(Path()) == before
