"""What `compressor init` asks for on a terminal: a real one, and nothing where there is none."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

QUESTIONS = [
    (b"Which one is the trained model?", b"net.onnx"),
    (b"What is it for?", b"ios17, onnxruntime"),
    (b"which .npz has them?", b""),
]


def conversation(questions: list[tuple[bytes, bytes]], *command: str) -> str:
    """Everything that is said by a command whose questions are answered as they come."""
    terminal, other = pty.openpty()
    child = subprocess.Popen([sys.executable, "-m", *command], stdin=other, stdout=other, stderr=other)
    os.close(other)
    said, pending = b"", list(questions)
    while True:
        try:
            got = os.read(terminal, 4096)
        except OSError:  # it has ended
            got = b""
        if not got:
            break
        said += got
        if pending and said.rstrip().endswith(b":") and pending[0][0] in b" ".join(said.split()):
            os.write(terminal, pending.pop(0)[1] + b"\n")
    os.close(terminal)
    assert child.wait() == 0, said.decode()
    assert pending == []
    return said.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudoterminal is POSIX's")
def test_what_is_missing_is_asked_for(folder: Path) -> None:
    (folder / "dvc.yaml").write_text("stages:\n  train:\n    cmd: python train.py\n    outs:\n      - made\n")
    (folder / "net.onnx.dvc").touch()
    (folder / "other.onnx.dvc").touch()
    said = conversation(QUESTIONS, "compressor", "init")
    assert "several could be it: net.onnx (DVC tracks it by net.onnx.dvc); other.onnx" in " ".join(said.split())
    settings = YAML(typ="safe").load((folder / "params.yaml").read_text())
    assert settings["targets"] == ["iOS17", "onnxruntime"]
    assert settings["evaluate"]["data"] == ""
    assert "compressor export net.onnx " in (folder / "dvc.yaml").read_text()
