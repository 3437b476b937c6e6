"""Tensors of torchao's own, and fake quantizers that training left: their codes and scales are kept."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.ao.quantization as tq

from compressor.encodings import Quantized
from compressor.errors import CompressorError
from compressor.sources.torch import InputSpec, export
from tests.sources.torch.declared_exports import FLAT, Exported

SMALL = InputSpec((2, 8, 6, 6), dynamic={0: "batch"})
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


NETWORKS = "declared_networks"


@pytest.fixture(scope="module")
def ao():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchao.quantization
    return torchao.quantization


def configurations(ao) -> dict[str, tuple[object, str, tuple[int, int], str]]:
    """By layer: how it is quantized, its codes, its scale's shape, and what is stored."""
    grouped = ao.PerGroup(16)
    affine = {"granularity": ao.PerAxis(0), "mapping_type": ao.MappingType.ASYMMETRIC}
    return {
        "bytes": (ao.Int8WeightOnlyConfig(), "int8", (64, 1), "int8"),
        "active": (ao.Int8DynamicActivationInt8WeightConfig(), "int8", (64, 1), "int8"),
        "one": (ao.IntxWeightOnlyConfig(weight_dtype=torch.int1, granularity=grouped), "int2", (64, 4), "int2"),
        "two": (ao.IntxWeightOnlyConfig(weight_dtype=torch.int2, granularity=grouped), "int2", (64, 4), "int2"),
        "three": (
            ao.IntxWeightOnlyConfig(weight_dtype=torch.int3, granularity=grouped),
            "int4",
            (64, 4),
            "int4",
        ),
        "four": (ao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=grouped), "int4", (64, 4), "int4"),
        "offset": (ao.IntxWeightOnlyConfig(weight_dtype=torch.int4, **affine), "int4", (64, 1), "int4"),
        "dynamic": (
            ao.Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=grouped),
            "int4",
            (64, 4),
            "int4",
        ),
        "seven": (ao.IntxWeightOnlyConfig(weight_dtype=torch.int7, granularity=grouped), "int8", (64, 4), "int8"),
    }


def values(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    return {name: value.dequantize() if hasattr(value, "qdata") else value for name, value in state.items()}


def test_tensors_of_torchao(networks, ao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    configs = configurations(ao)
    model = networks.layers([*configs, "free"])
    for layer, (config, _, _, _) in configs.items():
        ao.quantize_(model.layers[layer], config)
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    # torchao allows its classes when it is imported, which a process that reads a file has not done yet.
    monkeypatch.setattr(torch._weights_only_unpickler, "_marked_safe_globals_set", set())
    plain, args = values(model), {"names": [*configs, "free"]}
    exported = Exported(
        tmp_path / "trained.pt", tmp_path / "out", plain, FLAT, factory="declared_networks:layers", args=args
    )
    assert exported.names == {name: codes for name, (_, codes, _, _) in configs.items()} | {"free": "dense"}
    active = "torchao quantizes its input while it runs: kept in float"
    assert exported.notes == dict.fromkeys(("active", "dynamic"), active)
    for layer, (_, _, shape, stored) in configs.items():
        found, tensor = exported[layer], model.layers[layer].weight
        assert isinstance(found, Quantized)
        np.testing.assert_array_equal(np.asarray(found.data.values).astype(np.int8), tensor.qdata.numpy())
        np.testing.assert_array_equal(found.scale, tensor.scale.numpy(), strict=True)
        assert found.scale.shape == shape
        assert exported.stored[layer] == stored
        if layer == "offset":
            np.testing.assert_array_equal(np.asarray(found.zero_point).astype(np.int8), tensor.zero_point.numpy())
        else:
            assert found.zero_point is None
    dense = networks.layers(args["names"])
    dense.load_state_dict(plain)
    exported.check_results(dense, torch.rand(5, 64))


def test_tensors_of_torchao_in_bfloat16(networks, ao, tmp_path: Path):
    """Scales that bfloat16 holds are kept in it; others are not rounded to it."""
    model = networks.layers(["bytes", "scaled", "four"], "bfloat16")
    four = ao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=ao.PerGroup(16))
    for layer, config in {
        "bytes": ao.Int8WeightOnlyConfig(),
        "scaled": ao.Int8WeightOnlyConfig(),
        "four": four,
    }.items():
        ao.quantize_(model.layers[layer], config)
    model.layers["scaled"].weight.scale += 1e-6
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    args = {"names": ["bytes", "scaled", "four"], "dtype": "bfloat16"}
    exported = Exported(
        tmp_path / "trained.pt",
        tmp_path / "out",
        values(model),
        InputSpec((2, 64), dtype="bfloat16"),
        factory="declared_networks:layers",
        args=args,
    )
    assert exported.names == {"bytes": "int8", "scaled": "dense", "four": "int4"}
    assert exported.notes == {
        "scaled": "torchao's Int8Tensor is kept as values: its scales are float32 that bfloat16 does not hold"
    }


def test_inputs_that_torchao_scales_are_refused(networks, ao, tmp_path: Path):
    model = networks.layers(["bytes"])
    ao.quantize_(model, ao.Int8WeightOnlyConfig())
    model.layers["bytes"].weight.act_pre_scale = torch.ones(64)
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    args = {"names": ["bytes"]}
    with pytest.raises(CompressorError, match=r"layers\.bytes\.weight: .* Int8Tensor .* act_pre_scale"):
        export(tmp_path / "trained.pt", tmp_path, factory="declared_networks:layers", args=args, inputs={"x": FLAT})


def test_torchao_that_is_not_installed(networks, ao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = networks.layers(["bytes"])
    ao.quantize_(model, ao.Int8WeightOnlyConfig())
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    monkeypatch.setattr(torch._weights_only_unpickler, "_marked_safe_globals_set", set())
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    args = {"names": ["bytes"]}
    with pytest.raises(CompressorError, match=r"tensors of torchao's, which cannot be imported .* Install torchao"):
        export(tmp_path / "trained.pt", tmp_path, factory="declared_networks:layers", args=args, inputs={"x": FLAT})


@pytest.fixture(scope="module")
def qat(networks):
    """A model after quantization-aware training: int4 weights by channel, 7-bit activations."""
    torch.manual_seed(0)
    model = networks.prepared()
    for _ in range(4):
        model(torch.rand(16, 8, 6, 6))
    return model.eval().apply(tq.disable_observer)


def effective(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What the layers multiply with; a batch norm is folded in before."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "weight_fake_quant"):
            factor = torch.ones(1)
            if hasattr(module, "bn"):
                factor = module.bn.weight / torch.sqrt(module.bn.running_var + module.bn.eps)
            found[f"{name}.weight"] = module.weight_fake_quant(
                module.weight * factor.reshape(-1, *(1,) * (module.weight.dim() - 1))
            )
            found[f"{name}.bias"] = module.bias
    return found


def test_fake_quantizers_of_a_prepared_model(qat, tmp_path: Path):
    torch.save(qat.state_dict(), tmp_path / "trained.pt")
    weights = effective(qat)
    bn, factory = qat.conv.bn, "declared_networks:prepared"
    factor = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    weights["conv.bias"] = bn.bias - bn.running_mean * factor
    exported = Exported(tmp_path / "trained.pt", tmp_path / "out", weights, SMALL, factory=factory)
    assert exported.names == {"conv": "int4", "fc": "int4"}
    assert not exported.notes
    for layer in ("conv", "fc"):
        scale = qat.get_submodule(layer).weight_fake_quant.scale.numpy()
        np.testing.assert_array_equal(np.asarray(exported[layer].scale).reshape(-1), scale, strict=True)
    x = torch.rand(64, 8, 6, 6) * 1.5  # beyond the range of the observed activations
    expected, step = qat(x).detach().numpy(), qat.fc.activation_post_process.scale.item()
    difference = np.abs(exported.run(x) - expected)
    assert difference.max() <= 1.001 * step < np.abs(expected).max() / 10
    assert (difference > step / 2).mean() < 0.1


@pytest.mark.parametrize("rounded", [True, False])
def test_a_state_dict_of_training_for_a_model_without_fake_quantizers(networks, tmp_path: Path, *, rounded: bool):
    model = networks.Layers(["first", "second"])
    model.qconfig = networks.QCONFIG
    model = tq.prepare_qat(model.train())
    model(torch.rand(4, 64))
    state = model.apply(tq.disable_observer).state_dict()
    if rounded:
        state |= {name: value for name, value in effective(model).items() if value is not None}
    torch.save(state, tmp_path / "trained.pt")
    args = {"names": ["first", "second"]}
    exported = Exported(
        tmp_path / "trained.pt", tmp_path / "out", state, FLAT, factory="declared_networks:layers", args=args
    )
    for layer in ("first", "second"):
        assert "the ranges of activations that training found are not kept" in exported.notes[layer]
        assert ("a grid that does not hold" in exported.notes[layer]) is not rounded
        assert exported.names[layer] == ("int4" if rounded else "dense")
        if rounded:
            scale = state[f"layers.{layer}.weight_fake_quant.scale"].numpy()
            np.testing.assert_array_equal(np.asarray(exported[layer].scale).reshape(-1), scale, strict=True)


def test_a_fake_quantizer_as_a_parametrization(networks, tmp_path: Path):
    model = networks.parametrized()
    model(torch.rand(4, 64))
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    weights = {
        f"layers.{name}.{key}": getattr(model.layers[name], key)
        for name in ("rounded", "free")
        for key in ("weight", "bias")
    }
    exported = Exported(
        tmp_path / "trained.pt", tmp_path / "out", weights, FLAT, factory="declared_networks:parametrized"
    )
    assert exported.names == {"rounded": "int4", "free": "dense"}
    exported.check_results(model, torch.rand(5, 64))


def test_a_fake_quantizer_without_an_onnx_form_is_refused(networks, qat, tmp_path: Path):
    state = qat.state_dict()
    key = "fc.activation_post_process.scale"
    torch.save(
        state | {key: torch.ones(80), key.replace("scale", "zero_point"): torch.zeros(80, dtype=torch.int32)},
        tmp_path / "t.pt",
    )
    with pytest.raises(CompressorError, match=r"fc\.activation_post_process has 80 scales and codes from 0 to 127"):
        export(tmp_path / "t.pt", tmp_path, factory="declared_networks:prepared", inputs={"x": SMALL})
