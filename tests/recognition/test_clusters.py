"""Clusters of values: those that sorting all values shows, by the ends of ranges alone."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.arrays import FLOAT_DTYPES, NDArray
from compressor.recognition import clusters

TABLES = {
    "spread": np.linspace(-1, 1, 16),
    "with zero": np.linspace(-1, 1, 17),
    "many": np.linspace(-3, 3, 256),
    "near each other": 1 + np.arange(64) * 1e-3,
    "two scales": np.concatenate([np.arange(8.0), 100 + np.arange(8.0)]),
    "one": np.array([0.5]),
    "too many": np.linspace(-1, 1, 300),
    "far apart": 10.0 ** np.arange(-9, 4),
}


def plain(values: NDArray, tolerance: float) -> tuple[list[float], list[float]] | None:
    """The same from all values in order, gap by gap."""
    ordered = np.sort(values.astype(np.float64).reshape(-1))
    if not np.isfinite(ordered).all():
        return None
    gaps = np.diff(ordered)
    for count in range(1, 256):
        widest = np.argsort(-gaps, kind="stable")[: count + 1]
        if len(widest) <= count or gaps[widest[count - 1]] < 8 * gaps[widest[count]]:
            continue
        parts = np.split(ordered, np.sort(widest[:count]) + 1)
        width = max(part[-1] - part[0] for part in parts)
        middle = [0.0 if part[0] <= 0 <= part[-1] else part[0] / 2 + part[-1] / 2 for part in parts]
        exact = np.array(middle).astype(values.dtype).astype(np.float64).tolist()
        error = max(max(at - part[0], part[-1] - at) for at, part in zip(exact, parts, strict=True))
        if gaps[widest[count - 1]] >= 8 * width > 0 and error <= tolerance:
            return [part[0] for part in parts], exact
    return None


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("noise", [0, 1e-7, 1e-5, 1e-2])
def test_clusters_are_those_of_all_values_in_order(table: str, dtype: str, noise: float) -> None:
    random = np.random.default_rng(1)
    values = random.choice(TABLES[table], (45, 60)) * (1 + noise * random.normal(size=(45, 60)))
    values = (values + noise * random.normal(size=(45, 60))).astype(FLOAT_DTYPES[dtype])
    for tolerance in (0.3, 1e-1, 1e-4):
        found, expected = clusters.find(values, tolerance), plain(values, tolerance)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert (found.low.tolist(), found.middle.astype(np.float64).tolist()) == expected


def test_values_that_are_no_numbers_are_in_no_cluster() -> None:
    values = np.tile(np.array([1, 1.001, 5, 5.001], np.float32), 1000)
    assert clusters.find(values, 0.1) is not None
    for rare in (np.nan, np.inf, -np.inf):
        values[3999] = rare
        assert clusters.find(values, 0.1) is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("unit", [1.0, 0.0], ids=["the greatest numbers", "the least ones"])
def test_clusters_may_lie_as_far_apart_as_numbers_do(dtype: str, unit: float) -> None:
    limits = np.finfo(dtype)
    table = np.array([-limits.max, limits.max]) if unit else np.array([0, limits.smallest_subnormal])
    values = np.tile(np.concatenate([table, table * (1 - 1e-6)]).astype(dtype), 1000)
    with np.errstate(over="ignore"):
        expected = plain(values, np.inf)
    found = clusters.find(values, np.inf)
    assert (found is None) == (expected is None)
