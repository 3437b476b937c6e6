"""Some of a large weight that lies in a file, read without the rest: enough to tell what all of it may be.

Any form of a weight is one of some of its rows, so what these rule out need not be looked for. Runs of neighbouring
rows keep blocks along the others whole, and single rows from all over it show parts of another kind.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from compressor.arrays import Array, ArraySpec, MappedArray, NDArray, Shape, bits
from compressor.cutting import rows as rows_of
from compressor.encodings import Dense, Encoding, Palettized, Quantized, decode, dtype
from compressor.recognition import parts
from compressor.recognition.schemes import linear_quantize, scales

LARGE = 1 << 22
"""Smaller weights are read whole: opening a file takes as long as reading a megabyte."""

_RUNS, _LEAST, _MOST = 4, 16, 256
"""So many runs are read, of a power of two of rows between these: blocks of 16 to 256 rows are whole, or one run."""

_SHARE = 1 / 16
"""The share of a weight that is read."""

_LONG = 256
"""Shorter rows are not read one by one."""


class Slices(NamedTuple):
    """What was read of a weight.

    runs: rows from all over it, `[rows, ...]`.
    spread: the rows by which parts are looked for, `[rows, ...]`.
    """

    runs: NDArray
    spread: NDArray

    def are_alike(self) -> bool:
        """Whether rows along each axis are of one kind."""
        every = np.concatenate(self)
        along = (parts.are_alike(every, axis, parts.places(size)) for axis, size in enumerate(every.shape) if axis)
        return parts.are_alike(self.spread, 0, np.arange(len(self.spread))) and all(along)


def read(array: Array) -> Slices | None:
    """Some of an array; None where it does not lie in a file as it is, or is not large, or has few long rows."""
    if not isinstance(array, MappedArray) or (array.width or bits(array.dtype)) < 8 or array.size < LARGE:
        return None
    rows, row = array.shape[0], array.size // array.shape[0]
    length = _MOST
    while length > _LEAST and _RUNS * length * row > array.size * _SHARE:
        length //= 2
    if row < _LONG or 2 * _RUNS * length > rows:
        return None
    starts = np.linspace(0, rows - length, _RUNS).astype(int) // length * length
    runs = [_rows(array, int(start), length) for start in starts]
    spread = [_rows(array, int(place), 1) for place in parts.places(rows)]
    return Slices(np.concatenate(runs), np.concatenate(spread))


def of_whole(spec: Encoding, some: Slices, shape: Shape) -> Encoding | None:
    """The form of a weight that some of its rows have, where none of its parts depends on how many there are."""
    match spec:
        case Dense(ArraySpec() as values):
            return Dense(replace(values, shape=shape))
        case Palettized(ArraySpec() as indices, lut, None) if math.prod(lut.shape[:-2]) == 1:
            return Palettized(replace(indices, shape=shape), lut)
        case Quantized(Dense(ArraySpec() as codes), scale) if scale.size == 1:
            return replace(spec, data=Dense(replace(codes, shape=shape)))
        case Quantized(Dense(ArraySpec())):
            return _of_rows(spec, some, shape)
        case _:
            return None


def _of_rows(spec: Quantized, some: Slices, shape: Shape) -> Quantized | None:
    """Codes each of whose rows has scales of its own, for all rows.

    None where a row has none, or few scales or codes may be all there are.
    """
    codes, counts = spec.data, (shape[0], *spec.scale.shape[1:])
    if spec.scale.shape[0] != len(some.runs) or not isinstance(codes, Dense) or not isinstance(codes.values, ArraySpec):
        return None
    every = np.concatenate(some)
    try:
        own = linear_quantize.encode(every, _of_shape(spec, codes.values, every.shape), None)
    except ValueError:
        return None
    if not _fills(own):
        return None
    scale = scales.spec(np.asarray(own.scale)[: len(some.runs)], counts)  # of each row once
    return None if isinstance(scale, Palettized) else replace(_of_shape(spec, codes.values, shape), scale=scale)


def _fills(codes: Quantized) -> bool:
    """Whether there are more than half of the codes of their type: no table of some of them has shorter places."""
    return np.unique(decode(codes.data).astype(np.int16)).size > 1 << bits(dtype(codes.data)) - 1


def _of_shape(spec: Quantized, codes: ArraySpec, shape: Shape) -> Quantized:
    """The form of so many rows; scales as they are computed."""
    counts = (shape[0], *spec.scale.shape[1:])
    moved = None if spec.zero_point is None else ArraySpec(counts, spec.zero_point.dtype)
    return Quantized(Dense(replace(codes, shape=shape)), ArraySpec(counts, dtype(spec)), moved, spec.block)


def _rows(array: MappedArray, start: int, count: int) -> NDArray:
    return np.asarray(rows_of(array, start, start + count))
