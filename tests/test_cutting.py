"""Some rows of an encoding are those of its value, and no more is read of a file than they take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import given

from compressor import cutting
from compressor.arrays import INT4, Array, ComputedArray, MappedArray, NarrowArray, NDArray, PackedArray, to_bytes
from compressor.cutting import in_rows, leading, rows
from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse, decode, map_arrays, shape
from compressor.errors import DamageError
from compressor.packing import pack, packed_nbytes
from tests import strategies
from tests.strategies import bits_of


@given(strategies.encodings())
def test_the_parts_together_are_the_weight(encoding: Encoding) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for size in (1, 7, 1 << 20):
            patch.setattr(cutting, "_VALUES", size)
            parts = [decode(part) for part in in_rows(encoding)]
            assert bits_of(np.concatenate(parts)) == bits_of(decode(encoding))
            assert size < 1 << 20 or len(parts) == 1


@given(strategies.encodings())
def test_the_parts_of_what_lies_in_a_file_together_are_the_weight(encoding: Encoding) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        lying = map_arrays(partial(in_a_file, Path(folder) / "f"), encoding)
        for size in (1, 7, 1 << 20):
            patch.setattr(cutting, "_VALUES", size)
            parts = [decode(part).copy() for part in in_rows(lying)]  # the next ones are read where these were
            assert bits_of(np.concatenate(parts)) == bits_of(decode(encoding))


def in_a_file(path: Path, array: Array, width: int) -> Array:
    if isinstance(array, NarrowArray):
        return NarrowArray(in_a_file(path, array.values, width), array.dtype)
    values = np.asarray(array)
    with path.open("ab") as file:
        file.write(pack(values, width).tobytes() if width < 8 else to_bytes(values).tobytes())
        offset = file.tell() - packed_nbytes(array.size, width)
    return MappedArray(path, offset, tuple(array.shape), array.dtype, width if width < 8 else 0)


def test_a_file_is_opened_once_and_closed_after_its_last_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_VALUES", 4)
    opened: list[BinaryIO] = []
    path_open = Path.open
    monkeypatch.setattr(Path, "open", lambda *given, **how: opened.append(path_open(*given, **how)) or opened[-1])
    array = in_a_file(tmp_path / "f", np.arange(24, dtype=np.float32).reshape(6, 4), 32)
    del opened[:]
    assert [float(decode(part)[0, 0]) for part in in_rows(Dense(array))] == [0, 4, 8, 12, 16, 20]
    assert [file.closed for file in opened] == [True]


NAMES = ("memory", "a file", "codes in a file", "packed", "narrow", "computed", "computed by rows")


def counted(values: NDArray, asked: list[tuple[int, int]], start: int, stop: int) -> NDArray:
    asked.append((start, stop))
    return values[start:stop]


def arrays(folder: Path, asked: list[tuple[int, int]]) -> dict[str, tuple[Array, NDArray]]:
    values = np.arange(24, dtype=np.float32).reshape(6, 4)
    codes = (np.arange(24).reshape(6, 4) % 16 - 8).astype(np.int8).astype(INT4)
    (folder / "f").write_bytes(b"..." + values.tobytes())
    (folder / "c").write_bytes(b"..." + to_bytes(codes).tobytes())
    made = (
        (values, values),
        (MappedArray(folder / "f", 3, (6, 4), values.dtype), values),
        (MappedArray(folder / "c", 3, (6, 4), INT4), codes),
        (PackedArray(pack(codes, 4), (6, 4), INT4, 4), codes),
        (NarrowArray(values.astype(np.float16), values.dtype), values),
        (ComputedArray((6, 4), values.dtype, lambda: values), values),
        (ComputedArray((6, 4), values.dtype, lambda: pytest.fail("all"), partial(counted, values, asked)), values),
    )
    return dict(zip(NAMES, made, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_an_array(tmp_path: Path, name: str) -> None:
    asked: list[tuple[int, int]] = []
    array, values = arrays(tmp_path, asked)[name]
    some = rows(array, 2, 5)
    assert bits_of(np.asarray(some)) == bits_of(values[2:5])
    assert bits_of(np.asarray(leading(array, 2))) == bits_of(values[:2])
    assert bits_of(np.asarray(leading(array, 9 if name != "computed by rows" else 6))) == bits_of(values)
    assert asked == ([(2, 5), (0, 2), (0, 6)] if name == "computed by rows" else [])
    if name == "a file":
        assert isinstance(some, MappedArray)
        assert (some.offset, some.nbytes) == (3 + 2 * 16, 3 * 16)


def test_rows_that_begin_within_a_byte_are_cut_in_memory(tmp_path: Path) -> None:
    codes = np.arange(9).astype(np.int8).reshape(3, 3).astype(INT4)
    (tmp_path / "c").write_bytes(to_bytes(codes).tobytes())
    array = MappedArray(tmp_path / "c", 0, (3, 3), INT4)
    assert bits_of(np.asarray(leading(array, 2))) == bits_of(codes[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "_VALUES", 3)
        assert [decode(part).astype(int).tolist() for part in in_rows(Dense(array))] == [
            [[0, 1, 2]], [[3, 4, 5]], [[6, 7, -8]]
        ]  # fmt: skip


def test_what_all_rows_share_stays_and_what_each_has_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_VALUES", 8)
    codes, ones = np.zeros((4, 4), np.int8), np.ones((1, 1), np.float32)
    shared = [*in_rows(Quantized(Dense(codes), ones, np.zeros((1, 1), np.int8)))]
    own = [*in_rows(Quantized(Dense(codes), np.ones((4, 2), np.float32)))]
    blocks = [*in_rows(Quantized(Dense(codes), np.ones((2, 2), np.float32)))]
    sparse = [*in_rows(Sparse(np.ones((4, 4), np.bool_), Dense(np.zeros(16, np.int8)), (4, 4)))]
    for parts in (shared, own, blocks, sparse):
        assert [shape(part) for part in parts] == [(2, 4), (2, 4)]
    assert isinstance(shared[0], Quantized)
    assert shared[0].scale is ones
    assert isinstance(own[1], Quantized)
    assert own[1].scale.shape == (2, 2)
    assert isinstance(blocks[0], Dense)  # two rows share a scale, wherever a part ends
    assert isinstance(sparse[0], Sparse)
    assert shape(sparse[0].values) == (8,)
    tables = Palettized(np.zeros((4, 4), np.uint8), np.zeros((4, 1, 2, 1), np.float32))
    assert [part.lut.shape for part in in_rows(tables) if isinstance(part, Palettized)] == [(2, 1, 2, 1)] * 2


@pytest.mark.parametrize("count", [9, 11])
@pytest.mark.parametrize("values", [Dense, lambda held: Palettized(held, np.zeros((1, 1, 2, 1), np.float32))])
def test_a_mask_that_contradicts_its_values_is_found_at_its_last_rows(
    count: int, values: Callable[[NDArray], Dense | Palettized], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "_VALUES", 4)
    mask = np.array([[True] * 4, [True, False] * 2, [True] * 4])
    parts = in_rows(Sparse(mask, values(np.zeros(count, np.uint8)), mask.shape))
    assert decode(next(parts)).shape == (1, 4)
    with pytest.raises(DamageError, match=f"a mask of .*10 set bits for {count} values|of more than 9 set bits"):
        list(parts)
