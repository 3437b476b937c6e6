"""Vector palettes: neighbours along an axis that occur together in few combinations, stored as one code each.

A vector is recognised by a key of 64 bits; that no two vectors share one is checked value by value.
"""

from __future__ import annotations

import numpy as np

from compressor.arrays import ArraySpec, NDArray, Shape
from compressor.blocks import blocks
from compressor.encodings import Palettized, index_bits
from compressor.packing import packed_nbytes
from compressor.patterns import merged, unique
from compressor.recognition.scan import distinct
from compressor.recognition.tables import ENTRIES

LENGTHS = (2, 4)
"""Lengths that are looked for."""

_CORNERS = (64, 256)
"""The sides of parts of a weight that rule most weights out, the cheapest first."""

_SHARE = 0.5
"""Trained vectors are at most this share of those that their values could make."""

_ODD = np.uint64(0x9E3779B97F4A7C15)
"""Powers of an odd number keep the values of a vector apart in its key: 2**64 by the golden ratio."""


def find(values: NDArray, axis: int, length: int, scalars: float, best: float) -> Palettized | None:
    """The palette of vectors of `length` neighbours along `axis`, if it takes fewer bytes than `best`: a spec.

    scalars: how many distinct values there are. Values that occur next to each other at random make most of the
        vectors that so many can make; corners of the weight tell.
    """
    most = min(ENTRIES, _SHARE * scalars**length)
    if values.shape[axis] % length or values.size / length / 8 >= best:
        return None
    for side in _CORNERS:
        corner = values[(slice(side), slice(side))]
        if unique(_keys(_in_vectors(corner, axis, length)).reshape(-1)).size > most:
            return None
    vectors = _in_vectors(values, axis, length)
    table = distinct(_keys(vectors))
    if table is None or (entries := table.entries.size) > most:
        return None
    lut = ArraySpec((*(1,) * values.ndim, entries, length), values.dtype)
    size = packed_nbytes(values.size // length, index_bits(lut)) + lut.nbytes
    if size >= best or _lut(vectors, table.index(_keys(vectors)), entries) is None:
        return None
    return Palettized(ArraySpec(vectors.shape[:-1], np.dtype(np.uint8)), lut, axis)


def encode(values: NDArray, axis: int, entries: int, length: int) -> Palettized:
    """The place of every vector in the table of `entries` that occur.

    Raises:
        ValueError: there are more.
    """
    vectors = _in_vectors(values, axis, length)
    keys = _keys(vectors)
    table = distinct(keys, enough=entries)
    indices = None if table is None or table.entries.size > entries else table.index(keys)
    lut = None if indices is None else _lut(vectors, indices, entries)
    if indices is None or lut is None:
        raise ValueError(f"at most {entries} distinct vectors of {length} along axis {axis}, got more")
    return Palettized(indices, lut.reshape(*(1,) * values.ndim, entries, length), axis)


def _in_vectors(values: NDArray, axis: int, length: int) -> NDArray:
    """The neighbours along `axis` on an axis of their own, the last one: a copy."""
    shape: Shape = (*values.shape[:axis], values.shape[axis] // length, length, *values.shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(values.reshape(shape), axis + 1, -1))


def _keys(vectors: NDArray) -> NDArray:
    """A number for each vector, the same for the same values: uint64, without the last axis of `vectors`."""
    parts = merged(vectors).reshape(vectors.shape)
    keys = parts[..., 0].astype(np.uint64)
    for place in range(1, vectors.shape[-1]):
        keys *= _ODD
        keys += parts[..., place]
    return keys


def _lut(vectors: NDArray, indices: NDArray, entries: int) -> NDArray | None:
    """The vector behind each index: `[entries, V]`, or None where one index stands for several."""
    flat, parts = indices.reshape(-1), vectors.reshape(-1, vectors.shape[-1])
    lut = np.zeros((entries, vectors.shape[-1]), vectors.dtype)
    for part in blocks(flat.size):
        lut[flat[part]] = parts[part]
    keys = merged(lut).reshape(lut.shape)
    for part in blocks(flat.size):
        if not np.array_equal(keys[flat[part]].reshape(-1), merged(parts[part])):
            return None
    return keys.view(vectors.dtype)
