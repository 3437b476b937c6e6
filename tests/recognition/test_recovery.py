"""Codes behind values: found where every value is one, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from compressor import encodings
from compressor.arrays import BFLOAT16, ComputedArray, NDArray
from compressor.encodings import Dense, Encoding, Palettized, Quantized
from compressor.recognition import lookup
from compressor.recognition.findings import Settings
from compressor.recognition.recovery import recovered
from compressor.weight import Weight

F16, F32 = np.dtype(np.float16), np.dtype(np.float32)
RNG = np.random.default_rng(0)
CODES = RNG.integers(-127, 128, (256, 512)).astype(np.int8)
SCALES = RNG.uniform(0.001, 0.01, (256, 1)).astype(np.float32)


SCHEMES = ("linear_quantize", "scaled_table", "sparsify")
NF4 = dict(lookup.formats())["nf4"]


def of(values: NDArray) -> Weight:
    return Weight("w", Dense(values), note="trained")


def found(weight: Weight, precision: np.dtype[np.generic] = F16) -> Weight:
    return recovered(weight, Settings(), precision, SCHEMES, lambda _: True)[0]


def test_values_on_a_grid_become_the_codes_that_they_were() -> None:
    values = CODES * SCALES
    made = found(of(values))
    assert isinstance(made.encoding, Quantized)
    assert np.array_equal(np.asarray(made.encoding.scale), SCALES)
    assert np.array_equal(encodings.decode(made.encoding.data), CODES)
    assert np.array_equal(encodings.decode(made.encoding), values)
    assert (made.evidence, made.note) == ("int8 grid per channel along axis 0", "trained")


def test_the_last_block_of_an_axis_stays_as_short_as_it_was() -> None:
    """300 in blocks of 64 are five, and so are 300 in blocks of 60: the length is what tells them apart."""
    codes, block = RNG.integers(-7, 8, (256, 300)).astype(np.int8), (1, 64)
    codes[:, ::64] = 7
    grid = Quantized(Dense(codes), RNG.uniform(0.001, 0.01, (256, 5)).astype(np.float32), block=block)
    values = encodings.decode(grid)
    made = found(of(values))
    assert isinstance(made.encoding, Quantized)
    assert made.encoding.block == block
    assert np.array_equal(encodings.decode(made.encoding), values)


def test_a_value_that_no_sample_shows_keeps_all_of_them() -> None:
    values = CODES * SCALES
    values[200, 300] += np.float32(1e-4)
    weight = of(values)
    assert found(weight) is weight


@pytest.mark.parametrize(
    ("values", "precision"),
    [
        pytest.param(RNG.normal(size=(256, 512)).astype(np.float32), F16, id="on no grid"),
        pytest.param(CODES, F16, id="codes already"),
        pytest.param((CODES * SCALES)[:1, :8], F16, id="too few values"),
        pytest.param((CODES * np.float32(0.0078125)).astype(BFLOAT16), F16, id="of a coarser type than the products"),
        pytest.param((CODES * SCALES).astype(np.float16), F32, id="of a coarser type than the products"),
    ],
)
def test_other_weights_stay_as_they_are(values: NDArray, precision: np.dtype[np.generic]) -> None:
    weight = of(values)
    assert found(weight, precision) is weight


@pytest.mark.parametrize("block", [None, (1, 64)])
def test_a_table_is_recovered_with_the_scales_that_it_had(block: tuple[int, int] | None) -> None:
    indices = RNG.integers(0, 16, (256, 300)).astype(np.uint8)
    indices[:, ::64] = 15
    scales = RNG.uniform(0.001, 0.01, (256, 1 if block is None else 5)).astype(np.float32)
    form = Quantized(Palettized(indices, NF4.reshape(1, 1, 16, 1)), scales, None, block)
    values = encodings.decode(form)
    made = found(of(values))
    assert isinstance(made.encoding, Quantized)
    assert isinstance(made.encoding.data, Palettized)
    assert isinstance(made.encoding.data.indices, ComputedArray)
    assert np.array_equal(np.asarray(made.encoding.data.indices), indices)
    assert np.array_equal(np.asarray(made.encoding.scale), scales)
    assert made.encoding.block == block
    assert made.evidence.startswith("nf4, scaled per ")
    assert np.array_equal(encodings.decode(made.encoding), values)


def test_what_is_worth_it_is_asked_of_all_that_may_take_part() -> None:
    values = CODES * SCALES * (RNG.random(CODES.shape) < 0.3)
    asked: list[list[str]] = []

    def worth(forms: Sequence[Encoding]) -> bool:
        asked.append([encodings.name(form) for form in forms])
        return False

    weight = of(values.astype(np.float32))
    assert recovered(weight, Settings(), F16, SCHEMES, worth)[0] is weight
    assert asked[0] == ["int8", "sparse(int8)"]
    asked.clear()
    assert recovered(weight, Settings(), F16, ("linear_quantize",), worth)[0] is weight
    assert asked == [["int8"]]
    asked.clear()
    assert recovered(weight, Settings(), F16, ("palettize",), worth)[0] is weight
    assert asked == []
