"""A repository whose training writes an ONNX file, before it has run, and what a command makes of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compressor.stages import app

TRAINING = "stages:\n  train:\n    cmd: python train.py\n    outs:\n      - net.onnx\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Without a commit, and without DVC's own files, which nothing here needs."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    (tmp_path / "dvc.yaml").write_text(TRAINING)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run() -> Callable[..., str]:
    """What is said, on either stream, by a command that must end with `status`."""

    def ran(*arguments: object, status: int = 0) -> str:
        ended = CliRunner().invoke(app.app, ["init", *map(str, arguments)], env={"COMPRESSOR_DEBUG": "1"})
        assert ended.exit_code == status, ended.output
        return ended.output

    return ran
