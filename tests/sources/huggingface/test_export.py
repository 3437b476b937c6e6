"""The graphs of folders: transformers' architectures or a factory's, over the values and codes of the files."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

import compressor
from compressor import sources
from compressor.arrays import NDArray
from compressor.encodings import decode, name
from compressor.errors import CompressorError, UsageError
from compressor.sources import InputSpec
from compressor.sources.huggingface import export

FACTORY = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 32), torch.nn.Linear(32, 8)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))
"""
X = {"x": InputSpec((2, 64))}
IDS = np.arange(16)[None] % 7


@pytest.fixture(scope="module")
def transformers() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("transformers")


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a small network: the first layer in GPTQ's codes with float16 scales, the second one in floats."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "folder_factory", raising=False)
    (tmp_path / "folder_factory.py").write_text(FACTORY)
    path = tmp_path / "net"
    path.mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "first.qweight": torch.randint(-(1 << 31), (1 << 31) - 1, (8, 32), dtype=torch.int32, generator=generator),
        "first.qzeros": torch.randint(-(1 << 31), (1 << 31) - 1, (2, 4), dtype=torch.int32, generator=generator),
        "first.scales": torch.rand(2, 32, generator=generator).half(),
        "first.bias": torch.rand(32, generator=generator).half(),
        "second.weight": torch.randn(8, 32, generator=generator),
        "second.bias": torch.zeros(8),
    }
    save_file(tensors, path / "model.safetensors")
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}
    (path / "config.json").write_text(json.dumps(config))
    return path


def changed(path: Path, **config: Any) -> Path:
    said = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**said, **config}))
    return path


def written(path: Path, tmp_path: Path, **settings: Any) -> Path:
    made = tmp_path / "exported"
    made.mkdir()
    export(path, made, **settings)
    return made


def run(path: Path, **inputs: NDArray) -> NDArray:
    (result,) = onnxruntime.InferenceSession(path / "model.onnx").run(None, inputs)
    return np.asarray(result)


def test_a_factory_builds_what_config_json_does_not_name(net: Path, tmp_path: Path) -> None:
    """Weights of several dtypes stay what they are; the network computes in the one that holds them all."""
    source = {weight.name: weight.encoding for weight in sources.read(net).weights}
    made = written(net, tmp_path, factory="folder_factory:Net", inputs=X, opset=21)
    stored = {weight.name: weight.encoding for weight in sources.read(made).weights}
    assert {key: name(encoding) for key, encoding in stored.items()} == {key: name(one) for key, one in source.items()}
    assert name(stored["first.weight"]) == "uint4"
    for key, encoding in source.items():
        assert decode(stored[key]).tobytes() == decode(encoding).tobytes()
        assert decode(stored[key]).dtype == decode(encoding).dtype
    x = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    w = {key: decode(encoding).astype(np.float32) for key, encoding in source.items()}
    hidden = np.maximum(x @ w["first.weight"].T + w["first.bias"], 0)
    assert np.allclose(run(made, x=x), hidden @ w["second.weight"].T, rtol=1e-5, atol=1e-3)


def test_what_cannot_be_exported_is_said_before_anything_is_built(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"export\.opset is 3: expected 18 to 25"):
        export(net, tmp_path, inputs=X, opset=3)
    monkeypatch.setitem(sys.modules, "transformers", None)
    told = r"needs transformers\. .*Install it: pip install .*not needed with export\.factory"
    with pytest.raises(CompressorError, match=told):
        export(net, tmp_path, inputs=X, opset=21)
    changed(net, quantization_config={"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"})
    with pytest.raises(
        CompressorError, match=r"first\.qweight: the format marlin of GPTQ .* not supported, kept as its"
    ):
        export(net, tmp_path, factory="folder_factory:Net", inputs=X, opset=21)
    assert not list(tmp_path.glob("*.onnx*"))


def test_what_happens_to_activations_is_said(net: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file({"first.weight": torch.ones(2, 2)}, net / "model.safetensors")
    group = {"targets": ["Linear"], "weights": {"num_bits": 8}, "input_activations": {"num_bits": 8}}
    said = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    changed(net, quantization_config=said)
    with pytest.raises(CompressorError, match=r"does not fit the model of export\.factory folder_factory:Net"):
        export(net, tmp_path, factory="folder_factory:Net", inputs=X)
    assert f"{net}: config_groups.group_0 quantizes activations: they are exported in float." in caplog.messages
    changed(net, quantization_config={**said, "transform_config": {"config_groups": {"R1": {}}}})
    with pytest.raises(CompressorError, match=r"transform_config rotates activations .* Quantize without it"):
        export(net, tmp_path, factory="folder_factory:Net", inputs=X)


def test_tensors_that_do_not_fit_the_factory_are_named(net: Path, tmp_path: Path) -> None:
    (tmp_path / "folder_factory.py").write_text(FACTORY.replace("second", "third"))
    with pytest.raises(
        CompressorError, match=r"does not fit the model of export\.factory folder_factory:Net"
    ) as caught:
        export(net, tmp_path, factory="folder_factory:Net", inputs=X, opset=21)
    assert "missing from the file: third.weight (closest: second.weight), third.bias" in str(caught.value)


def test_code_in_a_folder_never_runs(transformers: Any, net: Path, tmp_path: Path) -> None:
    (net / "modeling_own.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: ...\nclass OwnConfig: ...\n"
    )
    maps = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.Own"}
    changed(net, model_type="own", architectures=["AutoModel"], auto_map=maps)
    with pytest.raises(CompressorError, match=r"config\.json: transformers cannot build AutoModel"):
        export(net, tmp_path, inputs={}, opset=21)
    changed(net, architectures=["Own"])
    with pytest.raises(CompressorError, match=r"cannot build Own: .* \(code that lies in the folder never runs\)"):
        export(net, tmp_path, inputs={}, opset=21)
    changed(net, model_type="bert", auto_map={})
    with pytest.raises(
        CompressorError, match=r"has no architecture 'Own'\. Upgrade transformers, or set export\.factory"
    ):
        export(net, tmp_path, inputs={}, opset=21)
    changed(net, architectures=["pipeline"])
    with pytest.raises(CompressorError, match=r"has no architecture 'pipeline'"):
        export(net, tmp_path, inputs={}, opset=21)
    changed(net, architectures=["BertModel"])
    with pytest.raises(UsageError, match=r"unknown argument of BertModel \(export\.args\) 'layers'\. .*add_pooling"):
        export(net, tmp_path, inputs={}, args={"layers": 1}, opset=21)
    assert not (tmp_path / "ran").exists()


def test_shards_fill_the_architecture_that_the_folder_names(transformers: Any, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=50, max_position_embeddings=32, **sizes)
    torch.manual_seed(0)
    model = transformers.BertForTokenClassification(config).eval()
    path = tmp_path / "bert"
    model.save_pretrained(path, max_shard_size="20kB")
    assert len(list(path.glob("*.safetensors"))) > 1
    source = {weight.name: decode(weight.encoding) for weight in sources.read(path).weights}
    assert source.keys() == model.state_dict().keys()
    made = written(path, tmp_path, inputs={}, outputs=["logits"])
    stored = {weight.name: decode(weight.encoding) for weight in sources.read(made).weights}
    assert all(stored[key].tobytes() == values.tobytes() for key, values in source.items())
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(IDS)).logits.numpy()
    assert np.allclose(run(made, input_ids=IDS), expected, atol=1e-5)


def renamed(path: Path, rename: Any, **config: Any) -> Path:
    """A folder whose tensors have other names; those of no name are left out."""
    file = path / "model.safetensors"
    tensors = {rename(key): values for key, values in load_file(file).items() if rename(key)}
    save_file(tensors, file, metadata={"format": "pt"})
    return changed(path, **config)


def test_names_are_converted_as_transformers_does(
    transformers: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A base model from the folder of a larger one, the names of norms as they once were, no pooling layer."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=50, **sizes)).eval()
    model.save_pretrained(tmp_path / "bert")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def rename(key: str) -> str:
        return next((key.replace(new, before) for new, before in old.items() if new in key), key)

    made = written(renamed(tmp_path / "bert", rename, architectures=["BertModel"]), tmp_path, inputs={})
    with torch.no_grad():
        expected = model.bert(input_ids=torch.tensor(IDS)).last_hidden_state.numpy()
    assert np.allclose(run(made, input_ids=IDS), expected, atol=1e-5)
    assert "holds no weights of the layer pooler of BertModel: that output is left out" in caplog.text
    assert "BertModel has no place for these, which are left out: cls.predictions.bias" in caplog.text


def test_a_prefix_may_be_missing_and_weights_may_not(transformers: Any, tmp_path: Path) -> None:
    sizes = {"vocab_size": 50, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)).eval()
    path = tmp_path / "gpt2"
    model.save_pretrained(path)
    renamed(path, lambda key: key.removeprefix("transformer."))
    assert "wte.weight" in load_file(path / "model.safetensors")
    made = written(path, tmp_path, inputs={})
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(IDS)).logits.numpy()
    assert np.allclose(run(made, input_ids=IDS), expected, atol=1e-5)
    renamed(path, lambda key: "" if key == "h.0.attn.c_attn.weight" else key)
    with pytest.raises(CompressorError, match=r"GPT2LMHeadModel: missing from the file: .*h\.0\.attn\.c_attn"):
        export(path, tmp_path, inputs={})
    changed(path, n_embd=64)
    with pytest.raises(CompressorError, match=r"shapes differ: .* \[32\] in the file, \[64\] in the model"):
        export(path, tmp_path, inputs={})


@pytest.fixture(scope="module")
def library(transformers: Any) -> Any:
    """compressed-tensors: what it packs, by format, and the scheme of its settings."""
    compressors = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")

    def make(form: str, **weights: Any) -> tuple[Any, Any]:
        packer = compressors.BaseCompressor.get_value_from_registry(form)
        args = quantization.QuantizationArgs(**weights)
        return packer, quantization.QuantizationScheme(targets=["Linear"], weights=args)

    return make


@pytest.mark.parametrize(
    ("form", "settings", "shape"),
    [
        ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False}, (33, 3)),
        ("pack-quantized", {"num_bits": 8, "strategy": "channel", "symmetric": False}, (33, 1)),
        ("pack-quantized", {"num_bits": 3, "strategy": "tensor"}, (1,)),
        ("int-quantized", {"num_bits": 8, "strategy": "tensor"}, (1,)),
        ("int-quantized", {"num_bits": 8, "strategy": "block", "block_structure": [16, 64]}, (3, 2)),
        ("naive-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False}, (33, 3)),
        ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}, (33, 1)),
    ],
)
def test_what_compressed_tensors_writes_is_read_bit_for_bit(
    library: Any, tmp_path: Path, form: str, settings: dict[str, Any], shape: tuple[int, ...]
) -> None:
    packer, scheme = library(form, **settings)
    generator = torch.Generator().manual_seed(0)
    state = {
        "weight": torch.randn(33, 96, generator=generator, dtype=torch.bfloat16) * 0.1,
        "weight_scale": (torch.rand(shape, generator=generator) * 0.02 + 0.01).bfloat16(),
    }
    if settings.get("symmetric") is False:
        state["weight_zero_point"] = torch.randint(-8, 8, shape, dtype=torch.int8, generator=generator)
    packed = packer.compress(state, scheme)
    save_file({f"l.{key}": value.contiguous() for key, value in packed.items()}, tmp_path / "model.safetensors")
    groups = {"group_0": scheme.model_dump(mode="json")}
    said = {"quant_method": "compressed-tensors", "format": form, "config_groups": groups}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": said}))
    (weight,) = sources.read(tmp_path).weights
    expected = packer.decompress(packed, scheme)["weight"]
    assert decode(weight.encoding).dtype.name == "bfloat16"
    assert np.array_equal(decode(weight.encoding).view(np.int16), expected.view(torch.int16).numpy())


def compressed_llama(transformers: Any, library: Any, path: Path) -> Any:
    """A model of one layer with tied embeddings, in bfloat16, with compressed-tensors' own codes."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.LlamaConfig(vocab_size=50, intermediate_size=128, tie_word_embeddings=True, **sizes)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(path)
    packer, scheme = library("pack-quantized", num_bits=4, group_size=32, strategy="group", symmetric=False)
    stored, dense = {}, {}
    for key, values in model.bfloat16().state_dict().items():
        if key == "lm_head.weight":
            continue
        if "_proj" not in key:
            stored[key] = dense[key] = values
            continue
        scale = (torch.rand(values.shape[0], values.shape[1] // 32) * 0.01 + 0.002).bfloat16()
        zeros = torch.randint(-8, 8, scale.shape, dtype=torch.int8)
        packed = packer.compress({"weight": values, "weight_scale": scale, "weight_zero_point": zeros}, scheme)
        dense[key] = packer.decompress(packed, scheme)["weight"]
        stored |= {f"{key.removesuffix('weight')}{part}": tensor.contiguous() for part, tensor in packed.items()}
    save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
    groups = {"group_0": scheme.model_dump(mode="json")}
    said = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    changed(path, quantization_config={**said, "ignore": ["lm_head"]})
    model.float().load_state_dict(dense, strict=False)
    return model


def test_a_compressed_model_keeps_its_codes_up_to_the_artefact(transformers: Any, library: Any, tmp_path: Path) -> None:
    model = compressed_llama(transformers, library, tmp_path / "llama")
    made = written(tmp_path / "llama", tmp_path, inputs={}, opset=21)
    weights = {weight.name: weight.encoding for weight in sources.read(made).weights}
    state = model.state_dict()
    for key in state.keys() - {"lm_head.weight"}:
        assert decode(weights[key]).dtype.name == "bfloat16"
        assert np.array_equal(decode(weights[key]).astype(np.float32), state[key].numpy())
        assert name(weights[key]) == ("int4" if "_proj" in key else "dense")
    assert "lm_head.weight" not in weights  # it is the table of the embeddings
    manifest = compressor.compress(made, tmp_path / "artefact")
    kept = {weight.name: weight.encoding for weight in manifest.weights}
    assert all("int4" in kept[key] for key in weights if "_proj" in key)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(IDS)).logits.numpy()
    assert np.allclose(run(tmp_path / "artefact", input_ids=IDS), expected, atol=1e-5)
