"""weight.bin, byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor import arrays
from compressor.arrays import ArraySpec, MappedArray, NDArray, PackedArray
from compressor.errors import CompressorError
from compressor.formats.coreml import blob
from compressor.formats.coreml.blob import BlobFile, Blobs, Stored, whole
from compressor.formats.coreml.importing import coremltools
from compressor.formats.coreml.types import TYPES
from compressor.formats.layout import FileLayout
from compressor.packing import pack

GOLDEN = Path(__file__).parents[2] / "golden" / "coreml" / "weight.bin"

WRITERS = {"float16": "fp16", "float32": "float"}
"""How Core ML Tools calls the types whose names differ."""

WRITTEN = [name for name, row in TYPES.items() if row.blob and not name.startswith(("bfloat", "float8"))]
"""The types that Core ML Tools writes from Python."""


def elements(name: str, count: int) -> NDArray:
    """Elements of a type: all codes of a small one, and both ends of a large one."""
    kind = TYPES[name]
    if kind.bits > 8:
        step = 5 if name.startswith("u") else -3
        return (np.arange(count, dtype=np.int32) * step).astype(kind.dtype)
    return (np.arange(count) % (1 << kind.bits)).astype(np.uint8).view(kind.dtype)


def blobs() -> list[Stored]:
    """A blob of each type and of awkward sizes: none, one, and what does not fill a byte or an alignment."""
    return [whole(name, elements(name, count)) for name in WRITTEN for count in (11, 64, 1, 0)]


def written(path: Path, stored: list[Stored]) -> list[int]:
    blobs = Blobs()
    starts = [blobs.append(each) for each in stored]
    pieces = [*blobs.metadata(path.name), *blobs.data(path.name)]
    FileLayout({path.name: blobs.end}, pieces, {}).begin(path.parent)
    return starts


def test_the_file_is_the_one_that_core_ml_tools_wrote(tmp_path: Path) -> None:
    written(tmp_path / "weight.bin", blobs())
    assert (tmp_path / "weight.bin").read_bytes() == GOLDEN.read_bytes()


def test_core_ml_tools_writes_the_same_file_today(tmp_path: Path) -> None:
    coremltools()
    from coremltools.libmilstoragepython import _BlobStorageWriter

    store, offsets = _BlobStorageWriter(str(tmp_path / "theirs.bin")), []
    for stored in blobs():
        name = WRITERS.get(stored.type.name, stored.type.name)
        array = np.asarray(stored.array)
        if name == "fp16":
            array = array.view(np.uint16)
        elif stored.type.bits < 8:
            array = array.astype(np.int8 if name == "int4" else np.uint8)
        offsets.append(getattr(store, f"write_{name}_data")(array))
    del store
    assert (tmp_path / "theirs.bin").read_bytes() == GOLDEN.read_bytes()
    assert offsets == written(tmp_path / "ours.bin", blobs())


def test_every_type_is_read_from_the_golden_file() -> None:
    layout, file = Blobs(), blob.open_file(GOLDEN)
    for stored in blobs():
        found = file.read(layout.append(stored), stored.type, stored.dims)
        assert isinstance(found, MappedArray)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(stored.array))
        assert (found.dtype, found.nbytes) == (stored.type.dtype, stored.nbytes)
    assert layout.end == GOLDEN.stat().st_size == file.nbytes


@pytest.mark.parametrize(
    ("name", "values", "expected", "unused"),
    [
        ("int4", [-8, 7, 3, 4, -2], [120, 67, 14], 4),
        ("uint4", [1, 2, 3, 4, 5], [33, 67, 5], 4),
        ("uint2", [0, 3, 2, 1, 3], [108, 3], 6),
        ("uint3", [1, 2, 3, 4, 5, 6, 7, 0], [209, 88, 31], 0),
        ("uint6", [1, 63, 2], [193, 47, 0], 6),
        ("uint1", [1, 1, 0, 1], [11], 4),
    ],
)
def test_packing(tmp_path: Path, name: str, values: list[int], expected: list[int], unused: int) -> None:
    (start,) = written(tmp_path / "w.bin", [whole(name, np.array(values, np.int8).astype(TYPES[name].dtype))])
    content = (tmp_path / "w.bin").read_bytes()
    assert start == 64
    assert struct.unpack("<IIQQQ", content[64:96]) == (0xDEADBEEF, TYPES[name].blob, len(expected), 128, unused)
    assert list(content[128:]) == expected


def test_packed_codes_are_copied_as_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.arange(19, dtype=np.uint8) % 8
    (start,) = written(tmp_path / "a.bin", [whole("uint3", codes)])
    mapped = blob.open_file(tmp_path / "a.bin").read(start, TYPES["uint3"], (19,))
    in_memory = PackedArray(pack(codes, 3), (19,), np.dtype(np.uint8), 3)
    monkeypatch.setattr(arrays, "pack", None)
    for array in (mapped, in_memory):
        written(tmp_path / "b.bin", [whole("uint3", array)])
        assert (tmp_path / "b.bin").read_bytes() == (tmp_path / "a.bin").read_bytes()


def test_codes_of_another_width_are_packed_again(tmp_path: Path) -> None:
    codes = np.arange(19, dtype=np.uint8) % 8
    (start,) = written(tmp_path / "a.bin", [whole("uint3", codes)])
    mapped = blob.open_file(tmp_path / "a.bin").read(start, TYPES["uint3"], (19,))
    (start,) = written(tmp_path / "b.bin", [whole("uint4", mapped)])
    found = blob.open_file(tmp_path / "b.bin").read(start, TYPES["uint4"], (19,))
    np.testing.assert_array_equal(np.asarray(found).astype(np.uint8), codes)


@given(st.lists(st.tuples(st.sampled_from(WRITTEN), st.integers(0, 300)), max_size=6))
def test_a_layout_knows_the_size_from_specs(parts: list[tuple[str, int]]) -> None:
    layout, end = Blobs(), 64
    for name, count in parts:
        start = layout.append(whole(name, ArraySpec((count,), TYPES[name].dtype)))
        assert start % 64 == 0
        assert 0 <= start - end < 64
        end = start + 64 + -(-count * TYPES[name].bits // 8)
    assert (layout.end, len(layout.stored)) == (end, len(parts))


@pytest.mark.parametrize("name", [name for name, row in TYPES.items() if row.blob and name not in WRITTEN])
def test_types_that_core_ml_tools_has_in_programs_alone(tmp_path: Path, name: str) -> None:
    array = np.arange(-5, 5).astype(TYPES[name].dtype)
    written(tmp_path / "w.bin", [whole(name, array)])
    found = blob.open_file(tmp_path / "w.bin").read(64, TYPES[name], (10,))
    assert np.asarray(found).tobytes() == array.tobytes()


def test_a_blob_of_another_length_is_refused(tmp_path: Path) -> None:
    short = Stored(TYPES["uint8"], (100,), PackedArray(np.zeros(99, np.uint8), (100,), np.dtype(np.uint8), 8), 8)
    with pytest.raises(CompressorError, match="a blob of 99 bytes came where 100 were expected"):
        written(tmp_path / "w.bin", [short])


def put(place: int, form: str, *values: int) -> Callable[[bytearray], None]:
    return lambda content: struct.pack_into(form, content, place, *values)


def cut(content: bytearray) -> None:
    del content[-1:]


def test_a_word_that_older_writers_left_as_it_was(tmp_path: Path) -> None:
    """The count of unused bits came with types of less than a byte."""
    store = tmp_path / "weight.bin"
    (offset,) = written(store, [whole("float16", np.arange(12, dtype=np.float16))])
    content = bytearray(store.read_bytes())
    put(offset + 24, "<Q", 0xDEADBEEFDEADBEEF)(content)
    store.write_bytes(content)
    found = blob.open_file(store).read(offset, TYPES["float16"], (12,))
    np.testing.assert_array_equal(np.asarray(found), np.arange(12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(4, "<I", 1), "says version 1 and 1 blobs"),
        (put(0, "<I", 9), "9 blobs"),
        (put(64, "<I", 0xDEADBEEE), "begin with 0xdeadbeef, got 0xdeadbeee"),
        (put(68, "<I", 3), "declares uint6, the blob has uint8"),
        (put(68, "<I", 99), "declares uint6, the blob has type 99"),
        (put(72, "<Q", 76), r"uint6\[100\] takes 75 bytes and leaves 0 bits unused, got 76 and 0"),
        (put(72, "<Q", 1 << 63), "got 9223372036854775808 and 0"),
        (put(88, "<Q", 2), "got 75 and 2"),
        (put(80, "<Q", 129), "bytes 129 to 204, the file has 203"),
        (put(80, "<Q", 64), "bytes 64 to 139"),
        (cut, "bytes 128 to 203, the file has 202"),
        (bytearray.clear, "0 bytes, expected a weight file"),
    ],
)
def test_corrupt_files(tmp_path: Path, change: Callable[[bytearray], None], message: str) -> None:
    path = tmp_path / "w.bin"
    written(path, [whole("uint6", np.arange(100, dtype=np.uint8) % 64)])
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    with pytest.raises(CompressorError, match=message) as error:
        blob.open_file(path).read(64, TYPES["uint6"], (100,))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("offset", [0, 65, 128, 192, 1 << 62])
def test_offsets_that_are_no_blobs(tmp_path: Path, offset: int) -> None:
    written(tmp_path / "w.bin", [whole("uint6", np.arange(100, dtype=np.uint8) % 64)])
    with pytest.raises(CompressorError, match=f"blob at {offset}"):
        blob.open_file(tmp_path / "w.bin").read(offset, TYPES["uint6"], (100,))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(CompressorError, match="cannot be read: No such file"):
        blob.open_file(tmp_path / "w.bin")
    with pytest.raises(CompressorError, match="expected a weight file"):
        blob.open_file(tmp_path)
    with pytest.raises(CompressorError, match="cannot be read: No such file"):
        BlobFile(tmp_path / "w.bin", 1 << 20).read(64, TYPES["uint8"], (1,))
