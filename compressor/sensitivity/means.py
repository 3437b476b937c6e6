"""k-means on a line, of any number of values in a few passes over them, and next to the best there is.

Sorted once, a cluster is a run of values whose sum is the difference of two running sums, so that a step of Lloyd's
algorithm costs a few searches however many values there are. Where it ends depends on where it begins: at the best
clusters of a thousand cells of values, which dynamic programming finds. Nothing is random.
"""

from __future__ import annotations

import numpy as np

from compressor.arrays import NDArray

_STEPS = 300
"""Lloyd's algorithm ends before, unless it creeps."""

_CELLS, _QUANTILES = 1 << 10, 1 << 12


def means(values: NDArray, count: int) -> NDArray:
    """The centres of at most `count` clusters, ascending, in the values' dtype; the distinct values where fewer.

    >>> means(np.array([0.0, 0.5, 5.0, 5.5, 9.0]), 3).tolist()
    [0.25, 5.25, 9.0]
    """
    ordered = np.sort(values, axis=None)
    new = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    if new.size <= count:
        return np.asarray(ordered[new])
    exact = ordered.astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(exact)])
    centres = _best(sums, _cells(exact), count)
    for _ in range(_STEPS):
        ends = np.concatenate([[0], np.searchsorted(exact, _edges(centres)), [exact.size]])
        sizes = np.diff(ends)
        # A centre without values stays where it is: it may get some later.
        moved = np.where(sizes > 0, np.diff(sums[ends]) / np.maximum(sizes, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    return np.unique(centres.astype(values.dtype))


def nearest(values: NDArray, centres: NDArray) -> NDArray:
    """The place of the centre next to each value: uint8, the values' shape."""
    return np.searchsorted(_edges(centres), values).astype(np.uint8)


def _edges(centres: NDArray) -> NDArray:
    exact = centres.astype(np.float64)
    return np.asarray((exact[1:] + exact[:-1]) / 2)


def _cells(ordered: NDArray) -> NDArray:
    """Where cells of values begin, and where the last one ends; the rarer the values, the fewer of them in a cell.

    The best clusters have a density of the third root of the values'; so have these.

    Source: Panter and Dite, Quantization distortion in pulse-count modulation with nonuniform spacing of levels, 1951.
    """
    quantiles = ordered[np.linspace(0, ordered.size - 1, _QUANTILES + 1).astype(np.int64)]
    grown = np.concatenate([[0.0], np.cumsum(np.diff(quantiles) ** (2 / 3))])
    edges = np.interp(np.linspace(0, grown[-1], _CELLS + 1)[1:-1], grown, quantiles)
    return np.unique(np.concatenate([[0], np.searchsorted(ordered, edges), [ordered.size]]))


def _best(sums: NDArray, cells: NDArray, count: int) -> NDArray:
    """The centres of the best `count` runs of cells, of as many as there are cells at most.

    What a run explains is its sum squared by its length: the squares of the values, less their distances to the mean.
    """
    totals, sizes = sums[cells], cells.astype(np.float64)
    lengths = sizes[None, :] - sizes[:, None]
    run = np.where(lengths > 0, (totals[None, :] - totals[:, None]) ** 2 / np.maximum(lengths, 1), -np.inf)
    explained, begins = run[0], []
    for _ in range(min(count, len(cells) - 1) - 1):
        # Of the runs that end at each cell, which one is the last.
        longer = explained[:, None] + run
        begins.append(longer.argmax(axis=0))
        explained = longer.max(axis=0)
    ends = [len(cells) - 1]
    for begin in reversed(begins):
        ends.insert(0, int(begin[ends[0]]))
    ends.insert(0, 0)
    return np.asarray(np.diff(totals[ends]) / np.diff(sizes[ends]))
