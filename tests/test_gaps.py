"""Places of non-zeros as the distances between them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compressor.arrays import UINT4, UINT8, DType, bits
from compressor.encodings import Dense, Sparse, decode, nbytes
from compressor.errors import DamageError
from compressor.gaps import GAPS, count_of, gaps_into, gaps_to_mask, of_mask, of_masks, to_mask
from tests import strategies

dtypes = st.sampled_from(GAPS)


def by_hand(places: list[int], dtype: DType) -> Iterator[int]:
    """The codes, as the page says them."""
    last, most, count = 0, (1 << bits(dtype)) - 1, 0
    for place in places:
        skips, rest = divmod(place - last, most)
        yield from [most] * skips
        yield rest
        last, count = place, count + skips + 1
    if bits(dtype) == 4 and count % 2:
        yield most


@given(dtypes, st.lists(st.integers(1, 600), max_size=40).map(lambda steps: np.cumsum(steps).tolist()))
@example(UINT4, [0, 1, 15, 30, 46, 1000])
@example(UINT8, [0, 1, 255, 510, 766, 5000])
def test_codes_are_the_distances_and_tell_the_places(dtype: DType, places: list[int]) -> None:
    mask = np.zeros((places[-1] if places else 5) + 1, np.bool_)
    mask[places] = True
    codes = of_mask(mask, dtype)
    assert codes.dtype == dtype
    assert codes.tolist() == [*by_hand(places, dtype)]
    for length in (1, 7, 100):
        rows = (mask[start : start + length] for start in range(0, mask.size, length))
        assert of_masks(rows, dtype).tolist() == codes.tolist()
        rows = (mask[start : start + length] for start in range(0, mask.size, length))
        assert count_of(rows, dtype) == codes.size
    assert np.array_equal(to_mask(codes, mask.shape), mask)


@given(dtypes, st.sampled_from([0.0, 0.004, 0.05, 0.3, 1.0]), st.integers(0, 300) | st.just(70_000), st.data())
def test_both_ways_do_the_same(dtype: DType, share: float, size: int, data: st.DataObject) -> None:
    """The loops in C, where they are, and their definitions; over several blocks too."""
    mask, most = strategies.random(data.draw).random(size) < share, (1 << bits(dtype)) - 1
    codes = of_mask(mask, dtype).view(np.uint8)
    for written, read in ((gaps_into, gaps_to_mask), (inspect.unwrap(gaps_into), inspect.unwrap(gaps_to_mask))):
        count, after = written(mask, np.empty(0, np.uint8), most, 0)
        assert 0 <= codes.size - count < 2
        again, back = np.full(codes.size + 1, most, np.uint8), np.zeros(size, np.bool_)
        assert written(mask, again, most, 0) == (count, after)
        assert np.array_equal(again[:count], codes[:count])
        assert read(codes, back, most)
        assert np.array_equal(back, mask)


@pytest.mark.parametrize(
    ("codes", "size"),
    [([3, 1, 7], 11), ([15, 15, 2, 15], 32), ([3, 0], 9), ([0, 0], 9), ([15, 3, 0, 15], 99), ([14] * 40, 500)],
)
@pytest.mark.parametrize("compiled", [True, False])
def test_codes_that_tell_no_places_are_refused(codes: list[int], size: int, *, compiled: bool) -> None:
    """They run over the end, or stand still."""
    read = gaps_to_mask if compiled else inspect.unwrap(gaps_to_mask)
    assert not read(np.array(codes, np.uint8), np.zeros(size, np.bool_), 15)
    with pytest.raises(DamageError, match=rf"gaps between ascending places below {size}"):
        decode(Sparse(np.array(codes, UINT4), Dense(np.ones(len(codes) - codes.count(15), np.float32)), (size,)))


@pytest.mark.parametrize("values", [2, 4])
def test_as_many_values_as_places(values: int) -> None:
    with pytest.raises(DamageError, match=f"a mask of 3 set bits for {values} values"):
        decode(Sparse(np.array([3, 1, 15, 5], UINT4), Dense(np.ones(values, np.float32)), (5, 6)))


def test_what_an_encoding_with_them_takes_and_is_worth() -> None:
    codes = of_mask(np.arange(50) % 17 == 3, UINT4)
    encoding = Sparse(codes, Dense(np.float32([1, 2, 3])), (5, 10))
    assert (codes.tolist(), nbytes(encoding)) == ([3, 15, 2, 15, 2, 15], 3 + 12)
    assert decode(encoding).reshape(-1)[[3, 20, 37]].tolist() == [1, 2, 3]
