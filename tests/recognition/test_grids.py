"""Scales of which all values are multiples: exactly, or but for noise."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.arrays import FLOAT_DTYPES, NDArray
from compressor.kernels import dequantize
from compressor.recognition import grids, noisy_grids
from compressor.recognition.rows import multiples


@pytest.mark.parametrize("name", FLOAT_DTYPES)
def test_each_row_has_the_largest_scale_that_divides_it(name: str) -> None:
    scale = np.array([[0.3], [7.0], [1.0], [0.011]]).astype(FLOAT_DTYPES[name])
    codes = np.array([[-128, 127, 3, 1], [0, 255, 4, 2], [0, 0, 0, 0], [-6, 4, 2, 2]], np.int16)
    found = grids.find(dequantize(codes, scale))
    assert found is not None
    assert found.low.tolist() == [-128, 0, 0, -3]
    assert found.high.tolist() == [127, 255, 0, 2]
    assert np.array_equal(dequantize(found.high, found.scale), dequantize(codes, scale).max(axis=1))


@pytest.mark.parametrize(
    "other", [[1, 256, 3], [-128, 128, 3], [1, 0.7, 0.123], [1, np.nan, 2], [1, np.inf, 2]], ids=str
)
def test_one_row_on_no_grid_is_enough(other: list[float]) -> None:
    assert grids.find(np.array([[1, 2, 3], other], np.float32)) is None


@pytest.mark.parametrize("name", FLOAT_DTYPES)
def test_many_rows_have_the_grids_that_each_has_alone(name: str) -> None:
    random, dtype = np.random.default_rng(3), FLOAT_DTYPES[name]
    scale = (2.0 ** random.uniform(-30, -8, (300, 1))).astype(dtype)
    codes = random.integers(-128, 128, (300, 24)) * (random.random((300, 24)) < 0.6)
    rows = dequantize(codes.astype(np.int16), scale)
    together, sides = grids.find(rows), grids.find(np.asfortranarray(rows))
    assert together is not None
    assert sides is not None
    for at, row in enumerate(rows):
        alone = grids.find(row[None, :])
        assert alone is not None
        assert (alone.scale[0], alone.low[0], alone.high[0]) == (
            together.scale[at],
            together.low[at],
            together.high[at],
        )
    assert all(np.array_equal(getattr(sides, field), getattr(together, field)) for field in ("scale", "low", "high"))
    assert np.array_equal(dequantize(multiples(rows, together.scale).astype(np.int16), together.scale[:, None]), rows)


@pytest.mark.parametrize("name", FLOAT_DTYPES)
def test_the_scale_is_the_first_guess_that_fits_every_value(name: str) -> None:
    """Compared with the plain search: guess by guess, value by value, as numpy converts."""
    random, dtype = np.random.default_rng(4), FLOAT_DTYPES[name]
    for high in (3, 9, 40, 127):
        scale = (2.0 ** random.uniform(-20, 3, (40, 1))).astype(dtype)
        rows = dequantize(random.integers(1, high + 1, (40, 6)).astype(np.int16), scale)
        found = grids.find(rows)
        assert found is not None
        assert found.scale.tolist() == [plain(row) for row in rows]


def plain(row: NDArray) -> float:
    least = np.float64(row.min())
    for part in range(1, 256):
        quotient = (least / part).astype(row.dtype)
        for scale in (
            quotient,
            np.nextafter(quotient, row.dtype.type(np.inf)),
            np.nextafter(quotient, row.dtype.type(0)),
        ):
            if (
                scale > 0
                and (dequantize(np.rint(row.astype(np.float64) / np.float64(scale)), scale.reshape(1)) == row).all()
            ):
                return float(scale)
    raise AssertionError(row)


def test_values_near_multiples_have_the_scale_that_fits_all_of_them_best() -> None:
    random = np.random.default_rng(5)
    scale = np.array([[0.25], [0.5]], np.float32)
    rows = random.integers(-100, 101, (2, 512)) * scale
    noise = random.uniform(-0.01, 0.01, rows.shape).astype(np.float32)
    found = noisy_grids.near(rows + noise, 0.012)
    assert found is not None
    np.testing.assert_allclose(found, scale[:, 0], rtol=1e-4)
    assert noisy_grids.near(rows + noise, 0.001) is None
    assert noisy_grids.near(rows + noise, 0.0, rounding=0.001) is not None


def test_no_tolerance_takes_a_scale_that_is_near_anything() -> None:
    values = np.random.default_rng(6).normal(size=(1, 512)).astype(np.float32)
    assert noisy_grids.near(values, 0.1) is None


@pytest.mark.parametrize("largest", [0.2, 0.9, 900.0, 1e38])
def test_a_row_within_the_tolerance_is_zeros(largest: float) -> None:
    row = np.array([[largest, -largest / 3, 0.0]], np.float32)
    scale = noisy_grids.near(row, 1.01 * largest)
    assert scale is not None
    assert not grids.moved(row, scale).any()


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
@pytest.mark.parametrize("share", [1.0, 0.2])
def test_many_noisy_rows_have_scales_near_the_true_ones(name: str, share: float) -> None:
    random, dtype = np.random.default_rng(7), FLOAT_DTYPES[name]
    scale = (2.0 ** random.uniform(-6, 2, (200, 1))).astype(dtype).astype(np.float64)
    codes = random.integers(-7, 8, (200, 300)) * (random.random((200, 300)) < share)
    codes[:, :2] = (7, 1)
    rows = (codes * scale + random.uniform(-0.01, 0.01, codes.shape) * scale.min()).astype(dtype)
    allowed = 0.013 * scale.min() + (0.004 * scale.max() if dtype.itemsize == 2 else 0)
    for some in (rows, np.asfortranarray(rows), rows[:1]):
        found = noisy_grids.near(some, allowed)
        assert found is not None
        np.testing.assert_allclose(found.astype(np.float64), scale[: len(some), 0], rtol=2e-3)
        moved = grids.moved(some, found)
        assert np.abs(moved.astype(np.float64) - some.astype(np.float64)).max() <= allowed
        assert np.array_equal(np.rint(moved.astype(np.float64) / found.astype(np.float64)[:, None]), codes[: len(some)])
