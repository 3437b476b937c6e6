"""What a weight almost is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from compressor.arrays import NDArray
from compressor.recognition.find import find
from compressor.recognition.findings import Settings
from tests.recognition.weights_made import (
    EVERY,
    PLACES_64,
    normal,
    rng,
    weight,
)


@pytest.mark.parametrize("entries", [257, 300, 320])
def test_a_palette_that_is_just_missed_is_named(entries: int) -> None:
    table = np.unique(normal((4 * entries,)))[:entries]
    values = table[rng(entries).permutation(np.arange(2 * 8192) % entries)].reshape(2, 8192)
    finding = find(weight(values), EVERY)
    assert finding.near_misses == (f"{entries} distinct values: a palette has at most 256",)
    assert finding.distinct is None
    assert "distinct values per" in finding.palette  # groups of channels do not have all of them


@pytest.mark.parametrize(
    ("make", "near_miss"),
    [
        (lambda: normal((17,))[PLACES_64 % 17], "17 distinct values; 16 would save 20%"),
        (lambda: normal((6,))[PLACES_64 % 6], "6 distinct values; 4 would save 33%"),
        (lambda: np.where(PLACES_64 % 50 == 0, 0, normal((64, 64))), "2.0% zeros: a mask costs more than it saves"),
        (
            lambda: small_between_zeros(7),
            "7 values up to 0.001 are not zero; `detect.threshold: 0.001` would make them so and save 31 bytes",
        ),
    ],
)
def test_near_misses_are_named(make: Callable[[], NDArray], near_miss: str) -> None:
    assert near_miss in find(weight(make().astype(np.float32)), EVERY).near_misses


def small_between_zeros(count: int) -> NDArray:
    """75 % zeros, and some values that are almost."""
    values = np.where(rng(count).random((64, 64)) < 0.75, 0, normal((64, 64)))
    values.reshape(-1)[np.flatnonzero(values)[:count]] = 5e-4
    return values


@pytest.mark.parametrize(
    ("threshold", "small", "said"),
    [
        (None, 200, ""),
        (1e-3, 200, "200 values up to 0.001 are not zero: too many to be taken for noise"),
        (0.0, 200, ""),
        (0.0, 7, ""),
        (1e-3, 7, ""),
    ],
)
def test_small_values_are_mentioned_where_that_helps(threshold: float | None, small: int, said: str) -> None:
    finding = find(weight(small_between_zeros(small).astype(np.float32)), Settings(0, threshold))
    assert finding.near_misses == ((said,) if said else ())


@pytest.mark.parametrize("scale", [1, 0.05, 1e-3])
def test_small_values_of_a_weight_without_zeros_are_no_near_miss(scale: float) -> None:
    values = rng(scale).normal(0, scale, (64, 64)).astype(np.float32)
    for threshold in (None, 1e-3):
        finding = find(weight(values), Settings(0, threshold))
        assert (finding.near_misses, finding.candidates) == ((), ())


@pytest.mark.parametrize(
    ("of_others", "folded"),
    [
        pytest.param(lambda table: table, True, id="all of the table"),
        pytest.param(lambda table: -table[:7], True, id="a part of it, turned around"),
        pytest.param(lambda table: 0 * table, True, id="zeros"),
        pytest.param(lambda table: np.linspace(-1, 1, 15), False, id="another table"),
    ],
)
def test_a_factor_for_each_channel_is_one_for_all_of_them(
    of_others: Callable[[NDArray], NDArray], *, folded: bool
) -> None:
    table = np.sort(normal((16,)))
    other = of_others(table)
    places = rng(5).permuted(np.tile(np.arange(256) % 240, (256, 1)), axis=1)
    values = np.where(np.arange(256)[:, None] < 128, table[places % 16], other[places % len(other)])
    values = values * rng(6).uniform(0.5, 2, (256, 1))
    missed = find(weight(values.astype(np.float32)), EVERY).near_misses
    assert any("behind a factor per channel" in miss for miss in missed) == folded
