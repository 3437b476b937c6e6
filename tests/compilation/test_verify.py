"""Verification: bit for bit, but for -0.0 and what a threshold made zero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.arrays import FLOAT_DTYPES, DType, NDArray
from compressor.blocks import BLOCK
from compressor.compilation.verify import differences, verify
from compressor.encodings import Dense, Palettized
from compressor.errors import CompressorError
from compressor.recognition.schemes import EXACT, Loss
from compressor.weight import Weight
from tests import strategies
from tests.strategies import special


def of(*values: float) -> NDArray:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("source", "stored", "threshold", "different", "zeroed"),
    [
        (of(1, 2, 3), of(1, 2, 3), 0.0, 0, 0),
        (of(1, 2, 3), of(1, 2, 4), 0.0, 1, 0),
        (of(1, 2, 3), np.nextafter(of(1, 2, 3), np.inf, dtype=np.float32), 0.0, 3, 0),
        (of(-0.0), of(0.0), 0.0, 0, 0),
        (of(0.0), of(-0.0), 0.0, 1, 0),
        (of(1e-3, -1e-4, 1e-2), of(0, 0, 0), 1e-3, 1, 2),
        (of(9e-4, -1e-4, 1e-2), of(0, 0, 1e-2), 1e-3, 0, 2),
        (of(1e-4), of(2e-4), 1e-3, 1, 0),
        (of(1e-45), of(0), 0.0, 1, 0),
        (of(np.nan), of(0), 1e9, 1, 0),
        (of(np.nan), of(np.nan), 0.0, 0, 0),
        (of(np.nan), -of(np.nan), 0.0, 1, 0),
        (of(np.inf), of(3.4028235e38), 0.0, 1, 0),
        (np.array([0, 1], np.int8), np.array([0, -1], np.int8), 0.0, 1, 0),
        (of(), of(), 0.0, 0, 0),
    ],
)
def test_differences_are_counted_by_bits(
    source: NDArray, stored: NDArray, threshold: float, different: int, zeroed: int
) -> None:
    assert differences(source, stored, threshold) == (different, zeroed)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES.values(), ids=FLOAT_DTYPES)
@pytest.mark.parametrize("name", ["nan", "inf", "-inf", "smallest", "largest", "payload"])
def test_special_values_must_keep_their_bits(dtype: DType, name: str) -> None:
    value = special(dtype, name)
    assert differences(value, value.copy(), 0.0) == (0, 0)
    assert differences(value, special(dtype, "0.0"), 0.0) == (1, 0)
    changed = (value.view(f"u{dtype.itemsize}") ^ 2).view(dtype)
    assert differences(value, changed, 0.0) == (1, 0)


@given(st.integers(0, 2 * BLOCK), st.integers(1, 5), st.data())
def test_a_single_bit_is_noticed_wherever_it_is(place: int, extra: int, data: st.DataObject) -> None:
    source = strategies.random(data.draw).normal(size=place + extra).astype(np.float32)
    stored = source.copy()
    stored.view(np.uint32)[place] ^= np.uint32(1)
    assert differences(source.reshape(1, -1), stored.reshape(1, -1), 0.0) == (1, 0)


def test_views_in_another_order_are_compared_by_place() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert differences(np.asfortranarray(values), values, 0.0) == (0, 0)
    assert differences(values.T, np.ascontiguousarray(values.T), 1e-3) == (0, 0)


def check(source: NDArray, stored: NDArray, threshold: float = 0.0, changed: int = 0) -> None:
    verify(Weight("w", Dense(source)), Dense(stored), Loss(threshold, changed))


def test_a_weight_that_is_read_back_as_it_was_passes() -> None:
    check(of(1, 2), of(1, 2))
    check(of(1e-4, 2), of(0, 2), 1e-3, 1)


@pytest.mark.parametrize("planned", [0, 1, 3])
def test_just_as_many_values_become_zero_as_were_planned(planned: int) -> None:
    message = rf"weight w float32\[3\]: 2 values up to 0.001 became zero, {planned} were planned"
    with pytest.raises(CompressorError, match=message):
        check(of(1e-4, 2e-4, 2), of(0, 0, 2), 1e-3, planned)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (of(1, 3), r"weight w float32\[2\]: 1 values read back from dense differ from the source"),
        (of(1, 2, 3), r"weight w float32\[2\]: read back as float32\[3\] from dense"),
        (np.array([1, 2], np.float16), r"weight w float32\[2\]: read back as float16\[2\] from dense"),
        (of(1, 2).reshape(2, 1), r"weight w float32\[2\]: read back as float32\[2, 1\] from dense"),
    ],
)
def test_a_weight_that_is_another_one_is_refused(stored: NDArray, message: str) -> None:
    with pytest.raises(CompressorError, match=message):
        check(of(1, 2), stored)


def test_what_cannot_be_decoded_is_refused() -> None:
    stored = Palettized(np.array([0, 2], np.uint8), np.array([[[1], [2]]], np.float32))
    with pytest.raises(CompressorError, match="palettized1 cannot be read back: indices into 2 entries, got 2"):
        verify(Weight("w", Dense(of(1, 2))), stored, EXACT)


@pytest.mark.parametrize(
    ("moved", "planned", "fails"),
    [(0.5, 1, ""), (0.75, 1, "differ from the source"), (0.5, 2, "1 values moved by up to 0.5, 2 were planned")],
)
def test_values_move_within_the_error_that_was_asked_for(moved: float, planned: int, fails: str) -> None:
    source = np.array([[1, 0], [-0.0, np.nan]], np.float32)
    stored = np.array([[1 + moved, 0], [0, np.nan]], np.float32)
    weight = Weight("w", Dense(source))
    loss = Loss(0.0, planned, 0.5)
    if not fails:
        verify(weight, Dense(stored), loss)
        return
    with pytest.raises(CompressorError, match=fails):
        verify(weight, Dense(stored), loss)
