"""Folders and bare files as they are: which weights they hold, what is refused, and how little is read."""

from __future__ import annotations

import json
import os
import struct
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

import compressor
from compressor import sources
from compressor.arrays import MappedArray, NDArray
from compressor.encodings import Dense, decode
from compressor.errors import CompressorError
from compressor.stages.app import app
from tests.sources.huggingface.folders import RANDOM, saved

WEIGHTS = {
    "embed.weight": RANDOM.normal(size=(8, 4)).astype(ml_dtypes.bfloat16),
    "layer.weight": RANDOM.normal(size=(64, 64)).astype(np.float32),
    "layer.bias": RANDOM.normal(size=64).astype(np.float16),
    "head.weight": RANDOM.normal(size=(3, 5)),
}


def folder(path: Path, tensors: Mapping[str, NDArray] = WEIGHTS, **config: object) -> Path:
    path.mkdir(exist_ok=True)
    saved(path / "model.safetensors", tensors, format="pt")
    (path / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    return path


def sharded(path: Path, placed: Mapping[str, str], shards: Mapping[str, Mapping[str, NDArray]]) -> Path:
    path.mkdir(exist_ok=True)
    for name, tensors in shards.items():
        saved(path / name, tensors)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return path


def values(path: Path) -> dict[str, NDArray]:
    return {weight.name: decode(weight.encoding) for weight in sources.read(path).weights}


def same(got: Mapping[str, NDArray], expected: Mapping[str, NDArray]) -> bool:
    return got.keys() == expected.keys() and all(
        got[name].dtype == expected[name].dtype and got[name].tobytes() == expected[name].tobytes() for name in got
    )


def refused(path: Path, message: str) -> None:
    with pytest.raises(CompressorError, match=message) as caught:
        sources.read(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("pad", [0, 1, 7])
def test_the_floats_of_a_file_are_its_weights_wherever_they_lie(tmp_path: Path, pad: int) -> None:
    others = {"position_ids": np.arange(6)[None], "mask": np.ones((2, 2), bool)}
    path = saved(tmp_path / "some.safetensors", {**WEIGHTS, **others}, pad)
    model = sources.read(path)
    assert same(values(path), WEIGHTS)
    assert all(isinstance(weight.encoding, Dense) for weight in model.weights)
    assert all(isinstance(w.encoding.values, MappedArray) for w in model.weights if isinstance(w.encoding, Dense))
    assert (model.graph, model.files) == (None, (path,))


def test_a_folder_is_read_with_its_settings(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    assert same(values(path), WEIGHTS)
    assert sources.read(path).files == (path / "config.json", path / "model.safetensors")


def test_shards_are_found_by_the_index(tmp_path: Path) -> None:
    first, second = {"a": WEIGHTS["layer.weight"]}, {"b": WEIGHTS["head.weight"]}
    path = sharded(
        tmp_path / "m", {"a": "1.safetensors", "b": "2.safetensors"}, {"1.safetensors": first, "2.safetensors": second}
    )
    saved(path / "not_named.safetensors", {"c": WEIGHTS["head.weight"]})
    assert same(values(path), first | second)


def test_a_folder_without_an_index_has_the_weights_of_all_its_files(tmp_path: Path) -> None:
    saved(tmp_path / "one.safetensors", {"a": WEIGHTS["layer.weight"]})
    saved(tmp_path / "two.safetensors", {"b": WEIGHTS["head.weight"]})
    assert set(values(tmp_path)) == {"a", "b"}
    saved(tmp_path / "two.safetensors", {"a": WEIGHTS["head.weight"]})
    refused(tmp_path, r"two\.safetensors: holds a, which one\.safetensors holds too")


def test_weights_without_a_graph_can_be_looked_at_and_planned_but_not_compressed(tmp_path: Path) -> None:
    table = RANDOM.choice(RANDOM.normal(size=16).astype(np.float32), (128, 64))
    path = folder(tmp_path / "m", {**WEIGHTS, "pal.weight": table})
    found = {finding.name: finding for finding in compressor.detect(path).findings}
    assert found["pal.weight"].distinct == 16
    held = compressor.inspect(path)
    assert [weight.name for weight in held.weights] == [*WEIGHTS, "pal.weight"]
    assert held.weights_nbytes == sum(one.nbytes for one in (*WEIGHTS.values(), table))
    for plan in (compressor.dry_run(path), compressor.dry_run(path, detection=compressor.detect(path))):
        assert plan.dense_nbytes - plan.nbytes == table.nbytes - table.size // 2 - 16 * 4
    with pytest.raises(CompressorError, match=r"weights without a graph; first run `compressor export .*transformers"):
        compressor.compress(path, tmp_path / "out")
    with pytest.raises(CompressorError, match="weights without a graph"):
        compressor.write_baseline(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_commands_work_on_bare_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = RANDOM.choice(RANDOM.normal(size=16).astype(np.float32), (128, 64))
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "m", {"pal.weight": table})
    run = CliRunner().invoke
    for path in ("m", "m/model.safetensors"):
        (finding,) = json.loads(run(app, ["detect", path, "--json"]).stdout)["findings"]
        assert (finding["name"], finding["distinct"]) == ("pal.weight", 16)
        assert json.loads(run(app, ["inspect", path, "--json"]).stdout)["weights"][0]["encoding"] == "dense"
        planned = json.loads(run(app, ["compress", path, "out", "--dry-run", "--json"]).stdout)
        assert planned["weights"][0]["encoding"] == "palettized4"
    monkeypatch.setitem(sys.modules, "transformers", None)
    ended = run(app, ["compress", "m", "out"])
    assert ended.exit_code == 1
    assert "its graph needs transformers. " in ended.stderr
    assert "read the weights without it. Install it: pip install " in ended.stderr
    ended = run(app, ["compress", "m/model.safetensors", "out"])
    assert ended.exit_code == 2
    assert "holds weights without a graph. Set export.factory to the module:function that builds" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_a_gigabyte_is_mapped_and_not_read(tmp_path: Path) -> None:
    rows, path = 1 << 18, tmp_path / "big.safetensors"
    entry = {"dtype": "F32", "shape": [rows, 1024], "data_offsets": [0, rows * 4096]}
    text = json.dumps({"w": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + rows * 4096)
    tracemalloc.start()
    try:
        (weight,) = sources.read(path).weights
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert isinstance(weight.encoding, Dense)
    assert weight.encoding.values.shape == (rows, 1024)


def test_a_float8_tensor_without_a_scale_is_kept_as_values_with_the_reason(tmp_path: Path) -> None:
    stored = RANDOM.normal(size=(4, 4)).astype(ml_dtypes.float8_e4m3fn)
    (weight,) = sources.read(saved(tmp_path / "m.safetensors", {"w": stored})).weights
    assert weight.note == "float8_e4m3fn: not supported, kept as bfloat16 values"
    assert np.array_equal(decode(weight.encoding).astype(np.float32), stored.astype(np.float32))


@pytest.mark.parametrize(
    ("names", "library"),
    [
        (("fc.weight._data", "fc.weight._scale"), "quanto"),
        (("fc.weight._data._data", "fc.weight._scale", "fc.weight._shift"), "quanto"),
        (("fc.W_q", "fc.scale", "fc.zero"), "HQQ"),
        (("fc._data", "fc.scale"), ""),
        (("fc.W_q", "fc.scale"), ""),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_codes_of_a_library_that_is_not_read_are_named(
    tmp_path: Path, names: tuple[str, ...], library: str, suffix: str
) -> None:
    codes, *scales = names
    tensors = {codes: RANDOM.integers(0, 9, (4, 6)).astype(np.uint8), **dict.fromkeys(scales, np.ones((4, 1), "f"))}
    path = tmp_path / f"m{suffix}"
    if suffix == ".pt":
        torch = pytest.importorskip("torch")
        state = pytest.importorskip("compressor.sources.torch.state")
        torch.save({name: torch.from_numpy(values.copy()) for name, values in tensors.items()}, path)
    else:
        saved(path, tensors)
    read = state.read if suffix == ".pt" else sources.read
    (weight,) = (one for one in read(path).weights if one.name == codes)
    said = f"codes of {library}, not read: save what `{'weight.' * (library == 'quanto')}dequantize()` of each "
    assert any(why.startswith(said) for why in (weight.pinned, weight.note)) == bool(library)
    assert np.array_equal(decode(weight.encoding), tensors[codes])


def test_packed_words_of_an_unknown_layout_are_kept_as_bytes_with_the_reason(tmp_path: Path) -> None:
    stored = RANDOM.integers(-9, 9, (4, 6)).astype(np.int32)
    (weight,) = sources.read(saved(tmp_path / "m.safetensors", {"l.qweight": stored})).weights
    assert weight.pinned == "int32 data without a quantization_config in config.json beside it: kept as its bytes"
    assert decode(weight.encoding).tobytes() == stored.tobytes()
    assert decode(weight.encoding).shape == (4, 24)
    assert compressor.dry_run(tmp_path).nbytes == stored.nbytes


def header(text: str | bytes, data: int = 16, length: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data)


def entry(name: str = "a", dtype: object = "F32", shape: object = (4,), offsets: object = (0, 16)) -> str:
    return f'"{name}": ' + json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets})


DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "a header of 0 bytes in a file of 0"),
    "short": (b"\1\0", "in a file of 2"),
    "longer than the file": (header("{}", 0, 99), "a header of 99 bytes in a file of 10"),
    "a bomb": (header("{}", 0, 1 << 63), "a header of 9223372036854775808 bytes"),
    "no JSON": (header("{"), "not JSON"),
    "no text": (header(b"\xff\xfe{}"), "not JSON"),
    "deep": (header("[" * 100_000), "not JSON"),
    "a list": (header("[]"), "not a JSON object"),
    "twice": (header("{" + entry() + "," + entry() + "}"), "the key 'a' stands there twice"),
    "no shape": (header('{"a": {"dtype": "F32"}}'), "without dtype, shape and data_offsets"),
    "no entry": (header('{"a": 3}'), "without dtype, shape and data_offsets"),
    "type": (header("{" + entry(dtype="F33") + "}"), "'a': dtype 'F33', expected one of BOOL"),
    "type of a type": (header("{" + entry(dtype=["F32"]) + "}"), "expected one of BOOL"),
    "negative": (header("{" + entry(shape=[-4]) + "}"), "of the shape"),
    "fractions": (header("{" + entry(shape=[4.0]) + "}"), "of the shape"),
    "truth": (header("{" + entry(shape=[True, 4]) + "}"), "of the shape"),
    "huge": (header("{" + entry(shape=[1 << 62, 1 << 62]) + "}"), "of the shape"),
    "huge and empty": (header("{" + entry(shape=[0, 1 << 62], offsets=[0, 0]) + "}", 0), "of the shape"),
    "rank": (header("{" + entry(shape=[1] * 65) + "}"), "of the shape"),
    "negative offset": (header("{" + entry(offsets=[-16, 0]) + "}"), "at the offsets"),
    "one offset": (header("{" + entry(offsets=[0]) + "}"), "at the offsets"),
    "backwards": (header("{" + entry(offsets=[16, 0]) + "}"), r"takes 16 bytes, its offsets are \[16, 0\]"),
    "too many bytes": (header("{" + entry(shape=[3]) + "}"), "takes 12 bytes"),
    "behind the end": (header("{" + entry(offsets=[0, 16]) + "}", 12), "take 16 bytes, the file has 12"),
    "overlap": (header("{" + entry() + "," + entry("b", offsets=[8, 24]) + "}", 24), "'b' begins at byte 8"),
    "gap": (header("{" + entry(offsets=[8, 24]) + "}", 24), "'a' begins at byte 8 of the data, expected 0"),
    "left over": (header("{" + entry() + "}", 20), "take 16 bytes, the file has 20"),
    "half a byte": (header("{" + entry(dtype="F4", shape=[3], offsets=[0, 1]) + "}", 1), "takes 1 bytes"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_headers_are_refused(tmp_path: Path, name: str) -> None:
    content, message = DAMAGED[name]
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    refused(path, message)


def test_a_header_that_is_right_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(header("{" + entry("b", "F16", [2, 0], [16, 16]) + "," + entry() + "}   "))
    assert {name: found.shape for name, found in values(path).items()} == {"a": (4,), "b": (2, 0)}


INDICES: dict[str, tuple[object, str]] = {
    "parent": ({"a": "../1.safetensors"}, "expected a .*file beside it"),
    "absolute": ({"a": "/etc/x.safetensors"}, "expected a .*file beside it"),
    "windows": ({"a": "..\\\\1.safetensors"}, "expected a .*file beside it"),
    "zero": ({"a": "1\0.safetensors"}, "expected a .*file beside it"),
    "pickle": ({"a": "1.bin"}, "expected a .*file beside it"),
    "missing shards": ({"a": "1.safetensors", "b": "9.safetensors"}, r"names 9\.safetensors, not in the folder"),
    "missing tensors": ({"a": "1.safetensors", "b": "1.safetensors"}, r"b is not in the file that it names"),
    "no map": ([], "expected a weight_map"),
    "empty": ({}, "expected a weight_map"),
    "numbers": ({"a": 3}, "expected a weight_map"),
}


@pytest.mark.parametrize("name", INDICES)
def test_an_index_leads_nowhere_but_to_shards_that_hold_what_it_says(tmp_path: Path, name: str) -> None:
    placed, message = INDICES[name]
    saved(tmp_path / "1.safetensors", {"a": WEIGHTS["head.weight"]})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    refused(tmp_path, message)


CONFIGS: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "not valid JSON"),
    "a list": ("[]", "expected a JSON object, got a list"),
    "a number": ('{"quantization_config": 3}', "quantization_config is a int, expected an object"),
    "unknown": (
        '{"quantization_config": {"quant_method": "gptg"}}',
        "unknown quant_method 'gptg'. Did you mean 'gptq'. Choices: awq, bitsandbytes, compressed-tensors, fp8, gptq",
    ),
    "no name": ('{"quantization_config": {"bits": 4}}', "unknown quant_method ''"),
    "no text": ('{"quantization_config": {"quant_method": ["gptq"]}}', "unknown quant_method"),
    "in the text model": ('{"text_config": {"quantization_config": {"quant_method": "hqq"}}}', "'hqq'"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_settings_that_say_nothing_known_are_refused(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path / "m")
    (path / "config.json").write_text(CONFIGS[name][0])
    refused(path, CONFIGS[name][1])


def test_a_folder_of_pickles_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, r"no \*\.safetensors file\.")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    refused(tmp_path, r"but pytorch_model\.bin: load the model and save it again with save_pretrained")


def test_unknown_settings_are_named_and_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = {"quant_method": "compressed-tensors", "version": "99.9", "colour": "green", "transform_config": {}}
    path = folder(tmp_path / "m", quantization_config=said)
    assert same(values(path), WEIGHTS)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: the unknown key 'colour' is ignored: the tensors say how the weights are stored."
    ]


def flipped(raw: bytes, random: np.random.Generator) -> bytes:
    damaged = bytearray(raw)
    for place in random.integers(0, len(raw), random.integers(1, 4)):
        damaged[place] = random.integers(0, 256)
    return bytes(damaged)


MUTATIONS: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "flipped": flipped,
    "cut": lambda raw, random: raw[: random.integers(0, len(raw))],
    "doubled": lambda raw, random: raw[: (cut := int(random.integers(0, len(raw))))] + raw[cut // 2 :],
}


@pytest.mark.parametrize("kind", MUTATIONS)
def test_no_damage_is_more_than_an_error(tmp_path: Path, kind: str) -> None:
    config = {"quant_method": "gptq", "bits": 4, "group_size": 8, "checkpoint_format": "gptq"}
    words = RANDOM.integers(-99, 99, (2, 8)).astype(np.int32)
    tensors: dict[str, NDArray] = {
        "l.qweight": words,
        "l.qzeros": words[:, :1],
        "l.scales": np.ones((2, 8), np.float16),
        "n": np.ones(4),
    }
    whole = folder(tmp_path / "whole", tensors, quantization_config=config)
    files = {name: (whole / name).read_bytes() for name in ("config.json", "model.safetensors")}
    random, refusals = np.random.default_rng(1), 0
    for number in range(150):
        name = tuple(files)[number % 2]
        (whole / name).write_bytes(MUTATIONS[kind](files[name], random))
        try:
            for weight in sources.read(whole).weights:
                decode(weight.encoding)
        except CompressorError:
            refusals += 1
        (whole / name).write_bytes(files[name])
    assert refusals > 30
