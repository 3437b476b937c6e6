"""The passes that decoding and encoding are made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.arrays import FLOAT_DTYPES
from compressor.kernels import dequantize, expand, scatter, select
from tests import strategies


@pytest.mark.parametrize("name", FLOAT_DTYPES)
def test_dequantizing_rounds_once(name: str) -> None:
    dtype = FLOAT_DTYPES[name]
    codes = np.arange(-255, 256, dtype=np.int16)
    scale = np.array(0.1).astype(dtype)
    exact = codes * float(scale)  # a product of 9 and at most 53 bits: float64 rounds that of a float64 alone, once too
    assert dequantize(codes, scale).tolist() == exact.astype(dtype).tolist()


@pytest.mark.parametrize(("counts", "to"), [((2, 3), (4, 3)), ((1, 1), (4, 6)), ((4, 2), (4, 6)), ((1, 0), (0, 0))])
def test_a_parameter_by_block_is_repeated(counts: tuple[int, ...], to: tuple[int, ...]) -> None:
    parameter = np.arange(int(np.prod(counts))).reshape(counts)
    expanded = expand(parameter, to)
    assert expanded.shape == to
    for place in np.ndindex(to):
        block = tuple(at // (dim // count) for at, dim, count in zip(place, to, counts, strict=True))
        assert expanded[place] == parameter[block]


@given(st.integers(0, 100_000), st.data())
def test_selecting_is_indexing_by_a_mask_and_scattering_undoes_it(size: int, data: st.DataObject) -> None:
    generator = strategies.random(data.draw)
    values, where = generator.normal(size=(size, 1)), generator.random((size, 1)) < 0.3
    chosen = select(values, where)
    assert np.array_equal(chosen, values[where])
    assert np.array_equal(scatter(chosen, where), np.where(where, values, 0))
