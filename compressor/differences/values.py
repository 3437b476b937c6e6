"""How far the values of a weight are from those of another one, in one pass over both, block by block."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from compressor.arrays import DType, NDArray, is_float
from compressor.blocks import blocks
from compressor.patterns import patterns

Verdict = Literal["equal", "zeros", "rounded", "apart", "none"]
"""Of the values, each with its counterpart:

equal       the same numbers, and the same bits where both have one type
zeros       the same, but that 0.0 may be -0.0
rounded     those of the wider type, rounded to the narrower one, are those of the narrower; or the codes are the same,
            and their scales are rounded so
apart       others
none        there are not as many
"""

MOST_AXES = 5
"""Of a weight that is looked for in another order of its axes: a convolution over space and time has five."""

Way = Literal["", "transposed", "reshaped", "reordered"]
"""How the elements of the second weight were put beside those of the first. Reordered are rows: an LSTM's gates."""


@dataclass(frozen=True)
class Values:
    """What two weights have in common.

    verdict, way: see there.
    changed: how many values differ as numbers; of those that are rounded none does.
    max_error: by how much one differs at most.
    relative_rms: the root of the mean square of all differences by that of the first weight; None where that is 0.
    not_finite: how many of those that differ are infinite or no number on either side; only `changed` counts them.
    """

    verdict: Verdict
    way: Way = ""
    changed: int = 0
    max_error: float = 0.0
    relative_rms: float | None = 0.0
    not_finite: int = 0

    @property
    def same(self) -> bool:
        """Whether no value differs but by the type that holds it."""
        return self.verdict in {"equal", "zeros", "rounded"}


def compare(before: NDArray, after: NDArray) -> Values:
    """The values of two weights, put beside each other in the way in which they agree most.

    >>> compare(np.eye(2, 3, dtype=np.float32), np.eye(3, 2, dtype=np.float16)).way
    'transposed'
    """
    if before.size != after.size:
        return Values("none", relative_rms=None)
    if before.shape == after.shape:
        found = _apart(before, after, "")
        if found.same or before.ndim < 2:
            return found
        # A square matrix does not tell by its shape.
        for way in itertools.islice(transposed(after, before.shape), 1, None):
            if _equal(before, way):
                return _apart(before, way, "transposed")
        reordered = _reordered(before, after)
        return found if reordered is None else _apart(before, reordered, "reordered")
    ways = list(transposed(after, before.shape))
    if not ways or (before.ndim > 2 and _equal(before, after)):
        return _apart(before, after, "reshaped")
    # The two sides of a convolution's kernel are of one size: several orders of its axes have the same shape.
    best = next((way for way in ways if _equal(before, way)), None)
    if best is not None or len(ways) == 1:
        return _apart(before, ways[0] if best is None else best, "transposed")
    return min((_apart(before, way, "transposed") for way in ways), key=lambda found: (found.changed, found.max_error))


def transposed(values: NDArray, shape: tuple[int, ...]) -> Iterator[NDArray]:
    """The values with their axes in every order that has this shape, first that which they have if it does."""
    orders = itertools.permutations(range(values.ndim)) if values.ndim == len(shape) <= MOST_AXES else ()
    for order in orders:
        if tuple(values.shape[axis] for axis in order) == shape:
            yield values.transpose(order)


def _equal(before: NDArray, after: NDArray) -> bool:
    """Whether the values are the same after rounding; the first block that says no is the last that is looked at."""
    narrow = _narrow(before.dtype, after.dtype)
    flat, others = before.reshape(-1), after.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        return all(np.array_equal(flat[p].astype(narrow), others[p].astype(narrow)) for p in blocks(flat.size))


def _reordered(before: NDArray, after: NDArray) -> NDArray | None:
    """The rows of `after` in the order of those of `before`, if both have the same rows after rounding."""
    first, second = _rows(before, after.dtype), _rows(after, before.dtype)
    order, others = np.argsort(first), np.argsort(second)
    if not np.array_equal(first[order], second[others]):
        return None
    back = np.empty_like(order)
    back[order] = others
    return after[back]


def _rows(values: NDArray, other: DType) -> NDArray:
    """Each row, in the narrower type, as one thing that sorts."""
    narrow = _narrow(values.dtype, other)
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.ascontiguousarray(values.reshape(len(values), -1).astype(narrow) + np.zeros((), narrow))
    return rows.view(np.dtype((np.void, rows.shape[1] * narrow.itemsize))).reshape(-1)


def _apart(before: NDArray, after: NDArray, way: Way) -> Values:
    narrow = _narrow(before.dtype, after.dtype)
    bits = numbers = rounded = True
    changed = not_finite = 0
    largest = squares = whole = 0.0
    flat, others = before.reshape(-1), after.reshape(-1)
    for part in blocks(flat.size):
        one, other = flat[part], others[part]
        if one.dtype == other.dtype and np.array_equal(patterns(one), patterns(other)):
            whole += _squares(one.astype(np.float64))
            continue
        bits &= one.dtype != other.dtype
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = rounded and _same(one.astype(narrow), other.astype(narrow))
            first, second = one.astype(np.float64), other.astype(np.float64)
            unequal = (first != second) & ~(np.isnan(first) & np.isnan(second))
            error = np.abs(second - first)[unequal]
        rounded = rounded and bool(np.isfinite(error).all())  # what overflows is not rounded
        whole += _squares(first)
        numbers &= not unequal.any()
        finite = error[np.isfinite(error)]
        changed, not_finite = changed + error.size, not_finite + error.size - finite.size
        largest = max(largest, float(finite.max(initial=0.0)))
        squares += float(np.sum(finite * finite))
    if numbers:
        return Values("equal" if bits else "zeros", way)
    if rounded and before.dtype != after.dtype:
        return Values("rounded", way)
    return Values("apart", way, changed, largest, math.sqrt(squares / whole) if whole else None, not_finite)


def _narrow(one: DType, other: DType) -> DType:
    """The type in which two are the same if one is the other, rounded; nothing is rounded to integers."""
    if is_float(one) and is_float(other):
        return min(one, other, key=lambda each: each.itemsize)
    return one if one == other else np.dtype(np.float64)


def _same(one: NDArray, other: NDArray) -> bool:
    return bool(((one == other) | ((one != one) & (other != other))).all())  # noqa: PLR0124 - what NaN is


def _squares(values: NDArray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.sum(finite * finite))
