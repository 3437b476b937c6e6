"""Palettes: what a table and its codes are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor import encodings
from compressor.arrays import FLOAT_DTYPES, DType, NDArray, Shape
from compressor.patterns import above
from compressor.recognition.scan import distinct, scan
from compressor.recognition.schemes import palettize
from tests import strategies
from tests.strategies import bits_of, special


@pytest.mark.parametrize(
    ("entries", "bits"),
    [
        *((2, 1), (3, 2), (4, 2), (5, 3), (7, 3), (8, 3), (9, 4), (16, 4), (17, 5), (33, 6), (64, 6), (65, 7)),
        *((200, 8), (256, 8), (257, None)),
    ],
)
def test_bits_by_number_of_distinct_values(entries: int, bits: int | None) -> None:
    values = (np.arange(64 * 64) % entries + 1).astype(np.float32).reshape(64, 64)
    found = [candidate.spec for candidate in palettize.detect(values, scan(values, 0.0), 0)]
    assert [encodings.name(spec) for spec in found] == ([f"palettized{bits}"] if bits else [])


def test_a_table_is_ascending_and_codes_are_places_in_it() -> None:
    values = np.array([[3, -1, 0.5], [-1, 3, 3]], np.float32)
    encoded = palettize.encode(values, palettize.spec((2, 3), values.dtype, (1, 1), 3), None)
    assert np.asarray(encoded.lut).reshape(-1).tolist() == [-1, 0.5, 3]
    assert np.asarray(encoded.indices).tolist() == [[2, 0, 1], [0, 2, 2]]


def test_shorter_tables_are_filled_up_with_zeros() -> None:
    values = np.array([[3, -1, 0.5], [7, 7, 8]], np.float32)
    encoded = palettize.encode(values, palettize.spec((2, 3), values.dtype, (2, 1), 3), None)
    assert np.asarray(encoded.lut)[:, 0, :, 0].tolist() == [[-1, 0.5, 3], [7, 8, 0]]
    assert np.asarray(encoded.indices).tolist() == [[2, 0, 1], [0, 0, 1]]


def test_only_what_the_mask_shows_is_in_the_table() -> None:
    values = np.array([[3, 0, 0.5], [7, 0, 8]], np.float32)
    encoded = palettize.encode(values, palettize.spec((4,), values.dtype, (1, 1), 4), values != 0)
    assert np.asarray(encoded.lut).reshape(-1).tolist() == [0.5, 3, 7, 8]
    assert np.asarray(encoded.indices).tolist() == [1, 0, 2, 3]


@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (1, 3)])
@pytest.mark.parametrize("entries", [1, 2])
def test_more_values_than_entries_are_refused(groups: Shape, entries: int) -> None:
    values = np.array([[3, -1, 0.5, 4, 9, 1], [7, 7, 8, 1, 2, 3]] * 2, np.float32)
    with pytest.raises(ValueError, match=f"at most {entries} distinct values, got"):
        palettize.encode(values, palettize.spec(values.shape, values.dtype, groups, entries), None)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES.values(), ids=FLOAT_DTYPES)
@pytest.mark.parametrize("name", ["nan", "inf", "-inf", "smallest", "largest", "payload"])
def test_special_values_keep_their_bits(name: str, dtype: DType) -> None:
    values = np.concatenate([special(dtype, name), np.ones(1, dtype)])[np.arange(4000) % 2].reshape(40, 100)
    encoded = palettize.encode(values, palettize.spec(values.shape, dtype, (1, 1), 2), None)
    assert bits_of(encodings.decode(encoded)) == bits_of(values)


@given(strategies.weights(), st.data())
def test_any_values_in_any_groups_survive(values: NDArray, data: st.DataObject) -> None:
    groups = data.draw(strategies.counts(values.shape))
    table = distinct(values)
    if table is None or table.entries.size > 256:
        return
    nonzero = above(values, 0.0)
    where = data.draw(st.sampled_from([None, nonzero] if nonzero.any() else [None]))
    leaf = values.shape if where is None else (int(np.count_nonzero(where)),)
    spec = palettize.spec(leaf, values.dtype, groups, table.entries.size)
    encoded = palettize.encode(values, spec, where)
    assert encodings.spec(encoded) == spec
    expected = np.where(nonzero, values, values.dtype.type(0))
    if where is None:
        assert bits_of(encodings.decode(encoded)) == bits_of(expected)
    else:
        assert bits_of(encodings.decode(encodings.Sparse(where, encoded, values.shape))) == bits_of(expected)


@pytest.mark.parametrize(("threshold", "left"), [(0.0, 3), (1e-3, 2), (5.0, 1), (9.0, 0)])
def test_what_a_mask_leaves_out_needs_no_entry(threshold: float, left: int) -> None:
    values = np.tile(np.array([0, 1e-4, 5, 9], np.float32), (50, 2))
    spec = palettize.spec(values.shape, values.dtype, (1, 1), 4)
    assert palettize.without_zero(values, spec, threshold, scan(values, threshold)) == left
    grouped = palettize.spec(values.shape, values.dtype, (50, 1), 4)
    assert palettize.without_zero(values, grouped, threshold, scan(values, threshold)) == left


@pytest.mark.parametrize("zeros", [0.0, 0.75])
def test_too_many_values_for_any_tables_are_not_looked_at_by_group(
    zeros: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((64, 64), np.float32) * (rng.random((64, 64)) >= zeros)
    asked: list[object] = []
    monkeypatch.setattr(palettize.vectors, "find", lambda *given: asked.append(given))
    monkeypatch.setattr(palettize, "_grouped", lambda *given: asked.append(given))
    found = scan(values, 0.0)
    best = min(values.nbytes, values.size / 8 + (values.size - found.zeros) * 4)
    assert not [*palettize.detect(values, found, best)]
    assert not asked
