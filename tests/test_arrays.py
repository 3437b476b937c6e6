"""Bytes, and arrays in files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressor.arrays import (
    BFLOAT16,
    INT2,
    INT4,
    UINT2,
    UINT4,
    ArraySpec,
    DType,
    MappedArray,
    NDArray,
    from_bytes,
    spec_of,
    to_bytes,
)
from compressor.errors import CompressorError
from compressor.packing import pack, packed_nbytes
from tests import strategies
from tests.strategies import bits_of

IN_A_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(strategies.arrays())
def test_bytes_give_the_array_back(values: NDArray) -> None:
    raw = to_bytes(values)
    assert (raw.dtype.name, raw.shape) == ("uint8", (spec_of(values).nbytes,))
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
    assert spec_of(np.zeros(size, dtype)).nbytes == nbytes
    assert spec_of(np.zeros((size, 1), dtype)) == ArraySpec((size, 1), dtype)


@IN_A_FOLDER
@given(strategies.arrays(), st.integers(0, 9))
def test_a_mapped_array_is_the_array_in_memory(tmp_path: Path, values: NDArray, offset: int) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(offset) + to_bytes(values).tobytes() + b"tail")
    mapped = MappedArray(path, offset, values.shape, values.dtype)
    assert (mapped.size, mapped.nbytes) == (values.size, spec_of(values).nbytes)
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
