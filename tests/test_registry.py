"""What other packages add by entry points: used like what is here, or refused in a line that names the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TARGET = """
from compressor.targets import onnxruntime

TARGETS = dict.fromkeys([{name!r}])
FILES = PACKAGES = ()

def get(name, options):
    return onnxruntime.OnnxRuntime(name, 20, "1.17")
"""
SOURCE = """
import numpy as np
from compressor.encodings import Dense
from compressor.model import Model
from compressor.weight import Weight

SUFFIXES = ({suffix!r},)

def files(path):
    return (path,)

def read(path):
    return Model(path, [Weight(path.stem, Dense(np.load(path)))], None)
"""

SCHEME = "from compressor.recognition.schemes.palettize import NAME, detect, encode, nearest"


def package(folder: Path, name: str, group: str, code: str) -> None:
    """Installs a package of one module, as pip leaves one: the module, and what is said about it."""
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    about = folder / f"{name}-1.5.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(f"[compressor.{group}]\nadded = {name}\n", encoding="utf-8")


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from compressor.stages.app import main\nmain()"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_a_target_of_another_package_is_one_of_the_targets(tmp_path: Path) -> None:
    package(tmp_path, "stranger", "targets", TARGET.format(name="elsewhere"))
    done = command(tmp_path, "targets")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if line.startswith("elsewhere ")]


OPTIONS = """
from dataclasses import dataclass, field

@dataclass(frozen=True)
class Options:
    \"\"\"How codes are held elsewhere.\"\"\"

    opset: int = field(default=20, metadata={"description": "The newest one that it has."})
    words: tuple[str, ...] = field(default=(), metadata={"description": "A file of words.", "lines": True})

OPTIONS = Options
def get(name, options):
    asked = Options(**options)
    return onnxruntime.OnnxRuntime(name, asked.opset, " ".join(asked.words))
"""


def test_what_a_target_of_another_package_may_be_asked_is_a_group_of_the_settings(tmp_path: Path) -> None:
    package(tmp_path, "stranger", "targets", TARGET.format(name="elsewhere") + OPTIONS)
    weight = np.repeat(np.arange(16, dtype=np.float32), 256).reshape(64, 64)
    package(tmp_path, "reader", "sources", SOURCE.format(suffix=".npy"))
    np.save(tmp_path / "w.npy", weight)
    (tmp_path / "params.yaml").write_text("target: Elsewhere\nstranger: {opset: 20}\n")

    def planned(*arguments: str) -> subprocess.CompletedProcess[str]:
        return command(tmp_path, "compress", "w.npy", "out", "--dry-run", "--json", *arguments)

    (new,), (old,) = (json.loads(planned("-S", f"stranger.opset={opset}").stdout)["weights"] for opset in (20, 10))
    assert (new["encoding"], old["encoding"]) == ("palettized4", "dense")
    assert "elsewhere has 10" in old["rejected"][0][1]
    wrong = planned("-S", "stranger.opset=new")
    told = "error: -S stranger.opset=new: stranger.opset is 'new': expected a whole number.\n"
    assert (wrong.returncode, wrong.stderr) == (2, told)
    missing = planned("-S", "stranger.words=none.txt")
    assert (missing.returncode, missing.stderr) == (1, "error: none.txt: cannot be read: No such file or directory.\n")
    described = subprocess.run(
        [sys.executable, "-m", "compressor.stages.reference", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (described.returncode, described.stderr) == (0, "")
    settings = (tmp_path / "params.md").read_text(encoding="utf-8")
    assert "## stranger\n\nHow codes are held elsewhere.\n" in settings
    assert "| `opset` | whole number | `20` | The newest one that it has. |\n" in settings
    assert "| `words` | text | empty | A file of words. |\n" in settings


def test_a_source_of_another_package_reads_its_files(tmp_path: Path) -> None:
    package(tmp_path, "stranger", "sources", SOURCE.format(suffix=".npy"))
    np.save(tmp_path / "w.npy", np.repeat(np.arange(16, dtype=np.float32), 256).reshape(64, 64))
    done = command(tmp_path, "detect", "w.npy")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 weights can be stored smaller" in done.stdout


@pytest.mark.parametrize(
    ("group", "code", "says"),
    [
        ("targets", "import nowhere", "cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("targets", "TARGETS = {}", "has no FILES, PACKAGES, get"),
        ("sources", "SUFFIXES = ()", "has no files"),
        ("schemes", "1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_a_package_that_is_broken_is_named(group: str, code: str, says: str, tmp_path: Path) -> None:
    package(tmp_path, "stranger", group, code)
    done = command(tmp_path, *(["targets"] if group == "targets" else ["detect", "stranger.py"]))
    told = (
        f"error: the package stranger 1.5 adds stranger to compressor.{group}, which {says}: repair or uninstall it.\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
    assert command(tmp_path, "--help").returncode == 0


@pytest.mark.parametrize(
    ("group", "code", "arguments", "says"),
    [
        ("targets", TARGET.format(name="OnnxRuntime"), ("targets",), "the target 'OnnxRuntime'"),
        ("sources", SOURCE.format(suffix=".onnx"), ("detect", "stranger.py"), "a source of .onnx files"),
        ("schemes", SCHEME, ("detect", "stranger.py"), "the scheme 'palettize'"),
    ],
)
def test_names_that_are_there_twice_are_refused(
    group: str, code: str, arguments: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    package(tmp_path, "stranger", group, code)
    done = command(tmp_path, *arguments)
    told = f"error: {says} is there twice, by compressor and by stranger 1.5: uninstall one of the two.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
