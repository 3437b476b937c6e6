"""Weights cut into blocks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.arrays import Shape, bits
from compressor.compilation.encode import encode
from compressor.encodings import Dense, Palettized, Quantized, decode, dtype, nbytes, spec
from compressor.recognition.find import find
from compressor.recognition.findings import Settings
from compressor.recognition.granularity import Granularity, chains, per_tensor
from compressor.recognition.lookup import formats
from compressor.weight import Weight
from tests import strategies


@given(strategies.shapes, st.data())
def test_rows_are_the_blocks_and_lead_back(shape: Shape, data: st.DataObject) -> None:
    lengths = tuple(data.draw(st.integers(1, dim)) for dim in shape)
    cut, values = Granularity(shape, lengths), np.arange(math.prod(shape)).reshape(shape)
    again, seen = np.empty_like(values), np.zeros(cut.counts, np.intp)
    for part in cut.parts():
        rows = part.rows(values)
        for row, block in zip(rows, itertools.product(*(range(b.start, b.stop) for b in part.blocks)), strict=True):
            own = values[tuple(slice(at * n, (at + 1) * n) for at, n in zip(block, lengths, strict=True))]
            assert row.tolist() == own.reshape(-1).tolist()
        part.put(again, rows)
        seen[part.blocks] += 1
    assert np.array_equal(again, values)
    assert (seen == 1).all()
    probe = cut.probe(values)
    assert np.isin(probe, values).all()
    assert len({tuple(row) for row in probe.tolist()}) == len(probe)


@pytest.mark.parametrize(
    ("shape", "lengths", "parts", "order"),
    [
        pytest.param((600, 1000), (1, 1000), 3, "C", id="channels along axis 0"),
        pytest.param((1000, 600), (1000, 1), 3, "F", id="channels along axis 1"),
        pytest.param((600, 1024), (1, 32), 3, "F", id="short blocks"),
        pytest.param((600, 1024), (1, 128), 3, "C", id="long blocks"),
        pytest.param((1024, 600), (128, 1), 3, "F", id="blocks along axis 0"),
        pytest.param((6, 500, 1000), (1, 100, 1), 18, "F", id="blocks of experts"),
        pytest.param((64, 1024, 3, 3), (1, 256, 3, 3), 3, "C", id="whole kernels"),
        pytest.param((700, 1000), (700, 1000), 1, "C", id="all of it"),
    ],
)
def test_parts_are_large_and_lie_in_memory_as_is_fast(shape: Shape, lengths: Shape, parts: int, order: str) -> None:
    values = np.zeros(shape, np.uint8)
    found = [part.rows(values) for part in Granularity(shape, lengths).parts()]
    assert len(found) == parts
    assert all(rows.flags.c_contiguous if order == "C" else rows.flags.f_contiguous for rows in found)
    assert sum(rows.size for rows in found) == values.size


def test_a_probe_looks_all_over_the_weight() -> None:
    rows, columns = np.divmod(
        Granularity((1000, 4096), (1, 4096)).probe(np.arange(4_096_000).reshape(1000, 4096)), 4096
    )
    assert [row for row, *_ in rows.tolist()] == [62, 187, 312, 437, 562, 687, 812, 937]
    assert columns[0, [0, 1, -1]].tolist() == [8, 24, 4088]


CHANNELS, ROWS = "per channel along axis 0", "per channel along axis 1"


def blocks(axis: int, *lengths: int) -> list[str]:
    return [f"per block of {length} along axis {axis}" for length in lengths]


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((4, 64), [[CHANNELS, *blocks(1, 32, 16)], [ROWS]]),
        ((1, 64), [blocks(1, 32, 16), [ROWS]]),
        ((8, 3, 16), [[CHANNELS], [ROWS], [], ["per channel along axes 0 and 2"], ["per channel along axes 0 and 1"]]),
        (
            (8, 64, 3, 3),
            [[CHANNELS], [ROWS], blocks(1, 32, 16), ["per channel along axis 3"], ["per channel along axis 2"]],
        ),
        (
            (3, 1, 64, 8),
            [[CHANNELS], [], [], ["per channel along axis 3", *blocks(2, 32, 16)], ["per channel along axis 2"]],
        ),
        (
            (4, 32, 48),
            [
                [CHANNELS, *blocks(2, 32, 16)],
                [ROWS],
                blocks(1, 16),
                ["per channel along axes 0 and 2", *blocks(1, 16)],
                ["per channel along axes 0 and 1", *blocks(2, 32, 16)],
            ],
        ),
    ],
)
def test_granularities_go_from_coarse_to_fine(shape: Shape, names: list[list[str]]) -> None:
    found = list(chains(shape))
    assert [[each.name for each in chain] for chain in found] == names
    for chain in found:
        assert sorted(chain, key=lambda each: np.prod(each.counts)) == [*chain]


@pytest.mark.parametrize(
    ("shape", "counts"),
    [
        pytest.param((16, 64, 1, 1), (16, 2, 1, 1), id="a convolution of one place"),
        pytest.param((16, 64, 3, 3), (16, 2, 1, 1), id="whole kernels"),
        pytest.param((3, 64, 48), (3, 2, 48), id="experts, along K"),
        pytest.param((3, 64, 48), (3, 1, 48), id="experts, channels of their own"),
        pytest.param((3, 48, 64), (3, 48, 2), id="experts, along N"),
        pytest.param((100, 48), (4, 48), id="a short last block of 4"),
        pytest.param((48, 161), (48, 6), id="a last block of one value"),
        pytest.param((16, 80, 3, 3), (16, 3, 1, 1), id="a short last block of kernels"),
    ],
)
@pytest.mark.parametrize("zero_point", [False, True])
def test_a_grid_in_blocks_is_found_along_any_axis(shape: Shape, counts: Shape, *, zero_point: bool) -> None:
    random = np.random.default_rng(0)
    lengths = tuple(32 if 1 < count < dim else -(-dim // count) for dim, count in zip(shape, counts, strict=True))
    block = Granularity(shape, lengths).block
    assert Granularity(shape, lengths).counts == counts
    low, high = (0, 16) if zero_point else (-7, 8)
    codes = random.integers(low, high, shape).astype(np.uint8 if zero_point else np.int8)
    scale = random.uniform(0.01, 0.1, counts).astype(np.float32)
    point = random.integers(1, 15, counts).astype(np.uint8) if zero_point else None
    source = Quantized(Dense(codes), scale, point, block)
    finding = find(Weight("w", Dense(decode(source))), Settings(min_elements=1))
    (grid,) = (one for one in finding.candidates if isinstance(one.spec, Quantized) and not one.loss.max_error)
    assert isinstance(grid.spec, Quantized)
    assert (grid.spec.scale.shape, grid.spec.block, bits(dtype(grid.spec.data))) == (counts, block, 4)
    again = encode(Weight("w", Dense(decode(source))), grid)
    assert spec(again) == grid.spec
    assert np.array_equal(decode(again), decode(source))


@pytest.mark.parametrize("length", [48, 80, 96, 320, 512])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("table", ["int4", "nf4"])
def test_blocks_of_any_multiple_of_16_are_found_whole(length: int, axis: int, table: str) -> None:
    random = np.random.default_rng(1)
    counts = (64, 5) if axis else (5, 64)
    lengths = (1, length) if axis else (length, 1)
    shape = tuple(count * size for count, size in zip(counts, lengths, strict=True))
    scale = random.uniform(0.01, 0.1, counts).astype(np.float32)
    data: Dense | Palettized
    if table == "int4":
        data = Dense(random.integers(-8, 8, shape).astype(np.int8))
    else:
        entries = dict(formats())[table]
        data = Palettized(random.integers(0, 16, shape).astype(np.uint8), entries.reshape(1, 1, 16, 1))
    source = Weight("w", Dense(decode(Quantized(data, scale))))
    finding = find(source, Settings(min_elements=1))
    smallest = min(finding.candidates, key=lambda one: nbytes(one.spec))
    assert f"per block of {length} along axis {axis}" in smallest.evidence
    assert isinstance(smallest.spec, Quantized)
    assert smallest.spec.scale.shape == counts
    assert np.array_equal(decode(encode(source, smallest)), decode(source.encoding))


def test_all_of_a_weight_is_one_row() -> None:
    (part,) = per_tensor((2, 3)).parts()
    assert part.rows(np.arange(6).reshape(2, 3)).tolist() == [[0, 1, 2, 3, 4, 5]]
