"""One pass over a weight: zeros, small values and distinct values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.arrays import FLOAT_DTYPES, DType, NDArray
from compressor.blocks import BLOCK
from compressor.patterns import above, patterns
from compressor.recognition.scan import COUNTED, distinct, few_distinct, scan
from tests import strategies
from tests.strategies import as_rounded, merged, special, wide


@given(strategies.weights(), st.sampled_from([0.0, 1e-3, 0.1]))
def test_zeros_small_and_distinct_values_are_counted(values: NDArray, threshold: float) -> None:
    facts = scan(values, threshold)
    magnitudes, threshold = np.abs(wide(values)), as_rounded(threshold, values.dtype)
    zeros = int((magnitudes == 0).sum())
    assert (facts.size, facts.zeros, facts.small) == (values.size, zeros, int((magnitudes <= threshold).sum()) - zeros)
    keys = np.unique(merged(values))
    if keys.size > COUNTED:
        assert facts.table is None
    else:
        assert facts.table is not None
        assert np.unique(patterns(facts.table.entries)).tolist() == keys.tolist()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES.values(), ids=FLOAT_DTYPES)
@pytest.mark.parametrize("name", strategies.SPECIAL)
def test_special_values_are_kept_apart(dtype: DType, name: str) -> None:
    value = special(dtype, name)
    values = np.concatenate([np.array([1, 2, -1]).astype(dtype), value] * 5000)
    facts = scan(values, 0.0)
    assert facts.table is not None
    assert facts.table.entries.size == 4
    assert facts.zeros == (5000 if name in ("0.0", "-0.0") else 0)
    assert patterns(value if facts.zeros == 0 else np.abs(value))[0] in patterns(facts.table.entries)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES.values(), ids=FLOAT_DTYPES)
@pytest.mark.parametrize(("payloads", "count"), [(1, 2), (3, 4)])
def test_nan_payloads_are_values_of_their_own(dtype: DType, payloads: int, count: int) -> None:
    unsigned = np.dtype(f"u{dtype.itemsize}")
    nan = patterns(np.array([np.nan]).astype(dtype))[0] | np.arange(payloads).astype(unsigned)
    values = np.concatenate([nan.astype(unsigned).view(dtype), np.ones(9).astype(dtype)])
    table = distinct(values)
    assert table is not None
    assert table.entries.size == count


@pytest.mark.parametrize("place", [0, 5000, 70_000, 99_999], ids="{} th".format)
@pytest.mark.parametrize(("count", "expected"), [(1, 2), (16, 17), (255, 256), (256, 257), (319, 320), (320, None)])
def test_a_value_that_occurs_once_is_found_wherever_it_is(place: int, count: int, expected: int | None) -> None:
    values = (np.arange(100_000) % count).astype(np.float32)
    values[place] = -1
    table = distinct(values)
    assert (None if table is None else table.entries.size) == expected


@pytest.mark.parametrize("count", [COUNTED + 1, 1000, 100_000])
def test_values_that_appear_late_are_too_many_all_the_same(count: int) -> None:
    values = np.zeros(200_000, np.float32)
    values[-count:] = np.arange(count)
    assert distinct(values) is None


def spread(random: np.random.Generator, dtype: DType, size: int) -> NDArray:
    """Up to 330 distinct values of any bits, most of them rare, in some order: what a sample of it misses is left."""
    count = int(min(size, random.choice([1, 2, 17, 40, 200, 256, 257, 300, 320, 321, 330])))
    entries = strategies.any_bits(random, (count,), dtype)
    if random.random() < 0.3:  # the least magnitudes there are, of both signs
        few = random.integers(0, count, count) | random.integers(0, 2, count) << dtype.itemsize * 8 - 1
        entries = few.astype(f"u{dtype.itemsize}").view(dtype)
    common = int(random.integers(1, count + 1))
    places = random.integers(0, common, size)
    rare = random.permutation(size)[: (count - common) * int(random.choice([1, 3, 50]))]
    places[rare] = np.arange(rare.size) % max(1, count - common) + common
    if random.random() < 0.5:
        places.sort()
    return entries[places]


INTEGERS = [np.dtype(name) for name in ("int8", "uint8", "int16", "uint64")]


@pytest.mark.parametrize("size", [1, 100, 5000, BLOCK + 1, 9 * BLOCK + 77])
@pytest.mark.parametrize("dtype", [*FLOAT_DTYPES.values(), *INTEGERS], ids=str)
def test_distinct_values_are_those_that_numpy_finds(dtype: DType, size: int) -> None:
    for seed in range(6):
        values = spread(np.random.default_rng([seed, size, dtype.itemsize]), dtype, size)
        expected = np.unique(merged(values)).tolist()
        for found in (scan(values, 0.0).table, distinct(values)):
            if len(expected) > COUNTED:
                assert found is None
            else:
                assert found is not None
                assert np.unique(patterns(found.entries)).tolist() == expected
        few = few_distinct(values)
        assert (None if few is None else np.unique(patterns(few)).tolist()) == (
            None if len(expected) > COUNTED else expected
        )


@pytest.mark.parametrize("dtype", FLOAT_DTYPES.values(), ids=FLOAT_DTYPES)
def test_rare_values_in_two_million_are_all_counted(dtype: DType) -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 16, 1 << 21).astype(dtype)
    places = random.permutation(values.size)[:8000]
    values[places] = (random.integers(0, 40, places.size) + 20).astype(dtype)
    values[2_000_001:2_000_006] = np.array([100, 101, 102, 103, 104]).astype(dtype)
    table = distinct(values)
    assert table is not None
    assert table.entries.astype(int).tolist() == [*range(16), *range(20, 60), *range(100, 105)]


def test_the_least_magnitudes_of_float64_are_no_zeros() -> None:
    least = np.arange(1, 9) * 5e-324
    values = np.tile(np.concatenate([least, -least]), 1000)
    facts = scan(values, 0.0)
    assert facts.table is not None
    assert facts.table.entries.tolist() == [*-least[::-1], *least]
    assert facts.zeros == 0


@pytest.mark.parametrize(
    ("dtype", "threshold", "values", "small"),
    [
        ("float32", 1e-3, [0.001, -0.001, 0.0010001, 0.0009999], 3),
        ("float64", 1e-3, [0.001, -0.001, 0.0010001, 0.0009999], 3),
        ("float16", 1e-3, [0.001, 0.0010004, 0.0009995, 0.0010014], 3),
        ("float32", 0.0, [1e-45, -1e-45], 0),
        ("float16", 1e9, [65504, 1], 2),
        ("float32", 1e9, [float("nan"), float("inf"), 1], 1),
    ],
)
def test_the_threshold_is_rounded_as_the_weight_is(
    dtype: str, threshold: float, values: list[float], small: int
) -> None:
    assert scan(np.array(values).astype(FLOAT_DTYPES[dtype]), threshold).small == small


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
def test_integers_have_one_zero_and_no_small_values(dtype: type[np.integer]) -> None:
    facts = scan(np.array([0, 0, 1, -128 if dtype == np.int8 else 128], dtype), 1e-3)
    assert facts.table is not None
    assert (facts.zeros, facts.small, facts.table.entries.size) == (2, 0, 3)


def test_the_last_block_counts_too() -> None:
    values = np.ones(BLOCK + 1, np.float32)
    values[-1] = 0
    assert scan(values, 0.0).zeros == 1
    assert not above(values, 0.0)[-1]


@pytest.mark.parametrize("size", [5, 10_000])
def test_both_zeros_are_one_value(size: int) -> None:
    values = np.tile(np.array([0.0, -0.0, 1], np.float32), size)
    table, few = distinct(values), few_distinct(values)
    assert table is not None
    assert few is not None
    assert patterns(few).tolist() == patterns(table.entries).tolist() == [0, 0x3F800000]


@pytest.mark.parametrize(
    ("size", "count", "expected"), [(100, 16, 16), (100_000, 16, 16), (400, 321, None), (9000, 321, None)]
)
def test_few_distinct_values_need_no_hash(size: int, count: int, expected: int | None) -> None:
    entries = few_distinct((np.arange(size) % count).astype(np.float32))
    assert (None if entries is None else entries.size) == expected


def test_a_sample_is_a_hypothesis() -> None:
    values = (np.arange(1 << 20) % 16).astype(np.float32)
    values[300_001] = -1
    exact, sampled = distinct(values), distinct(values, sampled=True)
    assert exact is not None
    assert sampled is not None
    assert (exact.entries.size, sampled.entries.size) == (17, 16)


@pytest.mark.parametrize(("size", "count"), [(5000, 5000), (8192, 321), (1 << 16, 400), (1 << 16, 1 << 16), (5000, 7)])
def test_what_was_seen_are_no_more_than_there_are(size: int, count: int) -> None:
    values = (np.arange(size) % count).astype(np.float32).reshape(8, -1)
    found = scan(values, 0.0)
    assert min(count, COUNTED) <= found.least <= count
    assert found.least == count or size > 1 << 13
