"""Masks: the structure that zeros have."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.arrays import NDArray, Shape
from compressor.recognition import masks


@pytest.mark.parametrize(
    ("mask", "blocks", "structure"),
    [
        (np.zeros((4, 4)), (4, 4), "all of it"),
        (np.ones((4, 4)), (4, 4), "all of it"),
        (np.eye(4), (1, 1), "unstructured"),
        (np.kron(np.eye(4), np.ones((2, 2))), (2, 2), "blocks of 2x2 along axis 0 and 1"),
        (np.repeat([[1], [0], [1], [1]], 6, 1), (1, 6), "channels along axis 0"),
        (np.repeat([[1, 0, 0, 1]], 6, 0), (6, 1), "channels along axis 1"),
        (np.tile([1, 0, 0, 1], (4, 4)), (4, 1), "channels along axis 1"),
    ],
)
def test_structures_of_small_masks(mask: NDArray, blocks: Shape, structure: str) -> None:
    assert masks.structure(mask.astype(np.float32), 0.0) == (blocks, structure)


@pytest.mark.parametrize("exception", [(0, 0), (63, 95), (40, 3)])
@pytest.mark.parametrize(("n", "m", "axis"), [(2, 4, 0), (2, 4, 1), (1, 8, 1), (3, 4, 0)])
def test_one_group_with_too_many_is_no_pattern(n: int, m: int, axis: int, exception: tuple[int, int]) -> None:
    pattern = np.arange(m) < n
    values = np.broadcast_to(np.resize(pattern, 64)[:, None] if axis == 0 else np.resize(pattern, 96), (64, 96)).astype(
        np.float32
    )
    shuffled = (
        np.random.default_rng(0)
        .permuted(
            values.reshape(64 // m, m, 96) if axis == 0 else values.reshape(64, 96 // m, m), axis=1 if axis == 0 else 2
        )
        .reshape(64, 96)
    )
    assert masks.structure(shuffled, 0.0)[1] == f"{n}:{m} along axis {axis}"
    group = exception[axis] // m * m
    at = (slice(group, group + m), exception[1]) if axis == 0 else (exception[0], slice(group, group + m))
    shuffled[at] = 1
    assert masks.structure(shuffled, 0.0)[1] == "unstructured"


@pytest.mark.parametrize("place", [(0, 0), (99_999, 1)])
def test_one_exception_anywhere_breaks_the_blocks(place: tuple[int, int]) -> None:
    mask = np.repeat(np.random.default_rng(0).random((25_000, 2)) < 0.5, 4, 0)
    values = mask.astype(np.float32)
    assert masks.structure(values, 0.0)[0] == (4, 1)
    values[place] = 1 - values[place]
    assert masks.structure(values, 0.0)[0] == (1, 1)


@pytest.mark.parametrize(
    ("lengths", "name", "count"),
    [
        ((1, 96), "channels along axis 0", 32 * 96),
        ((64, 1), "channels along axis 1", 48 * 64),
        ((1, 8), "blocks of 8 along axis 1", 384 * 8),
    ],
    ids=str,
)
def test_blocks_cover_zeros_though_there_are_others(lengths: Shape, name: str, count: int) -> None:
    """Half of the blocks are pruned, and a twentieth of what they leave is zero by chance."""
    random = np.random.default_rng(3)
    counts = (64 // lengths[0], 96 // lengths[1])
    kept = random.permutation(np.arange(counts[0] * counts[1]) % 2 == 0).reshape(counts)
    values = np.kron(kept, np.ones(lengths)) * random.normal(size=(64, 96)) * (random.random((64, 96)) > 0.05)
    assert masks.cover(values.astype(np.float32), 1.0) == ((lengths, name), count)


def test_zeros_by_chance_are_covered_by_no_blocks() -> None:
    random = np.random.default_rng(4)
    by_row = random.random((64, 96)) > random.uniform(0.2, 0.95, (64, 1))
    assert masks.cover(by_row.astype(np.float32), 1.0) is None


def test_a_pattern_that_nearly_all_groups_have_is_named() -> None:
    values = np.tile([1, 1, 0, 0], (64, 32)).astype(np.float32)
    values[5, :4] = 1
    assert list(masks.almost(values)) == ["2:4 along axis 1 in all but 0.05% of the groups"]
    assert not list(masks.almost(np.eye(64, dtype=np.float32)))


@pytest.mark.parametrize("shape", [(64, 96), (40, 6), (2, 32), (4, 8, 3, 3)])
def test_all_tallies_count_the_places_of_each_group(shape: Shape) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.3
    found = masks._tallies(mask, shape)
    for (axis, length), counts in found.items():
        groups = mask.reshape(*shape[:axis], -1, length, *shape[axis + 1 :])
        assert counts.tolist() == [int((groups.sum(axis + 1) == some).sum()) for some in range(length + 1)]
    fitting = {(axis, m) for axis, dim in enumerate(shape) for m in (2, 4, 8, 16, 32) if dim % m == 0 and dim >= 2 * m}
    assert found.keys() == fitting
