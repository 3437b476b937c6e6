"""Some of a large weight that lies in a file, read without the rest: enough to tell what all of it may be.

Any form of a weight is one of some of its rows, so what these rule out need not be looked for. Runs of neighbouring
rows keep blocks whole, and single rows from all over it show parts of another kind.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from compressor.arrays import Array, ArraySpec, MappedArray, NDArray, Shape, bits
from compressor.encodings import Dense, Encoding, Palettized, Quantized

LARGE = 1 << 22
"""Smaller weights are read whole: opening a file takes as long as reading a megabyte."""

_RUNS, _LEAST, _MOST = 4, 16, 256
"""So many runs are read, of a power of two of rows between these: blocks of 16 to 256 rows are whole, or one run."""

_SHARE = 1 / 16
"""The share of a weight that is read."""

_ROWS, _VALUES = 64, 256
"""So many single rows are looked at, and neighbouring values of each."""


class Slices(NamedTuple):
    """What was read of a weight.

    runs: rows from all over it, `[rows, ...]`.
    stripes: values of single rows, `[_ROWS, _VALUES]`.
    """

    runs: NDArray
    stripes: NDArray


def read(array: Array) -> Slices | None:
    """Some of an array; None where it does not lie in a file as it is, or is not large, or has few long rows."""
    if not isinstance(array, MappedArray) or (array.width or bits(array.dtype)) < 8 or array.size < LARGE:
        return None
    rows, row = array.shape[0], array.size // array.shape[0]
    length = _MOST
    while length > _LEAST and _RUNS * length * row > array.size * _SHARE:
        length //= 2
    if row < _VALUES or 2 * _RUNS * length > rows:
        return None
    starts = np.linspace(0, rows - length, _RUNS).astype(int) // length * length
    runs = [_part(array, start * row, (length, *array.shape[1:])) for start in starts]
    places = np.linspace(0, rows - 1, _ROWS).astype(int)
    within = np.arange(_ROWS) * 37 * _VALUES % (row - _VALUES + 1)
    stripes = [_part(array, at * row + start, (_VALUES,)) for at, start in zip(places, within, strict=True)]
    return Slices(np.concatenate(runs), np.stack(stripes))


def of_whole(spec: Encoding, shape: Shape) -> Encoding | None:
    """The form of a weight that some of its rows have, where none of its parts depends on how many there are."""
    match spec:
        case Dense(ArraySpec() as values):
            return Dense(replace(values, shape=shape))
        case Palettized(ArraySpec() as indices, lut, None) if math.prod(lut.shape[:-2]) == 1:
            return Palettized(replace(indices, shape=shape), lut)
        case Quantized(Dense(ArraySpec() as codes), scale) if scale.size == 1:
            return replace(spec, data=Dense(replace(codes, shape=shape)))
        case _:
            return None


def _part(array: MappedArray, start: int, shape: Shape) -> NDArray:
    """The elements from one on, of a shape."""
    return np.asarray(replace(array, offset=int(array.offset + start * array.dtype.itemsize), shape=shape))
