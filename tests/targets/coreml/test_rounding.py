"""Weights at the precision of a program: codes are computed when they are read, so that no two must be in memory."""

from __future__ import annotations

import numpy as np

from compressor.arrays import ComputedArray
from compressor.encodings import Dense, Quantized, Sparse, decode
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
