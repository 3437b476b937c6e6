"""Where `compressor init` puts what it adds: in nobody's way."""

from __future__ import annotations

import subprocess

import pytest

from tests.stages.init.folders import SIZES_ONLY, TRAINING, everything, values


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
    assert set(everything(folder)) - set(before) <= {settings, ".gitignore", "models/.gitignore"}
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


@pytest.mark.parametrize("runner", ["uv run", "poetry run"])
def test_commands_run_as_those_of_the_training_do(folder, run, runner):
    (folder / "dvc.yaml").write_text(TRAINING.replace("python train.py", f"{runner} python train.py"))
    assert f"commands   {runner} compressor ...: stage train is run so" in run(*SIZES_ONLY)
    commands = [values()["stages"][name]["cmd"] for name in ("toolchain", "export", "detect", "compress", "evaluate")]
    assert all(command.startswith(f"{runner} compressor ") for command in commands)
    assert "nothing to add" in run()
