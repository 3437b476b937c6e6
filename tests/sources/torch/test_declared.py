"""What training tools declare about their compression is kept where it gives back the very weights, else noted."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compressor import encodings
from compressor.encodings import Palettized, Quantized
from compressor.errors import CompressorError
from compressor.sources.torch import InputSpec
from compressor.sources.torch.declared import declare
from compressor.sources.torch.declared.attach import attach
from tests.sources.torch.declared_exports import FLAT, IMAGE, Exported, kept

PREFIX = "_COREML_/"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


NETWORKS = "declared_networks"


@pytest.fixture(scope="module")
def apple():
    """Core ML Tools' optimizers, which write to every log there is."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from coremltools.optimize.torch import layerwise_compression, palettization, pruning, quantization
        from coremltools.optimize.torch._utils.metadata_utils import CompressionMetadata
    tools = {
        name: value
        for each in (layerwise_compression, palettization, pruning, quantization)
        for name, value in vars(each).items()
    }
    yield SimpleNamespace(**{**tools, "CompressionMetadata": CompressionMetadata})
    logging.disable(before)


def by_name(configs: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    return {
        "module_name_configs": {
            name if name == "conv" else f"layers.{name}": dict(one) for name, one in configs.items()
        }
    }


def declared(state: Mapping[str, torch.Tensor], layer: str, key: str) -> np.ndarray:
    module = layer if layer == "conv" else f"layers.{layer}"
    return state[f"{module}.{PREFIX}weight/{key}"].numpy()


PALETTES = {
    "conv": {"n_bits": 4, "cluster_dim": 4},
    "plain": {"n_bits": 4},
    "rows": {"n_bits": 4, "granularity": "per_grouped_channel", "group_size": 16},
    "columns": {"n_bits": 2, "granularity": "per_grouped_channel", "group_size": 8, "channel_axis": 1},
    "vectors": {"n_bits": 4, "cluster_dim": 2},
    "inputs": {"n_bits": 3, "cluster_dim": 4, "channel_axis": 1},
    "scaled": {"n_bits": 2, "enable_per_channel_scale": True},
    "signed": {"n_bits": 1, "lut_dtype": "int8"},
    "unsigned": {"n_bits": 4, "lut_dtype": "uint8", "granularity": "per_grouped_channel", "group_size": 16},
    "both": {"n_bits": 2, "lut_dtype": "int8", "enable_per_channel_scale": True},
}


def test_palettes_of_core_ml_tools(networks, apple, tmp_path: Path):
    model = networks.layers(list(PALETTES))
    config = apple.PostTrainingPalettizerConfig.from_dict(by_name(PALETTES))
    model = apple.PostTrainingPalettizer(model, config).compress()
    exported, state = kept(model, tmp_path, list(PALETTES)), model.state_dict()
    assert exported.names == {
        "conv": "palettized4",
        "plain": "dense",  # what its values alone say
        "rows": "palettized4",
        "columns": "palettized2",
        "vectors": "palettized4",
        "inputs": "palettized3",
        "scaled": "scaled(palettized2)",
        "signed": "palettized1",
        "unsigned": "palettized4",
        "both": "scaled(palettized2)",
    }
    for layer, axis in {"conv": 0, "rows": None, "columns": None, "vectors": 0, "inputs": 1, "unsigned": None}.items():
        found = exported[layer]
        assert isinstance(found, Palettized)
        assert found.vector_axis == axis
        np.testing.assert_array_equal(found.lut, declared(state, layer, "lut"), strict=True)
    for layer in ("scaled", "both"):
        scale = declared(state, layer, "palettization_scale")
        np.testing.assert_array_equal(exported[layer].data.lut, declared(state, layer, "lut"), strict=True)
        np.testing.assert_array_equal(np.asarray(exported[layer].scale), scale, strict=True)
    # Core ML Tools multiplies codes and scales in float64.
    wide = "the scale of its table of codes does not fit float32: kept as values"
    assert exported.notes == {
        "signed": wide,
        "unsigned": wide,
    }
    assert exported.stored["plain"] == "palettized4"
    exported.check_results(model, torch.rand(5, 16, 4, 4))


def test_tables_of_codes(networks, apple, tmp_path: Path):
    """The same with scales of float32: indices into codes, which the scale of their group multiplies."""
    model, random = networks.layers(["signed", "unsigned"]), np.random.default_rng(0)
    groups, indices = np.array([2, 1]), random.integers(0, 16, (64, 64))
    scales = random.uniform(0.001, 0.002, (2, 1)).astype(np.float32)
    for layer, (dtype, low) in {"signed": (torch.int8, -128), "unsigned": (torch.uint8, 0)}.items():
        # Beyond the reach of signed codes, so that zero points are needed.
        codes = np.stack([random.choice(np.arange(low, low + 256), 16, replace=False) for _ in range(2)])
        codes[:, :2] = low, low + 255
        zero = torch.tensor([3, 5] if dtype is torch.uint8 else [0, 0], dtype=dtype)
        lut = (codes - zero.numpy().astype(int)[:, None]).astype(np.float32) * scales
        weight = np.take_along_axis(lut, indices.reshape(2, -1), axis=1).reshape(64, 64)
        module = model.layers[layer]
        module.weight.data = torch.from_numpy(weight)
        metadata = apple.CompressionMetadata("weight", compression_type=["palettization", "quantization"])
        metadata.lut = torch.from_numpy(lut).reshape(2, 1, 16, 1)
        metadata.quantization_n_bits = 8
        metadata.quantization_scale = torch.from_numpy(scales.copy()).reshape(2, 1, 1, 1)
        metadata.zero_point = zero.reshape(2, 1, 1, 1) if dtype is torch.uint8 else None
        metadata.register(module)
    exported = kept(model, tmp_path, ["signed", "unsigned"], ".safetensors")
    assert exported.names == {"signed": "int8(palettized4)", "unsigned": "uint8(palettized4)"}
    assert not exported.notes
    for layer, found in ((name, exported[name]) for name in exported.names):
        assert isinstance(found, Quantized)
        assert isinstance(found.data, Palettized)
        np.testing.assert_array_equal(found.data.indices, indices, err_msg=layer)
        assert found.data.lut.shape == (*groups, 16, 1)
        np.testing.assert_array_equal(found.scale, scales, strict=True)
    np.testing.assert_array_equal(exported["unsigned"].zero_point, np.array([[3], [5]], np.uint8), strict=True)
    assert exported["signed"].zero_point is None


QUANTIZED = {
    "conv": {"weight_dtype": "int8"},
    "rows": {"weight_dtype": "int4"},
    "blocks": {"weight_dtype": "int4", "granularity": "per_block", "block_size": 16},
    "tensor": {"weight_dtype": "int8", "granularity": "per_tensor"},
}
AFFINE = {
    "offset": {"weight_dtype": "uint4", "granularity": "per_block", "block_size": 16},
    "bytes": {"weight_dtype": "uint8", "granularity": "per_tensor"},
}


def test_the_post_training_quantizer_of_core_ml_tools(networks, apple, tmp_path: Path):
    model = networks.layers([*QUANTIZED, *AFFINE])
    for configs, scheme in ((QUANTIZED, "symmetric"), (AFFINE, "affine")):
        chosen = {name: {**one, "quantization_scheme": scheme} for name, one in configs.items()}
        config = apple.PostTrainingQuantizerConfig.from_dict(by_name(chosen))
        model = apple.PostTrainingQuantizer(model, config).compress()
    exported, state = kept(model, tmp_path, [*QUANTIZED, *AFFINE]), model.state_dict()
    assert exported.names == {
        "conv": "int8",
        "rows": "int4",
        "blocks": "int4",
        "tensor": "int8",
        "offset": "uint4",
        "bytes": "int8",  # whose zero point is 128: its signed codes need none
    }
    assert not exported.notes
    for layer in exported.names:
        found = exported[layer]
        np.testing.assert_array_equal(found.scale, declared(state, layer, "quantization_scale"), strict=True)
    zero_point = np.asarray(exported["offset"].zero_point).astype(np.uint8)
    np.testing.assert_array_equal(zero_point, declared(state, "offset", "zero_point"), strict=True)
    assert declared(state, "bytes", "zero_point").item() == 128
    exported.check_results(model, torch.rand(5, 16, 4, 4))


LAYERWISE = {
    "gptq": ({"algorithm": "gptq", "weight_dtype": "uint4"}, "int4", (64, 1)),
    "blocks": (
        {"algorithm": "gptq", "weight_dtype": "uint4", "granularity": "per_block", "block_size": 16},
        "int4",
        (64, 4),
    ),
    "three": ({"algorithm": "gptq", "weight_dtype": "uint3"}, "int4", (64, 1)),
    "offset": ({"algorithm": "gptq", "weight_dtype": "uint4", "quantization_scheme": "affine"}, "uint4", (64, 1)),
    "normal": (
        {"algorithm": "gptq", "weight_dtype": "uint4", "enable_normal_float": True},
        "scaled(palettized4)",
        (64, 1),
    ),
    "sparse": ({"algorithm": "sparse_gpt", "weight_dtype": "uint8", "target_sparsity": 0.75}, "int8", (64, 1)),
    "two_of_four": ({"algorithm": "sparse_gpt", "weight_dtype": "uint4", "n_m_ratio": [2, 4]}, "int4", (64, 1)),
}
LAYERWISE_STORED = {
    "blocks": "int4",
    "three": "int4",
    "normal": "scaled(palettized4)",
    "sparse": "sparse(int8)",
    "two_of_four": "int4",
}


def test_the_layerwise_compressor_of_core_ml_tools(networks, apple, tmp_path: Path):
    model = torch.nn.Sequential(*networks.layers(list(LAYERWISE)).layers.values())
    configs = {str(place): config for place, (config, _, _) in enumerate(LAYERWISE.values())}
    config = apple.LayerwiseCompressorConfig.from_dict(
        {"module_name_configs": configs, "input_cacher": "default", "calibration_nsamples": 16}
    )
    compressed = apple.LayerwiseCompressor(model, config).compress([torch.rand(1, 64) for _ in range(16)], device="cpu")
    model = networks.layers(list(LAYERWISE))
    model.layers = torch.nn.ModuleDict(zip(LAYERWISE, compressed, strict=True))
    exported = kept(model, tmp_path, list(LAYERWISE))
    assert exported.names == {name: expected for name, (_, expected, _) in LAYERWISE.items()}
    assert not exported.notes
    for layer, (_, _, shape) in LAYERWISE.items():
        found = exported[layer]
        assert (found.lut if isinstance(found, Palettized) else found.scale).shape == shape
    assert LAYERWISE_STORED.items() <= exported.stored.items()
    exported.check_results(model, torch.rand(5, 64))


def trained(optimizer, model, x: torch.Tensor, *others):
    """Steps of training, after which the optimizer's compression is in the model."""
    model.train()
    for _ in range(3):
        model(x)
        for each in (optimizer, *others):
            each.step()
    return optimizer.finalize()


def test_what_values_alone_say_is_declared_too(networks, apple, tmp_path: Path):
    x, names = torch.rand(4, 64), ["pruned", "clustered", "vectors"]
    pruner = apple.MagnitudePruner(
        networks.layers(names),
        apple.MagnitudePrunerConfig.from_dict(by_name({"pruned": {"target_sparsity": 0.75, "n_m_ratio": [3, 4]}})),
    )
    pruned = trained(pruner, pruner.prepare(), x)
    model = networks.layers(names)
    model.load_state_dict(pruned.state_dict(), strict=False)
    clusters = {"clustered": {"n_bits": 2, "milestone": 0}, "vectors": {"n_bits": 4, "milestone": 0, "cluster_dim": 2}}
    palettizer = apple.DKMPalettizer(model, apple.DKMPalettizerConfig.from_dict(by_name(clusters)))
    model = trained(palettizer, palettizer.prepare(), x)
    for key, value in pruned.layers["pruned"].state_dict().items():
        if key.startswith(PREFIX):
            model.layers["pruned"].register_buffer(key, value)
    exported = kept(model, tmp_path, names)
    assert exported.names == {"pruned": "dense", "clustered": "dense", "vectors": "palettized4"}
    assert exported.stored["clustered"] == "palettized2"
    assert exported.stored["pruned"] == "sparse"
    assert not exported.notes
    exported.check_results(model, torch.rand(5, 64))


@pytest.mark.parametrize("joint", [False, True])
def test_the_linear_quantizer_of_core_ml_tools(networks, apple, tmp_path: Path, *, joint: bool):
    """A finalized model quantizes its float weights in every forward; fused layers have other names."""
    x = torch.rand(4, 16, 4, 4)
    config = {"global_config": {"quantization_scheme": "symmetric", "weight_dtype": "qint8" if joint else "qint4"}}
    quantizer = apple.LinearQuantizer(networks.sequential(), apple.LinearQuantizerConfig.from_dict(config))
    model = quantizer.prepare(example_inputs=(x,), inplace=True)
    if joint:
        goal = {"global_config": {"scheduler": {"update_steps": [0, 1]}, "target_sparsity": 0.75}}
        pruner = apple.MagnitudePruner(model, apple.MagnitudePrunerConfig.from_dict(goal))
        model.train()
        prepared = pruner.prepare(inplace=True)
        for _ in range(3):
            prepared(x)
            pruner.step()
            quantizer.step()
        model = pruner.finalize(quantizer.finalize(inplace=True), inplace=True)
    else:
        model = trained(quantizer, model, x)
    state = model.state_dict()
    form, stored = ("int8", "sparse(int8)") if joint else ("int4", "int4")

    torch.save(model, tmp_path / "model.pt")
    whole = Exported(tmp_path / "model.pt", tmp_path / "whole", state, IMAGE, "input", allow_pickle=True)
    assert whole.names == {"0.0": form, "3.0": form, "5": form}
    assert not whole.notes

    torch.save(state, tmp_path / "state.pt")
    names = {"0": "0.0", "3": "3.0", "5": "5"}
    values = {f"{plain}.{key}": state[f"{own}.{key}"] for plain, own in names.items() for key in ("weight", "bias")}
    factory = "declared_networks:sequential"
    bare = Exported(tmp_path / "state.pt", tmp_path / "bare", values, IMAGE, "input", factory=factory)
    assert bare.names == dict.fromkeys(names, form)
    assert bare.stored["0"].startswith(stored.removesuffix(")"))
    for plain, own in names.items():
        for found in (bare[plain], whole[own]):
            scale = state[f"{own}.weight_scale"].numpy()
            np.testing.assert_array_equal(np.asarray(found.scale).reshape(-1), scale, strict=True)
        assert "the ranges of activations that training found are not kept" in bare.notes[plain]
    step = state["5_scale_0"].item()
    expected = model(x).detach().numpy()
    assert np.abs(whole.run(x) - expected).max() <= 1.001 * step < np.abs(expected).max() / 10


BROKEN = {
    "scale": ("quantization_scale", lambda value: value * 1.01, "quantized, which does not hold: .* values do not lie"),
    "finite": ("quantization_scale", lambda value: value * np.inf, "do not lie on the grid"),
    "shape": ("quantization_scale", lambda value: value[:7], r"a scale \[7, 1\] for a weight \[64, 64\]"),
    "bits": ("quantization_n_bits", lambda value: value - 2, "codes from -7 to 7 do not fit 2 bits"),
    "many": ("quantization_n_bits", lambda value: value + 100, "codes of 104 bits, expected 1 to 8"),
    "none": ("quantization_n_bits", None, "there is no quantization_n_bits"),
    "kind": ("compression_type", lambda value: value * 3, r"compression_type is \[9\], expected some of \[1, 2, 3\]"),
    "text": ("quantization_scale", lambda value: torch.complex(value, value), "complex64 are no real numbers"),
    "palette": ("compression_type", lambda value: value - 1, "palettized, which does not hold: there is no lut"),
    "pruned": ("compression_type", lambda value: torch.tensor([1, 3]), "declares it pruned, but it has no zeros"),
    "surplus": ("group_size", lambda _: torch.tensor(3), "declares group_size, which is not known: ignored"),
}
HOLD = {"surplus", "pruned"}


def broken(model, changes, tmp_path: Path):
    """A model as it is exported with declarations of its layers changed, which its notes tell."""
    for layer, (key, change, _) in changes.items():
        module, name = model.layers[layer], f"{PREFIX}weight/{key}"
        before = module._buffers.pop(name, None)
        if change is not None:
            module.register_buffer(name, change(before))
    exported = kept(model, tmp_path, list(changes))
    assert set(exported.notes) == set(changes)
    for layer, (_, _, note) in changes.items():
        assert re.search(note, exported.notes[layer]), exported.notes[layer]
    return exported


def test_declarations_that_do_not_hold_are_noted_and_ignored(networks, apple, tmp_path: Path):
    configs = {name: {"weight_dtype": "int4", "quantization_scheme": "symmetric"} for name in BROKEN}
    config = apple.PostTrainingQuantizerConfig.from_dict(by_name(configs))
    model = apple.PostTrainingQuantizer(networks.layers(list(BROKEN)), config).compress()
    dense = model.layers["pruned"].weight
    dense.data = torch.where(dense == 0, dense.min(dim=1, keepdim=True).values, dense).detach()
    exported = broken(model, BROKEN, tmp_path)
    assert exported.names == {name: "int4" if name in HOLD else "dense" for name in BROKEN}
    # What was declared wrongly is found by itself.
    assert exported.stored == dict.fromkeys(exported.stored, "int4")


def test_broken_palettes(networks, apple, tmp_path: Path):
    changes = {
        "lut": ("lut", lambda value: value + 1e-3, "2,048 of 2,048 vectors are in no table"),
        "axis": ("vector_axis", lambda value: value + 1, "vectors are in no table"),
        "no_axis": ("vector_axis", None, "vectors of 2 values along axis None"),
        "rank": ("lut", lambda value: value[0], r"a lut \[1, 16, 2\] for a weight \[64, 64\]"),
        "empty": ("lut", lambda value: value[:, :, :0], "a table of 0 entries"),
        "huge": ("vector_axis", lambda value: value + 70, "vectors of 2 values along axis 70"),
        "factor": ("palettization_scale", lambda _: torch.full((64, 1), 2.0), "vectors that a scale multiplies"),
    }
    config = {"n_bits": 4, "cluster_dim": 2}
    config = apple.PostTrainingPalettizerConfig.from_dict(by_name(dict.fromkeys(changes, config)))
    model = apple.PostTrainingPalettizer(networks.layers(list(changes)), config).compress()
    exported = broken(model, changes, tmp_path)
    assert exported.names == dict.fromkeys(changes, "dense")


def test_metadata_of_another_version(networks, apple, tmp_path: Path):
    config = apple.PostTrainingPalettizerConfig.from_dict(by_name({"vectors": PALETTES["vectors"]}))
    model = apple.PostTrainingPalettizer(networks.layers(["vectors", "plain"]), config).compress()
    model.register_buffer(f"{PREFIX}metadata_version", torch.tensor(2))
    exported = kept(model, tmp_path, ["vectors", "plain"])
    assert exported.names == {"vectors": "dense", "plain": "dense"}
    assert exported.notes == {"vectors": "Core ML Tools' metadata has version 2, only version 1 is known: ignored"}


def test_an_exported_program_with_metadata(networks, apple, tmp_path: Path):
    config = apple.PostTrainingPalettizerConfig.from_dict(by_name({"vectors": PALETTES["vectors"]}))
    model = apple.PostTrainingPalettizer(networks.layers(["vectors", "plain"]), config).compress()
    torch.export.save(torch.export.export(model.eval(), (torch.rand(2, 64),)), tmp_path / "program.pt2")
    exported = Exported(tmp_path / "program.pt2", tmp_path / "out", model.state_dict(), InputSpec((2, 64)))
    assert list(exported.notes) == ["compressor.untraced"]  # no note on a weight
    assert exported.names == {"vectors": "palettized4", "plain": "dense"}


def test_metadata_of_a_module_that_the_model_lacks(networks, tmp_path: Path):
    state = networks.layers(["plain"]).state_dict()
    torch.save({**state, f"layers.gone.{PREFIX}weight/lut": torch.ones(1, 1, 2, 1)}, tmp_path / "trained.pt")
    args = {"names": ["plain"]}
    with pytest.raises(CompressorError, match=r"unknown to the model: layers\.gone\._COREML_/weight/lut"):
        Exported(tmp_path / "trained.pt", tmp_path / "out", state, FLAT, factory="declared_networks:layers", args=args)


def anything(random: Random) -> torch.Tensor:
    """A small tensor of any dtype and rank, with what is no number in some."""
    shape = [random.choice([0, 1, 2, 3, 4, 8, 16]) for _ in range(random.randrange(6))]
    factor = random.choice([1.0, 0.01, 1e-30, 1e30, float("nan"), float("inf")])
    dtypes = "float32 float64 float16 bfloat16 int64 int8 uint8 bool complex64 float8_e4m3fn".split()
    return (torch.randint(-9, 20, shape) * factor).to(getattr(torch, random.choice(dtypes)))


def test_random_declarations_never_give_another_weight():
    torch.manual_seed(0)
    random, held, noted = Random(0), 0, 0  # noqa: S311 - the same examples in every run
    for _ in range(600):
        model = torch.nn.Sequential(torch.nn.Linear(8, 16))
        lut = (torch.arange(-8, 8) * 0.01).reshape(1, 1, 16, 1)
        model[0].weight.data = lut.reshape(-1)[torch.randint(0, 16, (16, 8))]
        buffers = {
            "compression_type": torch.tensor(random.choice([[1], [2], [3], [1, 2], [2, 3], [1, 3], [4]])),
            "lut": lut.expand(random.choice([1, 4, 16]), random.choice([1, 8]), 16, 1).clone(),
            "quantization_scale": torch.full(random.choice([(16, 1), (1,), (), (16, 4), (1, 1, 1, 1)]), 0.01),
            "quantization_n_bits": torch.tensor(random.choice([2, 3, 4, 8])),
            "zero_point": torch.full((16, 1), random.choice([0.0, 8.0, 3.0, 300.0])),
        }
        for key in random.sample([*buffers, "vector_axis", "palettization_scale"], random.randrange(4)):
            buffers[key] = anything(random)
        grids = {
            f"0.weight_fake_quant.{key}": anything(random) for key in ("scale", "zero_point") if random.random() < 0.2
        }
        state = {f"0.{PREFIX}weight/{key}": value for key, value in buffers.items()}
        attach(model, {**model.state_dict(), **state, **grids})
        found = declare(model)
        for encoding in found.encodings.values():
            np.testing.assert_array_equal(encodings.decode(encoding), model[0].weight.detach().numpy())
        held, noted = held + len(found.encodings), noted + len(found.notes)
    assert held > 100
    assert noted > 100
