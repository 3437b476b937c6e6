"""Values that count as zero where that is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from compressor import encodings
from compressor.recognition.find import find
from compressor.recognition.findings import Settings
from tests.recognition.weights_made import (
    EVERY,
    blocked,
    check_every_candidate,
    normal,
    rng,
    weight,
)


@pytest.mark.parametrize(
    ("small", "survivors", "changed"),
    [(10, 1000, 10), (11, 1000, 0), (1, 99, 0), (1, 100, 1), (0, 100, 0)],
)
@pytest.mark.parametrize("structure", ["unstructured", "blocks"])
def test_the_threshold_applies_to_a_vanishing_share(small: int, survivors: int, changed: int, structure: str) -> None:
    shape = (64, 64)
    values = np.zeros(64 * 64, np.float32)
    if structure == "blocks":
        counts = np.zeros(64 * 64)
        counts[:survivors] = 1
        small = changed = 0
        values = np.where(counts.reshape(64, 64) > 0, normal(shape), 0).reshape(-1)[: 64 * 64]
        survivors = int(np.count_nonzero(values))
    else:
        values[: survivors + small] = normal((survivors + small,))
        values[:small] = 1e-3 * np.where(np.arange(small) % 2, -0.99, 0.5)
        values = rng(small).permutation(values)
    finding = find(weight(values.reshape(shape)), EVERY)
    *_, sparse = (candidate for candidate in finding.candidates if candidate.schemes == ("sparsify",))
    assert (sparse.loss.changed, sparse.loss.threshold) == (changed, 1e-3 if changed else 0.0)
    assert encodings.spec(sparse.spec).values.values.shape == (survivors + small - changed,)  # type: ignore[union-attr]
    check_every_candidate(values.reshape(shape), finding)


def test_blocks_of_exact_zeros_keep_their_small_survivors() -> None:
    mask = blocked((64, 64), (4, 1))
    values = normal((64, 64)) * mask
    values.reshape(-1)[np.flatnonzero(mask)[0]] = 1e-4
    finding = find(weight(values), EVERY)
    assert finding.structure == "blocks of 4 along axis 0"
    assert [(candidate.loss.threshold, candidate.loss.changed) for candidate in finding.candidates] == [(0.0, 0)]
    assert finding.near_misses == ()


@pytest.mark.parametrize(("threshold", "max_thresholded", "changed"), [(0.0, 0.01, 0), (1e-3, 0.0, 0), (1e-3, 0.01, 3)])
def test_thresholding_can_be_turned_off(threshold: float, max_thresholded: float, changed: int) -> None:
    values = normal((64, 64)) * (rng(5).random((64, 64)) > 0.5)
    values.reshape(-1)[:3] = 1e-5
    finding = find(weight(values.astype(np.float32)), Settings(0, threshold, max_thresholded))
    assert [candidate.loss.changed for candidate in finding.candidates] == ([0, changed] if changed else [0])
