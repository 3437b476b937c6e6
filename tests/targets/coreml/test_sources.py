"""Packages that Core ML Tools wrote, read and written again: for their own version and for newer ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import compressor
from compressor import sources
from compressor.encodings import decode, name
from compressor.errors import CompressorError
from compressor.formats.coreml import package
from compressor.formats.coreml.importing import coremltools
from compressor.targets.coreml.conversion import quiet
from tests.targets.coreml import networks
from tests.targets.coreml.networks import half, written

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")

SHAPE = (64, 64)


class Plain(nn.Module):
    """Weights that are sparse, palettized, both and quantized, whatever Core ML Tools makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 64, 3)
        self.embedding = nn.Embedding(64, 64)
        self.lstm = nn.LSTM(64, 32, batch_first=True)
        self.pruned, self.palettized, self.joint = (nn.Linear(32 if not i else 64, 64) for i in range(3))

    def forward(self, x, ids):
        y = nn.functional.leaky_relu(self.conv(x), 0.1).mean((2, 3))
        y = self.lstm(self.embedding(ids) + y[:, None])[0]
        return torch.softmax(self.joint(self.palettized(self.pruned(y))), -1)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    rng, made = np.random.default_rng(0), Plain()
    networks.set_(made.pruned.weight, networks.pruned(rng, 0.7, (64, 32)))
    networks.set_(made.palettized.weight, networks.palette(rng, 7, SHAPE))
    networks.set_(made.joint.weight, np.where(rng.random(SHAPE) < 0.6, np.float32(0), networks.palette(rng, 15, SHAPE)))
    networks.set_(made.embedding.weight, networks.palette(rng, 16, SHAPE))
    return made.eval()


@pytest.fixture(scope="module")
def convert(module: nn.Module) -> Callable[[str], Any]:
    ct = coremltools()
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(module, (torch.rand(1, 8, 8, 8), torch.zeros(1, 5, dtype=torch.int32)))

    def converted(version: str) -> Any:
        inputs = [ct.TensorType("x", (1, 8, 8, 8)), ct.TensorType("ids", (1, 5), np.int32)]
        with quiet():
            return ct.convert(
                traced, inputs=inputs, minimum_deployment_target=getattr(ct.target, version), skip_model_load=True
            )

    return converted


@pytest.fixture(scope="module")
def plain(convert: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.mlpackage"
    convert("iOS16").save(str(path))
    return path


WEIGHTS = ("pruned", "palettized", "joint", "embedding")
FORMS = {
    "iOS16": ("sparse", "palettized4", "palettized4", "palettized4"),
    "iOS17": ("sparse", "palettized4", "palettized4", "palettized4"),
    "iOS18": ("sparse", "palettized3", "sparse(palettized4)", "palettized4"),
    "iOS26": ("sparse", "palettized3", "sparse(palettized4)", "palettized4"),
}


@pytest.mark.parametrize("version", FORMS)
def test_an_uncompressed_package_is_rewritten(version: str, plain: Path, module: nn.Module, tmp_path: Path) -> None:
    found = written(plain, tmp_path / "out", version, min_elements=2000)
    for layer, form in zip(WEIGHTS, FORMS[version], strict=True):
        weight = f"{layer}_weight_to_fp16"
        assert found.forms[weight] == form
        source = module.get_submodule(layer).weight.detach().numpy()
        np.testing.assert_array_equal(found.values[weight], half(source))
    loads(found.model.path, version)


def loads(path: Path, version: str) -> Any:
    """The program as Core ML Tools loads it in the operators of a version."""
    coremltools()
    from coremltools.converters.mil.frontend.milproto.load import load

    found = package.read(path)
    function = found.model.mlProgram.functions["main"]
    number = {"iOS16": 7, "iOS17": 8, "iOS18": 9, "iOS26": 10}[version]
    assert found.model.specificationVersion == number
    assert [*function.block_specializations] == [function.opset] == [f"CoreML{number - 1}"]
    return load(found.model, number, str((path / package.WEIGHTS).parent))


def test_a_package_is_detected_and_inspected(plain: Path) -> None:
    findings = {finding.name: finding for finding in compressor.detect(plain).findings}
    assert findings["palettized_weight_to_fp16"].distinct == 7
    assert 0.6 < findings["joint_weight_to_fp16"].sparsity < 0.7
    assert findings["conv_weight_to_fp16"].uses == ("conv",)
    facts = {weight.name: weight for weight in compressor.inspect(plain).weights}
    assert facts["palettized_weight_to_fp16"].encoding == "dense"
    assert facts["palettized_weight_to_fp16"].nbytes == 2 * 64 * 64


def test_a_package_for_an_older_target_is_refused(plain: Path, tmp_path: Path) -> None:
    compressor.compress(plain, tmp_path / "new", target="iOS18")
    newer = tmp_path / "new/model.mlpackage"
    with pytest.raises(CompressorError, match=r"made for iOS18 or later, the target is iOS17: choose a target of that"):
        compressor.compress(newer, tmp_path / "out", target="iOS17")
    assert not (tmp_path / "out").exists()


def pruned(tools: Any, model: Any, **options: Any) -> Any:
    config = tools.OpThresholdPrunerConfig(threshold=1e-12, minimum_sparsity_percentile=0.5, weight_threshold=1000)
    return tools.prune_weights(model, tools.OptimizationConfig(global_config=config), **options)


def palettized(tools: Any, model: Any, **options: Any) -> Any:
    config = tools.OpPalettizerConfig(mode="unique", weight_threshold=1000)
    return tools.palettize_weights(model, tools.OptimizationConfig(global_config=config), **options)


def quantized(tools: Any, model: Any, **options: Any) -> Any:
    config = tools.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=1000)
    return tools.linear_quantize_weights(model, tools.OptimizationConfig(global_config=config), **options)


Change = Callable[[Any, Any], Any]
VARIANTS: dict[str, tuple[str, str, str, Change]] = {
    "pruned": ("iOS16", "joint", "sparse", pruned),
    "quantized": ("iOS16", "joint", "int8", quantized),
    "palettized": ("iOS18", "palettized", "palettized3", palettized),
    "pruned, then quantized": (
        "iOS18",
        "pruned",
        "sparse(int8)",
        lambda tools, model: quantized(tools, pruned(tools, model), joint_compression=True),
    ),
    "pruned, then palettized": (
        "iOS18",
        "joint",
        "sparse(palettized4)",
        lambda tools, model: palettized(tools, pruned(tools, model), joint_compression=True),
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_packages_that_core_ml_tools_compressed(variant: str, convert: Callable[[str], Any], tmp_path: Path) -> None:
    """What it stored comes in, whatever the form, and every value goes out again, for newer versions too."""
    version, layer, form, change = VARIANTS[variant]
    model = convert(version)
    import coremltools.optimize.coreml as tools

    with quiet():
        model = change(tools, model)
    path = tmp_path / "m.mlpackage"
    model.save(str(path))
    read = sources.read(path)
    (name_,) = (weight.name for weight in read.weights if weight.name.startswith(f"{layer}_weight"))
    values = {weight.name: decode(weight.encoding) for weight in read.weights}
    assert {weight.name: name(weight.encoding) for weight in read.weights}[name_] == form
    for target in dict.fromkeys((version, "iOS18")):
        found = written(path, tmp_path / target, target)
        for weight, expected in values.items():
            np.testing.assert_array_equal(found.values[weight], expected)
        loads(found.model.path, target)
        assert found.manifest.nbytes <= found.manifest.dense_nbytes
    if variant == "pruned":
        assert found.forms[name_] == "sparse(palettized4)"


def test_functions_that_share_weights(convert: Callable[[str], Any], tmp_path: Path) -> None:
    ct = coremltools()
    path, both = tmp_path / "one.mlpackage", tmp_path / "both.mlpackage"
    convert("iOS18").save(str(path))
    described = ct.utils.MultiFunctionDescriptor()
    for function in ("first", "second"):
        described.add_function(str(path), "main", function)
    described.default_function_name = "first"
    with quiet():
        ct.utils.save_multifunction(described, str(both))
    found = written(both, tmp_path / "out", "iOS26", min_elements=2000)
    assert [weight for weight in found.forms if "palettized_weight" in weight] == ["palettized_weight_to_fp16"]
    assert found.forms["palettized_weight_to_fp16"] == "palettized3"
    functions = found.model.graph.model.mlProgram.functions
    assert {key: each.opset for key, each in functions.items()} == {"first": "CoreML9", "second": "CoreML9"}
