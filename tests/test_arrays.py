"""Packing, bytes, and arrays in files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressor.arrays import (
    BFLOAT16,
    BLOCK,
    INT2,
    INT4,
    UINT2,
    UINT4,
    ArraySpec,
    DType,
    MappedArray,
    NDArray,
    blocks,
    from_bytes,
    pack,
    packed_nbytes,
    spec_of,
    stored_nbytes,
    to_bytes,
    unpack,
)
from compressor.errors import CompressorError
from tests import strategies
from tests.strategies import bits_of

IN_A_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    ("codes", "dtype", "width", "packed"),
    [
        ([-8, 7, 3, 4, -2], np.int8, 4, [120, 67, 14]),
        ([1, 2, 3, 4, 5], np.uint8, 4, [33, 67, 5]),
        ([0, 3, 2, 1, 3], np.uint8, 2, [108, 3]),
        ([-2, -1, 0, 1], np.int8, 2, [78]),
        ([1, 2, 3, 4, 5, 6, 7, 0], np.uint8, 3, [209, 88, 31]),
        ([1, 63, 2], np.uint8, 6, [193, 47, 0]),
        ([1, 1, 0, 1], np.bool_, 1, [11]),
        ([0, 1, 0, 0, 0, 0, 0, 1], np.bool_, 1, [0b10000010]),
        ([-1, 0, -1], np.int8, 1, [5]),
        ([31, 0, 1], np.uint8, 5, [31, 4]),
        ([127, 1], np.uint8, 7, [255, 0]),
        ([255, 7], np.uint8, 8, [255, 7]),
        ([], np.uint8, 3, []),
    ],
)
def test_packing_has_known_answers(codes: list[int], dtype: Any, width: int, packed: list[int]) -> None:
    assert pack(np.array(codes, dtype), width).tolist() == packed
    unsigned = [code & (1 << width) - 1 for code in np.array(codes, dtype).astype(int).tolist()]
    assert unpack(np.array(packed, np.uint8), width, len(codes)).tolist() == unsigned


@given(st.integers(1, 8), st.integers(0, 300) | st.integers(BLOCK - 9, BLOCK + 9), st.data())
def test_every_width_and_length_is_packed_as_the_bits_say(width: int, count: int, data: st.DataObject) -> None:
    codes = strategies.random(data.draw).integers(0, 1 << width, count).astype(np.uint8)
    bits = (codes[:, None] >> np.arange(width, dtype=np.uint8)) & 1
    packed = pack(codes, width)
    assert packed.tolist() == np.packbits(bits.reshape(-1), bitorder="little").tolist()
    assert unpack(packed, width, count).tolist() == codes.tolist()


@given(st.integers(1, 7), st.data())
def test_bits_beyond_the_width_are_dropped(width: int, data: st.DataObject) -> None:
    codes = strategies.random(data.draw).integers(-128, 128, (3, 7)).astype(np.int8)
    assert pack(codes, width).tolist() == pack(codes.view(np.uint8) & ((1 << width) - 1), width).tolist()


@pytest.mark.parametrize("width", [-1, 0, 9])
def test_codes_have_1_to_8_bits(width: int) -> None:
    with pytest.raises(ValueError, match=f"codes have 1 to 8 bits, got {width}"):
        pack(np.zeros(4, np.uint8), width)
    with pytest.raises(ValueError, match=f"codes have 1 to 8 bits, got {width}"):
        unpack(np.zeros(4, np.uint8), width, 4)


@pytest.mark.parametrize(("width", "count", "got"), [(3, 8, 2), (3, 8, 4), (8, 4, 3), (1, 9, 1)])
def test_unpacking_wants_just_the_bytes_of_its_codes(width: int, count: int, got: int) -> None:
    with pytest.raises(ValueError, match=f"{count} codes of {width} bits take .* bytes, got {got}"):
        unpack(np.zeros(got, np.uint8), width, count)


@given(strategies.arrays())
def test_bytes_give_the_array_back(values: NDArray) -> None:
    raw = to_bytes(values)
    assert (raw.dtype.name, raw.shape) == ("uint8", (stored_nbytes(values),))
    assert bits_of(from_bytes(raw, values.shape, values.dtype)) == bits_of(values)


@pytest.mark.parametrize(
    ("dtype", "size", "nbytes"),
    [
        (INT2, 5, 2),
        (UINT2, 4, 1),
        (INT4, 5, 3),
        (UINT4, 0, 0),
        (BFLOAT16, 3, 6),
        (np.dtype(np.bool_), 3, 3),
        (np.dtype(np.float64), 3, 24),
    ],
)
def test_a_spec_counts_stored_bytes(dtype: DType, size: int, nbytes: int) -> None:
    assert ArraySpec((size,), dtype).nbytes == nbytes
    assert stored_nbytes(np.zeros(size, dtype)) == nbytes
    assert spec_of(np.zeros((size, 1), dtype)) == ArraySpec((size, 1), dtype)


@IN_A_FOLDER
@given(strategies.arrays(), st.integers(0, 9))
def test_a_mapped_array_is_the_array_in_memory(tmp_path: Path, values: NDArray, offset: int) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(offset) + to_bytes(values).tobytes() + b"tail")
    mapped = MappedArray(path, offset, values.shape, values.dtype)
    assert (mapped.size, mapped.nbytes) == (values.size, stored_nbytes(values))
    assert bits_of(np.asarray(mapped)) == bits_of(values)
    assert spec_of(mapped) == spec_of(values)
    pickled = pickle.dumps(mapped)
    assert pickle.loads(pickled) == mapped  # noqa: S301 - our own
    assert len(pickled) < 600


@IN_A_FOLDER
@given(st.integers(1, 8), st.integers(0, 5000), st.data())
def test_packed_codes_and_masks_are_mapped(tmp_path: Path, width: int, count: int, data: st.DataObject) -> None:
    codes = strategies.random(data.draw).integers(0, 1 << width, count).astype(np.uint8)
    path = tmp_path / "codes"
    path.write_bytes(b"x" + pack(codes, width).tobytes())
    mapped = MappedArray(path, 1, (count, 1), np.dtype(np.uint8), width)
    assert mapped.nbytes == packed_nbytes(count, width)
    assert np.asarray(mapped).tolist() == codes.reshape(count, 1).tolist()
    if width == 1:
        mask = MappedArray(path, 1, (count,), np.dtype(np.bool_), 1)
        assert np.asarray(mask).dtype == np.bool_
        assert np.asarray(mask).tolist() == codes.astype(bool).tolist()


def test_a_mapped_array_is_a_read_only_view_unless_a_copy_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    mapped = MappedArray(path, 0, (4,), np.dtype(np.float32))
    assert not np.asarray(mapped).flags.writeable
    copy = np.array(mapped)
    copy[0] = 7
    assert np.asarray(mapped).tolist() == [0, 1, 2, 3]
    assert np.asarray(mapped, np.float64).dtype == np.float64


@pytest.mark.parametrize(("offset", "count"), [(0, 5), (4, 4), (400, 1), (1 << 62, 1)])
def test_a_slice_beyond_the_file_is_refused(tmp_path: Path, offset: int, count: int) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(16))
    mapped = MappedArray(path, offset, (count,), np.dtype(np.float32))
    with pytest.raises(CompressorError, match=f"short: cannot read bytes {offset} to {offset + 4 * count}"):
        np.asarray(mapped)


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CompressorError, match="cannot read bytes 0 to 4"):
        np.asarray(MappedArray(tmp_path / name, 0, (1,), np.dtype(np.float32)))


def test_no_elements_need_no_file(tmp_path: Path) -> None:
    assert np.asarray(MappedArray(tmp_path / "missing", 8, (3, 0), np.dtype(np.float32))).shape == (3, 0)


@pytest.mark.parametrize(("size", "bounds"), [(0, []), (3, [(0, 3)]), (4, [(0, 4)]), (9, [(0, 4), (4, 8), (8, 9)])])
def test_blocks_cover_all_in_order(size: int, bounds: list[tuple[int, int]]) -> None:
    assert [(part.start, part.stop) for part in blocks(size, 4)] == bounds
