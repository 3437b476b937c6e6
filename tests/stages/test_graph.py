"""The copy of an ONNX model computes what the model does, wherever its tensors are."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor import sources
from compressor.errors import CompressorError
from compressor.stages import graph
from compressor.stages.params import Export

SIZE = 64


def everywhere() -> onnx.ModelProto:
    """A model with large tensors as initializer, sparse initializer, constant of a node, and in a subgraph."""
    values = np.random.default_rng(0).standard_normal((3, SIZE, SIZE)).astype(np.float32)
    some, places = np.arange(600, dtype=np.float32), np.arange(0, 1200, 2, dtype=np.int64)
    unknown = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    inner = helper.make_node("MatMul", ["x", "in_subgraph"], ["inner"])
    then = helper.make_graph([inner], "then", [], [unknown], [numpy_helper.from_array(values[0], "in_subgraph")])
    otherwise = helper.make_graph([helper.make_node("Identity", ["x"], ["inner"])], "otherwise", [], [unknown])
    nodes = [
        helper.make_node("Constant", [], ["constant"], value=numpy_helper.from_array(values[1])),
        helper.make_node("MatMul", ["x", "constant"], ["a"]),
        helper.make_node("MatMul", ["a", "sparse"], ["b"]),
        helper.make_node("MatMul", ["b", "plain"], ["c"]),
        helper.make_node("If", ["choice"], ["d"], then_branch=then, else_branch=otherwise),
        helper.make_node("Add", ["c", "d"], ["y"]),
    ]
    made = helper.make_graph(
        nodes,
        "everywhere",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", SIZE]),
            helper.make_tensor_value_info("choice", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", SIZE])],
        [numpy_helper.from_array(values[2], "plain")],
    )
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(some, "sparse"), numpy_helper.from_array(places), [SIZE, SIZE]
    )
    made.sparse_initializer.append(sparse)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("external", [False, True])
def test_a_copy_computes_the_same(tmp_path: Path, *, external: bool) -> None:
    source, copy = tmp_path / "source.onnx", tmp_path / "copy"
    copy.mkdir()
    onnx.save(everywhere(), source, save_as_external_data=external, location="weights.bin", size_threshold=0)
    graph.write(source, copy, Export())
    x = np.random.default_rng(1).standard_normal((2, SIZE)).astype(np.float32)
    for choice in (True, False):
        before, after = (
            onnxruntime.InferenceSession(path).run(None, {"x": x, "choice": np.array(choice)})[0]
            for path in (source, copy / "model.onnx")
        )
        assert np.array_equal(before, after)
    assert sorted(path.name for path in copy.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (copy / "model.onnx.data").stat().st_size == 2 * 4 * SIZE * SIZE  # `plain` and `in_subgraph`, aligned


def test_what_no_command_could_read_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(everywhere().SerializeToString()[:5000])
    with pytest.raises(CompressorError, match=r"broken\.onnx: not an ONNX model, or truncated"):
        graph.write(broken, tmp_path, Export())
    assert [path.name for path in tmp_path.iterdir()] == ["broken.onnx"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "compressor", *words], capture_output=True, text=True)


@pytest.mark.parametrize("name", ["bare.pt", "lightning.ckpt", "pair.pth"])
def test_the_weights_of_a_state_dict_are_looked_at_without_a_factory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = {"fc.weight": torch.linspace(-1, 1.3, 16)[torch.randint(16, (64, 64))]}
    contents = {"bare.pt": state, "lightning.ckpt": {"state_dict": state}, "pair.pth": {"model": state, "ema": state}}
    torch.save(contents[name], name)
    found = run("detect", name, "--json")
    assert [one["palette"] for one in json.loads(found.stdout)["findings"]] == ["16 distinct values"]
    planned = run("compress", name, "out", "--dry-run", "--json")
    assert [one["encoding"] for one in json.loads(planned.stdout)["weights"]] == ["palettized4"]
    refused = run("compress", name, "out")
    assert refused.returncode == 2
    assert "export.inputs" in refused.stderr


def test_a_program_is_exported_for_a_look(tmp_path: Path) -> None:
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(64, 64), (torch.zeros(1, 64),)), path)
    assert not sources.has_weights(path)
    assert sources.has_weights(tmp_path / "m.onnx")
