"""Tables of the distinct values of every row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from compressor.arrays import FLOAT_DTYPES, NDArray
from compressor.patterns import merged
from compressor.recognition.row_tables import row_tables
from tests import strategies


@given(strategies.weights())
def test_the_table_of_every_row_has_its_distinct_values(values: NDArray) -> None:
    tables = row_tables(values)
    expected = [np.unique(merged(row)) for row in values]
    if max(map(len, expected)) > 256:
        assert tables is None
    else:
        assert tables is not None
        assert [np.unique(table).tolist() for table in tables] == [keys.tolist() for keys in expected]


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("count", [1, 2, 16, 100, 250, 300])
@pytest.mark.parametrize("turned", [False, True])
def test_long_rows_have_their_rare_values_too(count: int, dtype: str, *, turned: bool) -> None:
    random, kind = np.random.default_rng(count), FLOAT_DTYPES[dtype]
    tables = random.integers(0, 1 << 15, (70, count)).astype(f"u{min(kind.itemsize, 4)}")
    if kind.itemsize >= 4:
        tables = tables.astype(f"u{kind.itemsize}") * 40503
    values = np.take_along_axis(tables, np.minimum(random.geometric(0.03, (70, 1500)) - 1, count - 1), axis=1).view(
        kind
    )
    values[3, 7], values[3, 1001], values[69, 1499] = -0.0, 0.0, -0.0
    found = row_tables(np.asfortranarray(values) if turned else values)
    expected = [np.unique(merged(row)) for row in values]
    if max(map(len, expected)) > 256:
        assert found is None
    else:
        assert found is not None
        assert [np.unique(table).tolist() for table in found] == [keys.tolist() for keys in expected]
        assert all((np.diff(table.astype(np.int64)) >= 0).all() for table in found)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_codes_have_tables_too(dtype: str) -> None:
    """What is looked at for the codes of a quantized source."""
    codes = np.random.default_rng(0).integers(-100, 101, (30, 2000)).astype(dtype)
    found = row_tables(codes)
    assert found is not None
    assert [np.unique(table).tolist() for table in found] == [
        np.unique(row).tolist() for row in codes.view(f"u{codes.itemsize}")
    ]
