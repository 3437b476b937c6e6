"""`compressor diff` on files of several formats, and in a repository of Git and DVC."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.numpy import save_file
from typer.testing import CliRunner

import compressor
from compressor.stages.app import app
from tests.stages.repositories import begin, commit, git

RANDOM = np.random.default_rng(0)
PRUNED = np.where(RANDOM.random((64, 64)) < 0.8, 0, RANDOM.normal(size=(64, 64))).astype(np.float32)
OTHER = RANDOM.normal(size=(64, 64)).astype(np.float32)
DVC_YAML = """
artifacts:
  training: {path: finetuned.pt, type: model}
  compressed-model: {path: models/compressed, type: model, labels: [compressed, onnxruntime]}
"""


def network(path, **weights):
    """A chain of matrix multiplications in ONNX."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nodes, last = [], "x"
    for name in weights:
        nodes.append(helper.make_node("MatMul", [last, name], [f"{name}_out"]))
        last = f"{name}_out"
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 64]) for name in ("x", last)]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def diff(*arguments):
    ended = CliRunner().invoke(app, ["diff", *map(str, arguments)], env={"COLUMNS": "120"})
    return ended.exit_code, ended.stdout, ended.stderr


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def compressed():
    compressor.compress(network(Path("model.onnx"), first=PRUNED, second=OTHER), "out")


@pytest.mark.usefixtures("compressed")
def test_what_compression_changed():
    status, said, _ = diff("model.onnx", "out", "--exit-code")
    assert status == 1
    lines = said.splitlines()
    assert lines[0] == "model.onnx → out"
    assert lines[3].split() == ["first", "dense", "→", "sparse", "16.4", "kB", lines[3].split()[6], "kB", "equal"]
    assert "gained: sparse (1 weight)" in lines
    assert diff("model.onnx", "out", "--exit-code", "--values")[0] == 0
    assert diff("model.onnx", "out")[0] == 0
    assert diff("out", "out", "--exit-code")[0] == 0


def checkpoint():
    torch.save({"state_dict": {"module.first": torch.from_numpy(PRUNED.T.copy())}, "epoch": 3}, "c.pt")


def half():
    save_file({"first": PRUNED.astype(np.float16)}, "c.safetensors")


@pytest.mark.parametrize(
    ("write", "name", "expected"),
    [(checkpoint, "c.pt", "was module.first; equal, transposed"), (half, "c.safetensors", "equal as float16")],
)
def test_across_formats(write, name, expected):
    write()
    network(Path("model.onnx"), first=PRUNED)
    status, said, _ = diff(name, "model.onnx", "--exit-code")
    assert status == 1
    assert expected in said
    assert diff(name, "model.onnx", "--exit-code", "--values")[0] == 0
    Path("model.onnx").unlink()
    network(Path("model.onnx"), first=OTHER)
    assert diff(name, "model.onnx", "--exit-code", "--values")[0] == 1


def test_json_tells_all():
    network(Path("a.onnx"), first=PRUNED, second=OTHER)
    network(Path("b.onnx"), first=PRUNED + np.float32(0.5), third=OTHER)
    document = json.loads(diff("a.onnx", "b.onnx", "--json")[1])
    (artefact,) = document["artefacts"]
    assert (document["same"], artefact["weights"], artefact["before"]) == (False, 2, "a.onnx")
    moved, renamed = artefact["differences"]
    assert (moved["name"], moved["values"]["verdict"], moved["values"]["changed"]) == ("first", "apart", 4096)
    assert moved["values"]["max_error"] == pytest.approx(0.5)
    assert (renamed["renamed"], renamed["before"]["name"], renamed["after"]["name"]) == (True, "second", "third")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere", "model.onnx"], "nowhere: no such file or folder, and "),
        (["model.onnx", "notes.txt"], "unknown kind of model file '.txt'"),
        (["model.onnx", "broken.onnx"], "broken.onnx: "),
        (["HEAD:model.onnx", "model.onnx"], "no revision can be read here: not a git repository"),
        (["evil.pt", "model.onnx"], "this pickle runs code when it is loaded"),
    ],
)
def test_a_wrong_request_has_a_status_of_its_own(arguments, expected):
    network(Path("model.onnx"), first=PRUNED)
    Path("notes.txt").write_text("notes")
    Path("broken.onnx").write_bytes(b"\x08\x08no")
    torch.save(torch.nn.Linear(2, 2), "evil.pt")
    status, said, error = diff(*arguments, "--exit-code")
    assert (status, said) == (2, "")
    assert expected in error
    assert len(error.splitlines()) == 1


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An artefact that DVC tracks, at the tag `one`, and another one here."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        begin()
        Path("dvc.yaml").write_text(DVC_YAML)
        compressor.compress(network(Path("model.onnx"), first=PRUNED, second=OTHER), "models/compressed")
        subprocess.run(["dvc", "add", "--quiet", "models/compressed"], check=True)
        commit("one")
        compressor.compress(network(Path("model.onnx"), first=OTHER, second=PRUNED), "models/compressed")
    return folder


@pytest.fixture
def repository(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "repository", symlinks=True)
    monkeypatch.chdir(tmp_path / "repository")


@pytest.mark.parametrize(
    ("arguments", "heading"),
    [
        ([], "HEAD:models/compressed → models/compressed"),
        (["one"], "one:models/compressed → models/compressed"),
        (["one", "main"], "one:models/compressed → main:models/compressed"),
        (["models/compressed"], "HEAD:models/compressed → models/compressed"),
        (["one:model.onnx"], "one:model.onnx → model.onnx"),
        (["one:models/compressed", "model.onnx"], "one:models/compressed → model.onnx"),
        (["one", "model.onnx"], "one:model.onnx → model.onnx"),
    ],
)
@pytest.mark.usefixtures("repository")
def test_revisions(arguments, heading):
    status, said, error = diff(*arguments, "--exit-code")
    assert (said.splitlines()[0], error) == (heading, "")
    assert status == (0 if "main" in arguments else 1)


@pytest.mark.usefixtures("repository")
def test_what_a_revision_has_is_called_what_the_user_calls_it():
    status, _, error = diff("one:.dvc", "model.onnx")
    assert (status, error.partition(" without")[0]) == (1, "error: one:.dvc: a directory")


@pytest.mark.usefixtures("repository")
def test_an_artefact_that_is_younger_than_the_revision():
    text = DVC_YAML + "  other-model: {path: models/other, type: model, labels: [compressed]}\n  odd: {path: 3}\n"
    Path("dvc.yaml").write_text(text)
    shutil.copytree("models/compressed", "models/other")
    artefacts = json.loads(diff("one", "--json")[1])["artefacts"]
    assert [(one["before"], one["after"]) for one in artefacts] == [
        ("one:models/compressed", "models/compressed"),
        (None, "models/other"),
    ]


@pytest.mark.usefixtures("repository")
def test_several_targets_by_name():
    shutil.rmtree("models")
    for target in ("onnxruntime", "onnx-opset21"):
        compressor.compress("model.onnx", f"models/compressed/{target}", target=target)
    git("add", "--force", "models")
    git("commit", "--message", "two")
    shutil.rmtree("models/compressed/onnx-opset21")
    compressor.compress("model.onnx", "models/compressed/onnx-opset18", target="onnx-opset18")
    document = json.loads(diff("--json")[1])
    found = {one["name"]: (one["before"], one["after"], one.get("same")) for one in document["artefacts"]}
    assert (document["same"], found) == (
        False,
        {
            "onnxruntime": ("HEAD:models/compressed/onnxruntime", "models/compressed/onnxruntime", True),
            "onnx-opset18": (None, "models/compressed/onnx-opset18", None),
            "onnx-opset21": ("HEAD:models/compressed/onnx-opset21", None, None),
        },
    )
