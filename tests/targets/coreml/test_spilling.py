"""Large arrays lie in files without a name; what is computed for them is computed once in a process."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from compressor.arrays import CODE_DTYPES, Array, ComputedArray, DType, NDArray
from compressor.targets.coreml.spilling import SPILLED, computed_once

CALLS: list[str] = []


def ramp() -> NDArray:
    CALLS.append("all")
    return np.arange(2 * SPILLED, dtype=np.uint8).reshape(2, SPILLED).view(np.float16)


def codes() -> NDArray:
    CALLS.append("all")
    return (np.arange(2 * SPILLED) % 16 - 8).astype(CODE_DTYPES["int4"]).reshape(2, SPILLED)


def rows(start: int, end: int) -> NDArray:
    CALLS.append("rows")
    return ramp()[start:end]


@pytest.mark.parametrize(
    "array",
    [
        ComputedArray((2, SPILLED // 2), np.dtype(np.float16), ramp, rows),
        ComputedArray((2, SPILLED), CODE_DTYPES["int4"], codes),
    ],
    ids=lambda array: str(array.dtype),
)
def test_a_large_array_is_computed_once_in_each_process(array: ComputedArray) -> None:
    CALLS.clear()
    made = computed_once(array)
    assert isinstance(made, ComputedArray)
    expected = array.compute().tobytes()
    CALLS.clear()
    assert np.asarray(made).tobytes() == np.asarray(made).tobytes() == expected
    assert made.rows is not None
    assert made.rows(1, 2).tobytes() == expected[len(expected) // 2 :]
    assert CALLS == []
    again = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own
    assert len(pickle.dumps(made)) < 1000
    assert np.asarray(again).tobytes() == expected
    assert (again.rows is None) == (array.rows is None)
    assert CALLS == ["all"]


@pytest.mark.parametrize(("dims", "kind"), [((2, 3), np.dtype(np.float16)), ((SPILLED - 1,), np.dtype(np.uint8))])
def test_small_ones_are_computed_whenever_they_are_read(dims: tuple[int, ...], kind: DType) -> None:
    array: Array = ComputedArray(dims, kind, lambda: np.zeros(dims, kind))
    assert computed_once(array) is array
