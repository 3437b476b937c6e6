"""`compressor init` in repositories of every kind, none of them run."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest

from compressor.stages.init import changes, merging, plan
from compressor.stages.init.decide import Asked, decide
from compressor.stages.init.repository import locate
from tests.stages.init.folders import SIZES_ONLY, TRAINING, everything, values
from tests.stages.repositories import git

ROOT = Path(__file__).parents[3]
FILES = ("dvc.yaml", "params.yaml", ".gitignore", "models/.gitignore")


def test_the_pipeline_of_this_repository_is_what_init_makes():
    """But for the training, and for what its owner has set since."""
    text, settings = ((ROOT / name).read_text(encoding="utf-8") for name in ("dvc.yaml", "params.yaml"))
    planned, _ = decide(locate(ROOT), Asked(), lambda option, question, default: pytest.fail(f"{option}: {question}"))
    training = text[: text.index("\n  toolchain:")]
    made = merging.insert(training, "stages", plan.stages(planned), "dvc.yaml")
    assert merging.insert(made, "artifacts", plan.artifacts(planned), "dvc.yaml") == text
    own = settings[: settings.index("\n# What the artefact is for")]
    made = merging.insert(own, "", plan.groups(planned), "params.yaml")
    assert (
        made.replace("batch_size: 256", "batch_size: 250").replace("size_ratio: 1\n", "size_ratio: 2.5\n") == settings
    )
    assert changes.changes(locate(ROOT), planned) == ((), ())


def test_the_first_run_and_the_second(folder, run):
    said = run(*SIZES_ONLY)
    assert "model      net.onnx: stage train writes it: an ONNX graph, it is not there yet; its name says so" in said
    assert Path("dvc.yaml").read_text().startswith(TRAINING)
    assert list(values()["stages"]) == ["train", "toolchain", "export", "detect", "compress", "evaluate"]
    assert values("params.yaml")["target"] == "onnxruntime"
    assert Path(".gitignore").read_text() == "/dvc_plots/\n"
    before = everything(folder)
    for again in ((), SIZES_ONLY, ("--target", "onnxruntime"), ("--model", "net.onnx"), ("--prefix", "")):
        assert "nothing to add: everything is there" in run(*again)
        assert everything(folder) == before


def test_a_dry_run_shows_all_and_changes_nothing(folder, run):
    before = everything(folder)
    said = run(*SIZES_ONLY, "--dry-run")
    assert everything(folder) == before
    assert {line for line in said.splitlines() if line.startswith("+++")} == {
        "+++ b/dvc.yaml",
        "+++ b/params.yaml",
        "+++ b/.gitignore",
        "+++ b/models/.gitignore",
    }
    run(*SIZES_ONLY)
    shown = [line[1:] for line in said.splitlines() if re.match(r"\+(?!\+\+ )", line)]
    written = TRAINING + "".join(f"{line}\n" for line in shown)
    assert written == "".join(Path(name).read_text() for name in FILES)


@pytest.mark.parametrize(
    ("files", "options", "ignored"),
    [
        ({}, (), {"models/.gitignore": "/exported\n/compressed\n"}),
        ({"models/.gitignore": "/net.onnx"}, (), {"models/.gitignore": "/net.onnx\n/exported\n/compressed\n"}),
        ({".gitignore": "models/\n"}, (), {}),
        ({"models/.gitignore": "/exported\n"}, (), {"models/.gitignore": "/exported\n/compressed\n"}),
        (
            {"models.dvc": ""},
            ("--target", "iOS17", "--target", "onnxruntime"),
            {"compression/.gitignore": "/exported\n", "compression/compressed/.gitignore": "/iOS17\n/onnxruntime\n"},
        ),
    ],
)
def test_git_takes_no_model_even_before_dvc_has_run(folder, run, files, options, ignored):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    run(*SIZES_ONLY, *options)
    there = {name: text.decode() for name, text in everything(folder).items() if name.endswith("/.gitignore")}
    assert there == ignored
    stages = values()["stages"]
    outs = [*stages["export"]["outs"], *(one["path"] for one in values()["artifacts"].values())]
    for out in outs:
        (folder / out).mkdir(parents=True)
        (folder / out / "model.onnx").touch()
    git("add", "--all")
    assert not any(out in subprocess.check_output(["git", "ls-files"], text=True) for out in outs)


def test_several_targets_are_a_matrix(folder, run):
    run(*SIZES_ONLY, "--target", "ios17", "--target", "onnxruntime")
    assert values("params.yaml")["targets"] == ["iOS17", "onnxruntime"]
    assert "target" not in values("params.yaml")
    stages = values()["stages"]
    assert stages["compress"]["matrix"] == {"target": "${targets}"}
    assert stages["compress"]["outs"] == ["models/compressed/${item.target}"]
    assert list(stages["evaluate"]["metrics"][0]) == ["compression/${item.target}/metrics.json"]
    assert [one["path"] for one in values()["artifacts"].values()] == [
        "models/compressed/iOS17",
        "models/compressed/onnxruntime",
    ]
    assert "nothing to add" in run()


def test_the_documented_stages_for_several_targets_are_what_init_makes():
    planned, _ = decide(locate(ROOT), Asked(), lambda *asked: "")
    several = dataclasses.replace(planned, targets=("iOS17", "onnxruntime"), matrix=True)
    (shown,) = re.findall(
        "```yaml\n(stages:\n.*?)```", (ROOT / "docs/metrics.md").read_text(encoding="utf-8"), re.DOTALL
    )
    made = {piece.key: piece.text for piece in plan.stages(several)}
    assert {piece.key: piece.text for piece in merging.pieces(shown, "stages")} == {
        name: made[name] for name in ("compress", "evaluate")
    }


def test_edits_are_kept_and_what_is_new_is_shown(folder, run):
    """As after an upgrade, when init would write a stage in another way, or one more."""
    run(*SIZES_ONLY)
    path = folder / "dvc.yaml"
    edited = path.read_text().replace("template: scatter", "template: simple  # mine")
    edited = re.sub(r"\n  detect:\n.*?(?=\n\n)", "", edited, flags=re.DOTALL)
    path.write_text(edited)
    settings = folder / "params.yaml"
    settings.write_text(
        re.sub(r"\ncompress:\n.*?\n(?=\n)", "", settings.read_text(), flags=re.DOTALL).replace(
            "size_ratio: 1", "size_ratio: 3"
        )
    )
    said = run()
    assert "dvc.yaml: stages.evaluate is kept as it is; it would be written like this now:" in said
    assert "-        template: simple  # mine\n+        template: scatter" in said
    assert "extended  dvc.yaml: stages.detect" in said
    assert "extended  params.yaml: compress" in said
    assert "template: simple  # mine" in path.read_text()
    assert values("params.yaml")["evaluate"]["limits"] == {"size_ratio": 3}
    assert "detect" in values()["stages"]
    assert "nothing to add" in run()


def test_numbers_as_labels_ask_for_a_metric_of_numbers(folder, run):
    (folder / "dvc.yaml").write_text(TRAINING)
    (folder / "prices.py").write_text(
        "import numpy as np\n\ndef held_out():\n    return np.zeros((6, 2), np.float32), np.linspace(0, 1, 6)\n"
    )
    assert "metric     r2_score: the labels are no classes but numbers" in run("--data", "prices:held_out")
    assert values("params.yaml")["evaluate"]["metric"] == "r2_score"
    assert list(values("params.yaml")["evaluate"]["limits"]) == ["r2_drop", "size_ratio"]


@pytest.mark.parametrize(("metric", "count", "args"), [("f1_score", 5, {"average": "macro"}), ("f1_score", 2, None)])
def test_a_metric_of_two_classes_for_more(folder, run, metric, count, args):
    (folder / f"flowers{count}.py").write_text(
        f"import numpy as np\n\ndef held_out():\n    return np.zeros((6, 2), np.float32), np.arange(6) % {count}\n"
    )
    said = run("--data", f"flowers{count}:held_out", "--metric", metric)
    assert ("metric     f1_score with average: macro: the labels are 5 classes" in said) == bool(args)
    assert values("params.yaml")["evaluate"].get("metric_args") == args


def test_the_inputs_of_a_model_that_is_not_there_yet(folder, run):
    (folder / "dvc.yaml").write_text(TRAINING.replace("net.onnx", "net.pt"))
    run(*SIZES_ONLY, "--factory", "nets:Net", "--input", "image=float32[batch,1,8,8]", "--input", "size=int64[2]")
    assert values("params.yaml")["export"]["inputs"] == {
        "image": {"shape": [1, 1, 8, 8], "dtype": "float32", "dynamic": {0: "batch"}},
        "size": {"shape": [2], "dtype": "int64"},
    }
    assert values("params.yaml")["coreml"]["axes"] == {"batch": 1}
