"""Weights at the precision of a program: codes are computed when they are read, so that no two must be in memory."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from compressor.arrays import STORED_DTYPES, ComputedArray, NarrowArray
from compressor.encodings import Dense, Palettized, Quantized, Sparse, decode, name
from compressor.targets.coreml.rounding import as_codes, moved, rounded

CODES = np.array([[1, -2, 3], [4, 0, -6]], np.int8)
SCALE = np.array([[0.5], [2.0]], np.float32)


def test_moved_codes_are_computed_when_they_are_read() -> None:
    found = moved(Quantized(Dense(CODES), SCALE), np.transpose, (3, 2))
    assert isinstance(found.data, Dense)
    assert isinstance(found.data.values, ComputedArray)
    np.testing.assert_array_equal(np.asarray(found.data.values), CODES.T)
    np.testing.assert_array_equal(np.asarray(found.scale), SCALE.T)
    np.testing.assert_array_equal(decode(found), [[0.5, 8], [-1, 0], [1.5, -12]])


def test_codes_of_zeros_are_the_zero_point() -> None:
    mask = CODES != 0
    inner = Quantized(Dense(CODES[mask] + np.int8(7)), SCALE, np.full((2, 1), 7, np.int8))
    found = as_codes(Sparse(mask, inner, CODES.shape))
    assert found is not None
    assert isinstance(found.data, Dense)
    assert isinstance(found.data.values, ComputedArray)
    np.testing.assert_array_equal(np.asarray(found.data.values), CODES + 7)
    np.testing.assert_array_equal(decode(found), CODES * SCALE)


def test_values_are_multiplied_before_they_are_rounded() -> None:
    values, factor = np.array([[1.0009765, 3.0], [65504.0, 1e-7]], np.float32), np.array([[1.0009765], [2.0]])
    found, reason = rounded(values, None, np.dtype(np.float16), None, factor)
    assert reason == ""
    np.testing.assert_array_equal(decode(found), [[1.001953125, 3.001953125], [np.inf, np.float16(2e-7)]])


F16, F32 = np.dtype(np.float16), np.dtype(np.float32)
INDICES = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)
TABLE = np.array([-1.0, -0.1, 0.3, 1.5], np.float32).reshape(1, 1, 4, 1)
SCALES = np.array([[0.3, 7.0], [100.0, 0.01]], np.float32)
SCALED = Quantized(Palettized(INDICES, TABLE), SCALES)
BYTES = NarrowArray(np.array([[1.75, -448, 0.5, 2.0]]).astype(STORED_DTYPES["float8_e4m3fn"]), F32)


def test_a_table_and_its_scales_are_rounded_and_the_product_once_more() -> None:
    found, told = rounded(decode(SCALED), SCALED, F16, None)
    assert (name(found), told) == ("scaled(palettized2)", "table and scales rounded to float16")
    products = TABLE.reshape(-1).astype(F16)[INDICES].astype(F32) * SCALES.astype(F16).astype(F32).repeat(2, 1)
    assert np.array_equal(decode(found), products.astype(F16))
    found, told = rounded(decode(SCALED), SCALED, F32, None)
    assert told == ""
    assert np.array_equal(decode(found), decode(SCALED))


def test_a_table_stays_one_in_another_order_of_the_axes() -> None:
    """Its indices move, also where a scale stands for a block; a batch norm multiplies the scales."""
    factor = np.array([[1.0], [2.0], [3.0], [4.0]])
    found, _ = rounded(decode(SCALED).T, SCALED, F32, np.transpose, factor)
    found = pickle.loads(pickle.dumps(found))  # noqa: S301 - our own
    assert isinstance(found, Quantized)
    assert isinstance(found.data, Palettized)
    assert isinstance(found.data.indices, ComputedArray)
    assert (found.data.lut.shape, found.scale.shape) == ((1, 1, 4, 1), (4, 2))
    np.testing.assert_allclose(decode(found), decode(SCALED).T * factor.astype(F32), 1e-6)


@pytest.mark.parametrize("block", [None, (1, 3)])
def test_floats_of_8_bits_keep_their_bits(block: tuple[int, int] | None) -> None:
    source = Quantized(Dense(BYTES), np.array([[0.3, 2.0]], np.float32), None, block)
    found, _ = rounded(decode(source), source, F16, None)
    assert name(found) == "scaled(palettized8)"
    assert isinstance(found, Quantized)
    scales = np.array([0.3, 0.3, 2.0, 2.0] if block is None else [0.3, 0.3, 0.3, 2.0], F16)
    assert np.array_equal(decode(found), [np.array([1.75, -448, 0.5, 2.0], F16) * scales])


@pytest.mark.parametrize(("kind", "scale"), [("float8_e5m2", 1e-6), ("float8_e4m3fn", 1e-7), ("float8_e4m3fn", 1e5)])
def test_a_power_of_two_goes_from_a_table_to_scales_that_float16_cannot_hold(kind: str, scale: float) -> None:
    codes = np.arange(256, dtype=np.uint8).view(STORED_DTYPES[kind]).reshape(2, 128)
    codes = codes[:, 1 : 120 if kind == "float8_e5m2" else 127]  # finite ones
    codes = codes[:, 48:72] if scale > 1 else codes
    source = Quantized(Dense(NarrowArray(codes, F32)), np.array([[scale], [scale * 3]], np.float32))
    found, told = rounded(decode(source), source, F16, None)
    assert (name(found), told) == ("scaled(palettized8)", "table and scales rounded to float16")
    allowed = np.abs(decode(source)) * 3.01 * 2**-11 + 2**-25  # table, scale, product; where that is subnormal
    finite = np.abs(decode(source)) < 65504
    assert (np.abs(decode(found).astype(F32) - decode(source)) <= allowed)[finite].all()


@pytest.mark.parametrize(
    ("table", "scale"),
    [(TABLE, SCALES * np.float32(1e-7)), (TABLE * 1e12, SCALES), (TABLE, SCALES * np.float32(np.inf))],
)
def test_tables_and_scales_beyond_a_type_are_values(table: np.ndarray, scale: np.ndarray) -> None:
    source = Quantized(Palettized(INDICES, table.astype(F32)), scale)
    found, told = rounded(decode(source), source, F16, None)
    assert (name(found), told) == ("dense", "its table or its scales are beyond float16, or its vectors are turned")


def test_tables_by_group_move_with_their_indices() -> None:
    two = Quantized(Palettized(INDICES, np.concatenate([TABLE, TABLE * 3])), SCALES)
    found, _ = rounded(decode(two).T, two, F32, np.transpose)
    assert isinstance(found, Quantized)
    assert isinstance(found.data, Palettized)
    assert found.data.lut.shape == (1, 2, 4, 1)
    assert np.array_equal(decode(found), decode(two).T)


def test_vectors_stay_where_they_are() -> None:
    vectors = Quantized(Palettized(INDICES, TABLE.reshape(1, 1, 2, 2).repeat(2, -2), 0), np.ones((4, 1), np.float32))
    found, _ = rounded(decode(vectors), vectors, F32, None)
    assert name(found) == "scaled(palettized2)"
    found, told = rounded(decode(vectors).T, vectors, F32, np.transpose)
    assert (name(found), told) == ("dense", "its table or its scales are beyond float32, or its vectors are turned")
    assert np.array_equal(decode(found), decode(vectors).T)
