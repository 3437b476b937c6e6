"""Configs as the real libraries take them: loaded by their own classes, and applied to a real model."""

import json

import pytest
import torch
from torch.ao.quantization import FakeQuantize

from compressor.sensitivity import configs
from compressor.sensitivity.trials import Trial
from compressor.sensitivity.variants import VARIANTS
from examples.digits.model import Digits, create

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries beside the versions that they were tested with


def chosen(**variants):
    """Trials of layers of the bundled example's network."""
    return {f"{layer}.weight": Trial(f"{layer}.weight", variant, 1, 1) for layer, variant in variants.items()}


ALL = chosen(conv2="pruned50", conv3="pruned75", fc3="palette4", fc4="palette2", fc1="int4", fc2="int4")
LAYERS = [f"{layer}.weight" for layer in ("conv1", "conv2", "conv3", "conv4", "fc1", "fc2", "fc3", "fc4")]


def sections(trials):
    return configs.core_ml_tools(trials, LAYERS)


def test_core_ml_tools_names_the_modules_and_no_others():
    modules = {name: one["module_name_configs"] for name, one in sections(ALL).items()}
    assert list(modules["MagnitudePrunerConfig"]) == ["conv2", "conv3"]
    assert list(modules["DKMPalettizerConfig"]) == ["fc3", "fc4"]
    assert modules["LinearQuantizerConfig"] == dict.fromkeys(["conv1", "conv2", "conv3", "conv4", "fc3", "fc4"])
    # A class that got an empty section would take every module of the model.
    assert list(sections(chosen(fc2="int8"))) == ["LinearQuantizerConfig"]


def test_core_ml_tools_prunes_what_is_named():
    from coremltools.optimize.torch.pruning import MagnitudePruner, MagnitudePrunerConfig

    config = MagnitudePrunerConfig.from_dict(sections(ALL)["MagnitudePrunerConfig"])
    assert config.global_config is None
    model = Digits()
    pruner = MagnitudePruner(model, config)
    pruner.prepare(inplace=True)
    pruner.step()
    pruner.finalize(inplace=True)
    zeros = {name: float((one == 0).float().mean()) for name, one in model.named_parameters() if one.ndim > 1}
    assert zeros["conv2.weight"] == pytest.approx(0.5, abs=0.01)
    assert zeros["conv3.weight"] == pytest.approx(0.75, abs=0.01)
    assert all(not share for name, share in zeros.items() if name not in ("conv2.weight", "conv3.weight"))


def test_core_ml_tools_palettizes_what_is_named():
    from coremltools.optimize.torch.palettization import DKMPalettizer, DKMPalettizerConfig

    config = DKMPalettizerConfig.from_dict(sections(ALL)["DKMPalettizerConfig"])
    model = Digits()
    palettizer = DKMPalettizer(model, config)
    prepared = palettizer.prepare()
    palettizer.step()
    prepared(torch.zeros(2, 1, 28, 28))
    made = palettizer.finalize()
    distinct = {name: one.unique().numel() for name, one in made.named_parameters() if one.ndim > 1}
    assert distinct["fc3.weight"] <= 16
    assert distinct["fc4.weight"] <= 4
    assert distinct["fc2.weight"] > 256


@pytest.mark.parametrize(("variant", "least"), [("int8", -128), ("int4", -8)])
def test_core_ml_tools_quantizes_what_is_named(variant, least):
    """Layers that it fuses with a ReLU, with a batch norm between or not, and one that it does not fuse."""
    from coremltools.optimize.torch.quantization import LinearQuantizer, LinearQuantizerConfig

    section = sections(chosen(conv2=variant, fc1=variant, fc4=variant))["LinearQuantizerConfig"]
    quantizer = LinearQuantizer(Digits(), LinearQuantizerConfig.from_dict(section))
    prepared = quantizer.prepare(example_inputs=(torch.zeros(2, 1, 28, 28),))
    quantized = {name: one for name, one in prepared.named_modules() if isinstance(one, FakeQuantize)}
    assert {name: (one.quant_min, one.ch_axis) for name, one in quantized.items()} == {
        f"{layer}.weight_fake_quant": (least, 0) for layer in ("conv2", "fc1", "fc4")
    }


def test_core_ml_tools_gets_codes_of_one_width():
    trials = [
        Trial("a.weight", "int4", 10, 1, drop=0.0), Trial("a.weight", "int8", 20, 1, drop=0.0),
        Trial("b.weight", "int4", 100, 1, drop=0.5), Trial("b.weight", "int8", 200, 1, drop=0.0),
        Trial("c.weight", "palette4", 9, 1, drop=0.0), Trial("c.weight", "int4", 10, 1, drop=0.0),
    ]  # fmt: skip
    dense = {"a.weight": 80, "b.weight": 800, "c.weight": 80}
    uses = dict.fromkeys(dense, ("Gemm",))
    found = configs.strongest_for_core_ml_tools(trials, dense, 0.01, uses)
    assert {name: one.variant for name, one in found.items()} == {
        "a.weight": "int8", "b.weight": "int8", "c.weight": "palette4",
    }  # fmt: skip


def test_torchao_takes_the_config_as_its_own():
    from torchao.core.config import config_from_dict, config_to_dict
    from torchao.quantization import FqnToConfig, quantize_

    own = configs.torchao(chosen(fc1="int8", fc2="int4"))
    config = config_from_dict(json.loads(json.dumps(own)))
    assert isinstance(config, FqnToConfig)
    assert config_from_dict(config_to_dict(config)) == config
    model = create().eval()
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    quantize_(model, config, filter_fn=None)
    for layer, most in (("fc1", 256), ("fc2", 16)):
        made = model.get_submodule(layer).weight.dequantize()
        assert max(len(row.unique()) for row in made) <= most
        # By channel: the scale of a row follows from its largest magnitude.
        scale = before[f"{layer}.weight"].abs().amax(1, keepdim=True) / (most / 2 - 1)
        assert ((made - before[f"{layer}.weight"]).abs() <= scale * 0.6).all()
    assert type(model.fc4.weight) is torch.nn.Parameter


def test_torchao_trains_with_the_same_config():
    from torchao.core.config import config_from_dict
    from torchao.quantization import FqnToConfig, quantize_
    from torchao.quantization.qat import QATConfig

    config = config_from_dict(configs.torchao(chosen(fc1="int4")))
    training = FqnToConfig({name: QATConfig(base, step="prepare") for name, base in config.fqn_to_config.items()})
    model = create()
    quantize_(model, training, filter_fn=None)
    assert [name for name, one in model.named_modules() if type(one).__name__ == "FakeQuantizedLinear"] == ["fc1"]
    done = FqnToConfig({name: QATConfig(base, step="convert") for name, base in config.fqn_to_config.items()})
    quantize_(model, done, filter_fn=None)
    assert max(len(row.unique()) for row in model.fc1.weight.dequantize()) <= 16


@pytest.mark.parametrize(
    ("name", "uses", "variant", "core_ml_tools", "torchao"),
    [
        ("fc.weight", ("Gemm",), "int4", True, True),
        ("fc.weight", ("Gemm",), "pruned50", True, False),
        ("query.weight", ("Transpose",), "int4", True, True),
        ("conv.weight", ("Conv",), "int8", True, False),
        ("words.weight", ("Gather",), "palette4", True, False),
        ("words.weight", ("Gather",), "int8", False, True),
        ("words.weight", ("Gather", "MatMul"), "pruned50", False, False),  # a table that is tied to the last layer
        ("rnn.weight_hh_l0", ("LSTM",), "int8", False, False),
        ("up.weight", ("ConvTranspose",), "int8", False, False),
        ("w", ("MatMul",), "int8", False, False),  # of no module
    ],
)
def test_what_a_library_trains(name, uses, variant, core_ml_tools, torchao):
    trial = Trial(name, variant, 1, 1)
    assert configs.for_core_ml_tools(trial, uses) is core_ml_tools
    assert configs.for_torchao(trial, uses) is torchao


def test_every_variant_has_a_config():
    for variant in VARIANTS:
        assert len(sections(chosen(fc1=variant))) == 1
