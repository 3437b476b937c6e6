"""Grids: the scales of which all values of a row are whole multiples.

A value lies on a grid if it is `fl(k * scale)`, a whole multiple after one rounding. Rows are `[rows, n]`, in whatever
order they lie in memory; each has a scale of its own.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from compressor import native
from compressor.arrays import DType, NDArray, mantissa_bits, of_mantissa
from compressor.patterns import magnitude_bits, patterns
from compressor.recognition.rows import exact, extremes, fitting, is_multiple, nearest
from compressor.recognition.scan import distinct
from compressor.recognition.tables import ENTRIES

SPAN = 255
"""The most steps from the least multiple of a grid to its greatest: what codes of 8 bits count."""

_GREATEST = SPAN + 2
"""Two roundings move the greatest multiple by less than 2."""

_FEW = 256
"""So many values of a row rule most scales out ..."""

_QUANTILES = np.array([0.3, 0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 0.99])
"""... and of these the magnitudes that so many of those above zero do not exceed."""

_SEARCHED = 1 << 17
"""A longer row is searched by its distinct values: a grid has no more than it has steps."""

_PARTS, _SIDES = np.array([*itertools.product(range(1, SPAN + 1), (0, 1, -1))]).T
"""How a scale may follow from the least magnitude of its row, a guess each, the largest scales first: fewest steps.

The part of it that the scale is, 1 to 255, and on which side of the rounded quotient the scale lies: 0 for the
quotient, else 1 or -1 for the float above or below.
"""

_ROUNDS = (1, 6, 24, 96, _PARTS.size)
"""Where guesses are parted: most rows have their scale by the first ones, and the others are few."""


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
    if not rows.size or (ends := extremes(rows)) is None:
        return None
    low, high, least = ends
    scale = _scales(rows, least, np.maximum(high, -low))
    if scale is None:
        return None
    lowest, highest = np.rint(low / _wide(scale)), np.rint(high / _wide(scale))
    if (highest - lowest > SPAN).any():
        return None
    return Grid(scale, lowest.astype(np.int16), highest.astype(np.int16))


@np.errstate(divide="ignore", over="ignore", invalid="ignore")  # values too far apart for a grid
def _scales(rows: NDArray, least: NDArray, largest: NDArray) -> NDArray | None:
    """The largest scale of each row, given its least and its largest magnitude; None where a row has none.

    The least magnitude of a row is a multiple of its scale, so the scale is a whole part of it but for a rounding. Most
    often it is the scale itself; else the parts are tried in turn, the largest first, as long as the largest magnitude
    has a code. Few values of a row rule most guesses out; what they leave is compared with all of them.
    """
    if (largest > least * _GREATEST).any():
        return None
    scale = np.where(largest > 0, least, 1).astype(rows.dtype)  # a row of zeros keeps a finite scale
    left = np.flatnonzero(~fitting(rows, scale))
    if left.size:
        found, dtype = np.empty(left.size, rows.dtype), rows.dtype
        low, high = (patterns(each[left].astype(dtype)) for each in (least, largest))
        if not search_into(patterns(rows[left]), low, high, patterns(found), mantissa_bits(dtype)):
            return None
        scale[left] = found
    return scale


@native.loop
def search_into(flat: NDArray, least: NDArray, largest: NDArray, scales: NDArray, mantissa: int) -> bool:
    """Write the scale of each row that is not its least magnitude; whether every row has one.

    least, largest: magnitudes, patterns as all others; above zero.
    """
    dtype = of_mantissa(mantissa)
    rows, scale = flat.reshape(least.size, -1).view(dtype), scales.view(dtype)
    low, high = (each.view(dtype).astype(np.float64) for each in (least, largest))
    left, tried = np.arange(least.size), np.ones(least.size, np.intp)
    looked_at = _FEW
    while left.size:
        found = _next(_telling(rows[left], looked_at), low[left], high[left], tried, dtype)
        if found is None:
            return False
        tried, scale[left] = found
        fits = fitting(rows[left], scale[left])
        left, tried, looked_at = left[~fits], tried[~fits] + 1, rows.shape[1]
    return True


def _telling(rows: NDArray, size: int) -> NDArray:
    """Magnitudes of each row, by `size` of its values: `[values, rows]`, of the type in which codes are multiplied.

    Small ones tell most, for the floats between two multiples are many there; zeros tell nothing.
    """
    few = rows[:, :: max(1, rows.shape[1] // size)]
    absolute = np.ascontiguousarray(few).view(f"<u{rows.dtype.itemsize}") & magnitude_bits(rows.dtype)
    one = absolute.dtype.type(1)
    absolute -= one  # 0 becomes the greatest
    absolute.sort(axis=1)
    absolute += one
    places = np.count_nonzero(absolute, axis=1)[:, None] * _QUANTILES
    return exact(np.take_along_axis(absolute, places.astype(np.intp), axis=1).T.view(rows.dtype))


def _next(
    telling: NDArray, least: NDArray, largest: NDArray, tried: NDArray, dtype: DType
) -> tuple[NDArray, NDArray] | None:
    """The first guess of each row, from `tried` on, by which the telling values of it have codes; and the scale.

    telling: `[values, rows]`, of the type in which codes are multiplied. None where a row has no such guess.
    """
    guess, scale = np.zeros(least.size, np.intp), np.empty(least.size, dtype)
    left = np.arange(least.size)
    for first, end in itertools.pairwise(_ROUNDS):
        some = slice(None) if left.size == least.size else left
        guesses, rows, scales = _passed(telling[:, some], least[some], largest[some], tried[some], first, end, dtype)
        rows, first_of = np.unique(rows, return_index=True)
        guess[left[rows]], scale[left[rows]] = guesses[first_of], scales[first_of]
        left = np.delete(left, rows)
        if not left.size:
            return guess, scale
        # Where one row has no grid, nobody needs to know of the others.
        one = left[:1]
        if not _passed(telling[:, one], least[one], largest[one], tried[one], end, _PARTS.size, dtype)[0].size:
            return None
    return None


def _passed(
    telling: NDArray, least: NDArray, largest: NDArray, tried: NDArray, first: int, end: int, dtype: DType
) -> tuple[NDArray, NDArray, NDArray]:
    """The guesses from `first` to `end` by which the telling values of a row have codes.

    Which guess, in ascending order, of which row, and the scale: `[found]` each. A few values rule most of them out.
    """
    parts = _PARTS[first:end, None]
    scale = (least / parts).astype(dtype)
    # The quotient of a rounded value is at most a rounding away from the scale: it, or the float beside it.
    unsigned = scale.view(f"<u{dtype.itemsize}")
    unsigned += _SIDES[first:end, None].astype(unsigned.dtype)
    passed = (largest * parts <= least * _GREATEST) & (np.arange(first, end)[:, None] >= tried)
    passed &= is_multiple(telling[0], exact(scale), dtype)
    guess, row = np.nonzero(passed)
    scale = scale[guess, row]
    for some in (telling[1:3], telling[3:]):
        fits = is_multiple(np.take(some, row, axis=1), exact(scale), dtype).all(axis=0)
        if not fits.all():
            guess, row, scale = guess[fits], row[fits], scale[fits]
    return guess + first, row, scale


def moved(rows: NDArray, scale: NDArray) -> NDArray:
    """The rows with every value at the nearest multiple of the row's scale."""
    return nearest(exact(rows), exact(scale)[:, None], rows.dtype).astype(rows.dtype, copy=False)


def _wide(values: NDArray) -> NDArray:
    """Few values in a type in which the search for a scale is exact enough for all of them."""
    return values.astype(np.float64)
