"""What torch.ao quantizes computes the same over its codes, whatever made it: eager, FX, QAT, static and dynamic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

import compressor
from compressor import sources
from compressor.encodings import Quantized
from compressor.errors import CompressorError
from compressor.sources.torch import InputSpec, export
from compressor.sources.torch.legacy.lower import lower
from tests.sources.onnx.models import loaded

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def networks(importable):
    import torch_quantized_networks

    return torch_quantized_networks


@pytest.fixture
def engine():
    before = torch.backends.quantized.engine
    yield lambda name: setattr(torch.backends.quantized, "engine", name)
    torch.backends.quantized.engine = before


@dataclass(frozen=True)
class Case:
    """tolerance: of the results for `inputs`, in steps where there is a last step, else a share of the largest."""

    inputs: Callable[[], tuple[torch.Tensor, ...]]
    tolerance: float
    step: Callable[[torch.nn.Module], float] | None = None
    engine: str = "x86"


def floats(*shape: int) -> Callable[[], tuple[torch.Tensor, ...]]:
    return lambda: (torch.randn(shape),)


CASES = {
    "fx_qat": Case(floats(16, 1, 8, 8), 1.01, lambda m: getattr(m, "4").scale),
    "cells": Case(floats(5, 8), 0.03),
    "fx_dynamic": Case(floats(3, 3, 8), 0.05),
    "float16_lstm": Case(floats(5, 3, 8), 1e-6),
    "attention": Case(floats(3, 4, 8), 1.01, lambda m: m.attention.out_proj.scale),
    "bags": Case(lambda: (torch.randint(0, 50, (4, 5)),), 1e-5),
    "activations": Case(floats(32, 8), 1.01, lambda _: 1 / 256),
    "transposed": Case(floats(4, 4, 9), 1.01, lambda m: getattr(m.module, "2").scale, "qnnpack"),
}


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_torch(networks, engine, name: str):
    case = CASES[name]
    engine(case.engine)
    model = getattr(networks, name)()
    torch.manual_seed(1)
    inputs = case.inputs()
    with torch.no_grad():
        expected = model(*inputs)
        step = case.step(model) if case.step else None
        found = lower(model)(*inputs)
    expected, found = (value[0] if isinstance(value, tuple) else value for value in (expected, found))
    largest = expected.abs().max().item()
    atol = case.tolerance * (largest if step is None else step)
    assert largest > 10 * atol
    assert (found - expected).abs().max().item() <= atol
    assert (found.flatten(1).argmax(1) == expected.flatten(1).argmax(1)).float().mean() > 0.9


def test_embedding_bags_of_4_bits(networks):
    """Not torch's own result: at 4 bits its eager table reads codes as bytes, its kernel scales in half precision."""
    model = networks.bags(4)
    dense, ids = model.bag.weight().dequantize(), torch.randint(0, 50, (4, 5))
    lowered = lower(model)
    assert lowered.bag.weight.max() == 15
    torch.testing.assert_close(lowered(ids)[:4], dense[ids].sum(1))


def test_dynamic_convolutions_compute_what_is_meant(networks):
    """Torch's own kernels are off by up to the whole range, and warn so: compared with float here."""
    model = networks.dynamic_conv()
    x = torch.randn(2, 3, 9)
    first, last = model[0], model[2]
    hidden = torch.relu(torch.nn.functional.conv1d(x, first.weight().dequantize(), first.bias()))
    expected = torch.nn.functional.conv_transpose1d(hidden, last.weight().dequantize(), last.bias())
    found = lower(model)(x)
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_graph_of_fx_through_onnx_runtime_and_compress(networks, engine, tmp_path: Path):
    """All its functions, packed weights and modules, exported, compressed, run; torch pickles what it has packed."""
    engine("qnnpack")
    model = networks.fx_static("qnnpack")
    x = torch.rand(16, 1, 8, 8)
    with torch.no_grad():
        expected = model(x).numpy()
    codes = {
        "conv.weight": model.conv.weight(),
        "_packed_weight_0.weight": torch.ops.quantized.conv1d_unpack(model._packed_weight_0)[0],
        "_packed_weight_1.weight": torch.ops.quantized.linear_unpack(model._packed_weight_1)[0],
    }
    codes = {name: weight.int_repr().numpy() for name, weight in codes.items()}
    step = model.layer_norm.scale.item()
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    inputs = {"x": InputSpec((2, 1, 8, 8), dynamic={0: "batch"})}
    factory = {"factory": "torch_quantized_networks:fx_static", "args": {"qconfig": "qnnpack", "seed": 1}}
    export(tmp_path / "trained.pt", tmp_path, inputs=inputs, allow_pickle=True, **factory)
    weights = {weight.name: weight.encoding for weight in sources.read(tmp_path / "model.onnx").weights}
    for name, expected_codes in codes.items():
        encoding = weights[name]
        assert isinstance(encoding, Quantized)
        np.testing.assert_array_equal(np.asarray(encoding.data.values), expected_codes, strict=True)

    compressor.compress(tmp_path / "model.onnx", tmp_path / "out", target="onnxruntime")
    (artefact,) = (tmp_path / "out").glob("*.onnx")
    for path in (tmp_path / "model.onnx", artefact):
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = session.run(None, {"x": x.numpy()})[0]
        # Six grids lie one after the other, and the norm at their end multiplies what they differ by.
        assert np.abs(found - expected).max() < 8 * step
        assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.9


def test_recurrent_codes_keep_the_order_of_their_gates(networks, tmp_path: Path):
    model = networks.fx_dynamic()
    expected = {
        f"{key}.{name}": weight for key in ("lstm", "gru") for name, weight in getattr(model, key).get_weight().items()
    }
    expected = {name: weight.int_repr().numpy() for name, weight in expected.items()}
    x = torch.randn(3, 3, 8)
    with torch.no_grad():
        y = model(x).numpy()
    torch.save(model, tmp_path / "whole.pt")
    inputs = {"x": InputSpec((2, 3, 8), dynamic={0: "batch"})}
    export(tmp_path / "whole.pt", tmp_path, inputs=inputs, allow_pickle=True)
    graph = onnx.load(tmp_path / "model.onnx").graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert len(expected) == 6
    for name, codes in expected.items():
        np.testing.assert_array_equal(weights[name], codes, strict=True)
    assert {"LSTM", "GRU"} <= {node.op_type for node in graph.node}
    compressor.compress(tmp_path / "model.onnx", tmp_path / "out")
    for path, in_floats in ((tmp_path / "model.onnx", True), (tmp_path / "out" / "model.onnx", False)):
        found = loaded(path, in_floats=in_floats).run(None, {"x": x.numpy()})[0]
        np.testing.assert_allclose(found, y, atol=0.05 * np.abs(y).max())


class Unsupported(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.values = torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)

    def forward(self, x):
        return x.int_repr() * 2


def test_all_that_is_unsupported_is_listed():
    model = torch.nn.Sequential(Unsupported(), torch.fx.symbolic_trace(Unsupported()))
    with pytest.raises(CompressorError, match=r"0\.values \(a quantized tensor\).*1\.int_repr \(aten::int_repr\)"):
        lower(model)
