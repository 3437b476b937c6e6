"""Clusters of values: a palette but for noise.

Clusters are many times farther apart than any of them is wide. Values whose patterns begin alike are near each other:
of each such range the least and the greatest value are enough to see clusters, and nothing is sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from compressor.arrays import DType, NDArray
from compressor.blocks import blocks
from compressor.patterns import patterns
from compressor.recognition.scan import sample
from compressor.recognition.tables import ENTRIES

_APART = 8
"""Clusters are this many times as far from each other as they are wide."""

_RANGE_BITS = 16
"""Ranges are so many that their ends stay in the cache: of a float32, the sign, the exponent and seven further bits."""

Place = Callable[[NDArray], NDArray]
"""Gives the range of every value: values of each lie between those of two others."""


class Clusters(NamedTuple):
    """At most 256 clusters.

    low: the least value of each, ascending, float64.
    middle: what stands for its values, in their type.
    error: the greatest distance of a value from its middle.
    """

    low: NDArray
    middle: NDArray
    error: float


@np.errstate(over="ignore", invalid="ignore")  # values of any magnitude, signalling NaNs
def find(values: NDArray, tolerance: float) -> Clusters | None:
    """The fewest clusters, each within `tolerance` of its middle, or of zero if that lies in it, or None.

    >>> find(np.array([5.0, 0.9, 1.0, 5.1, 1.1]), 0.2).middle.round(2).tolist()
    [1.0, 5.05]
    """
    # The clusters of a weight are those of any part of it, or fewer: most weights have none.
    flat = values.reshape(-1)
    expected = [*_cut(np.sort(sample(flat).astype(np.float64)))]
    if not expected:
        return None
    by_position = None if values.dtype.itemsize * 8 == _RANGE_BITS else _by_position(flat)
    for place in filter(None, (_by_pattern, by_position)):
        found = _within(tolerance, values.dtype, *_ends(flat, place))
        if found is not None or not any(_share_a_range(low, high, values.dtype, place) for low, high in expected):
            return found
    return _within(tolerance, values.dtype, np.sort(flat).astype(np.float64))


def _within(tolerance: float, dtype: DType, ordered: NDArray, uncut: NDArray | None = None) -> Clusters | None:
    """The fewest clusters of values in order that are narrow enough."""
    for low, high in _cut(ordered, uncut):
        middle = np.where((low <= 0) & (high >= 0), 0.0, low / 2 + high / 2).astype(dtype)
        exact = middle.astype(np.float64)
        error = float(np.maximum(exact - low, high - exact).max())
        if error <= tolerance:
            return Clusters(low, middle, error)
    return None


def _by_pattern(block: NDArray) -> NDArray:
    """The range of each value by how its pattern begins: fine near zero."""
    first = block.dtype.itemsize * 8 // _RANGE_BITS
    return patterns(block).view("<u2")[first - 1 :: first].astype(np.intp)


@np.errstate(divide="ignore")  # all values are the same
def _by_position(flat: NDArray) -> Place | None:
    """The range of each value by its distance from the least one, as fine everywhere; None where that is too far."""
    least = flat.min()
    factor = flat.dtype.type((1 << _RANGE_BITS) - 2) / (flat.max() - least)
    if not np.isfinite(factor) or not factor:
        return None
    return lambda block: ((block - least) * factor).astype(np.intp)


def _ends(flat: NDArray, place: Place) -> tuple[NDArray, NDArray]:
    """The least and the greatest value of each range, ascending, float64; and where there is no gap: within a range."""
    exact = np.dtype(np.float64 if flat.dtype == np.float64 else np.float32)
    least: NDArray = np.full(1 << _RANGE_BITS, np.inf, exact)
    greatest: NDArray = np.full(1 << _RANGE_BITS, -np.inf, exact)
    for part in blocks(flat.size):
        of = place(flat[part])
        values = flat[part].astype(exact, copy=False)
        np.minimum.at(least, of, values)
        np.maximum.at(greatest, of, values)
    used = np.logical_not(np.greater(least, greatest))  # a NaN is both
    ends = np.stack([least[used], greatest[used]]).astype(np.float64)
    ends = ends[:, np.argsort(ends[0])]
    return ends.T.reshape(-1), np.arange(ends.size - 1) % 2 == 0


def _share_a_range(low: NDArray, high: NDArray, dtype: DType, place: Place) -> bool:
    """Whether two neighbouring clusters are so near that some range has values of both."""
    return bool((place(high[:-1].astype(dtype)) == place(low[1:].astype(dtype))).any())


def _cut(ordered: NDArray, uncut: NDArray | None = None) -> Iterator[tuple[NDArray, NDArray]]:
    """The least and the greatest values of at most 256 clusters of values in order, float64; the fewest first.

    They are cut at the n widest gaps for some n, of which the next one is much narrower.

    uncut: bool, between which neighbours there is no gap.

    >>> [(low.tolist(), high.tolist()) for low, high in _cut(np.array([0.9, 1.0, 1.1, 5.0, 5.1]))]
    [([0.9, 5.0], [1.1, 5.1])]
    """
    if ordered.size < 2 or not np.isfinite(ordered[[0, -1]]).all():
        return
    gaps = np.diff(ordered)
    least = np.partition(gaps, -ENTRIES)[-ENTRIES] if gaps.size > ENTRIES else 0.0
    widest = np.flatnonzero((gaps >= least) & (gaps > 0))
    widest = widest[np.argsort(-gaps[widest], kind="stable")][:ENTRIES]
    # The widest gap that is not cut lies within a cluster, and so do all that are narrower.
    for count in np.flatnonzero(gaps[widest[:-1]] >= _APART * gaps[widest[1:]]) + 1:
        ends = np.sort(widest[:count])
        low, high = ordered[np.concatenate([[0], ends + 1])], ordered[np.concatenate([ends, [-1]])]
        apart = uncut is None or not uncut[ends].any()
        if apart and gaps[widest[count - 1]] >= _APART * (high - low).max() > 0:
            yield low, high
