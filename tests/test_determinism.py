"""Same input, same bytes: in any process, in any folder, on any number of cores, and when it is done once more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import compressor
from compressor.arrays import NDArray
from tests.faults.commands import snapshot
from tests.sources.onnx.models import save, tensor, value

SIZE = 128
ENCODINGS = {
    "dense": "dense",
    "sparse": "sparse",
    "blocks": "sparse",
    "palette2": "palettized2",
    "palette3": "palettized3",
    "palette4": "palettized4",
    "groups": "palettized2",
    "sparse palette": "sparse(palettized3)",
    "int8": "int8",
    "int4": "int4",
    "sparse int8": "sparse(int8)",
    "quantized": "int8",
}

COMMANDS = """
import os, sys
cores = int(sys.argv[1])
if cores:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
from compressor.stages.app import app
model, out = sys.argv[2], sys.argv[3]
for command in (
    ["export", model, f"{out}/exported", "--params", f"{out}/params.yaml"],
    ["detect", f"{out}/exported", "--out", f"{out}/detection.json", "--plots", f"{out}/sparsity.csv"],
    ["compress", f"{out}/exported", f"{out}/staged", "--detection", f"{out}/detection.json"],
    ["compress", f"{out}/exported", f"{out}/alone", "--plots", f"{out}/bytes.csv"],
):
    app(command, standalone_mode=False)
"""


def weights() -> dict[str, NDArray]:
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((SIZE, SIZE)).astype(np.float32)
    away = plain + np.copysign(np.float32(0.1), plain)
    zeros = rng.random((SIZE, SIZE)) < 0.8
    blocks = np.repeat(rng.random((SIZE // 8, SIZE)) < 0.7, 8, axis=0)
    table = rng.standard_normal((SIZE, 256)).astype(np.float32)
    scale = np.float32(0.01) + np.abs(plain[:, :1]) * np.float32(0.01)

    def chosen(entries: int) -> NDArray:
        return np.asarray(table[0, rng.integers(0, entries, (SIZE, SIZE))])

    def codes(bits: int) -> NDArray:
        low = -(1 << (bits - 1))
        found = rng.integers(low + 1, -low, (SIZE, SIZE))
        return np.where(found == 0, 1, found).astype(np.float32)

    groups = np.stack([row[rng.integers(0, 4, SIZE)] for row in np.repeat(table[: SIZE // 32], 32, axis=0)])
    return {
        "dense": plain,
        "sparse": np.where(zeros, np.float32(0), away),
        "blocks": np.where(blocks, np.float32(0), away),
        "palette2": chosen(4),
        "palette3": chosen(7),
        "palette4": chosen(16),
        "groups": groups,
        "sparse palette": np.where(zeros, np.float32(0), chosen(8)),
        "int8": codes(8) * scale,
        "int4": codes(4) * scale,
        "sparse int8": np.where(zeros, np.float32(0), codes(8) * scale),
    }


def mixed(path: Path) -> Path:
    """A chain of matrix products with a weight of each kind; one has integer codes, one lies in a subgraph too."""
    values = weights()
    rng = np.random.default_rng(1)
    codes = rng.integers(-127, 128, (SIZE, SIZE)).astype(np.int8)
    steps = [f"h{place}" for place in range(len(values) + 1)]
    nodes = [helper.make_node("DequantizeLinear", ["quantized", "scale"], ["dequantized"])]
    for before, weight, after in zip(["x", *steps], [*values, "dequantized"], steps, strict=False):
        nodes.append(helper.make_node("MatMul", [before, weight], [after]))
    inside = [helper.make_node("MatMul", [steps[-1], "inner"], ["t"])]
    then = helper.make_graph(inside, "then", [], [value("t", ["n", SIZE])], [tensor("inner", values["palette4"].T)])
    other = helper.make_graph([helper.make_node("Identity", [steps[-1]], ["e"])], "else", [], [value("e", ["n", SIZE])])
    nodes.append(helper.make_node("If", ["condition"], ["y"], then_branch=then, else_branch=other))
    stored = [tensor(name, array) for name, array in values.items()]
    stored += [
        tensor("quantized", codes),
        tensor("scale", np.array(0.02, np.float32)),
        tensor("condition", np.array(True)),
    ]
    save(path, nodes, stored, inputs=[value("x", ["n", SIZE])], outputs=[value("y", ["n", SIZE])], opset=21)
    return path


def check_mixed(out: Path) -> None:
    found = {weight.name: weight.encoding for weight in compressor.inspect(out).weights}
    assert found.items() >= ENCODINGS.items()


def in_a_process(model: Path, folder: Path, *, seed: int, cores: int, params: str = "{}") -> dict[str, object]:
    """Everything that the commands write, in a process of its own that is unlike others in what must not matter."""
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(params)
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(model.parent), "TZ": f"UTC+{seed}"}
    command = [sys.executable, "-c", COMMANDS, str(cores), os.path.relpath(model, folder), "."]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return dict(snapshot(folder))


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    model = mixed(tmp_path / "m.onnx")
    first = in_a_process(model, tmp_path / "a", seed=0, cores=1)
    second = in_a_process(model, tmp_path / "b" / "in a longer path", seed=12345, cores=0)
    assert first == second
    assert {"exported/model.onnx.data", "detection.json", "alone/manifest.json", "bytes.csv"} <= first.keys()
    check_mixed(tmp_path / "a" / "alone")
    assert first["alone/model.onnx"] == first["staged/model.onnx"]


def test_two_processes_export_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "deterministic_factory.py").write_text(
        "import torch\n\n"
        "class Net(torch.nn.Sequential):\n"
        "    def forward(self, input):\n"
        "        return super().forward(input)\n\n"
        "def create():\n"
        "    return Net(torch.nn.Conv2d(4, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),\n"
        "               torch.nn.Flatten(), torch.nn.Linear(576, 64))\n"
    )
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(4, 16, 3),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(576, 64),
    )
    layers[4].weight.data = torch.tensor([-1.0, -0.5, 0.5, 1.0])[torch.randint(0, 4, (64, 576))]
    model = tmp_path / "m.pt"
    torch.save(layers.state_dict(), model)
    params = "export: {factory: 'deterministic_factory:create', inputs: {input: {shape: [1, 4, 8, 8]}}}"
    elsewhere = tmp_path / "where the code lies makes no difference"
    elsewhere.mkdir()
    for name in ("m.pt", "deterministic_factory.py"):
        shutil.copy(tmp_path / name, elsewhere)
    first = in_a_process(model, tmp_path / "a", seed=0, cores=1, params=params)
    second = in_a_process(elsewhere / "m.pt", tmp_path / "b", seed=12345, cores=0, params=params)
    assert first == second
    assert "exported/model.traced.pt" in first
    assert {weight.encoding for weight in compressor.inspect(tmp_path / "a" / "alone").weights} == {
        "dense",
        "palettized2",
    }


@pytest.mark.parametrize("target", ["onnxruntime", "onnx-opset21", "onnx-opset25"])
def test_compressing_an_artefact_again_changes_nothing(tmp_path: Path, target: str) -> None:
    compressor.compress(mixed(tmp_path / "m.onnx"), tmp_path / "first", target=target)
    compressor.compress(tmp_path / "first", tmp_path / "second", target=target)
    check_mixed(tmp_path / "second")
    assert (tmp_path / "first/model.onnx").read_bytes() == (tmp_path / "second/model.onnx").read_bytes()
    detection = compressor.detect(tmp_path / "second")
    compressor.compress(tmp_path / "second", tmp_path / "third", target=target, detection=detection)
    assert (tmp_path / "third/model.onnx").read_bytes() == (tmp_path / "first/model.onnx").read_bytes()


def test_where_the_data_lie_makes_no_difference(tmp_path: Path) -> None:
    alone = mixed(tmp_path / "alone.onnx")
    (tmp_path / "apart").mkdir()
    shuffled = onnx.load(alone)
    apart = tmp_path / "apart" / "other name.onnx"
    onnx.save(shuffled, apart, save_as_external_data=True, location="weights.bin", size_threshold=0)
    first, second = (
        compressor.compress(source, tmp_path / out) for source, out in ((alone, "first"), (apart, "second"))
    )
    assert (tmp_path / "first/model.onnx").read_bytes() == (tmp_path / "second/model.onnx").read_bytes()
    assert second.source_nbytes > first.source_nbytes == alone.stat().st_size
    assert replace(second, source_nbytes=first.source_nbytes) == first


def test_a_folder_s_own_files_and_the_order_of_calls_make_no_difference(tmp_path: Path) -> None:
    """Nothing is kept from one call to the next."""
    model = mixed(tmp_path / "m.onnx")
    compressor.compress(model, tmp_path / "out")
    first = snapshot(tmp_path / "out")
    compressor.compress(tmp_path / "out", tmp_path / "between", target="onnx-opset25")
    compressor.dry_run(model, pipeline="default_pruning")
    compressor.compress(model, tmp_path / "out")
    assert snapshot(tmp_path / "out") == first
