"""Codes behind values: found where every value is one, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from compressor import encodings
from compressor.arrays import BFLOAT16, NDArray
from compressor.encodings import Dense, Quantized
from compressor.recognition.findings import Settings
from compressor.recognition.recovery import recovered
from compressor.weight import Weight

F16, F32 = np.dtype(np.float16), np.dtype(np.float32)
RNG = np.random.default_rng(0)
CODES = RNG.integers(-127, 128, (256, 512)).astype(np.int8)
SCALES = RNG.uniform(0.001, 0.01, (256, 1)).astype(np.float32)


def of(values: NDArray) -> Weight:
    return Weight("w", Dense(values), note="trained")


def test_values_on_a_grid_become_the_codes_that_they_were() -> None:
    values = CODES * SCALES
    made = recovered(of(values), Settings(), F16)
    assert isinstance(made.encoding, Quantized)
    assert np.array_equal(np.asarray(made.encoding.scale), SCALES)
    assert np.array_equal(encodings.decode(made.encoding.data), CODES)
    assert np.array_equal(encodings.decode(made.encoding), values)
    assert (made.evidence, made.note) == ("int8 grid per channel along axis 0", "trained")
    assert made.values is values


def test_the_last_block_of_an_axis_stays_as_short_as_it_was() -> None:
    """300 in blocks of 64 are five, and so are 300 in blocks of 60: the length is what tells them apart."""
    codes, block = RNG.integers(-7, 8, (256, 300)).astype(np.int8), (1, 64)
    codes[:, ::64] = 7
    grid = Quantized(Dense(codes), RNG.uniform(0.001, 0.01, (256, 5)).astype(np.float32), block=block)
    values = encodings.decode(grid)
    made = recovered(of(values), Settings(), F16)
    assert isinstance(made.encoding, Quantized)
    assert made.encoding.block == block
    assert np.array_equal(encodings.decode(made.encoding), values)


def test_a_value_that_no_sample_shows_keeps_all_of_them() -> None:
    values = CODES * SCALES
    values[200, 300] += np.float32(1e-4)
    weight = of(values)
    assert recovered(weight, Settings(), F16) is weight


@pytest.mark.parametrize(
    ("values", "precision"),
    [
        pytest.param(RNG.normal(size=(256, 512)).astype(np.float32), F16, id="on no grid"),
        pytest.param((CODES % 16 * np.float32(0.01)).astype(np.float32), F16, id="a palette takes no more"),
        pytest.param(CODES, F16, id="codes already"),
        pytest.param((CODES * SCALES)[:1, :8], F16, id="too few values"),
        pytest.param((CODES * np.float32(0.0078125)).astype(BFLOAT16), F16, id="of a coarser type than the products"),
        pytest.param((CODES * SCALES).astype(np.float16), F32, id="of a coarser type than the products"),
    ],
)
def test_other_weights_stay_as_they_are(values: NDArray, precision: np.dtype[np.generic]) -> None:
    weight = of(values)
    assert recovered(weight, Settings(), precision) is weight
