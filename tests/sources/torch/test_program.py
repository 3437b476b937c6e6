"""ExportedPrograms that PT2E (torchao) has quantized: codes are codes, static and dynamic, folded or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import compressor
from compressor import sources
from compressor.encodings import Quantized
from compressor.sources.torch import InputSpec, export
from compressor.sources.torch import operators as ours
from compressor.sources.torch.legacy.lower import lower
from tests.sources.onnx.models import loaded

pytestmark = pytest.mark.filterwarnings("ignore")
OPS = torch.ops.quantized_decomposed


@pytest.fixture(scope="module")
def torchao():
    pytest.importorskip("torchao")
    from torchao.quantization.pt2e import quantize_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    from torchao.testing.pt2e import _xnnpack_quantizer as xnnpack

    def quantizer(name: str, **options: bool):
        if name == "x86":
            return x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(**options))
        config = xnnpack.get_symmetric_quantization_config(**options)
        return xnnpack.XNNPACKQuantizer().set_global(config)

    return SimpleNamespace(prepare=quantize_pt2e.prepare_pt2e, convert=quantize_pt2e.convert_pt2e, quantizer=quantizer)


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 36, 10)

    def forward(self, x):
        return self.fc(torch.flatten(torch.relu(self.norm(self.conv(x))), 1))


@dataclass(frozen=True)
class Case:
    """operators: of ONNX, which the graph must have beside DequantizeLinear."""

    quantizer: str
    options: dict[str, bool]
    fold: bool
    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    operator: str


def rows() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10))


STATIC, DYNAMIC = "QuantizeLinear", "DynamicQuantizeLinear"
CASES = {
    "static": Case("x86", {"is_dynamic": False}, True, Images, (1, 8, 8), STATIC),
    "static, weights still float": Case("x86", {"is_dynamic": False}, False, Images, (1, 8, 8), STATIC),
    "dynamic": Case("x86", {"is_dynamic": True}, True, Images, (1, 8, 8), DYNAMIC),
    "dynamic of int8": Case("xnnpack", {"is_per_channel": True, "is_dynamic": True}, True, rows, (16,), DYNAMIC),
    "dynamic by tensor": Case("xnnpack", {"is_dynamic": True}, False, rows, (16,), DYNAMIC),
}


def quantized(torchao, case: Case) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model, x = case.network().eval(), torch.rand(16, *case.shape)
    graph = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},)).module()
    prepared = torchao.prepare(graph, torchao.quantizer(case.quantizer, **case.options))
    prepared(x)
    return torchao.convert(prepared, fold_quantize=case.fold), x


def codes_of(program: torch.export.ExportedProgram) -> dict[str, torch.Tensor]:
    """What each dequantized weight's codes are, by the name that the program has for what they are made of."""
    names = program.graph_signature.inputs_to_parameters | program.graph_signature.inputs_to_buffers
    values = {key: {**program.state_dict, **program.constants}[name] for key, name in names.items()}
    found = {}
    for node in program.graph.nodes:
        if node.target in (OPS.dequantize_per_channel.default, OPS.dequantize_per_tensor.default):
            made = node.args[0]
            if made.name in names:
                found[names[made.name]] = values[made.name]
            elif made.op == "call_function" and made.args[0].name in names:
                args = [values[arg.name] if isinstance(arg, torch.fx.Node) else arg for arg in made.args]
                found[names[made.args[0].name]] = made.target(*args)
    return found


@pytest.mark.parametrize("name", CASES)
def test_programs(torchao, tmp_path: Path, name: str):
    case = CASES[name]
    model, x = quantized(torchao, case)
    expected = model(x).detach().numpy()
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    codes = codes_of(program)
    torch.export.save(program, tmp_path / "model.pt2")
    (key,) = program.graph_signature.user_inputs
    export(tmp_path / "model.pt2", tmp_path, inputs={key: InputSpec((2, *case.shape), dynamic={0: "batch"})})
    read = {weight.name: weight.encoding for weight in sources.read(tmp_path / "model.onnx").weights}
    assert len(codes) == 2
    for weight, values in codes.items():
        assert isinstance(read[weight], Quantized)
        np.testing.assert_array_equal(np.asarray(read[weight].data.values), values.numpy(), strict=True)
    operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert {case.operator, "DequantizeLinear"} <= operators
    assert "Cast" not in operators
    compressor.compress(tmp_path / "model.onnx", tmp_path / "out")
    for path, in_floats in ((tmp_path / "model.onnx", True), (tmp_path / "out" / "model.onnx", False)):
        session = loaded(path, in_floats=in_floats)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
        assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9


def test_a_graph_in_memory(torchao):
    """The GraphModule itself, before it is a program."""
    model, x = quantized(torchao, CASES["static, weights still float"])
    expected = model(x)
    codes = codes_of(torch.export.export(model, (x,)))
    lowered = lower(model)
    assert len(codes) == 2
    for weight, values in codes.items():
        assert torch.equal(lowered.state_dict()[weight], values)
        assert values.dtype is torch.int8
    torch.testing.assert_close(lowered(x), expected)


class Grids(nn.Module):
    """Grids of fewer codes than their dtype has, and ranges of rows, as other quantizers than the above write them."""

    def forward(self, x):
        half = OPS.quantize_per_tensor(x, 0.01, 3, 0, 127, torch.uint8)
        y = OPS.dequantize_per_tensor(half, 0.01, 3, 0, 127, torch.uint8)
        scale, zero = OPS.choose_qparams(x, 0, 127, 1e-5, torch.uint8)
        codes = OPS.quantize_per_tensor(x, scale, zero, 0, 127, torch.uint8)
        y = y + OPS.dequantize_per_tensor(codes, scale, zero, 0, 127, torch.uint8)
        scale, zero = OPS.choose_qparams_symmetric(x, -127, 127, 1e-5, torch.int8)
        codes = OPS.quantize_per_tensor(x, scale, zero, -127, 127, torch.int8)
        y = y + OPS.dequantize_per_tensor(codes, scale, zero, -127, 127, torch.int8)
        scale, zero = OPS.choose_qparams_per_token(x, torch.int8)
        codes = OPS.quantize_per_token(x, scale, zero, -127, 127, torch.int8)
        return y + OPS.dequantize_per_token(codes, scale, zero, -127, 127, torch.int8, torch.float32)


def test_all_kinds_of_ranges(tmp_path: Path):
    x = torch.randn(8, 32)
    torch.export.save(torch.export.export(Grids(), (x,)), tmp_path / "model.pt2")
    export(tmp_path / "model.pt2", tmp_path, inputs={"x": InputSpec((8, 32))})
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x.numpy()})[0]
    # A value in the middle of two codes may round to either.
    assert (np.abs(found - Grids()(x).numpy()) > 1e-5).mean() < 0.01


def test_a_range_of_nothing():
    zeros = ours.rounded(torch.zeros(2, 3), 0, 255, torch.finfo(torch.float32).tiny, False, False)
    assert torch.equal(zeros, torch.zeros(2, 3))
