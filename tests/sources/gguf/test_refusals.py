"""GGUF files that lie: one line each, whatever they say of their sizes, and nothing of that size is asked for."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import pytest

from compressor import sources
from compressor.errors import CompressorError
from tests.faults.commands import refused
from tests.sources.gguf import gguf_files as files

DATA = bytes(256)
KEY = files.text("k")


def header(tensors: int = 0, fields: int = 0, version: int = 3) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, tensors, fields)


def with_tensor(kind: int, shape: tuple[int, ...], offset: int = 0, name: str = "w") -> bytes:
    head = header(1) + files.described(name, kind, shape, offset)
    return head + bytes(-len(head) % 32) + DATA


def with_value(kind: int, value: bytes, key: bytes = KEY) -> bytes:
    return header(0, 1) + key + struct.pack("<I", kind) + value + DATA


TWICE = header(2) + files.described("w", 0, (8,), 0) + files.described("w", 0, (8,), 32)
DAMAGED = "not a readable GGUF file ("

LIES = {
    "empty": (b"", f"{DAMAGED}0 bytes)"),
    "another format": (b"GGML" + bytes(60), f"{DAMAGED}it does not begin with GGUF)"),
    "version 1": (header(version=1) + DATA, "version 1 of GGUF, expected 2 or 3"),
    "version 0": (header(version=0) + DATA, "version 0 of GGUF, expected 2 or 3"),
    "version 4": (header(version=4) + DATA, "version 4 of GGUF, expected 2 or 3"),
    "big-endian": (struct.pack(">4sIQQ", b"GGUF", 3, 1, 1) + DATA, "a big-endian GGUF file"),
    "2^40 tensors": (header(1 << 40) + DATA, f"{DAMAGED}{1 << 40} tensors in a file of 280 bytes)"),
    "2^64 - 1 keys": (header(0, (1 << 64) - 1) + DATA, f"{DAMAGED}{(1 << 64) - 1} metadata in a file of"),
    "a key without an end": (
        header(0, 1) + struct.pack("<Q", 60_000) + DATA,
        "a key of the metadata takes 60000 bytes",
    ),
    "a key that is huge": (
        header(0, 1) + struct.pack("<Q", 1 << 62) + DATA,
        f"a key of the metadata of {1 << 62} bytes",
    ),
    "a key that is no text": (with_value(0, b"\0", files.text(b"\xff\xfe")), "a key of the metadata that is not UTF-8"),
    "a text that is huge": (with_value(8, struct.pack("<Q", 1 << 63)), f"metadata 'k' takes {1 << 63} bytes"),
    "an array that is huge": (with_value(9, struct.pack("<IQ", 8, 1 << 60)), f"{1 << 60} values of metadata 'k'"),
    "numbers without an end": (with_value(9, struct.pack("<IQ", 10, 1 << 50)), f"{1 << 50} values of metadata 'k'"),
    "an array of arrays": (with_value(9, struct.pack("<IQ", 9, 1)), "metadata 'k' of the unknown type 9"),
    "a value of no type": (with_value(13, b""), "metadata 'k' of the unknown type 13"),
    "a key twice": (header(0, 2) + 2 * (KEY + struct.pack("<IB", 0, 1)) + DATA, "the key 'k' stands there twice"),
    "alignment 0": (with_value(4, bytes(4), files.text("general.alignment")), "general.alignment 0, expected a power"),
    "alignment 24": (with_value(4, b"\x18\0\0\0", files.text("general.alignment")), "general.alignment 24, expected"),
    "alignment of no number": (with_value(6, bytes(4), files.text("general.alignment")), "general.alignment 32, exp"),
    "a removed type": (
        with_tensor(4, (32,)),
        "tensor 'w' is of ggml's type 4, Q4_2, which ggml has removed. Known: F32",
    ),
    "an unknown type": (with_tensor(99, (32,)), "tensor 'w' is of ggml's type 99, which is not known. Known: F32, F16"),
    "too many dimensions": (with_tensor(0, (1,) * 5), "tensor 'w' of 5 dimensions, expected at most 4"),
    "2^32 - 1 dimensions": (header(1) + KEY + b"\xff" * 4 + DATA, "tensor 'k' of 4294967295 dimensions"),
    "dimensions that overflow": (with_tensor(0, (1 << 33, 1 << 31)), f"tensor 'w' of the shape [{1 << 33}, {1 << 31}]"),
    "an overflow beside a zero": (with_tensor(0, (1 << 63, 0)), f"tensor 'w' of the shape [{1 << 63}, 0]"),
    "rows of no whole blocks": (with_tensor(2, (4, 33)), "tensor 'w' Q4_0[4, 33]: its rows are no blocks of 32"),
    "an offset behind the end": (
        with_tensor(0, (8,), 1 << 40),
        f"'w' begins at byte {1 << 40} of the data, expected 0",
    ),
    "an offset that wraps": (with_tensor(0, (8,), (1 << 64) - 32), f"'w' begins at byte {(1 << 64) - 32} of the data"),
    "more than the file": (with_tensor(0, (4096,)), "tensor 'w' F32[4096] ends at byte 16448, the file has 320"),
    "a name twice": (TWICE + DATA, "tensor 'w' stands there twice"),
    "a name that is no text": (header(1) + files.text(b"\xff") + DATA, "the name of a tensor that is not UTF-8"),
    "a header that ends": (header(1) + KEY, "the rank of tensor 'k' takes 4 bytes from byte 33, the file has 33"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_lies_is_refused_in_a_line(lie: str, tmp_path: Path) -> None:
    content, says = LIES[lie]
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CompressorError) as caught:
            sources.read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert peak < 1 << 20


def test_a_file_that_is_cut_off_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    whole = files.content(files.model(), *files.metadata())
    last = len(whole)
    for length in [*range(0, last, 97), last - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CompressorError, match=r"m\.gguf: not a readable GGUF file \("):
            sources.read(path)
    path.write_bytes(whole)
    assert len(sources.read(path).weights) == 7


def test_commands_say_it_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(with_tensor(99, (32,)))
    for command in ("detect", "inspect", "explain"):
        refused(command, path, status=1, says="tensor 'w' is of ggml's type 99")
    refused("diff", path, path, status=1, says="tensor 'w' is of ggml's type 99")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(CompressorError):
        sources.read(tmp_path / "m.gguf")


def test_parts_that_hold_the_same(tmp_path: Path) -> None:
    count = files.field("split.count", 2, struct.pack("<H", 2))
    for part in (1, 2):
        content = files.content({"w": ("F32", (1,), bytes(4))}, count)
        (tmp_path / f"m-0000{part}-of-00002.gguf").write_bytes(content)
    with pytest.raises(CompressorError, match="holds 'w', which another part holds too"):
        sources.read(tmp_path / "m-00001-of-00002.gguf")
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(files.content({}, files.field("split.count", 2, b"\x09\0")))
    with pytest.raises(CompressorError, match="one of 9 parts, which the name does not say"):
        sources.read(tmp_path / "m-00001-of-00002.gguf")
