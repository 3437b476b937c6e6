"""Tables of distinct values, and the hash into them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from compressor.arrays import FLOAT_DTYPES, DType, NDArray
from compressor.patterns import patterns
from compressor.recognition.scan import distinct
from tests import strategies
from tests.strategies import merged, wide


@given(strategies.weights())
def test_a_table_gives_every_value_back_in_ascending_order(values: NDArray) -> None:
    table = distinct(values)
    if table is None or table.entries.size > 256:
        return
    entries = wide(table.entries)
    finite = entries[~np.isnan(entries)]
    assert (np.diff(finite[np.isfinite(finite)]) > 0).all()
    assert np.isnan(entries[finite.size :]).all()
    indices = table.index(values)
    assert (indices.shape, indices.dtype.name) == (values.shape, "uint8")
    assert patterns(table.entries[indices]).tolist() == merged(values).tolist()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES.values(), ids=FLOAT_DTYPES)
@pytest.mark.parametrize("late", [0.0, -0.0, float("nan"), float("inf"), 2.0**-20])
def test_an_unused_slot_matches_nothing(late: float, dtype: DType) -> None:
    values = (np.arange(100_000) % 16 + 1).astype(dtype)
    values[70_001] = late
    table = distinct(values)
    assert table is not None
    assert table.entries.size == 17


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(2.0 ** np.arange(-126, 128), id="powers of two"),
        pytest.param(np.arange(320.0), id="integers"),
        pytest.param(np.arange(320) * 1e-45, id="subnormals"),
        pytest.param(1 + np.arange(320) * 2.0**-23, id="neighbours"),
        pytest.param(np.arange(320) * 2.0**-40 + 2.0**-20, id="close"),
        pytest.param(np.outer([1, -1], 2.0 ** np.arange(-60, 60)).reshape(-1), id="both signs"),
        pytest.param(np.linspace(-1, 1, 320), id="linear"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_that_differ_in_few_bits_get_a_table(keys: NDArray, dtype: type[np.floating]) -> None:
    values = np.unique(keys.astype(dtype))
    table = distinct(np.tile(values, 100))
    assert table is not None
    assert table.entries.tolist() == values.tolist()
