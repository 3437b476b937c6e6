"""GGUF files: what each type of blocks stands for, bit for bit as ggml has it, and what the commands say of them."""

from __future__ import annotations

import json
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from compressor import sources
from compressor.accounting.account import What
from compressor.accounting.explain import explain
from compressor.arrays import MappedArray, NDArray
from compressor.encodings import Dense, Palettized, Quantized, decode, name, nbytes
from compressor.sources.gguf.blocks import BLOCKS
from compressor.weight import Weight
from tests.accounting.sums import of
from tests.faults.commands import done, refused
from tests.sources.gguf import gguf_files as files

FORMS = {
    "Q4_0": ("int4", 4.5),
    "Q5_0": ("int8(palettized5)", 5.5),
    "Q8_0": ("int8", 8.5),
    "Q8_1": ("int8", 8.5),
    "Q3_K": ("int8(palettized3)", 5),
    "Q6_K": ("int8(palettized6)", 8),
    "Q8_K": ("int8", 8.125),
    "IQ4_NL": ("int8(palettized4)", 4.5),
    "IQ4_XS": ("int8(palettized4)", 5),
    "TQ1_0": ("int8(palettized2)", 2.0625),
    "TQ2_0": ("int8(palettized2)", 2.0625),
    "MXFP4": ("scaled(palettized4)", 4.25),
    "NVFP4": ("scaled(palettized4)", 4.5),
    "Q1_0": ("int8(palettized1)", 1.125),
    "Q2_0": ("int8(palettized2)", 2.25),
    "Q4_1": ("palettized4", 20),
    "Q2_K": ("palettized2", 10),
    "Q4_K": ("palettized4", 20),
    "Q5_1": ("dense", 32),
    "Q5_K": ("dense", 32),
}
"""How each type is told, and the bits of a code with its share of scales and tables."""

UNKNOWN_TO_THE_LIBRARY = {"Q8_1", "Q8_K", "Q1_0", "Q2_0"}


def read(path: Path, kind: str, shape: tuple[int, ...], raw: bytes) -> Weight:
    path.write_bytes(files.content({"w": (kind, shape, raw)}))
    (weight,) = sources.read(path).weights
    return weight


def same(one: NDArray, other: NDArray) -> bool:
    """Bit for bit; what is no number has no bits."""
    numbers = ~np.isnan(one)
    return (
        one.dtype == other.dtype
        and np.array_equal(np.isnan(other), ~numbers)
        and one[numbers].tobytes() == other[numbers].tobytes()
    )


@pytest.mark.parametrize("kind", FORMS)
def test_codes_scales_and_minima_are_those_of_ggml(kind: str, tmp_path: Path) -> None:
    quants = pytest.importorskip("gguf.quants")
    constants = pytest.importorskip("gguf.constants")
    if kind in UNKNOWN_TO_THE_LIBRARY:
        pytest.skip("gguf 0.19 has no values of it")
    elements, size = files.KINDS[kind].elements, files.KINDS[kind].nbytes
    # All bytes, so that scales are infinite and no numbers, too.
    blocks = files.RANDOM.integers(0, 256, (7 * 1024 // elements, size), np.uint8)
    if kind == "MXFP4":
        blocks[:, 0] = np.resize(np.arange(255), len(blocks))  # 255 is no exponent
    elif kind == "NVFP4":
        blocks[:, :4] &= 127  # these floats have no sign
    raw = blocks.reshape(7, -1)
    with np.errstate(all="ignore"):
        expected = quants.dequantize(raw, constants.GGMLQuantizationType[kind])
    assert same(decode(read(tmp_path / "m.gguf", kind, (7, 1024), raw.tobytes()).encoding), expected)


@pytest.mark.parametrize("kind", FORMS)
def test_how_each_type_is_told(kind: str, tmp_path: Path) -> None:
    shape = (16, 2, 2048)
    weight = read(tmp_path / "m.gguf", kind, shape, files.blocks(kind, shape))
    form, bits = FORMS[kind]
    assert name(weight.encoding) == form
    assert nbytes(weight.encoding) * 8 / np.prod(shape) == pytest.approx(bits, rel=0.01)
    values = decode(weight.encoding)
    assert values.shape == shape
    assert values.dtype == np.float32
    assert ("minima" in weight.note) == (BLOCKS[kind].minima is not None)
    assert weight.pinned == ""


def test_every_type_has_blocks_of_its_size() -> None:
    assert BLOCKS.keys() == FORMS.keys()
    for kind, found in BLOCKS.items():
        assert found.record.itemsize == files.KINDS[kind].nbytes, kind
        codes = found.codes(np.zeros(3, found.record))
        assert codes.shape == (3, files.KINDS[kind].elements), kind
        assert codes.dtype == np.uint8, kind
        assert files.KINDS[kind].elements % found.groups == 0, kind


def test_types_that_the_library_has_no_values_of(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    codes = np.arange(-16, 16, dtype=np.int8)
    raw = struct.pack("<ee", 0.5, 7.0) + codes.tobytes()
    assert decode(read(path, "Q8_1", (32,), raw).encoding).tolist() == (codes * 0.5).tolist()
    wide = np.arange(-128, 128).astype(np.int8)
    raw = struct.pack("<f", 0.1) + wide.tobytes() + bytes(32)
    assert decode(read(path, "Q8_K", (256,), raw).encoding).tolist() == (wide * np.float32(0.1)).tolist()
    raw = struct.pack("<e", 3.0) + bytes([0b1011, *[0] * 15])
    assert decode(read(path, "Q1_0", (128,), raw).encoding)[:5].tolist() == [3, 3, -3, 3, -3]
    raw = struct.pack("<e", 3.0) + bytes([0b11_10_01_00, *[0] * 15])
    assert decode(read(path, "Q2_0", (64,), raw).encoding)[:5].tolist() == [-3, 0, 3, 6, -3]


def test_a_block_by_hand(tmp_path: Path) -> None:
    """The low halves of the bytes come first, then the high ones; the fastest dimension is the last."""
    raw = struct.pack("<e", 2.0) + bytes(place | (15 - place) << 4 for place in range(16))
    weight = read(tmp_path / "m.gguf", "Q4_0", (2, 32), raw + struct.pack("<e", -1.0) + bytes([0x87] * 16))
    first, second = decode(weight.encoding)
    assert first.tolist() == [2.0 * (code - 8) for code in (*range(16), *range(15, -1, -1))]
    assert second.tolist() == [1.0] * 16 + [0.0] * 16
    assert isinstance(weight.encoding, Quantized)
    assert np.asarray(weight.encoding.scale).tolist() == [[2.0], [-1.0]]
    assert np.asarray(weight.encoding.scale).dtype == np.float32


def test_plain_numbers_lie_in_the_file(tmp_path: Path) -> None:
    values = files.floats((3, 4, 5))
    halves = values.astype(np.float16)
    tensors = {
        "a": ("F32", values.shape, values.tobytes()),
        "b": ("F16", values.shape, halves.tobytes()),
        "c": ("F64", (2,), np.array([0.1, 0.2]).tobytes()),
        "d": ("BF16", (2,), np.array([0x3F80, 0xC000], np.uint16).tobytes()),
        "e": ("F32", (), np.float32(7).tobytes()),
        "none": ("F32", (0, 4), b""),
    }
    path = tmp_path / "m.gguf"
    for alignment in (1, 32, 64):
        fields = (files.field("general.alignment", 4, struct.pack("<I", alignment)),)
        path.write_bytes(files.content(tensors, *fields, alignment=alignment))
        weights = {weight.name: weight.encoding for weight in sources.read(path).weights}
        assert all(isinstance(each, Dense) and isinstance(each.values, MappedArray) for each in weights.values())
        found = {name: decode(each) for name, each in weights.items()}
        assert same(found["a"], values)
        assert same(found["b"], halves)
        assert found["c"].tolist() == [0.1, 0.2]
        assert found["d"].astype(np.float32).tolist() == [1.0, -2.0]
        assert (found["e"].shape, found["e"].item(), found["none"].shape) == ((), 7, (0, 4))


def test_what_is_not_read_keeps_its_bytes_and_says_so(tmp_path: Path) -> None:
    raw = files.blocks("IQ2_XXS", (2, 512))
    weight = read(tmp_path / "m.gguf", "IQ2_XXS", (2, 512), raw)
    assert weight.pinned == "IQ2_XXS, codes of a codebook: not supported, kept as its bytes"
    assert decode(weight.encoding).tobytes() == raw
    assert read(tmp_path / "m.gguf", "I32", (2, 2), bytes(16)).pinned.startswith("I32, integers: ")


def test_a_scale_that_is_no_number(tmp_path: Path) -> None:
    raw = bytes([255]) + bytes([0x21] * 16)
    assert np.isnan(decode(read(tmp_path / "m.gguf", "MXFP4", (32,), raw).encoding)).all()


def test_a_minimum_is_a_table_where_that_is_smaller(tmp_path: Path) -> None:
    raw = struct.pack("<ee", 0.25, -1.5) + bytes(range(16))
    encoding = read(tmp_path / "m.gguf", "Q4_1", (32,), raw).encoding
    assert isinstance(encoding, Palettized)
    assert np.asarray(encoding.lut)[0, :, 0].tolist() == [0.25 * code - 1.5 for code in range(16)]


def test_weights_pickle_and_are_small_until_they_are_read(tmp_path: Path) -> None:
    raw = files.blocks("Q6_K", (64, 4096))
    weight = read(tmp_path / "m.gguf", "Q6_K", (64, 4096), raw)
    kept = pickle.dumps(weight)
    assert len(kept) < 4000
    assert same(decode(pickle.loads(kept).encoding), decode(weight.encoding))  # noqa: S301 - our own


def test_a_model_is_looked_at_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(files.content({"w": ("Q8_0", (1024, 8192), bytes(1024 * 256 * 34))}))
    tracemalloc.start()
    sources.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_model_in_parts_is_read_from_any_of_them(tmp_path: Path) -> None:
    count = files.field("split.count", 2, struct.pack("<H", 3))
    parts = [tmp_path / f"m-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    for place, part in enumerate(parts):
        tensors = {f"w{place}": ("F32", (2,), np.array([place, 1], np.float32).tobytes())} if place else {}
        part.write_bytes(files.content(tensors, count))
    for part in parts:
        assert sources.files(part) == tuple(parts)
        assert [weight.name for weight in sources.read(part).weights] == ["w1", "w2"]
        assert sources.read(part).files == tuple(parts)
    parts[1].rename(tmp_path / "other.gguf")
    refused("detect", parts[0], status=1, says="one of 3 parts; m-00002-of-00003.gguf is missing")
    refused("detect", tmp_path / "other.gguf", status=1, says="one of 3 parts, which the name does not say")


def test_the_commands_that_need_no_graph(tmp_path: Path) -> None:
    path = files.saved(tmp_path / "m.gguf")
    found = json.loads(done("detect", path, "--json"))
    told = {one["name"]: one["candidates"] for one in found["findings"]}
    assert told["blk.0.attn_q.weight"][0]["spec"]["node"] == "Quantized"
    inspected = done("inspect", path)
    for form in ("int4", "int8 ", "int8(palettized6)", "palettized4"):
        assert form in inspected, form
    assert "int8(palettized6)" in done("compress", path, tmp_path / "out", "--dry-run")
    assert not (tmp_path / "out").exists()
    assert "7 weights" in done("diff", path, path)
    says = "holds weights without a graph; export the model that they were made of"
    refused("compress", path, tmp_path / "out", status=1, says=says)
    refused("export", path, tmp_path / "out", status=2, says="holds weights without a graph")


def test_every_byte_has_an_account(tmp_path: Path) -> None:
    path = files.saved(tmp_path / "m.gguf")
    for where in (path, tmp_path):
        found = explain(where)
        assert found.nbytes == path.stat().st_size
        weights = of(found, What.WEIGHTS)
        assert weights["blk.0.ffn_up.weight"] == 4 * 2 * 144
        assert {one.name: one.detail for one in found.portions}["blk.0.ffn_up.weight"] == "Q4_K"
        assert of(found, What.CONSTANTS) == {"positions": 32}
        named = of(found, What.NAMES)
        assert named["tokenizer.ggml.tokens"] == 8 + 21 + 4 + 12 + 3 * 8 + 3 + 6
        assert of(found, What.CONTAINER) == {"header": 24}
        assert found.notes == ()
    (tmp_path / "bad.gguf").write_bytes(path.read_bytes()[:500])
    found = explain(tmp_path)
    assert of(found, What.UNREADABLE) == {"bad.gguf": 500}
    assert "bad.gguf: not a readable GGUF file" in found.notes[0]
