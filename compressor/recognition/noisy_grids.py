"""Grids but for noise: a scale for every row of which no value is far from a multiple.

Rows are `[rows, n]`, in whatever order they lie in memory.
"""

from __future__ import annotations

import itertools

import numpy as np

from compressor.arrays import NDArray
from compressor.patterns import eps, greatest
from compressor.recognition.grids import SPAN
from compressor.recognition.rows import exact, extremes, in_blocks, nearest

_FEW = 256
"""So many values of a row, all over it, tell of which multiples of a scale the largest one may be ..."""

_QUANTILES = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99])
"""... and the magnitudes that so many of those above zero do not exceed rule most of them out."""

_APART = 8
"""A value may be an eighth of a scale from its multiple: nearly any value is near a multiple of a finer one."""

_ROUNDS = (1, 9, 33, SPAN + 1)
"""Where multiples are parted: most rows have theirs soon, or none at all."""

_SLACK = 3.0
"""A scale that is fitted to a part of a row lies up to so many times as far from it as that of the whole row does."""


@np.errstate(divide="ignore", over="ignore", invalid="ignore")  # values too far apart for a grid
def near(rows: NDArray, tolerance: float, rounding: float = 0.0, slack: float = 1.0) -> NDArray | None:
    """A scale for every row of which no value is farther from a multiple than is allowed; None if a row has none.

    The largest magnitude of a row is the least affected by noise: it is taken for 1, 2, ... times the scale in turn,
    and the scale is then fitted to all values. A part of each row rules most multiples out.

    tolerance: how far a value may be from its multiple.
    rounding: what more is allowed, relative to the largest magnitude of the row.
    slack: how many times that a fitted scale may miss by.

    >>> near(np.array([[0.301, -0.899, 0.6]]), 0.01).round(3).tolist()
    [0.3]
    """
    ends = extremes(rows)
    if ends is None:
        return None
    largest = np.maximum(ends[1], -ends[0])
    allowed = tolerance + rounding * largest
    # A row that is nothing but noise becomes zeros: all of it is less than half a scale.
    scale = np.clip(3 * largest, 1, greatest(rows.dtype)).astype(rows.dtype)
    left = np.flatnonzero(largest > allowed)
    few = rows[left, :: max(1, rows.shape[1] // _FEW)]
    telling = _telling(np.abs(_wide(few)), allowed[left])
    rough = allowed[left] + eps(rows.dtype) * largest[left]
    if left.size == 1:
        for guess in _possible(few, telling, largest[left], rough, _SLACK * slack * allowed[left]):
            scale[left], fits = _fit(rows[left], guess[None], slack * allowed[left])
            if fits.all():
                return scale
        return None
    multiple = np.zeros(left.size, np.intp)
    while left.size:
        rough = allowed[left] + eps(rows.dtype) * largest[left]
        multiple = _next(telling, largest[left], rough, multiple)
        if not multiple.all():
            return None
        guess = largest[left] / multiple
        some = np.flatnonzero(_fit(few, guess, _SLACK * slack * allowed[left])[1])
        fitted, fits = _fit(
            rows if some.size == len(rows) else rows[left[some]], guess[some], slack * allowed[left[some]]
        )
        scale[left[some[fits]]] = fitted[fits]
        kept = np.delete(np.arange(left.size), some[fits])
        left, few, telling, multiple = left[kept], few[kept], telling[:, kept], multiple[kept]
    return scale


def _possible(few: NDArray, telling: NDArray, largest: NDArray, rough: NDArray, allowed: NDArray) -> NDArray:
    """The scales of a single row, all at once, by which a part of it has multiples: the largest first."""
    row = np.zeros(1, np.intp)
    guess = largest / _passed(telling, largest, rough, row, row, 1, SPAN + 1)[0]
    together = np.broadcast_to(few, (guess.size, few.shape[1]))
    return guess[_fit(together, guess, np.broadcast_to(allowed, guess.shape))[1]]


def _telling(magnitudes: NDArray, allowed: NDArray) -> NDArray:
    """Some magnitudes of every row that are not near zero, which is a multiple of anything: `[values, rows]`."""
    ordered = np.sort(magnitudes, axis=1)
    above = np.count_nonzero(magnitudes > allowed[:, None], axis=1)[:, None]
    places = magnitudes.shape[1] - above + np.floor(above * _QUANTILES)
    return np.ascontiguousarray(
        np.take_along_axis(ordered, np.minimum(places, magnitudes.shape[1] - 1).astype(np.intp), axis=1).T
    )


def _next(telling: NDArray, largest: NDArray, allowed: NDArray, tried: NDArray) -> NDArray:
    """The first multiple of its scale after `tried` that the largest magnitude of each row may be; 0 if there is none.

    telling: `[values, rows]`, magnitudes.
    """
    found, left = np.zeros(len(largest), np.intp), np.arange(len(largest))
    for first, end in itertools.pairwise(_ROUNDS):
        multiple, row = _passed(telling, largest, allowed, tried, left, first, end)
        row, first_of = np.unique(row, return_index=True)
        found[row] = multiple[first_of]
        left = left[found[left] == 0]
        # Where one row has no grid, nobody needs to know of the others.
        if not left.size or not _passed(telling, largest, allowed, tried, left[:1], end, SPAN + 1)[0].size:
            break
    return found


def _passed(
    telling: NDArray, largest: NDArray, allowed: NDArray, tried: NDArray, rows: NDArray, first: int, end: int
) -> tuple[NDArray, NDArray]:
    """The multiples, ascending, and for which of `rows`: `[found]` each."""
    every = np.arange(first, end)[:, None]
    passed = _near(telling[-1, rows], largest[rows] / every, allowed[rows]) & (every > tried[rows])
    multiple, place = np.nonzero(passed)
    multiple, row = multiple + first, rows[place]
    fits = _near(telling[:, row], largest[row] / multiple, allowed[row]).all(axis=0)
    return multiple[fits], row[fits]


def _near(values: NDArray, guess: NDArray, allowed: NDArray) -> NDArray:
    """Which values have a multiple of a guess near them.

    A guess is off by as much as the value it is taken from, and both are rounded.
    """
    quotients = values / guess
    return np.asarray(np.abs(quotients - np.rint(quotients)) * guess <= 3 * np.minimum(allowed, guess / _APART))


def _fit(rows: NDArray, guess: NDArray, allowed: NDArray) -> tuple[NDArray, NDArray]:
    """The scale of least squares of each row by the multiples that a guess gives: the one that noise moves least.

    And whether no value is farther from a multiple of it than is allowed.
    """
    products, squares = np.zeros(len(rows)), np.zeros(len(rows))
    for part, places in in_blocks(rows):
        values = _wide(rows[part, places])
        codes = np.rint(values / guess[part, None])
        values *= codes
        products[part] += values.sum(axis=1)
        squares[part] += np.square(codes, out=codes).sum(axis=1)
    scale = (products / squares).astype(rows.dtype)
    apart, divisor = np.zeros(len(rows)), exact(scale)[:, None]
    for part, places in in_blocks(rows):
        values = exact(rows[part, places])
        distance = nearest(values, divisor[part], rows.dtype)
        distance -= values
        np.maximum(apart[part], np.abs(distance, out=distance).max(axis=1), out=apart[part])
    return scale, apart <= np.minimum(allowed, _wide(scale) / _APART)


def _wide(values: NDArray) -> NDArray:
    """Values in a type in which the distance of any two of them is exact enough."""
    return values.astype(np.float64)
