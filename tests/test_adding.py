"""What `docs/adding.md` says is true: its package is installed, and used as the text uses it."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

import compressor
from compressor.arrays import NDArray
from compressor.encodings import decode, spec
from compressor.model import Model
from compressor.targets import Target
from compressor.weight import Weight
from tests import conformance
from tests.conformance import Case

GUIDE = Path(__file__).parents[1] / "docs" / "adding.md"
PROGRAMS = {
    "pip": [sys.executable, "-m", "pip"],
    "compressor": [sys.executable, "-c", "from compressor.stages.app import main\nmain()"],
}
POWERS = np.array([-64, -32, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 32, 64], np.float32)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def weight() -> NDArray:
    """Powers of two, by channels of scales that are none; most of them pruned."""
    rng = np.random.default_rng(0)
    kept = np.where(rng.random((256, 96)) < 0.8, 0, rng.choice(POWERS, (256, 96)))
    kept[:, 0] = 64
    return (kept * rng.uniform(0.1, 1, (256, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the text takes for granted: the package, a model, a folder of arrays."""
    folder = tmp_path_factory.mktemp("adding")
    for block in (*blocks("toml"), *blocks("python")):
        file = folder / "plain" / block.partition("\n")[0].removeprefix("# ")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block, encoding="utf-8")
    (folder / "weights").mkdir()
    np.save(folder / "weights" / "w.npy", weight())
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> net (float[N, 256] x) => (float[N, 96] y) { y = MatMul(x, w) }'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight(), "w"))
    onnx.save(model, folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def said(place: Path) -> Mapping[str, str]:
    """What each command of the text prints; all of them succeed."""
    site = place / "site"
    environment = {**os.environ, "PIP_TARGET": str(site), "PIP_NO_INDEX": "1", "PYTHONPATH": str(site)}
    found = {}
    for command in (line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()):
        program, *arguments = shlex.split(command)
        done = subprocess.run(
            [*PROGRAMS[program], *arguments], cwd=place, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        found[command] = done.stdout
    return found


def test_the_target_is_one_of_the_targets(said: Mapping[str, str]) -> None:
    assert re.search(r"^npz +weights for numpy, without a graph$", said["compressor targets"], re.MULTILINE)


def test_the_source_reads_a_folder_and_the_scheme_knows_its_weight(said: Mapping[str, str]) -> None:
    assert "powers of two, a scale for each channel" in said["compressor detect weights"]


@pytest.mark.parametrize(
    ("folder", "target", "encoding"),
    [("artefact", "onnxruntime", "sparse(int8(palettized4))"), ("arrays", "npz", "int8")],
)
def test_a_model_is_compressed(folder: str, target: str, encoding: str, said: Mapping[str, str], place: Path) -> None:
    """Where a code takes less than a byte, by the scheme, whose form the verification has read back."""
    assert said
    manifest = json.loads((place / folder / "manifest.json").read_text(encoding="utf-8"))
    (found,) = manifest["weights"]
    assert (manifest["target"], found["encoding"], found["exact"]) == (target, encoding, True)
    assert manifest["versions"]["plain"] == "1.0"


def of_the_text(name: str, said: Mapping[str, str], place: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    assert said
    monkeypatch.syspath_prepend(place / "site")
    return importlib.import_module(f"plain.{name}")


def run(target: Target, chunk: Sequence[Case], directory: Path) -> Mapping[str, NDArray]:
    """What numpy is the runtime of: the values that are read back."""
    weights = [Weight(name, encoding) for name, encoding in chunk]
    model = Model(Path("forms"), weights, None)
    compressor.targets.write(target, model, directory)
    layout = target.layout(model, {one.name: spec(one.encoding) for one in weights})
    layout.check(directory)
    assert layout.nbytes == sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    return {one.name: decode(one.encoding) for one in target.read(directory).weights}


def test_the_target_passes_conformance(
    said: Mapping[str, str], place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = of_the_text("npz", said, place, monkeypatch)
    target = module.get("npz", {})  # type: ignore[attr-defined]
    assert conformance.wrong(target, run, list(conformance.forms())[::5], tmp_path) == []
