"""Grids: the scale is recovered from the values, or there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor import encodings
from compressor.arrays import CODE_DTYPES, FLOAT_DTYPES, ArraySpec, NDArray, Shape
from compressor.compilation.verify import differences
from compressor.encodings import Dense, Quantized
from compressor.kernels import dequantize, expand
from compressor.recognition.scan import scan
from compressor.recognition.schemes import linear_quantize
from tests import strategies
from tests.strategies import bits_of


def grids(values: NDArray) -> list[Quantized]:
    found = [candidate.spec for candidate in linear_quantize.detect(values, scan(values, 0.0), values.nbytes)]
    assert all(isinstance(spec, Quantized) for spec in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("codes", "scale", "code", "least"),
    [
        ([-8, 7, 3, 1], 0.25, "int4", None),
        ([0, 15, 1, 8], 0.25, "uint4", None),
        ([-3, 12, 1, 8], 0.25, "uint4", 3),
        ([-3, 13, 1, 8], 0.25, "int8", None),
        ([-2, 1, 0, 1], 0.25, "int2", None),
        ([-1, 2, 0, 1], 0.25, "uint2", 1),
        ([0, 3, 2, 1], 0.25, "uint2", None),
        ([-128, 127, 0, 1], 0.25, "int8", None),
        ([0, 255, 0, 1], 0.25, "uint8", None),
        ([-200, 55, 0, 1], 0.25, "uint8", 200),
        ([-7, 5, 3, 1], 1e30, "int4", None),
        ([-7, 5, 3, 1], 1e-38, "int4", None),
        ([-7, 5, 3, 1], 1.4e-45, "int4", None),
        ([-6, 4, 2, 2], 0.25, "int4", None),
    ],
)
def test_the_narrowest_code_holds_the_multiples(codes: list[int], scale: float, code: str, least: int | None) -> None:
    values = (np.tile(np.array(codes), (64, 16)) * np.float32(scale)).astype(np.float32)
    (spec,) = grids(values)
    assert encodings.dtype(spec.data) == CODE_DTYPES[code]
    encoded = linear_quantize.encode(values, spec, None)
    stored = None if encoded.zero_point is None else int(np.asarray(encoded.zero_point).astype(int).item())
    assert stored == least
    divisor = np.gcd.reduce(codes)
    assert np.asarray(encoded.scale).item() == np.float32(scale) * divisor
    zero = least or 0
    assert np.asarray(encoded.data.values)[0, :4].astype(int).tolist() == [each // divisor + zero for each in codes]  # type: ignore[union-attr]
    assert bits_of(encodings.decode(encoded)) == bits_of(values)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([1, 256, 3, 5], id="256 steps from zero"),
        pytest.param([-128, 128, 3, 5], id="a span of 256"),
        pytest.param([1, np.float32(1) / 3, 0.7, 0.123], id="no multiples"),
        pytest.param([1, 100, np.nextafter(np.float32(101), np.float32(102)), 255], id="one value a rounding off"),
        pytest.param([1, 2, np.inf, 5], id="infinite"),
        pytest.param([1, 2, np.nan, 5], id="NaN"),
        pytest.param([1e-45, 1e38, 1, 2], id="too far apart"),
    ],
)
def test_values_on_no_grid(values: list[float]) -> None:
    array = np.random.default_rng(0).permuted(np.tile(np.array(values, np.float32), (64, 16)))
    assert grids(array) == []
    spec = Quantized(Dense(ArraySpec(array.shape, CODE_DTYPES["int8"])), ArraySpec((1, 1), array.dtype))
    with pytest.raises(ValueError, match=r"values on a grid of \[1, 1\] scales for \[64, 64\]"):
        linear_quantize.encode(array, spec, None)


def test_a_channel_of_zeros_keeps_a_finite_scale() -> None:
    values = np.tile(np.arange(-8, 8, dtype=np.float32), (8, 4)) * np.array(
        [[0], [1], [3], [5], [7], [0], [9], [0.3]], np.float32
    )
    (spec,) = grids(values)
    encoded = linear_quantize.encode(values, spec, None)
    scale = np.asarray(encoded.scale).reshape(-1)
    assert scale.tolist() == [1, 1, 3, 5, 7, 1, 9, np.float32(0.3)]
    assert encodings.name(encoded) == "int4"


@pytest.mark.parametrize("scales", [(6, 1), (1, 64), (6, 4), (1, 1)], ids=str)
def test_a_weight_that_is_on_no_such_grid_is_refused(scales: Shape) -> None:
    values = np.random.default_rng(1).normal(size=(6, 64)).astype(np.float32)
    values[3, 40] = np.nan
    spec = Quantized(Dense(ArraySpec((6, 64), CODE_DTYPES["int8"])), ArraySpec(scales, values.dtype))
    with pytest.raises(ValueError, match="values on a grid of"):
        linear_quantize.encode(values, spec, None)


@given(
    st.sampled_from([*FLOAT_DTYPES]),
    st.sampled_from([(-127, 127), (0, 15), (-9, 5), (0, 1)]),
    strategies.shapes,
    st.data(),
)
def test_whatever_is_found_is_exact(dtype: str, codes: tuple[int, int], shape: Shape, data: st.DataObject) -> None:
    generator = strategies.random(data.draw)
    scales = data.draw(strategies.counts(shape))
    scale: Any = (generator.uniform(0.5, 2, scales) * data.draw(st.sampled_from([1e-30, 1e-6, 1, 60, 1e30]))).astype(
        np.float32
    )
    with np.errstate(over="ignore", under="ignore"):
        scale = scale.astype(FLOAT_DTYPES[dtype])
    values = dequantize(generator.integers(*codes, shape, endpoint=True).astype(np.int16), expand(scale, shape))
    for spec in grids(values):
        where = data.draw(st.sampled_from([None, generator.random(shape) < 0.5]))
        encoded = linear_quantize.encode(values, spec, where)
        if where is None:
            assert encodings.spec(encoded) == spec
            assert differences(values, encodings.decode(encoded), 0.0) == (0, 0)
        else:
            sparse = encodings.decode(encodings.Sparse(where, encoded, shape))
            assert np.array_equal(sparse[where], values[where])
            assert not sparse[~where].any()


def test_a_row_that_is_searched_by_its_distinct_values_is_the_same() -> None:
    codes = np.random.default_rng(2).integers(-127, 128, (2, 1 << 18)).astype(np.int16)
    values = dequantize(codes, np.array([[0.3], [0.7]], np.float32))
    (spec,) = grids(values)
    assert spec.scale.shape == (2, 1)
    encoded = linear_quantize.encode(values, spec, None)
    assert np.array_equal(np.asarray(encoded.data.values), codes)  # type: ignore[union-attr]
    assert np.asarray(encoded.scale).reshape(-1).tolist() == [np.float32(0.3), np.float32(0.7)]


@pytest.mark.parametrize("zero_point", [None, 3])
def test_centred_codes_are_zero_where_the_value_is(zero_point: int | None) -> None:
    codes = np.array([[0, 3, 255]], np.uint8)
    point = None if zero_point is None else np.full((1, 1), zero_point, np.uint8)
    encoding = Quantized(Dense(codes), np.zeros((1, 1), np.float32), point)
    assert linear_quantize.centred(encoding).tolist() == [
        [0 - (zero_point or 0), 3 - (zero_point or 0), 255 - (zero_point or 0)]
    ]
