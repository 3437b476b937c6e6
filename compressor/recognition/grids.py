"""Grids: the scales of which all values of a row are whole multiples.

A value lies on a grid if it is `fl(k * scale)`, a whole multiple after one rounding. Rows are `[rows, n]`, in whatever
order they lie in memory; each has a scale of its own.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from compressor.arrays import BFLOAT16, DType, NDArray
from compressor.blocks import blocks, row_blocks
from compressor.patterns import magnitude_bits
from compressor.recognition.scan import ENTRIES, distinct

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


_LEAST_NORMAL, _FIXED = np.float32(2.0**-14), np.float32(0.75)
"""Float16 has a fixed point below the former; float32 has the same one at the latter."""


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


def extremes(rows: NDArray) -> tuple[NDArray, NDArray, NDArray] | None:
    """The least and the greatest value of each row, zero among them, and its least magnitude above zero: float64.

    The latter is zero in a row of zeros. None where a value is not finite.

    >>> [each.tolist() for each in extremes(np.array([[0.5, -1.5, 1.0], [8.0, 4.0, 0.0]]))]
    [[-1.5, 0.0], [1.0, 8.0], [0.5, 4.0]]
    """
    size, magnitude = rows.dtype.itemsize, magnitude_bits(rows.dtype)
    unsigned = rows.view(f"<u{size}")
    infinite = np.array([np.inf]).astype(rows.dtype).view(unsigned.dtype)[0]
    # Patterns sort as magnitudes do: as unsigned ones the negative values are above all others, as signed ones below.
    greatest = np.maximum(unsigned.view(f"<i{size}").max(axis=1), 0).astype(unsigned.dtype)
    lowest = unsigned.max(axis=1)
    lowest = np.where(lowest > magnitude, lowest & magnitude, unsigned.dtype.type(0))
    if (lowest >= infinite).any() or (greatest >= infinite).any():
        return None
    one = unsigned.dtype.type(1)
    least = np.full_like(lowest, magnitude)
    for part, places in in_blocks(rows):
        absolute = unsigned[part, places] & magnitude
        absolute -= one  # 0 becomes the greatest
        np.minimum(least[part], absolute.min(axis=1), out=least[part])
    least = np.where(least < magnitude, least + one, 0).astype(unsigned.dtype)
    low, high, small = (_wide(each.view(rows.dtype)) for each in (lowest, greatest, least))
    return 0 - low, high, small


@np.errstate(divide="ignore", over="ignore", invalid="ignore")  # values too far apart for a grid
def _scales(rows: NDArray, least: NDArray, largest: NDArray) -> NDArray | None:
    """The largest scale of each row, given its least and its largest magnitude; None where a row has none.

    The least magnitude of a row is a multiple of its scale, so the scale is a whole part of it but for a rounding. Most
    often it is the scale itself; else the parts are tried in turn, the largest first, as long as the largest magnitude
    has a code. Few values of a row rule most guesses out; what they leave is compared with all of them.
    """
    scale = np.where(largest > 0, least, 1).astype(rows.dtype)  # a row of zeros keeps a finite scale
    left = np.flatnonzero(~(_fits(rows, scale) & (largest <= least * _GREATEST)))
    tried = np.ones(left.size, np.intp)
    looked_at = _FEW
    while left.size:
        found = _next(_telling(rows[left], looked_at), least[left], largest[left], tried, rows.dtype)
        if found is None:
            return None
        tried, scale[left] = found
        fits = _fits(rows[left], scale[left])
        left, tried, looked_at = left[~fits], tried[~fits] + 1, rows.shape[1]
    return scale


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
    passed &= _equal(telling[0], exact(scale), dtype)
    guess, row = np.nonzero(passed)
    scale = scale[guess, row]
    for some in (telling[1:3], telling[3:]):
        fits = _equal(np.take(some, row, axis=1), exact(scale), dtype).all(axis=0)
        if not fits.all():
            guess, row, scale = guess[fits], row[fits], scale[fits]
    return guess + first, row, scale


def _fits(rows: NDArray, scale: NDArray) -> NDArray:
    """Which rows equal multiples of their scale after one rounding: bool `[rows]`."""
    fits, divisor = np.ones(len(rows), np.bool_), exact(scale)[:, None]
    for part, places in in_blocks(rows):
        equal = _equal(exact(rows[part, places]), divisor[part], rows.dtype)
        if not equal.all():
            fits[part] &= equal.all(axis=1)
    return fits


def in_blocks(rows: NDArray) -> Iterator[tuple[slice, slice]]:
    """Rows in blocks that stay in the cache: some rows, or some places of all of them where they lie side by side."""
    if not rows.flags.c_contiguous:
        yield from ((slice(None), places) for places in row_blocks(rows.shape[1], rows.size))
        return
    for part in row_blocks(len(rows), rows.size):
        yield from ((part, places) for places in blocks(rows.shape[1]))


def _equal(values: NDArray, scale: NDArray, dtype: DType) -> NDArray:
    """Where values of a type are a whole multiple of a scale after one rounding, `fl(k * scale) == w`: bool."""
    return np.asarray(nearest(values, scale, dtype) == values)


def nearest(values: NDArray, scale: NDArray, dtype: DType) -> NDArray:
    """The nearest multiples of a scale, rounded to a type.

    values, scale: in the type in which codes are multiplied, as the result is.
    """
    whole = values / scale
    np.rint(whole, out=whole)
    whole *= scale
    return _rounded(whole, dtype)


def multiples(rows: NDArray, scale: NDArray) -> NDArray:
    """The nearest multiples of each row's scale, whole numbers in a floating type.

    The quotient's own rounding is far less than a half for multiples of up to 255.
    """
    quotients = exact(rows) / exact(scale)[:, None]
    return np.rint(quotients, out=quotients)


def moved(rows: NDArray, scale: NDArray) -> NDArray:
    """The rows with every value at the nearest multiple of the row's scale."""
    return nearest(exact(rows), exact(scale)[:, None], rows.dtype).astype(rows.dtype, copy=False)


def _rounded(values: NDArray, dtype: DType) -> NDArray:
    """Values rounded to a type that may be narrower, in their own; they are used up.

    By their patterns, which is faster than to convert them there and back. What is too large for the narrower type
    becomes none of its values.

    >>> _rounded(np.array([1.001, 3e-8, 1e-8], np.float32), np.dtype(np.float16)).tolist()
    [1.0009765625, 5.960464477539063e-08, 0.0]
    """
    if dtype.itemsize > 2:
        return values
    shift, tiny = (16, None) if dtype == BFLOAT16 else (13, np.abs(values) < _LEAST_NORMAL)
    fixed = values if tiny is None else (values + _FIXED) - _FIXED
    bits = values.view(np.uint32)
    half = bits >> np.uint32(shift)
    half &= np.uint32(1)
    half += np.uint32((1 << shift - 1) - 1)
    bits += half
    bits &= np.uint32(0xFFFFFFFF << shift & 0xFFFFFFFF)
    return values if tiny is None else np.where(tiny, fixed, values)


def _wide(values: NDArray) -> NDArray:
    """Few values in a type in which the search for a scale is exact enough for all of them."""
    return values.astype(np.float64)


def exact(values: NDArray) -> NDArray:
    """Values in the type in which `dequantize` multiplies."""
    if values.dtype == np.float16:  # numpy converts them one by one
        return np.take(_every_half(), values.view(np.uint16), mode="clip")
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32, copy=False)


@functools.cache
def _every_half() -> NDArray:
    """The float16 value of every pattern, as float32."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
