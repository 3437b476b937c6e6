"""Weights cut into blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.arrays import Shape
from compressor.recognition.granularity import Granularity, along, per_tensor
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


@pytest.mark.parametrize(
    ("shape", "axis", "names"),
    [
        (
            (4, 64),
            0,
            ["per channel along axis 0", "per block of 32 along axis 1", "per block of 16 along axis 1"],
        ),
        ((4, 64), 1, ["per channel along axis 1"]),
        ((1, 64), 0, ["per block of 32 along axis 1", "per block of 16 along axis 1"]),
        ((8, 3, 16), 0, ["per channel along axis 0"]),
    ],
)
def test_granularities_go_from_coarse_to_fine(shape: Shape, axis: int, names: list[str]) -> None:
    found = list(along(shape, axis))
    assert [each.name for each in found] == names
    assert sorted(found, key=lambda each: np.prod(each.counts)) == found


def test_all_of_a_weight_is_one_row() -> None:
    assert per_tensor((2, 3)).rows(np.arange(6).reshape(2, 3)).tolist() == [[0, 1, 2, 3, 4, 5]]
