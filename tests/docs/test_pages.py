"""Pages are followed as a reader would, with real git, DVC and pip: what they print is what the pages show."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.docs.console import follow
from tests.shell import environment

ROOT = Path(__file__).parents[2]


every = pytest.mark.skipif(os.environ.get("COMPRESSOR_TESTS") != "all", reason="one of many: `make test-all` has all")


def identify(home: Path) -> None:
    """Say who commits in a file too: DVC's experiments and gto read no variables."""
    (home / ".gitconfig").write_text("[user]\n\tname = tester\n\temail = tester@example.org\n", encoding="utf-8")


def variables(home: Path) -> dict[str, str]:
    """A shell beside a clone of this repository.

    Packages are installed from there without an index: what they need is there.
    """
    site = home / "site"
    return environment(home) | {
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",  # a second thread costs such small networks more than it brings
        "PATH": f"{site / 'bin'}:{home / 'bin'}:{environment(home)['PATH']}",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as the value of build_isolation
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_TARGET": str(site),
        "PYTHONPATH": str(site),
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clone of this repository."""
    home = tmp_path_factory.mktemp("home")
    for name in ("compressor", "stages"):
        shutil.copytree(ROOT / name, home / "compressor" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, home / "compressor")
    identify(home)
    pip = home / "bin" / "pip"  # of the interpreter that runs the tests, whose environment may have no script for it
    pip.parent.mkdir()
    pip.write_text('#!/bin/sh\nexec python -m pip "$@"\n', encoding="utf-8")
    pip.chmod(0o755)
    return home


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_tutorial_and_the_registry_that_goes_on_where_it_ends(home: Path) -> None:
    place = home / "digits"
    place.mkdir()
    for name in ("docs/tutorial.md", "docs/howto/registry.md"):
        wrong = follow(page(name), place, variables(home))
        assert not wrong, "\n\n".join([name, *wrong])


DVC = """stages:
  train:
    cmd: python -m src.train
    deps: [src]
    params: [train]
    outs: [models/net.pt]
"""
NET = """import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = torch.nn.Linear(256, 256)
        self.pruned = torch.nn.Linear(256, 64)

    def forward(self, x):
        return self.pruned(self.dense(x).relu())


def create():
    return Net()
"""
TRAIN = """from pathlib import Path

import torch

from src.model import create

torch.manual_seed(0)
net = create()
weight = net.pruned.weight.data
weight[weight.abs() < weight.abs().quantile(0.75)] = 0
Path("models").mkdir(exist_ok=True)
torch.save(net.state_dict(), "models/net.pt")
torch.save(net.half().state_dict(), "models/half.pt")
"""
DATA = """import numpy as np


def held_out():
    random = np.random.default_rng(0)
    return {"x": random.standard_normal((32, 256), np.float32)}, random.integers(0, 64, 32)
"""
EXPORT = "export: {factory: src.model:create, inputs: {x: {shape: [1, 256], dynamic: {0: batch}}}}"


def project(folder: Path, settings: Mapping[str, str]) -> None:
    """A training project as the pages take it for granted, with these files beside its code."""
    code = {"dvc.yaml": DVC, "src/model.py": NET, "src/train.py": TRAIN, "src/data.py": DATA}
    for name, content in {**code, **settings}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


def trained(place: Path, shell: Mapping[str, str], *commands: str) -> None:
    """A repository after a first training, committed before it and behind it."""
    commit = "git add . && git commit --allow-empty --message run"
    for command in ("git init", "dvc init", commit, *commands, commit):
        subprocess.run(["bash", "-c", command], cwd=place, env=shell, capture_output=True, check=True)


PARAMS = {"params.yaml": "train: {epochs: 1}\n"}
CONF = {
    "conf/config.yaml": "defaults: [{train: short}]\n",
    "conf/train/short.yaml": "epochs: 1\n",
    "conf/train/long.yaml": "epochs: 9\n",
}
PROJECTS = {
    "bert": ({}, ()),
    "half_precision": ({"": {"params.yaml": f"train: {{epochs: 1}}\n{EXPORT}\n"}}, ("dvc repro",)),
    "hydra": ({"": CONF}, ("dvc config hydra.enabled true", "dvc exp run")),
    "monorepo": ({"vision": PARAMS, "speech": PARAMS}, ("dvc repro --all-pipelines",)),
    "several_targets": ({"": PARAMS}, ("dvc repro",)),
}
"""By page: the projects of the repository, and what is run in it before."""


@every
@pytest.mark.parametrize("name", PROJECTS)
def test_a_page_in_a_repository_of_its_own(name: str, tmp_path: Path) -> None:
    projects, commands = PROJECTS[name]
    place, shell = tmp_path / name, environment(tmp_path) | {"COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    place.mkdir()
    identify(tmp_path)
    for folder, settings in projects.items():
        project(place / folder, settings)
    if projects:
        trained(place, shell, *commands)
    wrong = follow(page(f"docs/howto/{name}.md"), place, shell)
    assert not wrong, "\n\n".join(wrong)


def test_the_section_of_the_readme_on_a_repository_of_ones_own(home: Path) -> None:
    (section,) = re.findall(r"^## In your own repository\n(.*?)^## ", page("README.md"), re.DOTALL | re.MULTILINE)
    place, shell = home / "net", variables(home)
    project(place, {"params.yaml": "train: {epochs: 1}\n"})
    trained(place, shell)
    wrong = follow(section, place, shell)
    assert not wrong, "\n\n".join(wrong)
    assert {"size_mb", "accuracy", "passed"} <= set(json.loads((place / "compression" / "metrics.json").read_text()))
