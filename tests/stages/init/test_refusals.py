"""What `compressor init` refuses: in one line, and with nothing changed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from compressor.compilation import publish
from compressor.errors import CompressorError

SIZES_ONLY = ("--data", "none")
TRAINING = "stages:\n  train:\n    cmd: python train.py\n    outs:\n      - net.onnx\n"  # as the fixture has it
STATE = TRAINING.replace("net.onnx", "net.pt")
NETWORKS = """
from torch import nn
class Net(nn.Module): pass
class Sized(nn.Module):
    def __init__(self, size): ...
"""


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".git/" not in path.as_posix())
    return {path.as_posix(): (path.read_bytes(), path.stat().st_mode) for path in files}


@pytest.mark.parametrize(
    ("files", "options", "status", "message"),
    [
        ({"dvc.yaml": "stages:\n  a: [\n"}, (), 2, "dvc.yaml: not valid YAML in line 3"),
        ({"dvc.yaml": "stages:\n\ta:\n"}, (), 2, r"dvc.yaml: not valid YAML in line 2: found character '\t'"),
        (
            {"dvc.yaml": "stages:\n  a: {cmd: x}\n  a: {cmd: y}\n"},
            (),
            2,
            "dvc.yaml: not valid YAML in line 3: found",
        ),
        ({"dvc.yaml": "- a\n"}, (), 2, "dvc.yaml: expected keys such as `stages:`"),
        ({"dvc.yaml": "stages: [a]\n"}, (), 2, "dvc.yaml: stages is a list: expected a mapping"),
        (
            {"dvc.yaml": "stages: {train: {cmd: t, outs: [net.onnx]}}\n"},
            (),
            2,
            "dvc.yaml: stages: is written in",
        ),
        ({"params.yaml": "a: 1\na: 2\n"}, (), 2, "params.yaml: not valid YAML in line 2: found duplicate key"),
        ({"params.yaml": "- lr\n"}, (), 2, "params.yaml: expected keys such as"),
        ({"params.yaml": b"\xff\xfe"}, (), 2, "params.yaml: not UTF-8 text"),
        ({"sub/dvc.yaml": "a: 1\na: 2\n"}, (), 2, "sub/dvc.yaml: not valid YAML"),
        ({"params.yaml/a": ""}, (), 2, "params.yaml: expected a file"),
        (
            {"params.yaml": "target: price\n", "compressor.yaml": "export: csv\n"},
            (),
            2,
            "params.yaml has target of its own, and so has compressor.yaml export. Rename one of these files or keys.",
        ),
        ({}, ("nowhere",), 2, "nowhere: no such folder"),
        ({}, ("--model", "other.onnx"), 2, "--model other.onnx: not there, and no stage writes it"),
        ({"a b.onnx": ""}, ("--model", "a b.onnx"), 2, "--model a b.onnx: expected a path of letters"),
        ({}, ("--model", "net.onnx; rm -r x"), 2, "--model net.onnx; rm -r x: not there"),
        ({}, ("--factory", "net:create"), 2, "--factory net:create: net.onnx is an ONNX graph, which needs none"),
        ({}, ("--target", "iOS99"), 2, "unknown target 'iOS99'"),
        ({}, ("--ci", "jenkins"), 2, "unknown service for --ci 'jenkins'. Choices: github, gitlab."),
        ({}, ("--prefix", "a b"), 2, "--prefix a b: expected letters, digits, - and _."),
        (
            {"dvc.yaml": TRAINING + "  x-export: {cmd: a}\n"},
            ("--prefix", "x-"),
            2,
            "dvc.yaml has a stage x-export of",
        ),
        ({}, ("--metric", "a b"), 2, "unknown metric 'a b'"),
        ({}, ("--data", "lost.npz"), 2, "evaluate.data: lost.npz: no such file"),
        ({}, ("--data", "lost:held_out"), 2, "evaluate.data lost:held_out: no module 'lost'"),
        ({}, ("--data", "lost"), 2, "--data lost: expected module:function"),
        (
            {"dvc.yaml": STATE},
            (),
            2,
            "--factory is missing: net.pt is not there yet, and taken for a state dict by its name: which",
        ),
        ({"dvc.yaml": STATE, "train.py": NETWORKS}, (), 2, "builds its module? The training's code has train:Net."),
        ({"dvc.yaml": STATE}, ("--factory", "net.py"), 2, "--factory net.py: expected module:function"),
        ({"dvc.yaml": STATE}, ("--factory", "net:f"), 2, "--input is missing: nothing says what net.pt takes."),
        (
            {"dvc.yaml": STATE, "held.py": "def out():\n    return open('not made yet')\n"},
            ("--factory", "net:f", "--data", "held:out"),
            2,
            "held.py:2). Make what it reads first (`dvc repro` up to there), or say it here. What are",
        ),
        (
            {"dvc.yaml": STATE},
            ("--factory", "net:f", "--input", "x=[1]"),
            2,
            "--input x=[1]: expected NAME=DTYPE",
        ),
        ({"dvc.yaml": "stages: {}\n"}, (), 2, "--model is missing: no stage writes a file of .bin, .ckpt, "),
        (
            {"dvc.yaml": TRAINING + "      - b.pt\n"},
            (),
            2,
            "--model is missing: several could be it: net.onnx",
        ),
        ({"dvc.yaml": STATE, "net.pt": "no checkpoint"}, ("--model", "train.py"), 2, "--model train.py: not there"),
        ({"notes.txt": ""}, ("--model", "notes.txt"), 1, "notes.txt: expected a file of .bin, .ckpt, "),
        ({".dvc/config": "core"}, (), 1, ".dvc/config: cannot be read: File contains no section headers."),
        ({".dvc/config.local": b"[\xff]"}, (), 1, ".dvc/config.local: cannot be read: 'utf-8' codec can't decode"),
        ({"net": None}, ("--model", "net"), 1, "net: a folder without config.json"),
        (
            {"dvc.yaml": TRAINING + "      - compression\n"},
            (),
            2,
            "stage train writes compression: compression is",
        ),
    ],
)
def test_one_line_and_nothing_changed(folder, run, files, options, status, message):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if text is None else path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = everything(folder)
    given = () if "--data" in options else SIZES_ONLY
    said = run(*options, *given, status=status)
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said
    assert everything(folder) == before


def test_without_an_answer_the_data_is_asked_for(folder, run):
    assert "error: --data is missing: which module:function returns (inputs, labels)" in run(status=2)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ((".dvc",), "not in a DVC repository. Make it one: `dvc init`."),
        ((".git",), "not in a Git repository, which DVC needs. Make it one: `git init`."),
        ((".dvc", ".git"), "not in a DVC repository. Make it one: `git init`, then `dvc init`."),
    ],
)
def test_without_a_repository(folder, run, missing, message):
    for name in missing:
        shutil.rmtree(folder / name)
    assert message in run(*SIZES_ONLY, status=2)


def test_dvc_alone_is_enough_where_it_was_told_so(folder, run):
    shutil.rmtree(folder / ".git")
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")
    run(*SIZES_ONLY)
    assert not (folder / ".gitignore").exists()


def test_a_detached_head_is_as_good_as_any(folder, run):
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    subprocess.run([*git, "checkout", "-q", "--detach"], check=True)
    run(*SIZES_ONLY)
    assert "nothing to add" in run()


@pytest.mark.parametrize("name", ["dvc.yaml", "params.yaml", ".gitignore", "."])
def test_what_is_read_only_stays(folder, run, name):
    for file in ("params.yaml", ".gitignore"):
        (folder / file).write_text("a: 1\n")
    path = folder / name
    path.chmod(0o555 if path.is_dir() else 0o444)
    before = everything(folder)
    said = run(*SIZES_ONLY, status=1)
    path.chmod(0o755)
    assert "Nothing was changed." in said
    assert {name: text for name, (text, _) in everything(folder).items()} == {
        name: text for name, (text, _) in before.items()
    }


@pytest.mark.parametrize("fails", ["params.yaml", ".gitignore"])
def test_all_files_are_written_or_none(folder, run, monkeypatch, fails):
    (folder / ".gitignore").write_text("*.tmp\n")
    (folder / "dvc.yaml").chmod(0o640)
    before, text = everything(folder), publish.text

    def failing(path: Path, content: str) -> None:
        if path.name == fails and "/dvc_plots/\n" in content + "/dvc_plots/\n" * (fails == "params.yaml"):
            raise CompressorError(f"{path}: no space left")
        text(path, content)

    monkeypatch.setattr(publish, "text", failing)
    assert "no space left" in run(*SIZES_ONLY, status=1)
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert everything(folder) == before


def test_permissions_and_links_stay(folder, run):
    (folder / "real").mkdir()
    (folder / "dvc.yaml").rename(folder / "real" / "pipeline.yaml")
    (folder / "dvc.yaml").symlink_to("real/pipeline.yaml")
    (folder / "real" / "pipeline.yaml").chmod(0o640)
    run(*SIZES_ONLY)
    assert (folder / "dvc.yaml").is_symlink()
    assert "compressor export" in (folder / "real" / "pipeline.yaml").read_text()
    assert (folder / "real" / "pipeline.yaml").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "iOS17"), "--target iOS17: params.yaml has onnxruntime, and init changes nothing that is there."),
        (("--metric", "f1_score"), "--metric f1_score: params.yaml has evaluate.metric: accuracy_score, and init"),
        (
            ("--prefix", "x-"),
            "--prefix x-: dvc.yaml has the stage toolchain already. For a second model,",
        ),
        (("--model", "other.onnx"), "--model other.onnx: dvc.yaml exports net.onnx already."),
    ],
)
def test_what_is_set_already_is_not_set_again(folder, run, options, message):
    run(*SIZES_ONLY)
    before = everything(folder)
    assert message in run(*options, status=2)
    assert everything(folder) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("target: onnxruntime", "target: [onnxruntime]", "target is ['onnxruntime']: expected text"),
        ("target: onnxruntime", "targets: iOS17", "targets is 'iOS17': expected a list"),
        ("opset: 18", "opset: high", "export.opset is 'high': expected a whole number"),
        ("inputs: {}", "inputs: [x]", "export.inputs is ['x']: expected a mapping"),
        ("metric: accuracy_score", "metrics: f1_score", "unknown key evaluate.metrics. Did you mean 'metric'?"),
    ],
)
def test_settings_of_the_wrong_kind(folder, run, old, new, message):
    run(*SIZES_ONLY)
    settings = folder / "params.yaml"
    assert old in settings.read_text()
    settings.write_text(settings.read_text().replace(old, new))
    before = everything(folder)
    said = run(status=2)
    assert message in said
    assert everything(folder) == before
