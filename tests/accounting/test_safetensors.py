"""`.safetensors` files and Hugging Face folders."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compressor import sources
from compressor.accounting import copies
from compressor.accounting.account import What
from compressor.accounting.advice import advice
from compressor.accounting.explain import explain
from compressor.errors import CompressorError
from tests.accounting.sums import nbytes, of
from tests.sources.huggingface.folders import (
    awq,
    bitsandbytes,
    experts,
    floats_of_4_bits,
    floats_of_8_bits,
    gptq,
    quantized,
    saved,
)

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((32, 16)).astype(np.float32)


def test_a_bare_file(tmp_path: Path) -> None:
    tensors = {"a.weight": WEIGHT, "b.weight": WEIGHT, "ids": np.arange(20), "empty": np.zeros((0, 4), np.float32)}
    path = saved(tmp_path / "m.safetensors", tensors, pad=7)
    found = explain(path)
    assert found.nbytes == path.stat().st_size
    assert of(found, What.WEIGHTS) == {"a.weight": 2048}
    assert of(found, What.COPIES) == {"b.weight": 2048}
    assert of(found, What.CONSTANTS) == {"ids": 160}
    assert of(found, What.CONTAINER) == {"length of the header": 8}
    assert of(found, What.NAMES) == {"header": path.stat().st_size - 8 - 2 * 2048 - 160}


def test_constants_that_look_alike_are_read_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All samples of their bytes are zeros."""
    rows = np.zeros((200, 64), np.float32)
    rows[:, 20] = 1 + np.arange(200) % 150
    path = saved(tmp_path / "m.safetensors", {f"w{place:03}": row for place, row in enumerate(rows)})
    read, digest = [], copies._digest
    monkeypatch.setattr(copies, "_digest", lambda root, claim: read.append(claim) or digest(root, claim))
    assert of(explain(path), What.COPIES) == {f"w{place}": 256 for place in range(150, 200)}
    assert len(read) == 200


@pytest.mark.parametrize(("layer", "name"), [(gptq(4, 32), "m.l.weight"), (awq(), "l.weight")], ids=["gptq", "awq"])
def test_the_parts_of_a_quantized_weight_are_the_weight(layer: tuple, name: str, tmp_path: Path) -> None:
    tensors, said, _ = layer
    folder = quantized(tmp_path / "m", tensors, said)
    (folder / "tokenizer.json").write_text("{}")
    found = explain(folder)
    assert found.nbytes == nbytes(folder)
    parts = sum(values.nbytes for key, values in tensors.items() if "bias" not in key)
    assert of(found, What.WEIGHTS)[name] == parts
    assert {one.detail for one in found.portions if one.name == name} == {"uint4"}
    assert of(found, What.OTHER) == {"config.json": (folder / "config.json").stat().st_size, "tokenizer": 2}


@pytest.mark.parametrize("made", [bitsandbytes, experts, floats_of_4_bits, floats_of_8_bits])
def test_the_parts_of_float_codes_are_the_weight(made: Callable[[], tuple], tmp_path: Path) -> None:
    tensors, said = made()
    found = explain(quantized(tmp_path / "m", tensors, said))
    assert sum(of(found, What.WEIGHTS).values()) == sum(values.nbytes for values in tensors.values())
    assert set(of(found, What.WEIGHTS)) == {weight.name for weight in sources.read(tmp_path / "m").weights}


def test_gaps_and_bytes_behind_the_last_tensor(tmp_path: Path) -> None:
    """The library refuses such files, and other writers leave them."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(8) + b"\1" * 16 + b"more"
    (tmp_path / "m.safetensors").write_bytes(content)
    found = explain(tmp_path / "m.safetensors")
    assert of(found, What.WEIGHTS) == {"w": 16}
    assert of(found, What.PADDING) == {"between parts": 8}
    assert of(found, What.UNREFERENCED) == {"bytes that nothing refers to": 4}
    assert "what its weights are is not known" in found.notes[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "a header of 0 bytes in a file of 0"),
        (struct.pack("<Q", 1 << 60), f"a header of {1 << 60} bytes in a file of 8"),
        (struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        (struct.pack("<Q", 13) + b'{"w": "else"}', "tensor 'w' without dtype, shape and data_offsets"),
    ],
)
def test_a_damaged_header_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(CompressorError, match=says):
        explain(tmp_path / "m.safetensors")


def test_shards_and_a_checkpoint_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    saved(folder / "model-1.safetensors", {"a": WEIGHT})
    saved(folder / "model-2.safetensors", {"b": WEIGHT + 1})
    placed = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"no checkpoint")
    found = explain(folder)
    assert found.nbytes == nbytes(folder)
    assert of(found, What.WEIGHTS) == {"a": 2048, "b": 2048}
    assert of(found, What.UNREFERENCED) == {"pytorch_model.bin": 13}


def test_a_shard_that_is_cut_off_is_one_portion(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    saved(folder / "good.safetensors", {"a": WEIGHT})
    saved(folder / "bad.safetensors", {"b": WEIGHT})
    content = (folder / "bad.safetensors").read_bytes()
    (folder / "bad.safetensors").write_bytes(content[:40])
    found = explain(folder)
    assert found.nbytes == nbytes(folder)
    assert of(found, What.UNREADABLE) == {"bad.safetensors": 40}
    assert of(found, What.WEIGHTS) == {"a": 2048}


def test_a_checkpoint_with_the_same_weights_beside_the_shards(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    folder = tmp_path / "m"
    folder.mkdir()
    saved(folder / "model.safetensors", {"a": WEIGHT, "b": WEIGHT + 1})
    other = torch.tensor(WEIGHT + 2)
    torch.save({"a": torch.tensor(WEIGHT), "b": other}, folder / "pytorch_model.bin")
    found = explain(folder)
    assert found.nbytes == nbytes(folder)
    (copy,) = (one for one in found.portions if one.what is What.COPIES)
    assert (copy.name, copy.nbytes, copy.detail) == ("a", 2048, "also in *.safetensors: a")
    weights = {(one.model, one.name): one.nbytes for one in found.portions if one.what is What.WEIGHTS}
    assert weights == {("*.safetensors", "a"): 2048, ("*.safetensors", "b"): 2048, ("pytorch_model.bin", "b"): 2048}
    (folder / "other").mkdir()
    (folder / "pytorch_model.bin").rename(folder / "other" / "pytorch_model.bin")
    assert What.COPIES not in explain(folder).by_what()  # it may be another model's
    (one,) = advice(found, None)
    assert one.do == "delete pytorch_model.bin, if nothing reads it: *.safetensors has what it holds"


def test_links_into_a_cache_are_files_and_others_are_not(tmp_path: Path) -> None:
    blob = saved(tmp_path / ("0123456789abcdef" * 4), {"a": WEIGHT})
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(blob)
    (folder / "notes.txt").symlink_to(tmp_path / "secret")
    found = explain(folder)
    assert found.files == {"model.safetensors": blob.stat().st_size}
    assert "notes.txt is a link that leads out of the folder" in found.notes[0]


def test_equal_norms_of_ones_are_not_to_be_tied(tmp_path: Path) -> None:
    """They are as they were initialized: training makes them other ones."""
    rows = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    tensors = {f"norm.{n}.weight": np.ones(512, np.float32) for n in range(3)} | {"a": rows, "b": rows.copy()}
    path = saved(tmp_path / "model.safetensors", tensors)
    assert of(explain(path), What.COPIES) == {"b": 2048}
