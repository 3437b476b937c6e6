"""Folders in, folders out: what transformers and the library of the format make of them is the dense model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compressor
from compressor import sources
from compressor.compilation.manifest import Manifest
from compressor.differences.models import differences
from compressor.errors import UsageError
from tests.formats.compressed_tensors import decompressed
from tests.sources.huggingface import folders
from tests.targets.compressed_tensors import checkpoints
from tests.targets.compressed_tensors.checkpoints import Floats, Grid

TARGET = "compressed-tensors"
RANDOM = np.random.default_rng(0)
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def compressed(source: Path, out: Path, **options: Any) -> Manifest:
    return compressor.compress(source, out, target=TARGET, **options)


def stored(made: Manifest) -> dict[str, str]:
    return {weight.name: weight.encoding for weight in made.weights}


def said(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return found


def check_same(source: Path, out: Path) -> None:
    """The library gives back every tensor of the source, bit by bit but for the sign of zero."""
    expected, found = decompressed.tensors(source), decompressed.weights(out)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        values = decompressed.array(tensor)
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values, name)


GRIDS = {
    "4 bits by group": lambda _: Grid(4, 32),
    "8 bits by channel": lambda _: Grid(8),
    "2 bits by group": lambda _: Grid(2, 16),
    "3 bits by group": lambda _: Grid(3, 32),
    "6 bits by channel": lambda _: Grid(6),
    "4 bits of all": lambda _: Grid(4, -1),
    "mixed": lambda name: Grid(8) if "attn" in name or "attention" in name else Grid(4, 32),
}


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("grid", GRIDS)
def test_transformers_computes_the_same(kind: str, grid: str, tmp_path: Path) -> None:
    model = checkpoints.saved(tmp_path / "source", kind, GRIDS[grid])
    made = compressed(tmp_path / "source", tmp_path / "out")
    layers = {name for name, form in stored(made).items() if form != "dense"}
    assert len(layers) == (14 if kind == "llama" else 13)
    assert made.nbytes < 0.8 * made.source_nbytes
    check_same(tmp_path / "source", tmp_path / "out")
    loaded = checkpoints.loaded(tmp_path / "out", kind)
    assert torch.equal(checkpoints.logits(loaded), checkpoints.logits(model))
    for name, weight in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), weight), name


FLOATS = {
    "8 bits by tensor": (Floats(8), "float-quantized"),
    "8 bits by channel": (Floats(8, (1, 0)), "float-quantized"),
    "8 bits by group": (Floats(8, (1, 64)), "float-quantized"),
    "8 bits by block": (Floats(8, (64, 64)), "float-quantized"),
    "4 bits by 32, powers of two": (Floats(4, (1, 32)), "mxfp4-pack-quantized"),
    "4 bits by 16, two scales": (Floats(4, (1, 16), 2.0**-10), "nvfp4-pack-quantized"),
}


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("form", FLOATS)
def test_transformers_computes_the_same_of_floats(kind: str, form: str, tmp_path: Path) -> None:
    values, told = FLOATS[form]
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    model = checkpoints.saved(tmp_path / "source", kind, lambda _: values, shard="1GB", **sizes)
    made = compressed(tmp_path / "source", tmp_path / "out")
    layers = [one for one in made.weights if one.encoding.startswith("scaled")]
    groups = said(tmp_path / "out")["config_groups"].values()
    if told == "nvfp4-pack-quantized":  # of layers that are fused, whose scales would be one
        assert len(layers) == (2 if kind == "llama" else 4)
        assert {group["format"] for group in groups} == {"pack-quantized", told}
    else:
        assert len(layers) == 7
        assert {group["format"] for group in groups} == {told}
    check_same(tmp_path / "source", tmp_path / "out")
    loaded = checkpoints.loaded(tmp_path / "out", kind)
    assert torch.equal(checkpoints.logits(loaded), checkpoints.logits(model))
    for name, weight in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), weight), name
    again = compressed(tmp_path / "out", tmp_path / "again")
    assert {file.sha256 for file in again.files} == {file.sha256 for file in made.files}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_type_of_floats(dtype: torch.dtype, tmp_path: Path) -> None:
    model = checkpoints.saved(tmp_path / "source", "llama", lambda _: Grid(4, 32), dtype)
    compressed(tmp_path / "source", tmp_path / "out")
    check_same(tmp_path / "source", tmp_path / "out")
    loaded = checkpoints.loaded(tmp_path / "out", "llama")
    assert torch.equal(checkpoints.logits(loaded), checkpoints.logits(model))


@pytest.mark.parametrize(("part", "count"), [("", 38), ("experts", 24)])
def test_experts(part: str, count: int, tmp_path: Path) -> None:
    model = checkpoints.saved(tmp_path / "source", "qwen2_moe", lambda name: Grid(4, 32) if part in name else None)
    made = compressed(tmp_path / "source", tmp_path / "out")
    assert sum(form == "int4" for form in stored(made).values()) == count
    check_same(tmp_path / "source", tmp_path / "out")
    loaded = checkpoints.loaded(tmp_path / "out", "qwen2_moe")
    assert torch.equal(checkpoints.logits(loaded), checkpoints.logits(model))


def test_experts_that_differ_have_one_scheme_that_holds_all(tmp_path: Path) -> None:
    tensors = {f"model.layers.{n // 2}.mlp.experts.{n % 2}.up_proj.weight": grid(64, 64) for n in range(4)}
    tensors["model.layers.1.self_attn.q_proj.weight"] = grid(64, 64)
    tensors["model.layers.1.mlp.experts.1.up_proj.weight"] = grid(64, 64, bits=8)
    made = compressed(folders.dense(tmp_path / "source", tensors), tmp_path / "out")
    assert {name: form for name, form in stored(made).items() if form != "int8"} == {
        "model.layers.1.self_attn.q_proj.weight": "int4"
    }
    told = "stored as the others are: loaders take all experts in one scheme without zero points"
    assert next(one.evidence for one in made.weights if "0.mlp" in one.name).endswith(told)
    check_same(tmp_path / "source", tmp_path / "out")


def test_a_rule_for_a_head_that_is_tied_holds_for_the_embedding(tmp_path: Path) -> None:
    tensors = {"model.embed_tokens.weight": grid(64, 64), "model.layers.0.mlp.up_proj.weight": grid(64, 64)}
    folders.dense(tmp_path / "tied", tensors, tie_word_embeddings=True)
    found = compressor.dry_run(tmp_path / "tied", target="compressed-tensors", rules={"lm_head.*": "dense"})
    assert {one.name: one.rule for one in found.choices} == dict(zip(tensors, ("lm_head.*", ""), strict=True))
    folders.dense(tmp_path / "apart", tensors)
    with pytest.raises(UsageError, match=r"'lm_head.\*' matches no weight"):
        compressor.dry_run(tmp_path / "apart", target="compressed-tensors", rules={"lm_head.*": "dense"})


def test_experts_beside_dense_ones_stay_dense(tmp_path: Path) -> None:
    tensors = {f"model.layers.{n // 2}.mlp.experts.{n % 2}.up_proj.weight": grid(64, 64) for n in range(4)}
    tensors["model.layers.1.self_attn.q_proj.weight"] = grid(64, 64)
    tensors["model.layers.1.mlp.experts.1.up_proj.weight"] = RANDOM.random((64, 64)).astype(np.float32)
    made = compressed(folders.dense(tmp_path / "source", tensors), tmp_path / "out")
    coded = [name for name, form in stored(made).items() if form != "dense"]
    assert coded == ["model.layers.1.self_attn.q_proj.weight"]
    refused = dict(next(one for one in made.weights if "experts.0" in one.name).rejected)
    told = "loaders take all experts in one scheme without zero points, and others stay dense"
    assert refused["int4"] == told
    check_same(tmp_path / "source", tmp_path / "out")


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
def test_zero_points(tmp_path: Path) -> None:
    model = checkpoints.saved(tmp_path / "source", "llama", lambda _: Grid(4, 32, asymmetric=True))
    made = compressed(tmp_path / "source", tmp_path / "out")
    assert sum(form == "int4" for form in stored(made).values()) == 14
    (group,) = said(tmp_path / "out")["config_groups"].values()
    assert group["weights"]["symmetric"] is False
    check_same(tmp_path / "source", tmp_path / "out")
    from transformers import CompressedTensorsConfig

    # Left compressed, transformers 5.23 expects zero points that are not packed, which its library does not write.
    dense = CompressedTensorsConfig(dequantize=True)
    loaded = checkpoints.loaded(tmp_path / "out", "llama", quantization_config=dense)
    assert torch.equal(checkpoints.logits(loaded), checkpoints.logits(model))


def test_a_folder_keeps_its_shards_and_all_other_files(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    checkpoints.saved(source, "llama", lambda _: Grid(4, 32))
    (source / "tokenizer.json").write_text("{}")
    (source / "extra").mkdir()
    (source / "extra" / "vocabulary.txt").write_text("a\nb\n")
    (source / "pytorch_model.bin").write_bytes(b"the same weights")
    made = compressed(source, out)
    shards = {file.name for file in source.glob("*.safetensors")}
    assert len(shards) == 2
    assert {file.name for file in out.glob("*.safetensors")} == shards
    assert (out / "extra" / "vocabulary.txt").read_text() == "a\nb\n"
    assert (out / "tokenizer.json").read_text() == "{}"
    assert not (out / "pytorch_model.bin").exists()
    assert made.notes == ("not copied, weights in another file: pytorch_model.bin",)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    tensors = decompressed.tensors(out)
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(one.nbytes for one in tensors.values())
    config = json.loads((out / "config.json").read_text())
    assert config.pop("quantization_config")
    assert config == json.loads((source / "config.json").read_text())
    assert compressed(source, out) == made  # what it has written itself it may replace


def test_what_is_compressed_once_stays_as_it_is(tmp_path: Path) -> None:
    checkpoints.saved(tmp_path / "source", "llama", lambda _: Grid(4, 32))
    once = compressed(tmp_path / "source", tmp_path / "once")
    twice = compressed(tmp_path / "once", tmp_path / "twice")
    assert stored(twice) == stored(once)
    assert {file.sha256 for file in twice.files} == {file.sha256 for file in once.files}
    assert compressor.inspect(tmp_path / "once").dense_nbytes > 1.5 * once.nbytes


@pytest.mark.parametrize("bits", range(2, 9))
def test_inspect_and_diff_tell_the_bits_that_codes_take(bits: int, tmp_path: Path) -> None:
    folders.dense(tmp_path / "source", {"layers.0.up.weight": grid(64, 160, bits=bits)})
    (made,) = compressed(tmp_path / "source", tmp_path / "out").weights
    (found,) = compressor.inspect(tmp_path / "out").weights
    assert (found.encoding, found.nbytes) == (made.encoding, made.nbytes)
    assert 0 <= found.nbytes - 64 * 160 * bits // 8 - 64 * 4 <= 128  # codes, scales, and a table that counts them
    (apart,) = differences(sources.read(tmp_path / "source"), sources.read(tmp_path / "out")).weights
    assert apart.after is not None
    assert (apart.after.encoding, apart.after.nbytes) == (made.encoding, made.nbytes)
    assert apart.same_values


def test_what_was_left_dense_stays_so(tmp_path: Path) -> None:
    tensors = {"layers.0.up.weight": grid(64, 64), "layers.1.up.weight": grid(64, 64)}
    folders.dense(tmp_path / "source", tensors)
    once = compressed(tmp_path / "source", tmp_path / "once", rules={"layers.1.*": "dense"})
    twice = compressed(tmp_path / "once", tmp_path / "twice")
    assert stored(twice) == stored(once) == {"layers.0.up.weight": "int4", "layers.1.up.weight": "dense"}
    assert {file.sha256 for file in twice.files} == {file.sha256 for file in once.files}


def test_the_baseline_of_a_folder_of_codes_is_dense(tmp_path: Path) -> None:
    checkpoints.saved(tmp_path / "source", "llama", lambda _: Grid(4, 32))
    compressed(tmp_path / "source", tmp_path / "once")
    compressor.compilation.compile.write_baseline(tmp_path / "once", tmp_path / "dense", target=TARGET)
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    check_same(tmp_path / "source", tmp_path / "dense")


def test_evaluation_measures_sizes_and_says_what_runs_folders(tmp_path: Path) -> None:
    folders.dense(tmp_path / "source", {"layers.0.up.weight": grid(256, 256)})
    made = compressed(tmp_path / "source", tmp_path / "out")
    command = [sys.executable, "-m", "compressor", "evaluate", "source", "out", "--target", TARGET, "--json"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["size_mb"] == round(made.nbytes / 1e6, 3)
    assert found["size_ratio"] > 6
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 256), np.float32), labels=np.zeros(2, np.int64))
    run = subprocess.run([*command, "-S", "evaluate.data=data.npz"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1
    assert "nothing here runs a folder. Without evaluate.data its size is measured" in run.stderr


def grid(rows: int, columns: int, bits: int = 4) -> Any:
    codes = RANDOM.integers(-(1 << bits - 1), 1 << bits - 1, (rows, columns))
    return (codes * RANDOM.uniform(0.5, 1, (rows, 1)).astype(np.float32)).astype(np.float32)


def reasons(made: Manifest) -> dict[str, str]:
    return {one.name: one.evidence for one in made.weights if one.encoding == "dense"}


def test_what_is_no_linear_layer_stays_dense_with_the_reason(tmp_path: Path) -> None:
    embedding = grid(96, 64)
    tensors = {
        "model.embed_tokens.weight": embedding,
        "model.layers.0.mlp.gate.weight": grid(64, 64),
        "model.layers.0.experts.gate_up_proj": grid(64, 64),
        "model.layers.0.conv.weight": grid(64, 64).reshape(64, 16, 2, 2),
        "model.layers.0.mlp.up_proj.weight": grid(64, 64),
        "lm_head.weight": embedding,
    }
    folders.dense(tmp_path / "source", tensors)
    made = compressed(tmp_path / "source", tmp_path / "out")
    assert reasons(made) == {
        "model.embed_tokens.weight": "an embedding, which loaders read dense",
        "model.layers.0.mlp.gate.weight": "a router of experts, which loaders read dense",
        "model.layers.0.experts.gate_up_proj": "no matrix of a linear layer, which the format has alone",
        "model.layers.0.conv.weight": "no matrix of a linear layer, which the format has alone",
        "lm_head.weight": "a head that is tied to the embedding, which stays dense",
    }
    check_same(tmp_path / "source", tmp_path / "out")


def test_what_the_format_does_not_have_is_refused_with_the_reason(tmp_path: Path) -> None:
    sparse = np.where(RANDOM.random((64, 64)) < 0.9, 0, RANDOM.uniform(1, 2, (64, 64))).astype(np.float32)
    table = RANDOM.standard_normal(16).astype(np.float32)[RANDOM.integers(0, 16, (64, 64))]
    tensors = {"layers.0.up.weight": sparse, "layers.0.down.weight": table, "layers.1.up.weight": grid(64, 64)}
    folders.dense(tmp_path / "source", tensors)
    made = compressed(tmp_path / "source", tmp_path / "out")
    up, down = (dict(one.rejected) for one in made.weights[:2])
    assert up["sparse by distances"] == "the format has no sparse weights that loaders still read"
    assert down["palettized4"] == "the format has no tables"
    assert stored(made) == {
        "layers.0.up.weight": "dense",
        "layers.0.down.weight": "dense",
        "layers.1.up.weight": "int4",
    }
    assert "layers.1.up" not in said(tmp_path / "out")["ignore"]
    check_same(tmp_path / "source", tmp_path / "out")


def test_the_library_has_no_sparse_weights_any_more() -> None:
    """Which is why they stay dense: it names the formats, and writes and reads none of them."""
    from compressed_tensors.compressors import BaseCompressor

    known = BaseCompressor.registered_names()
    assert "pack-quantized" in known
    assert not {"sparse-bitmask", "sparse-24-bitmask", "marlin-24"} & {*known}


def test_a_type_that_the_model_is_not_loaded_in_would_round_scales(tmp_path: Path) -> None:
    folders.dense(tmp_path / "source", {"layers.0.up.weight": grid(64, 64)}, dtype="bfloat16")
    made = compressed(tmp_path / "source", tmp_path / "out")
    assert reasons(made) == {
        "layers.0.up.weight": "config.json has it loaded as bfloat16: scales of float32 would be rounded"
    }
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_nothing_is_larger(tmp_path: Path) -> None:
    folders.dense(tmp_path / "source", {"layers.0.up.weight": RANDOM.standard_normal((64, 64)).astype(np.float32)})
    made = compressed(tmp_path / "source", tmp_path / "out")
    assert made.nbytes == made.source_nbytes
    assert any(note.startswith("written as it was") for note in made.notes)
    for file in (tmp_path / "source").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_rules_hold(tmp_path: Path) -> None:
    tensors = {"layers.0.up.weight": grid(64, 64), "layers.1.up.weight": grid(64, 64)}
    folders.dense(tmp_path / "source", tensors)
    made = compressed(tmp_path / "source", tmp_path / "out", rules={"layers.1.*": "dense"})
    assert stored(made) == {"layers.0.up.weight": "int4", "layers.1.up.weight": "dense"}
    assert said(tmp_path / "out")["config_groups"]["group_0"]["targets"] == ["re:.*layers\\.0\\.up$"]
    assert said(tmp_path / "out")["ignore"] == ["re:.*layers\\.1\\.up$"]


@pytest.mark.parametrize("layer", [folders.gptq(4, 32), folders.gptq(8, -1), folders.gptq(3, 32), folders.awq()])
def test_codes_of_other_methods_are_kept(layer: folders.Layer, tmp_path: Path) -> None:
    tensors, described, values = layer
    folders.quantized(tmp_path / "source", tensors, described)
    made = compressed(tmp_path / "source", tmp_path / "out")
    (name,) = {key.rpartition(".")[0] for key in tensors}
    assert stored(made)[f"{name}.weight"] != "dense"
    found = decompressed.weights(tmp_path / "out")
    np.testing.assert_array_equal(found.pop(f"{name}.weight"), values)
    assert found.keys() <= {f"{name}.bias"}
    assert said(tmp_path / "out")["quant_method"] == "compressed-tensors"
