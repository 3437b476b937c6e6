"""Grids but for noise: a scale for every row of which no value is far from a multiple."""

from __future__ import annotations

import numpy as np

from compressor.arrays import NDArray
from compressor.patterns import eps, greatest
from compressor.recognition.grids import SPAN, multiples, on_grid

_FEW, _TELLING = 8, 32
"""So many values of a row rule most scales out; so many tell those that are left from the true ones."""

_APART = 8
"""A value may be an eighth of a scale from its multiple: nearly any value is near a multiple of a finer one."""


@np.errstate(divide="ignore", over="ignore", invalid="ignore")  # values too far apart for a grid
def near(rows: NDArray, tolerance: float, rounding: float = 0.0, slack: float = 1.0) -> NDArray | None:
    """A scale for every row of which no value is farther from a multiple than is allowed; None if a row has none.

    The largest magnitude of a row is the least affected by noise: it is taken for 1, 2, ... times the scale in turn,
    and the scale is then fitted to all values.

    tolerance: how far a value may be from its multiple.
    rounding: what more is allowed, relative to the largest magnitude of the row.
    slack: how many times that a fitted scale may miss by.

    >>> near(np.array([[0.301, -0.899, 0.6]]), 0.01).round(3).tolist()
    [0.3]
    """
    exact = _exactly(rows)
    if not np.isfinite(exact).all():
        return None
    largest = np.abs(exact).max(axis=1)
    allowed = tolerance + rounding * largest
    roughly = allowed + eps(rows.dtype) * largest
    # A row that is nothing but noise becomes zeros: all of it is less than half a scale.
    scale = np.clip(3 * largest, 1, greatest(rows.dtype)).astype(rows.dtype)
    left = np.flatnonzero(largest > allowed)
    for multiple in _possible(exact[left], largest[left], roughly[left]):
        if not left.size:
            break
        guess = largest[left] / multiple
        passed = _near(exact[left, :_FEW], guess, roughly[left])
        some = left[passed]
        fitted = _fitted(exact[some], guess[passed]).astype(rows.dtype)
        apart = np.abs(_exactly(on_grid(multiples(rows[some], fitted), fitted)) - exact[some]).max(axis=1)
        fits = apart <= slack * np.minimum(allowed[some], _exactly(fitted) / _APART)
        scale[some[fits]] = fitted[fits]
        left = np.setdiff1d(left, some[fits], assume_unique=True)
    return None if left.size else scale


def _possible(rows: NDArray, largest: NDArray, allowed: NDArray) -> NDArray:
    """The multiples of its scale that the largest magnitude may be: for a single row, one look tells which."""
    every = np.arange(1, SPAN + 1)
    if len(rows) != 1:
        return every
    # The values farthest from zero tell most: zeros are a multiple of anything.
    telling = np.sort(np.abs(rows), axis=1)[:, -_TELLING:]
    return every[_near(telling, largest / every, allowed)]


def _near(rows: NDArray, guess: NDArray, allowed: NDArray) -> NDArray:
    """Which guesses have a multiple near every value: of a scale for each row, or of many scales for one.

    A guess is off by as much as the value it is taken from, and both are rounded.
    """
    quotients = rows / guess[:, None]
    apart = np.abs(quotients - np.rint(quotients)) * guess[:, None]
    return np.asarray((apart <= 3 * np.minimum(allowed, guess / _APART)[:, None]).all(axis=1))


def _fitted(rows: NDArray, guess: NDArray) -> NDArray:
    """The scale of least squares by the multiples that a guess gives: the one that noise moves least."""
    codes = np.rint(rows / guess[:, None])
    return np.asarray((codes * rows).sum(axis=1) / (codes * codes).sum(axis=1))


def _exactly(values: NDArray) -> NDArray:
    """Values in a type in which the distance of any two of them is exact enough."""
    return values.astype(np.float64)
