"""Core ML packages from torch and from ONNX graphs: every weight in them, bit for bit, on each version."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from torch import nn

import compressor
from compressor import sources, targets
from compressor.arrays import NDArray
from compressor.encodings import Quantized, Sparse
from compressor.formats.coreml.importing import coremltools
from compressor.kernels import expand
from compressor.model import Model
from compressor.sources import InputSpec
from tests.faults.commands import snapshot
from tests.formats.coreml.models import value
from tests.targets.coreml import networks
from tests.targets.coreml.networks import Exported, Written, exported, half, written

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")

FOLDED = {"pruned.weight": "pruned_norm", "quantized.weight": "quantized_norm"}
"""Weights that a batch norm is folded into."""

GATES = {nn.LSTM: (0, 1, 3, 2), nn.GRU: (1, 0, 2)}
"""Torch's gates in the order that the program has them."""


@pytest.fixture(scope="module", params=["classifier", "encoder", "lstm", "gru"])
def network(request: pytest.FixtureRequest, export: Callable[[str], Exported]) -> Exported:
    return export(request.param)


@pytest.fixture(scope="module")
def by_torch(network: Exported, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return written(network.folder, tmp_path_factory.mktemp("torch") / "out", "iOS17")


def check(package: Written, source: Exported) -> None:
    """Every weight of the source is in the package: its values, rounded once, or its codes and their scales."""
    seen = set()
    for weight in package.model.weights:
        if weight.name not in source.state:
            continue
        seen.add(weight.name)
        encoding, stored = weight.encoding, package.values[weight.name]
        original = source.state[weight.name].astype(np.float64)
        if weight.name in FOLDED:
            original = original * gain(getattr(source.module, FOLDED[weight.name]))
        expected = moved(original, source.module) if weight.name.startswith("rnn") else original
        quantized = encoding.values if isinstance(encoding, Sparse) else encoding
        if isinstance(quantized, Quantized):
            scale = expand(np.asarray(quantized.scale), stored.shape).astype(np.float64)
            codes = np.round(expected / scale)
            np.testing.assert_array_equal(stored, (codes * scale).astype(stored.dtype))
            np.testing.assert_allclose(stored, expected, rtol=2**-9)
            continue
        np.testing.assert_array_equal(stored, expected.astype(stored.dtype), err_msg=weight.name)
    trained = {name for name, array in source.state.items() if array.ndim > 1}
    assert seen >= trained - {"out.weight" if "embedding.weight" in trained else ""}


def gain(norm: nn.BatchNorm2d) -> NDArray:
    gamma, variance = (each.detach().numpy().astype(np.float64) for each in (norm.weight, norm.running_var))
    factor: NDArray = (gamma / np.sqrt(variance + np.float64(np.float32(norm.eps)))).reshape(-1, 1, 1, 1)
    return factor


def moved(values: NDArray, module: Any) -> NDArray:
    order = GATES[type(module.rnn)]
    parts = np.split(values, len(order))
    return np.concatenate([parts[place] for place in order])


def test_every_weight_is_exact(by_torch: Written, network: Exported) -> None:
    check(by_torch, network)


def test_both_routes_give_the_same_weights(by_torch: Written, network: Exported, tmp_path: Path) -> None:
    by_onnx = written(network.without_torch(), tmp_path / "out", "iOS17")
    check(by_onnx, network)
    trained = by_torch.values.keys() & network.state.keys()
    assert trained
    assert trained == by_onnx.values.keys() & network.state.keys()
    for name in trained:
        np.testing.assert_array_equal(by_onnx.values[name], by_torch.values[name])
        assert by_onnx.forms[name] == by_torch.forms[name]


def test_core_ml_tools_reads_the_same_values(by_torch: Written) -> None:
    """It loads the program, and decompresses each weight, operation by operation."""
    coremltools()
    from coremltools.converters.mil.frontend.milproto.load import load

    found = by_torch.model
    folder = found.path / "Data/com.apple.CoreML/weights"
    bones = found.graph.files.model
    program = load(bones, bones.specificationVersion, str(folder))
    constants = {var.name: var for operation in every(program) for var in operation.outputs}
    compressed = [weight for weight in found.weights if by_torch.forms[weight.name] != "dense"]
    assert compressed
    for weight in compressed:
        theirs = value(constants[weight.name.replace(".", "_")])
        np.testing.assert_array_equal(theirs, by_torch.values[weight.name])


def every(block: Any) -> Any:
    functions = getattr(block, "functions", None)
    for inner in [block] if functions is None else functions.values():
        for operation in inner.operations:
            yield operation
            for nested in operation.blocks:
                yield from every(nested)


@pytest.fixture(scope="module")
def classifier(export: Callable[[str], Exported]) -> Exported:
    return export("classifier")


IN_A_PROCESS = """
import sys
from pathlib import Path
import compressor
compressor.compress(Path(sys.argv[1]), Path(sys.argv[2]), target="iOS18")
"""


def test_two_processes_write_the_same_bytes(classifier: Exported, tmp_path: Path) -> None:
    compressor.compress(classifier.folder, tmp_path / "out", target="iOS18")
    other = tmp_path / "another place" / "out"
    other.parent.mkdir()
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "TZ": "UTC+7", "TMPDIR": str(other.parent)}
    command = [sys.executable, "-c", IN_A_PROCESS, str(classifier.folder), str(other)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    written_here = snapshot(tmp_path / "out")
    assert written_here == snapshot(other)
    content = b"".join(part for part in written_here.values() if isinstance(part, bytes))
    for trace in (b"conversion_date", b"compressor-", str(tmp_path.parent).encode(), b".pt"):
        assert trace not in content


def test_values_beyond_float16_stay_float32(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    rng = np.random.default_rng(0)
    large = networks.pruned(rng, 0.7, (64, 64))
    large[0, 0] = 1e5
    networks.set_(module[0].weight, large)
    made = exported(module, {"input": InputSpec((1, 64))}, tmp_path)
    package = written(made.folder, tmp_path / "out", "iOS17")
    assert package.values["0.weight"].dtype == np.float32
    np.testing.assert_array_equal(package.values["0.weight"], large)
    assert package.forms["0.weight"] == "sparse"
    assert "a value beyond 65504: float32" in package.evidence("0.weight")
    np.testing.assert_array_equal(package.values["2.weight"], half(made.state["2.weight"]))


def test_float32_keeps_every_bit(classifier: Exported, tmp_path: Path) -> None:
    package = written(classifier.folder, tmp_path / "out", targets.get("iOS16", {"precision": "float32"}))
    for name in ("palettized.weight", "depthwise.weight", "transposed.weight", "fc.weight"):
        assert package.values[name].dtype == np.float32
        np.testing.assert_array_equal(package.values[name], classifier.state[name])
    weight = classifier.state["pruned.weight"] * gain(classifier.module.pruned_norm)
    np.testing.assert_array_equal(package.values["pruned.weight"], weight.astype(np.float32))
    assert package.forms["depthwise.weight"] == "palettized2"


def test_one_batch_norm_behind_another_multiplies_what_it_made(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    module = nn.Sequential(nn.Conv2d(8, 32, 3, bias=False), nn.BatchNorm2d(32), nn.BatchNorm2d(32)).eval()
    for norm in module[1:]:
        networks.set_(norm.weight, rng.uniform(0.5, 2, 32))
        networks.set_(norm.running_var, rng.uniform(0.5, 2, 32))
    made = exported(module, {"input": InputSpec((1, 8, 8, 8))}, tmp_path)
    package = written(made.folder, tmp_path / "out", targets.get("iOS16", {"precision": "float32"}))
    assert "batch_norm" not in package.operators()
    both = made.state["0.weight"] * gain(module[1]) * gain(module[2])
    np.testing.assert_allclose(package.values["0.weight"], both, rtol=1e-6)


def test_recurrent_layers_of_ios16_have_float32_weights(export: Callable[[str], Exported], tmp_path: Path) -> None:
    made = export("lstm")
    package = written(made.folder, tmp_path / "out", "iOS16")
    check(package, made)
    assert package.values["rnn.weight_hh_l0"].dtype == np.float32
    assert "what reads it takes no float16: float32" in package.evidence("rnn.weight_hh_l0")
    assert package.values["out.weight"].dtype == np.float16
    assert "float32" not in package.evidence("out.weight")


def test_scales_that_float16_cannot_hold(tmp_path: Path) -> None:
    """Codes would lose their scale: the values are rounded in their place, and the plan says so."""
    module = nn.Sequential(nn.Linear(64, 64, bias=False))
    networks.set_(module[0].weight, networks.grid(np.random.default_rng(0), (64, 64), 1e-6))
    made = exported(module, {"input": InputSpec((1, 64))}, tmp_path)
    package = written(made.folder, tmp_path / "out", "iOS17")
    np.testing.assert_array_equal(package.values["0.weight"], half(made.state["0.weight"]))
    assert "its scales are too small for float16" in package.evidence("0.weight")


@pytest.mark.parametrize("name", ["classifier", "lstm"])
def test_a_package_computes_what_its_model_does(name: str, export: Callable[[str], Exported], tmp_path: Path) -> None:
    """Run as the ONNX graph with the weights as they were read back: gates moved back, batch norms divided out."""
    made = export(name)
    package = written(made.folder, tmp_path / "out", "iOS17").model.path
    (shape,) = (spec.shape for spec in networks.NETWORKS[name][1].values())
    feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    expected = run(made.folder / "model.onnx", feeds)
    fitted = compressor.write_baseline(made.folder, tmp_path / "dense", target="iOS17")
    found = computed(package, fitted, feeds)
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()
    assert (found != expected).any()

    last = {"classifier": "fc.weight", "lstm": "rnn.weight_hh_l0_reverse"}[name]
    (array,) = (each.encoding.values for each in sources.read(package).weights if each.name == last)
    content = bytearray(array.path.read_bytes())
    content[array.offset + 1] ^= 0x04
    array.path.write_bytes(content)
    assert (computed(package, fitted, feeds) != found).any()


def computed(package: Path, fitted: Model, feeds: dict[str, NDArray]) -> NDArray:
    session = targets.get("iOS17").session(package, fitted, "package")
    (found,) = session.run(session.outputs, feeds)
    return np.asarray(found)


def run(path: Path, feeds: dict[str, NDArray]) -> NDArray:
    (found,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)
    return np.asarray(found)
