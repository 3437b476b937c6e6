"""Weights cut into blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.arrays import Shape, bits
from compressor.encodings import Dense, Quantized, decode, dtype
from compressor.recognition.find import find
from compressor.recognition.findings import Settings
from compressor.recognition.granularity import Granularity, chains, per_tensor
from compressor.weight import Weight
from tests import strategies


@given(strategies.shapes, st.data())
def test_rows_are_the_blocks_and_lead_back(shape: Shape, data: st.DataObject) -> None:
    cut = Granularity(shape, data.draw(strategies.counts(shape)))
    values = np.arange(int(np.prod(shape))).reshape(shape)
    rows = cut.rows(values)
    for row, block in zip(rows, np.ndindex(*cut.counts), strict=True):
        lengths = [dim // count for dim, count in zip(shape, cut.counts, strict=True)]
        part = values[tuple(slice(at * n, (at + 1) * n) for at, n in zip(block, lengths, strict=True))]
        assert row.tolist() == part.reshape(-1).tolist()
    assert np.array_equal(cut.whole(rows), values)
    assert np.isin(cut.probe(values), values).all()


def test_parts_are_all_rows_in_order() -> None:
    cut = Granularity((600, 500), (600, 2))
    values = np.arange(300_000).reshape(600, 500)
    parts = list(cut.parts(values))
    assert [part for part, _ in parts] == [
        slice(0, 262),
        slice(262, 524),
        slice(524, 786),
        slice(786, 1048),
        slice(1048, 1200),
    ]
    assert np.array_equal(np.concatenate([rows for _, rows in parts]), values.reshape(1200, 250))


CHANNELS, ROWS = "per channel along axis 0", "per channel along axis 1"


def blocks(axis: int, *lengths: int) -> list[str]:
    return [f"per block of {length} along axis {axis}" for length in lengths]


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((4, 64), [[CHANNELS, *blocks(1, 32, 16)], [ROWS]]),
        ((1, 64), [blocks(1, 32, 16), [ROWS]]),
        ((8, 3, 16), [[CHANNELS], [ROWS], [], ["per channel along axes 0 and 2"], ["per channel along axes 0 and 1"]]),
        ((8, 64, 3, 3), [[CHANNELS], [ROWS], blocks(1, 32, 16)]),
        (
            (4, 32, 48),
            [
                [CHANNELS, *blocks(2, 16)],
                [ROWS],
                blocks(1, 16),
                ["per channel along axes 0 and 2", *blocks(1, 16)],
                ["per channel along axes 0 and 1", *blocks(2, 16)],
            ],
        ),
    ],
)
def test_granularities_go_from_coarse_to_fine(shape: Shape, names: list[list[str]]) -> None:
    found = list(chains(shape))
    assert [[each.name for each in chain] for chain in found] == names
    for chain in found:
        assert sorted(chain, key=lambda each: np.prod(each.counts)) == chain


@pytest.mark.parametrize(
    ("shape", "counts"),
    [
        pytest.param((16, 64, 1, 1), (16, 2, 1, 1), id="a convolution of one place"),
        pytest.param((16, 64, 3, 3), (16, 2, 1, 1), id="whole kernels"),
        pytest.param((3, 64, 48), (3, 2, 48), id="experts, along K"),
        pytest.param((3, 64, 48), (3, 1, 48), id="experts, channels of their own"),
        pytest.param((3, 48, 64), (3, 48, 2), id="experts, along N"),
    ],
)
@pytest.mark.parametrize("zero_point", [False, True])
def test_a_grid_in_blocks_is_found_along_any_axis(shape: Shape, counts: Shape, *, zero_point: bool) -> None:
    random = np.random.default_rng(0)
    low, high = (0, 16) if zero_point else (-7, 8)
    codes = random.integers(low, high, shape).astype(np.uint8 if zero_point else np.int8)
    scale = random.uniform(0.01, 0.1, counts).astype(np.float32)
    point = random.integers(1, 15, counts).astype(np.uint8) if zero_point else None
    source = Quantized(Dense(codes), scale, point)
    finding = find(Weight("w", Dense(decode(source))), Settings(min_elements=1))
    (grid,) = (one for one in finding.candidates if isinstance(one.spec, Quantized) and not one.loss.max_error)
    assert isinstance(grid.spec, Quantized)
    assert (grid.spec.scale.shape, bits(dtype(grid.spec.data))) == (counts, 4)


def test_all_of_a_weight_is_one_row() -> None:
    assert per_tensor((2, 3)).rows(np.arange(6).reshape(2, 3)).tolist() == [[0, 1, 2, 3, 4, 5]]
