"""Grids: the scales of which all values of a row are whole multiples, exactly or but for noise.

A value lies on a grid if it is `fl(k * scale)`, a whole multiple after one rounding. Rows are `[rows, n]`; each has a
scale of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressor.arrays import DType, NDArray
from compressor.patterns import eps, greatest, least_magnitudes
from compressor.recognition.scan import ENTRIES, distinct

SPAN = 255
"""The most steps from the least multiple of a grid to its greatest: what codes of 8 bits count."""

_GREATEST = SPAN + 2
"""Two roundings move the greatest multiple by less than 2."""

_FEW, _TELLING = 8, 32
"""So many values of a row rule most scales out; so many tell those that are left from the true ones."""

_SEARCHED = 1 << 17
"""A longer row is searched by its distinct values: a grid has no more than it has steps."""

_APART = 8
"""A value may be an eighth of a scale from its multiple: nearly any value is near a multiple of a finer one."""

Guess = tuple[int, int]
"""How a scale may follow from the least magnitude of its row: the part of it that the scale is, 1 to 255, and on which
side of the rounded quotient the scale lies: 0 for the quotient, else 1 or -1 for the float above or below."""

_GUESSES: tuple[Guess, ...] = tuple(itertools.product(range(1, SPAN + 1), (0, 1, -1)))
"""The largest scales first: fewest steps."""

_PARTS, _SIDES = np.array(_GUESSES).T


@dataclass(frozen=True)
class Grid:
    """The scales of a few rows, and what they are multiplied with.

    scale: `[rows]`.
    low, high: int16 `[rows]`, the least and the greatest multiple, or 0.
    """

    scale: NDArray
    low: NDArray
    high: NDArray


def find(rows: NDArray) -> Grid | None:
    """The grid on which every row lies, or None.

    >>> grid = find(np.array([[0.5, -1.5, 1.0], [8.0, 4.0, 0.0]]))
    >>> grid.scale.tolist(), grid.low.tolist(), grid.high.tolist()
    ([0.5, 4.0], [-3, 0], [2, 2])
    """
    if len(rows) == 1 and rows.size > _SEARCHED:
        table = distinct(rows)
        return None if table is None or table.entries.size > ENTRIES else find(table.entries[None, :])
    if not rows.size:
        return None
    with np.errstate(invalid="ignore"):  # a NaN
        low, high = _wide(rows.min(axis=1)), _wide(rows.max(axis=1))
    if not (np.isfinite(low) & np.isfinite(high)).all():
        return None
    scale = _scales(rows, np.maximum(high, -low))
    if scale is None:
        return None
    lowest, highest = np.minimum(0, np.rint(low / _wide(scale))), np.maximum(0, np.rint(high / _wide(scale)))
    if (highest - lowest > SPAN).any():
        return None
    return Grid(scale, lowest.astype(np.int16), highest.astype(np.int16))


def _scales(rows: NDArray, largest: NDArray) -> NDArray | None:
    """The largest scale of each row, given its largest magnitude; None where a row has none.

    The least magnitude of a row is a multiple of its scale, so the scale is a whole part of it but for a rounding: the
    parts are tried in turn, the largest first, as long as the largest magnitude has a code.
    """
    scale = np.ones(len(rows), rows.dtype)  # a row of zeros keeps a finite scale
    left, least = np.flatnonzero(largest), _wide(least_magnitudes(rows))
    guesses: Sequence[Guess] = ()
    if left.size:
        guesses = _plausible(rows[left[0]], least[left[0]], largest[left[0]])
    if len(left) > 1 and guesses:  # what divides one row says nothing about the others
        guesses = _GUESSES
    for part, side in guesses:
        with np.errstate(over="ignore"):  # an infinite product is beyond any code
            beyond = largest[left] * part > least[left] * _GREATEST
        if not left.size or beyond.any():
            break
        guess = _beside(least[left] / part, side, rows.dtype)
        # Most guesses fail on the first few values: the others are not worth a look then.
        fits = _fits(rows[left, :_FEW], guess)
        some = left[fits]
        fits[fits] = _fits(rows if some.size == len(rows) else rows[some], guess[fits])
        scale[left[fits]] = guess[fits]
        left = left[~fits]
    return None if left.size else scale


def _plausible(row: NDArray, least: float, largest: float) -> Sequence[Guess]:
    """The guesses that a row passes by its first values: one look at all of them at once, and most rows pass none."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # values too far apart for a grid
        scale = (least / _PARTS).astype(row.dtype)
        for side in (-1, 1):
            scale = np.where(side == _SIDES, _beside(least / _PARTS, side, row.dtype), scale)
        passed = (largest * _PARTS <= least * _GREATEST) & _fits(row[row != 0][None, :_TELLING], scale)
    return [_GUESSES[place] for place in np.flatnonzero(passed)]


def _beside(quotient: NDArray, side: int, dtype: DType) -> NDArray:
    """The quotient of a rounded value is at most a rounding away from the scale: it, or the float beside it."""
    rounded = quotient.astype(dtype)
    return np.asarray(np.nextafter(rounded, dtype.type(np.inf if side > 0 else 0))) if side else rounded


def _fits(rows: NDArray, scale: NDArray) -> NDArray:
    """Which rows equal multiples of their scale after one rounding: bool `[rows]`."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return np.asarray((on_grid(multiples(rows, scale), scale) == rows).all(axis=1))


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
    exact = _wide(rows)
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
        apart = np.abs(_wide(on_grid(multiples(rows[some], fitted), fitted)) - exact[some]).max(axis=1)
        fits = apart <= slack * np.minimum(allowed[some], _wide(fitted) / _APART)
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


def multiples(rows: NDArray, scale: NDArray) -> NDArray:
    """The nearest multiples of each row's scale, whole numbers in a floating type.

    The quotient's own rounding is far less than a half for multiples of up to 255.
    """
    quotients = _exact(rows) / _exact(scale)[:, None]
    return np.rint(quotients, out=quotients)


def on_grid(whole: NDArray, scale: NDArray) -> NDArray:
    """Whole multiples of each row's scale, rounded once; `whole` is used up."""
    whole *= _exact(scale)[:, None]
    return whole.astype(scale.dtype, copy=False)


def _wide(values: NDArray) -> NDArray:
    """Few values in a type in which the search for a scale is exact enough for all of them."""
    return values.astype(np.float64)


def _exact(values: NDArray) -> NDArray:
    """Values in the type in which `dequantize` multiplies."""
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32, copy=False)
