"""Codes of 1 to 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.blocks import BLOCK
from compressor.packing import pack, unpack
from tests import strategies


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
