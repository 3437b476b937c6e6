"""Weights that are not looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compressor.arrays import NDArray
from compressor.recognition.find import find
from compressor.recognition.findings import Settings
from tests.recognition.weights_made import (
    weight,
)


@pytest.mark.parametrize(
    ("values", "fields", "settings", "skipped"),
    [
        (np.zeros((), np.float32), {}, Settings(), "a scalar"),
        (np.zeros(5000, np.float32), {}, Settings(), "one dimension: a bias or a scale"),
        (np.zeros((23, 89), np.float32), {}, Settings(), "2,047 elements: fewer than min_elements (2,048)"),
        (np.zeros((3, 683), np.float32), {}, Settings(), ""),
        (np.zeros((3, 0), np.float32), {}, Settings(min_elements=0), "0 elements: fewer than min_elements (0)"),
        (np.zeros((64, 64), np.int64), {}, Settings(), "int64 is no type that is compressed"),
        (np.zeros((64, 64), np.float32), {"pinned": "its shape is read"}, Settings(), "its shape is read"),
        (np.zeros((64, 64), np.int8), {}, Settings(), ""),
    ],
)
def test_what_is_not_looked_at_says_why(values: NDArray, fields: Any, settings: Settings, skipped: str) -> None:
    finding = find(weight(values, **fields), settings)
    assert finding.skipped == skipped
    assert bool(finding.candidates) == (not skipped)
    if skipped:
        assert finding.evidence == skipped
