"""`compressor init` in repositories of every kind, none of them run."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from compressor.stages.init import changes, merging, plan
from compressor.stages.init.decide import Asked, decide
from compressor.stages.init.repository import locate

ROOT = Path(__file__).parents[3]
TRAINING = "stages:\n  train:\n    cmd: python train.py\n    outs:\n      - net.onnx\n"  # as the fixture has it
SIZES_ONLY = ("--data", "none")


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".git/" not in path.as_posix())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def values(path: str = "dvc.yaml") -> dict:
    return YAML(typ="safe").load(Path(path).read_text(encoding="utf-8"))


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
    }
    run(*SIZES_ONLY)
    shown = [line[1:] for line in said.splitlines() if re.match(r"\+(?!\+\+ )", line)]
    written = TRAINING + "".join(f"{line}\n" for line in shown)
    assert written == "".join(Path(name).read_text() for name in ("dvc.yaml", "params.yaml", ".gitignore"))


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


@pytest.mark.parametrize(
    ("files", "options", "stages", "settings", "said"),
    [
        ({}, (), "toolchain export detect compress evaluate", "params.yaml", ""),
        (
            {},
            ("--prefix", "mobile_"),
            "mobile_toolchain mobile_export mobile_detect mobile_compress mobile_evaluate",
            "params.yaml",
            "",
        ),
        (
            {"dvc.yaml": TRAINING + "  evaluate:\n    cmd: python e.py\n"},
            (),
            "compress-toolchain compress-export compress-detect compress-compress compress-evaluate",
            "params.yaml",
            "dvc.yaml has a stage evaluate of its own",
        ),
        ({"params.yaml": "target: price\n"}, (), "", "compressor.yaml", "params.yaml has target of its own"),
        (
            {".gitignore": "params.yaml\n", "params.yaml": "a: 1\n"},
            (),
            "",
            "compressor.yaml",
            "Git ignores params.yaml",
        ),
        ({"conf/config.yaml": "defaults: []\n"}, (), "", "compressor.yaml", "the settings are Hydra's"),
        (
            {".dvc/config": "['remote \"a\"']\n    url = /x\n[hydra]\n    enabled = true\n"},
            (),
            "",
            "compressor.yaml",
            "from Hydra's configuration",
        ),
        (
            {"dvc.yaml": TRAINING + "    params:\n      - params.yaml:\n", "params.yaml": "lr: 1\n"},
            (),
            "",
            "compressor.yaml",
            "stage train depends on all of params.yaml",
        ),
        (
            {"dvc.yaml": TRAINING + "    deps: [params.yaml]\n", "params.yaml": "lr: 1\n"},
            (),
            "",
            "compressor.yaml",
            "stage train depends on all of params.yaml",
        ),
        (
            {"dvc.yaml": "vars:\n  - evaluate: {a: 1}\n" + TRAINING},
            (),
            "",
            "compressor.yaml",
            "vars of dvc.yaml has evaluate of its own",
        ),
        ({"params.yaml": "{lr: 1}\n"}, (), "", "compressor.yaml", "params.yaml is written in braces"),
    ],
)
def test_nobody_is_stood_in_the_way_of(folder, run, files, options, stages, settings, said):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    before = everything(folder)
    assert said in " ".join(run(*SIZES_ONLY, *options).split())
    own = [name for name, stage in values()["stages"].items() if str(stage["cmd"]).startswith("compressor ")]
    assert own == (stages or "toolchain export detect compress evaluate").split()
    assert set(everything(folder)) - set(before) <= {settings, ".gitignore"}
    assert set(values(settings)) >= {"target", "export", "detect", "compress", "coreml", "evaluate"}
    for name, text in before.items():
        assert everything(folder)[name].startswith(text), name
    assert "nothing to add" in run()


@pytest.mark.parametrize(
    ("files", "place", "said"),
    [
        ({"dvc.yaml": TRAINING.replace("net.onnx", "models/net.onnx")}, "models", ""),
        ({"dvc.yaml": TRAINING + "      - models\n"}, "compression", "stage train writes models in models"),
        ({"data.dvc": "", "models.dvc": ""}, "compression", "DVC tracks models in models"),
        (
            {"dvc.yaml": TRAINING + "  serve:\n    cmd: python s.py\n    deps: [models]\n"},
            "compression",
            "stage serve reads models",
        ),
        (
            {"sub/dvc.yaml": "stages:\n  a:\n    cmd: a\n    wdir: ..\n    outs: [models]\n"},
            "compression",
            "stage a writes models",
        ),
        ({"models": "a file"}, "compression", "models is a file"),
    ],
)
def test_no_output_lies_in_that_of_another_stage(folder, run, files, place, said):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    assert said in " ".join(run(*SIZES_ONLY).split())
    assert values()["stages"]["export"]["outs"] == [f"{place}/exported"]
    assert values()["stages"]["compress"]["outs"] == [f"{place}/compressed"]


def test_what_git_ignores_is_seen_again(folder, run):
    (folder / ".gitignore").write_text("*.json\n*.csv\ncompression/")
    run(*SIZES_ONLY)
    assert (
        folder / ".gitignore"
    ).read_text() == "*.json\n*.csv\ncompression/\n/dvc_plots/\n!/compression/\n!/compression/**\n"
    (folder / "compression").mkdir()
    (folder / "compression" / "metrics.json").touch()
    seen = subprocess.run(["git", "status", "--porcelain", "-uall"], capture_output=True, text=True).stdout
    assert "compression/metrics.json" in seen
    assert "nothing to add" in run()


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ((), None),
        (("pyproject.toml",), "pyproject.toml"),
        (("pyproject.toml", "requirements.txt"), "requirements.txt"),
        (("requirements.txt", "uv.lock", "environment.yml"), "uv.lock"),
        (("../poetry.lock",), "../poetry.lock"),
        (("requirements.txt", "../poetry.lock"), "requirements.txt"),
    ],
)
def test_the_toolchain_depends_on_what_is_there(folder, run, there, chosen):
    project = folder / "project"
    project.mkdir()
    (project / "dvc.yaml").write_text(TRAINING)
    for name in there:
        (project / name).touch()
    said = run("project", *SIZES_ONLY)
    assert values("project/dvc.yaml")["stages"]["toolchain"].get("deps") == ([chosen] if chosen else None)
    assert ("no lock file is there" in said) == (chosen is None)
    assert (folder / "dvc.yaml").read_text() == TRAINING


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


@pytest.mark.parametrize(
    ("files", "options", "model", "because"),
    [
        ({}, (), "net.onnx", "stage train writes it"),
        (
            {"dvc.yaml": "vars:\n  - out: {dir: made}\n" + TRAINING.replace("net.onnx", "${out.dir}/net.onnx")},
            (),
            "${out.dir}/net.onnx",
            "stage train writes it",
        ),
        (
            {
                "dvc.yaml": TRAINING.replace("    outs", "    wdir: sub\n    outs").replace(
                    "net.onnx", "../other/net.onnx"
                )
            },
            (),
            "other/net.onnx",
            "stage train writes it",
        ),
        (
            {
                "dvc.yaml": "stages:\n  train:\n    foreach: [a, b]\n    do:\n      cmd: t ${item}\n"
                "      outs: ['${item}.onnx']\n",
                "dvc.lock": "stages:\n  train@a:\n    outs:\n    - path: a.onnx\n"
                "  train@b:\n    outs:\n    - path: b.onnx\n",
            },
            ("--model", "b.onnx"),
            "b.onnx",
            "stage train@b writes it",
        ),
        (
            {"dvc.yaml": TRAINING + "  tune:\n    cmd: python tune.py\n    deps: [net.onnx]\n    outs: [tuned.onnx]\n"},
            (),
            "tuned.onnx",
            "stage tune writes it",
        ),
        ({"dvc.yaml": "", "sub/dvc.yaml": TRAINING}, (), "sub/net.onnx", "stage train of sub/dvc.yaml writes it"),
        ({"dvc.yaml": "", "net.onnx.dvc": ""}, (), "net.onnx", "DVC tracks it by net.onnx.dvc"),
        (
            {
                "dvc.yaml": TRAINING.replace("net.onnx", "made"),
                "train.py": "import lib.saving\n",
                "lib/saving.py": "import torch\ndef save(net):\n    torch.onnx.export(net, (), 'made/net.onnx')\n",
            },
            (),
            "made/net.onnx",
            "lib/saving.py names it",
        ),
    ],
)
def test_the_model_is_the_one_that_a_stage_writes(folder, run, files, options, model, because):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    said = " ".join(run(*SIZES_ONLY, *options).split())
    assert f"model {model}: " in said
    assert because in said
    export = values()["stages"]["export"]
    assert export["cmd"].startswith(f"compressor export {model} ")
    assert export["deps"][0] == model


@pytest.mark.parametrize("runner", ["uv run", "poetry run"])
def test_commands_run_as_those_of_the_training_do(folder, run, runner):
    (folder / "dvc.yaml").write_text(TRAINING.replace("python train.py", f"{runner} python train.py"))
    assert f"commands   {runner} compressor ...: stage train is run so" in run(*SIZES_ONLY)
    commands = [values()["stages"][name]["cmd"] for name in ("toolchain", "export", "detect", "compress", "evaluate")]
    assert all(command.startswith(f"{runner} compressor ") for command in commands)
    assert "nothing to add" in run()


def test_evaluate_depends_on_what_the_data_function_reads(folder, run):
    (folder / "dvc.yaml").write_text(TRAINING + "  prepare:\n    cmd: python prepare.py\n    outs: [made/set]\n")
    (folder / "raw.csv.dvc").touch()
    (folder / "parts").mkdir()
    (folder / "parts" / "reading.py").write_text("import numpy as np\nPATH = 'made/set/test.npz'\nRAW = './raw.csv'\n")
    (folder / "parts" / "scores.py").write_text("def share(labels, outputs): ...\n")
    (folder / "parts" / "data.py").write_text(
        "import numpy as np\nfrom . import reading\n\ndef held_out():\n    raise FileNotFoundError(reading.PATH)\n"
    )
    run("--data", "parts.data:held_out", "--metric", "parts.scores:share")
    assert values()["stages"]["evaluate"]["deps"] == [
        "models/exported",
        "models/compressed",
        "parts/data.py",
        "parts/reading.py",
        "made/set",
        "raw.csv",
        "parts/scores.py",
    ]
    assert values("params.yaml")["evaluate"]["limits"] == {"share_drop": 0.01, "size_ratio": 1}


def test_numbers_as_labels_ask_for_a_metric_of_numbers(folder, run):
    (folder / "dvc.yaml").write_text(TRAINING)
    (folder / "prices.py").write_text(
        "import numpy as np\n\ndef held_out():\n    return np.zeros((6, 2), np.float32), np.linspace(0, 1, 6)\n"
    )
    assert "metric     r2_score: the labels are no classes but numbers" in run("--data", "prices:held_out")
    assert values("params.yaml")["evaluate"]["metric"] == "r2_score"
    assert list(values("params.yaml")["evaluate"]["limits"]) == ["r2_drop", "size_ratio"]


def test_the_inputs_of_a_model_that_is_not_there_yet(folder, run):
    (folder / "dvc.yaml").write_text(TRAINING.replace("net.onnx", "net.pt"))
    run(*SIZES_ONLY, "--factory", "nets:Net", "--input", "image=float32[batch,1,8,8]", "--input", "size=int64[2]")
    assert values("params.yaml")["export"]["inputs"] == {
        "image": {"shape": [1, 1, 8, 8], "dtype": "float32", "dynamic": {0: "batch"}},
        "size": {"shape": [2], "dtype": "int64"},
    }
    assert values("params.yaml")["coreml"]["axes"] == {"batch": 1}


HEAVY = {"coremltools", "onnxruntime", "onnxscript", "rich", "sklearn", "torch", "transformers"}


def test_a_checkpoint_is_looked_at_without_torch(folder):
    """Its first bytes tell what it is: a dry run costs little more than Python's start."""
    (folder / "dvc.yaml").write_text(TRAINING.replace("net.onnx", "net.pt"))
    torch.save({"w": torch.zeros(2)}, folder / "net.pt")
    code = "import atexit, sys\natexit.register(lambda: print('MODULES', *sys.modules))\n"
    code += "from compressor.stages.app import main\nmain()"
    options = ("--dry-run", *SIZES_ONLY, "--factory", "nets:Net", "--input", "x=float32[batch,2]")
    done = subprocess.run([sys.executable, "-c", code, "init", *options], capture_output=True, text=True)
    assert "net.pt: stage train writes it: a state dict, its first bytes say so" in done.stdout
    modules = next(line for line in done.stdout.splitlines() if line.startswith("MODULES "))
    assert HEAVY.isdisjoint(name.partition(".")[0] for name in modules.split())
