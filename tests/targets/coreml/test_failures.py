"""What goes wrong with Core ML Tools' own compression, model by model, and what comes out here.

Each comment says what Core ML Tools 9.0 does with such a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import compressor
from compressor.encodings import Quantized, Sparse, decode
from compressor.errors import UsageError
from compressor.formats.coreml.importing import coremltools
from compressor.sources import InputSpec
from compressor.targets.coreml.conversion import quiet
from tests.sources.torch import torch_networks
from tests.targets.coreml import networks
from tests.targets.coreml.networks import Exported, Written, exported, half, written

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

Export = Callable[[str], Exported]
VERSIONS = ("iOS16", "iOS18")


@pytest.fixture(scope="module")
def layers(export: Export) -> Exported:
    return export("layers")


@pytest.fixture(scope="module")
def packages(layers: Exported, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    return {name: written(layers.folder, tmp_path_factory.mktemp(name) / "out", name) for name in VERSIONS}


@pytest.fixture(scope="module")
def classifier(export: Export) -> Exported:
    return export("classifier")


@pytest.fixture(scope="module")
def folded(classifier: Exported, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    return {name: written(classifier.folder, tmp_path_factory.mktemp(name) / "out", name) for name in VERSIONS}


def encoding(package: Written, weight: str) -> Any:
    return next(each.encoding for each in package.model.weights if each.name == weight)


def test_01_nothing_has_to_be_named(packages: dict[str, Written]) -> None:
    # Plain `ct.convert` stores every weight dense; each of its compression passes does one kind.
    forms = packages["iOS16"].forms
    assert {forms[f"{kind}.weight"] for kind in networks.KINDS} >= {"palettized4", "sparse", "int8", "palettized8"}


def test_02_five_to_eight_values_before_ios18(layers: Exported, packages: dict[str, Written]) -> None:
    # Picks 3 bits, which iOS16 and iOS17 do not have, and raises.
    assert packages["iOS16"].forms["seven.weight"] == "palettized4"
    assert packages["iOS18"].forms["seven.weight"] == "palettized3"
    for package in packages.values():
        np.testing.assert_array_equal(package.values["seven.weight"], half(layers.state["seven.weight"]))


def test_03_compressed_recurrent_layers(export: Export, tmp_path: Path) -> None:
    # Raises: the gates of a compressed weight cannot be put together.
    made = export("lstm")
    package = written(made.folder, tmp_path / "out", "iOS17")
    assert "lstm" in package.operators()
    assert package.forms["rnn.weight_ih_l0"] == "palettized4"
    assert package.forms["rnn.weight_hh_l0"] == "sparse"
    assert package.forms["rnn.weight_ih_l0_reverse"] == "int8"
    for weight in ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.weight_hh_l0_reverse"):
        np.testing.assert_array_equal(package.values[weight], half(gates(made.state[weight])))
    codes = encoding(package, "rnn.weight_ih_l0_reverse")
    expected = gates(np.round(made.state["rnn.weight_ih_l0_reverse"] / scales(made, "rnn.weight_ih_l0_reverse")))
    np.testing.assert_array_equal(decode(codes.data), expected)


def gates(values: np.ndarray) -> np.ndarray:
    """Torch's gates (input, forget, cell, output) in Core ML's order: the cell's last."""
    i, f, g, o = np.split(values, 4)
    return np.concatenate([i, f, o, g])


def scales(made: Exported, weight: str) -> np.ndarray:
    values = made.state[weight]
    return np.abs(values).max(tuple(range(1, values.ndim)), keepdims=True) / 127


@pytest.mark.parametrize("version", VERSIONS)
def test_04_batch_norms_behind_compressed_convolutions(
    version: str, classifier: Exported, folded: dict[str, Written]
) -> None:
    # Every batch norm behind a compressed weight stays an operator that runs.
    package, module = folded[version], classifier.module
    assert package.operators().count("batch_norm") == 1

    weight = classifier.state["pruned.weight"]
    stored = package.values["pruned.weight"]
    np.testing.assert_array_equal(stored, half(weight.astype(np.float64) * gain(module.pruned_norm)))
    np.testing.assert_array_equal(stored == 0, weight == 0)
    assert package.forms["pruned.weight"] == "sparse"

    found = encoding(package, "quantized.weight")
    assert isinstance(found, Quantized)
    exact = np.round(classifier.state["quantized.weight"] / scales(classifier, "quantized.weight"))
    np.testing.assert_array_equal(decode(found.data), exact)
    expected = scales(classifier, "quantized.weight").astype(np.float64) * gain(module.quantized_norm)
    np.testing.assert_allclose(np.asarray(found.scale).astype(np.float64), expected, rtol=2**-11)

    assert package.forms["palettized.weight"] == "palettized4"
    np.testing.assert_array_equal(package.values["palettized.weight"], half(classifier.state["palettized.weight"]))
    assert "the batch norm behind it stays: with it, the weight would take" in package.evidence("palettized.weight")


def gain(norm: nn.BatchNorm2d) -> np.ndarray:
    gamma, variance = (each.detach().numpy().astype(np.float64) for each in (norm.weight, norm.running_var))
    factor = gamma / np.sqrt(variance + np.float64(np.float32(norm.eps)))
    return factor.reshape(-1, 1, 1, 1)


def test_04_a_palette_takes_a_batch_norm_where_tables_by_channel_are_no_larger(tmp_path: Path) -> None:
    # The batch norm stays.
    rng = np.random.default_rng(0)
    module = nn.Sequential(nn.Conv2d(8, 32, 9, bias=False), nn.BatchNorm2d(32))
    networks.set_(module[0].weight, networks.palette(rng, 2, (32, 8, 9, 9)))
    nn.init.uniform_(module[1].weight, 0.5, 2)
    made = exported(module, {"input": InputSpec((1, 8, 9, 9))}, tmp_path)
    package = written(made.folder, tmp_path / "out", "iOS18")
    assert "batch_norm" not in package.operators()
    assert encoding(package, "0.weight").lut.shape == (32, 1, 1, 1, 2, 1)
    expected = half(made.state["0.weight"].astype(np.float64) * gain(module[1]))
    np.testing.assert_array_equal(package.values["0.weight"], expected)


def test_05_small_values_that_survived(layers: Exported, packages: dict[str, Written]) -> None:
    # Through metadata every value up to 9.77e-4 becomes zero: two thirds of such a layer.
    source = layers.state["tiny.weight"]
    for package in packages.values():
        assert package.forms["tiny.weight"] == "sparse"
        np.testing.assert_array_equal(package.values["tiny.weight"], half(source))
    assert np.count_nonzero(source) / 3 < np.count_nonzero(np.abs(source) > 9.77e-4) < np.count_nonzero(source)


@pytest.mark.parametrize("version", VERSIONS)
def test_06_sparsity_below_a_half(version: str, layers: Exported, packages: dict[str, Written]) -> None:
    # Ignores sparsity below 50 %; through metadata it stores sparse forms that are larger than dense ones.
    package = packages[version]
    assert package.forms["slight.weight"] == "sparse"
    np.testing.assert_array_equal(package.values["slight.weight"], half(layers.state["slight.weight"]))
    assert all(weight.nbytes <= weight.dense_nbytes for weight in package.manifest.weights)


def test_07_values_that_are_equal_in_float16(layers: Exported, packages: dict[str, Written]) -> None:
    # Sees thousands of values and keeps the weight dense.
    assert len(np.unique(layers.state["noisy.weight"])) > 1000
    for package in packages.values():
        assert package.forms["noisy.weight"] == "palettized4"
        np.testing.assert_array_equal(package.values["noisy.weight"], half(layers.state["noisy.weight"]))


def test_08_joint_forms(layers: Exported, packages: dict[str, Written]) -> None:
    # Fails on [prune, palettize, quantize], or what it writes cannot be decompressed; drops the palette of
    # [palettize, prune].
    forms = packages["iOS18"].forms
    assert forms["joint.weight"] == "sparse(palettized4)"
    assert forms["both.weight"] == "sparse(int8)"
    before = packages["iOS16"]
    assert (before.forms["joint.weight"], before.forms["both.weight"]) == (
        "palettized4",
        "sparse",
    )  # fewer bytes than codes of all
    assert "compressed non-zeros need iOS18" in before.rejected("joint.weight").values()
    for package in packages.values():
        np.testing.assert_array_equal(package.values["joint.weight"], half(layers.state["joint.weight"]))


@pytest.mark.parametrize(
    ("bits", "version", "form"),
    [
        (3, "iOS16", "palettized4"),
        (3, "iOS18", "palettized3"),
        (5, "iOS16", "palettized6"),
        (5, "iOS18", "palettized6"),
        (7, "iOS16", "palettized8"),
        (7, "iOS18", "palettized8"),
    ],
)
def test_09_tables_of_any_length(
    bits: int, version: str, form: str, layers: Exported, packages: dict[str, Written]
) -> None:
    # A KeyError for tables of 5 and 7 bits, and for metadata of other than 4 and 8 bits.
    package = packages[version]
    assert package.forms[f"bits{bits}.weight"] == form
    np.testing.assert_array_equal(package.values[f"bits{bits}.weight"], half(layers.state[f"bits{bits}.weight"]))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("route", ["torch", "onnx"])
def test_10_a_weight_of_a_layer_a_product_and_a_table(
    version: str, route: str, layers: Exported, packages: dict[str, Written], tmp_path: Path
) -> None:
    # Skips the weight, or stops at a "conflict" of its uses.
    package = packages[version] if route == "torch" else written(layers.without_torch(), tmp_path / "out", version)
    assert [weight.name for weight in package.model.weights if weight.name.startswith("shared")] == ["shared.weight"]
    assert package.forms["shared.weight"] == "palettized4"
    np.testing.assert_array_equal(package.values["shared.weight"], half(layers.state["shared.weight"]))
    (found,) = [weight for weight in package.model.weights if weight.name == "shared.weight"]
    assert {"gather", "matmul"} <= set(found.uses)


@pytest.mark.parametrize("version", VERSIONS)
def test_11_a_channel_of_zeros(version: str, layers: Exported, packages: dict[str, Written]) -> None:
    # Gives the channel a scale of 0, and casts NaN to codes.
    found = encoding(packages[version], "silent.weight")
    quantized = found.values if isinstance(found, Sparse) else found
    assert isinstance(quantized, Quantized)
    assert np.isfinite(np.asarray(quantized.scale)).all()
    assert (np.asarray(quantized.scale) > 0).all()
    stored = packages[version].values["silent.weight"]
    assert not stored[5].any()
    np.testing.assert_allclose(stored, layers.state["silent.weight"], rtol=2**-10)


@pytest.mark.parametrize("target", ["iOS15", "ios13", "macOS12", "watchOS8", "tvOS15"])
def test_12_targets_without_compressed_weights(target: str, layers: Exported, tmp_path: Path) -> None:
    # Writes the model dense, with a warning at most.
    with pytest.raises(UsageError, match=r"has no compressed weights. The targets that have: .*iOS16, .*macOS13"):
        compressor.compress(layers.folder, tmp_path / "out", target=target)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Convolutions, a sum and layers whose activations are quantized too."""
    inputs = {"x": InputSpec((1, 1, 14, 14))}
    factory = f"{torch_networks.__name__}:mixed"
    return exported(torch_networks.mixed(), inputs, tmp_path_factory.mktemp("quantized"), factory)


def test_13_quantized_activations(quantized: Exported, tmp_path: Path) -> None:
    # Raises at iOS16, which has no such operators.
    packages = {
        version: written(quantized.folder, tmp_path / version, version, min_elements=10)
        for version in ("iOS16", "iOS17")
    }
    for package in packages.values():
        assert package.forms["fc1.weight"] in {"int8", "uint8"}
        codes = quantized.module.fc1.weight().int_repr().numpy()
        np.testing.assert_array_equal(decode(encoding(package, "fc1.weight").data), codes)
    assert not {"quantize", "dequantize"} & set(packages["iOS16"].operators())
    assert "activations stay float" in packages["iOS16"].evidence("fc1.weight")
    assert "activations" not in packages["iOS17"].evidence("fc1.weight")
    assert {"quantize", "dequantize"} <= set(packages["iOS17"].operators())


@pytest.mark.parametrize(
    ("network", "inputs", "layers_"),
    [
        ("static_1d", {"X": (1, 3, 20)}, ["conv", "conv_transpose"]),
        ("static_3d", {"X": (1, 2, 9, 9, 9)}, ["conv"]),
        ("static_norms", {"X": (1, 3, 6, 6)}, ["conv", "layer_norm"]),
        ("arithmetic", {"x": (1, 8)}, ["concat"]),
        ("dynamic", {"input": (1, 64)}, ["linear"]),
    ],
)
def test_14_quantized_modules(network: str, inputs: dict[str, Any], layers_: list[str], tmp_path: Path) -> None:
    # Has no translation for quantized conv1d, conv3d, conv_transpose, cat, leaky_relu, hardswish, norms and dynamic
    # layers.
    specs = {name: InputSpec(shape) for name, shape in inputs.items()}
    made = exported(getattr(torch_networks, network)(), specs, tmp_path, f"{torch_networks.__name__}:{network}")
    package = written(made.folder, tmp_path / "out", "iOS17", min_elements=10)
    assert set(layers_) <= set(package.operators())
    stored = [weight for weight in package.model.weights if isinstance(weight.encoding, Quantized)]
    assert bool(stored) == (network != "arithmetic")


def test_15_values_of_nested_operations(layers: Exported, packages: dict[str, Written]) -> None:
    # Its own value of a sparse quantized weight is wrong: it takes the stored non-zeros for the values.
    found = encoding(packages["iOS18"], "both.weight")
    assert isinstance(found, Sparse)
    assert isinstance(found.values, Quantized)
    values, source = packages["iOS18"].values["both.weight"], layers.state["both.weight"]
    np.testing.assert_array_equal(values == 0, source == 0)
    np.testing.assert_allclose(values, source, rtol=2**-10)
    assert math.prod(decode(found.values.data).shape) == np.count_nonzero(source)


def test_core_ml_tools_raises_where_this_says_so() -> None:
    """Numbers 2 and 3; a version in which this fails has mended them."""
    ct = coremltools()
    rng = np.random.default_rng(0)
    seven, recurrent = nn.Sequential(nn.Linear(64, 64)).eval(), networks.recurrent(nn.LSTM).eval()
    networks.set_(seven[0].weight, networks.palette(rng, 7, (64, 64)))
    cases = [(seven, (1, 64), "lut should be a vector of size"), (recurrent, (1, 2, 64), "weight_ih .* must be const")]
    for module, shape, says in cases:
        with quiet(), torch.no_grad():
            traced = torch.jit.trace(module, torch.zeros(shape))
            with pytest.raises(ValueError, match=says):
                ct.convert(
                    traced,
                    inputs=[ct.TensorType("x", shape)],
                    pass_pipeline=ct.PassPipeline.DEFAULT_PALETTIZATION,
                    minimum_deployment_target=ct.target.iOS16,
                    skip_model_load=True,
                )
