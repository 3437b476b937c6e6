"""Values as bit patterns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.arrays import NDArray
from compressor.patterns import above, patterns, sortable, unsortable
from tests import strategies
from tests.strategies import as_rounded, merged, wide


@given(strategies.weights(), st.sampled_from([0.0, 1e-3, 1e9]))
def test_above_is_what_exceeds_a_magnitude(values: NDArray, threshold: float) -> None:
    magnitudes = np.abs(wide(values))
    rounded = as_rounded(threshold, values.dtype)
    assert above(values, threshold).tolist() == (~(magnitudes <= rounded)).tolist()


@pytest.mark.parametrize("threshold", [1e30, 1e300])
def test_a_threshold_beyond_the_type_keeps_infinities(threshold: float) -> None:
    assert above(np.array([65504, np.inf, -np.inf, np.nan], np.float16), threshold).tolist() == [
        False,
        True,
        True,
        True,
    ]


@given(strategies.weights())
def test_keys_sort_as_values_do(values: NDArray) -> None:
    keys = sortable(values)
    assert patterns(unsortable(keys, values.dtype)).tolist() == merged(values).tolist()
    ordered = wide(unsortable(np.sort(keys), values.dtype))
    assert (np.diff(ordered[np.isfinite(ordered)]) >= 0).all()
