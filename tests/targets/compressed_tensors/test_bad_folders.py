"""Folders whose files contradict each other: each is one line that says which file, and what to do."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compressor
from compressor import sources
from compressor.compilation import locks, publish
from compressor.differences.models import differences
from compressor.errors import CompressorError
from tests.sources.huggingface import folders

RANDOM = np.random.default_rng(0)
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def weight() -> Any:
    return (RANDOM.integers(-8, 8, (64, 64)) * np.float32(0.1)).astype(np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folders.dense(tmp_path / "source", {"layers.0.up.weight": weight()}, {"layers.1.up.weight": weight()})


def rewritten(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A header that says something else of the same data."""
    raw = file.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def placed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def missing(folder: Path) -> None:
    (folder / SECOND).unlink()


def missing_without_an_index(folder: Path) -> None:
    (folder / SECOND).unlink()
    (folder / INDEX).unlink()


def repeated(folder: Path) -> None:
    (folder / SECOND).write_bytes((folder / FIRST).read_bytes())


def repeated_in_a_header(folder: Path) -> None:
    raw = (folder / FIRST).read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    text = raw[8 : 8 + length].rstrip()
    again = text[:-1] + b', "layers.0.up.weight": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}'
    (folder / FIRST).write_bytes(struct.pack("<Q", len(again)) + again + raw[8 + length :])


def overlapping(folder: Path) -> None:
    bias = {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}
    rewritten(folder / FIRST, lambda header: header.update({"layers.0.up.bias": bias}))


def of_another_shape(folder: Path) -> None:
    rewritten(folder / FIRST, lambda header: header["layers.0.up.weight"].update(shape=[64, 32]))


def cut_short(folder: Path) -> None:
    (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:-100])


def elsewhere(folder: Path) -> None:
    placed(folder, lambda index: index.update({"layers.1.up.weight": FIRST}))


def unknown(folder: Path) -> None:
    placed(folder, lambda index: index.update({"layers.2.up.weight": FIRST}))


def unnamed(folder: Path) -> None:
    def left_out(index: dict[str, Any]) -> None:
        for name in [name for name, shard in index.items() if shard == SECOND]:
            del index[name]

    placed(folder, left_out)


def outside(folder: Path) -> None:
    placed(folder, lambda index: index.update({"layers.1.up.weight": "../model.safetensors"}))


def without_settings(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_settings(folder: Path) -> None:
    (folder / "config.json").write_text("[1, 2")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (missing, f"{INDEX}: names {SECOND}, not in the folder. Download the whole folder."),
        (missing_without_an_index, f"{FIRST} is one of 2 shards, and {SECOND} is not in the folder."),
        (repeated, f"{SECOND}: holds layers.0.up.weight, which {FIRST} holds too. Remove one."),
        (repeated_in_a_header, "the key 'layers.0.up.weight' stands there twice"),
        (overlapping, "tensor 'layers.0.up.bias' begins at byte 8 of the data, expected 16384"),
        (of_another_shape, "tensor 'layers.0.up.weight' F32[64, 32] takes 8192 bytes, its offsets are [0, 16384]"),
        (cut_short, "the tensors take 16384 bytes, the file has 16284 of data"),
        (elsewhere, f"{INDEX}: layers.1.up.weight is not in the file that it names ({FIRST})."),
        (unknown, f"{INDEX}: layers.2.up.weight is not in the file that it names ({FIRST})."),
        (unnamed, f"{INDEX}: does not name {SECOND}, which lies beside it: no loader would find its weights."),
        (outside, f"{INDEX}: names the shard '../model.safetensors'; expected a *.safetensors file beside it."),
        (without_settings, "has no config.json, where loaders read how weights are stored."),
        (no_settings, "config.json: not valid JSON"),
    ],
)
def test_each_is_one_line(change: Callable[[Path], None], says: str, source: Path, tmp_path: Path) -> None:
    change(source)
    with pytest.raises(CompressorError, match=re.escape(says)) as raised:
        compressor.compress(source, tmp_path / "out", target="compressed-tensors")
    assert "\n" not in str(raised.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


def test_a_command_says_it_in_one_line(source: Path, tmp_path: Path) -> None:
    missing(source)
    command = [sys.executable, "-m", "compressor", "compress", str(source), str(tmp_path / "out")]
    run = subprocess.run([*command, "--target", "compressed-tensors"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.count("\n") == 1


def test_files_that_are_numbered_otherwise_are_no_shards(source: Path, tmp_path: Path) -> None:
    (source / "consolidated-00001-of-00001.safetensors").write_bytes((source / FIRST).read_bytes())
    compressor.compress(source, tmp_path / "out", target="compressed-tensors")
    assert (tmp_path / "out" / INDEX).exists()


@pytest.mark.parametrize("index", [True, False])
def test_an_adapter_is_none_of_the_weights_and_is_copied(*, index: bool, source: Path, tmp_path: Path) -> None:
    folders.saved(source / "adapter_model.safetensors", {"base.layers.0.up.lora_A.weight": weight()})
    (source / "adapter_config.json").write_text("{}")
    folders.saved(source / "consolidated.safetensors", {"layers.0.feed_forward.w1.weight": weight()})
    if not index:
        (source / INDEX).unlink()
    made = compressor.compress(source, tmp_path / "out", target="compressed-tensors")
    assert [one.name for one in made.weights] == ["layers.0.up.weight", "layers.1.up.weight"]
    adapter = (source / "adapter_model.safetensors").read_bytes()
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == adapter
    assert made.notes == ("not copied, weights in another file: consolidated.safetensors",)


def test_sizes_are_those_of_all_files(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.json").write_text("{}" * 5000)
    made = compressor.compress(source, tmp_path / "out", target="compressed-tensors")
    found = compressor.inspect(tmp_path / "out")
    assert found.nbytes == made.nbytes
    assert "tokenizer.json" in {file.name for file in found.files}
    before = sum(file.stat().st_size for file in source.iterdir())
    told = differences(sources.read(source), sources.read(tmp_path / "out"))
    assert (told.before_nbytes, told.after_nbytes) == (before, made.nbytes)


def test_an_index_that_lies_of_sizes_is_written_anew(source: Path, tmp_path: Path) -> None:
    index = json.loads((source / INDEX).read_text())
    index["metadata"] = {"total_size": 1, "total_parameters": 8192}
    (source / INDEX).write_text(json.dumps(index))
    compressor.compress(source, tmp_path / "out", target="compressed-tensors")
    metadata = json.loads((tmp_path / "out" / INDEX).read_text())["metadata"]
    assert metadata["total_parameters"] == 8192
    data = 2 * (64 * 64 // 2 + 64 * 4 + 16)
    assert metadata["total_size"] == data


def test_a_folder_that_another_run_writes_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        locks.held(publish._lock(out), out),
        pytest.raises(CompressorError, match="is writing it at this moment"),
    ):
        compressor.compress(source, out, target="compressed-tensors", resume=True)
    assert not out.exists()


def test_a_shard_that_changes_meanwhile_is_no_source(source: Path, tmp_path: Path) -> None:
    def touch(phase: str, *_: int) -> None:
        if phase == "compress":
            with (source / SECOND).open("ab") as file:
                file.write(b"more")

    with pytest.raises(CompressorError, match=f"{SECOND}: was written to while it was read"):
        compressor.compress(source, tmp_path / "out", target="compressed-tensors", progress=touch)
    assert not (tmp_path / "out").exists()


def test_a_graph_is_no_folder(tmp_path: Path) -> None:
    import onnx

    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> net (float[N, 64] x) => (float[N, 64] y) '
        "<float[64, 64] w = {" + ", ".join(["1.0"] * 4096) + "}> { y = MatMul(x, w) }"
    )
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(CompressorError, match="is no folder of Hugging Face"):
        compressor.compress(tmp_path / "model.onnx", tmp_path / "out", target="compressed-tensors")


def test_a_link_out_of_the_folder_is_not_copied(source: Path, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("secret")
    (source / "tokenizer.json").symlink_to(tmp_path / "private")
    made = compressor.compress(source, tmp_path / "out", target="compressed-tensors")
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert made.notes == ("not copied, no files of the folder: tokenizer.json",)


def test_a_folder_that_was_trained_is_never_replaced(source: Path, tmp_path: Path) -> None:
    trained = folders.dense(tmp_path / "trained", {"layers.0.up.weight": weight()})
    with pytest.raises(
        CompressorError, match=r"trained: holds config\.json, model\.safetensors, which this package has"
    ):
        compressor.compress(source, trained, target="compressed-tensors")
    compressor.compress(source, tmp_path / "out", target="compressed-tensors")
    (tmp_path / "out" / "notes.txt").write_text("precious")
    with pytest.raises(CompressorError, match=r"out: holds notes\.txt, which this package has not written"):
        compressor.compress(source, tmp_path / "out", target="compressed-tensors")
