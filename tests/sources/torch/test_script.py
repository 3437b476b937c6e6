"""TorchScript archives, scripted, traced and frozen, float and quantized, become the graph that their modules would."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from compressor.errors import CompressorError, UsageError
from compressor.sources.torch import InputSpec, export
from compressor.sources.torch.load import load

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def networks(importable):
    import torch_networks
    import torch_quantized_networks

    return {**vars(torch_networks), **vars(torch_quantized_networks)}


def saved(script: torch.jit.ScriptModule, path: Path) -> Path:
    torch.jit.save(script, path)
    return path


def traced(model: torch.nn.Module, x: torch.Tensor) -> torch.jit.ScriptModule:
    return torch.jit.trace(model, x, check_trace=False)


def scripted(model: torch.nn.Module, _: torch.Tensor) -> torch.jit.ScriptModule:
    return torch.jit.script(model)


def frozen(model: torch.nn.Module, _: torch.Tensor) -> torch.jit.ScriptModule:
    return torch.jit.freeze(torch.jit.script(model))


@dataclass(frozen=True)
class Case:
    """Two of these differ by rounding of activations: `tolerance` is a share of the largest result."""

    network: str
    make: Callable[..., torch.jit.ScriptModule]
    x: Callable[[], torch.Tensor]
    tolerance: float = 1e-5


def images() -> torch.Tensor:
    return torch.rand(5, 3, 16, 16)


def digits() -> torch.Tensor:
    return torch.rand(5, 1, 14, 14)


def ids() -> torch.Tensor:
    return torch.randint(0, 40, (5, 7))


CASES = {
    "resnet scripted": Case("resnet", scripted, images),
    "resnet traced": Case("resnet", traced, images),
    "resnet frozen": Case("resnet", frozen, images),
    "transformer traced": Case("transformer", traced, ids),
    "lstm scripted": Case("lstm", scripted, lambda: torch.randn(5, 5, 16)),
    "gru traced": Case("gru", traced, lambda: torch.randn(5, 5, 16)),
    "mixed scripted": Case("mixed", scripted, digits),
    "mixed traced": Case("mixed", traced, digits),
    "mixed frozen": Case("mixed", frozen, digits),
    "functions of FX": Case("fx_static", scripted, lambda: torch.rand(5, 1, 8, 8), 0.1),
    "arithmetic": Case("arithmetic", scripted, lambda: torch.randn(5, 8)),
    "embedding": Case("embedding", scripted, ids),
    "dynamic": Case("dynamic", scripted, lambda: torch.randn(5, 64), 0.05),
    "cells": Case("cells", scripted, lambda: torch.randn(5, 8), 0.05),
    "fx_dynamic": Case("fx_dynamic", traced, lambda: torch.randn(5, 3, 8), 0.05),
}


@pytest.mark.parametrize("name", CASES)
def test_the_interpreted_graph_computes_the_same(networks: Mapping, tmp_path: Path, name: str):
    case = CASES[name]
    model = networks[case.network]()
    x = case.x()
    with torch.no_grad():
        expected = model(x)
        source = saved(case.make(model, x), tmp_path / "model.ts")
        module = load(source, factory=None, args={}, allow_pickle=False)
        found = module(x)
    expected, found = (value[0] if isinstance(value, tuple) else value for value in (expected, found))
    assert (found - expected).abs().max() <= case.tolerance * expected.abs().max()


def test_weights_keep_names_and_bits(networks: Mapping, tmp_path: Path):
    """One float and quantized network, through the exporter and ONNX Runtime."""
    model = networks["mixed"]()
    x = torch.rand(5, 1, 14, 14)
    codes = {f"{name}.weight": model.get_submodule(name).weight().int_repr() for name in ("conv2", "conv3", "fc1")}
    floats = {name: model.state_dict()[name] for name in ("conv.weight", "norm.running_var", "fc2.weight")}
    expected = model(x).detach().numpy()
    source = saved(torch.jit.script(model), tmp_path / "model.torchscript")
    export(source, tmp_path, inputs={"x": InputSpec((2, 1, 14, 14), dynamic={0: "batch"})})
    graph = onnx.load(tmp_path / "model.onnx").graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for name, value in (codes | floats).items():
        np.testing.assert_array_equal(weights[name], value.numpy(), strict=True)
    feeding = {tuple(node.input) for node in graph.node if node.op_type == "DequantizeLinear"}
    assert {(name, f"{name}.scale", f"{name}.zero_point") for name in codes} <= feeding
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    step = model.fc1.scale * model.fc2.weight.detach().abs().sum(1).max().item()
    found = session.run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=step)
    assert (found.argmax(1) == expected.argmax(1)).all()


class Loops(torch.nn.Module):
    """Control flow over sizes, lists, dicts and tuples, which only scripting keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(2)])

    def forward(self, x: torch.Tensor, scale: float = 2.0):
        if x.dim() != 2:
            raise ValueError("two axes")
        parts: dict[str, torch.Tensor] = {}
        i = 0
        while i < x.size(1) // 2:
            parts[str(i)] = x[:, i] * scale
            i += 1
        for layer in self.layers:
            x = layer(x)
        first, last = torch.stack(list(parts.values()), 1), x[:, -1]
        return first.sum(1) + last, first


def test_control_flow(tmp_path: Path):
    model = Loops()
    module = load(saved(torch.jit.script(model), tmp_path / "a.pt"), factory=None, args={}, allow_pickle=False)
    x = torch.randn(3, 4)
    for found, expected in zip(module(x), model(x), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(module(x, scale=3.0)[0], model(x, scale=3.0)[0])
    with pytest.raises(CompressorError, match="two axes"):
        module(torch.randn(4))


class Sorts(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        values = [3, 1, 2]
        values.sort()
        return x * values[0]


def test_operators_that_cannot_be_interpreted_are_listed(tmp_path: Path):
    source = saved(torch.jit.script(Sorts()), tmp_path / "model.pt")
    with pytest.raises(CompressorError, match=r"operators without a float form: aten::sort"):
        load(source, factory=None, args={}, allow_pickle=False)


def test_an_archive_needs_no_factory(networks: Mapping, tmp_path: Path):
    source = saved(torch.jit.script(torch.nn.ReLU()), tmp_path / "model.pt")
    with pytest.raises(UsageError, match=r"a TorchScript archive needs no factory. Remove export\.factory"):
        load(source, factory="torch_networks:mlp", args={}, allow_pickle=False)


class Writes(torch.nn.Module):
    """TorchScript that would write a file when it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor):
        return x

    @torch.jit.export
    def __getstate__(self):
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), self.path)


def test_code_that_reaches_for_files_is_refused_before_it_runs(tmp_path: Path):
    witness = tmp_path / "witness"
    source = saved(torch.jit.script(Writes(str(witness))), tmp_path / "evil.pt")
    witness.unlink(missing_ok=True)
    with pytest.raises(CompressorError, match=r"evil\.pt: its code \(.*\) calls torch\.save.*state dict"):
        load(source, factory=None, args={}, allow_pickle=False)
    assert not witness.exists()
    # As torch itself does.
    torch.jit.load(source)
    assert witness.exists()


def test_damaged_archives(tmp_path: Path):
    source = saved(torch.jit.script(torch.nn.Linear(3, 3)), tmp_path / "model.pt")
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(tmp_path / "other.pt", "w") as other:
        for info in archive.infolist():
            content = archive.read(info)
            other.writestr(info.filename, b"not code" if info.filename.endswith(".py") else content)
    with pytest.raises(CompressorError, match=r"other\.pt: not a readable TorchScript archive"):
        load(tmp_path / "other.pt", factory=None, args={}, allow_pickle=False)
