"""The page on clusters: its commands are run, with processes for machines, pods and Slurm's tasks."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import compressor
from tests.faults.commands import chain, snapshot
from tests.shell import environment

pytest.importorskip("distributed")

PAGE = (Path(__file__).parents[2] / "docs/howto/cluster.md").read_text(encoding="utf-8")
SRUN = '#!/bin/bash\nfor task in 1 2 3; do "$@" & done\nwait\n'
"""Three tasks on this machine."""


def section(heading: str) -> str:
    """The code block of a section."""
    (block,) = re.findall(rf"^## {heading}\n.*?^```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(block)


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A process whose whole group ends with the block."""
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def started(command: Sequence[str], folder: Path, shell: dict[str, str]) -> subprocess.Popen[str]:
    with (folder / "log").open("a") as log:
        return subprocess.Popen(command, cwd=folder, env=shell, text=True, stdout=log, stderr=log, process_group=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The model, and what becomes of it here."""
    (tmp_path / "models" / "exported").mkdir(parents=True)
    compressor.compress(chain(tmp_path / "models" / "exported" / "model.onnx"), tmp_path / "models" / "here")
    return tmp_path


@pytest.fixture
def port() -> str:
    """One that is free: the page's own may be somebody's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.parametrize("heading", ["On one machine", "Slurm"])
def test_scripts(folder: Path, port: str, heading: str) -> None:
    script, shell = section(heading).replace("8786", port), environment(folder)
    script = script.replace("dask scheduler", f"dask scheduler --port {port}")
    (folder / "srun").write_text(SRUN)
    (folder / "srun").chmod(0o755)
    shell["PATH"] = f"{folder}:{shell['PATH']}"
    # The groups of what runs in the background end with the script, as a job's do.
    with ended(started(["bash", "-c", script], folder, shell)) as job:
        assert job.wait(120) == 0, (folder / "log").read_text()
    assert snapshot(folder / "models" / "compressed") == snapshot(folder / "models" / "here")
    assert (folder / "log").read_text().count("Start worker at:") == (2 if heading == "On one machine" else 3)


def test_pods(folder: Path, port: str) -> None:
    documents = list(YAML(typ="safe").load_all(section("Kubernetes")))
    pods = [one["spec"]["template"]["spec"] for one in documents if one["kind"] in {"Deployment", "Job"}]
    (mounted,) = {str(pod["volumes"]) + str(pod["containers"][0]["volumeMounts"]) for pod in pods[1:]}
    assert "/shared" in mounted
    shell, names = environment(folder), {"scheduler:8786": f"127.0.0.1:{port}", "/shared/": f"{folder}/models/"}
    scheduler, worker, job = (
        [re.sub("|".join(names), lambda found: names[found[0]], word) for word in pod["containers"][0]["command"]]
        for pod in pods
    )
    with ended(started([*scheduler, "--port", port], folder, shell)), ended(started(worker, folder, shell)):
        done = subprocess.run(job, cwd=folder, env=shell, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert snapshot(folder / "models" / "compressed") == snapshot(folder / "models" / "here")
