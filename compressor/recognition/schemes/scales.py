"""Scales as few bytes: a table where few of them are distinct, or a type of 16 bits that has all of them.

Scales of blocks are often those of a checkpoint in half precision, or powers of two; with a block of 16 or 32 values
each, they are a fifth of what a weight of 4 bits takes.
"""

from __future__ import annotations

import math

import numpy as np

from compressor.arrays import UINT8, Array, ArraySpec, DType, NDArray, Shape, stored_type
from compressor.encodings import Palettized, index_bits
from compressor.packing import packed_nbytes
from compressor.patterns import patterns
from compressor.recognition.scan import distinct
from compressor.recognition.schemes.narrow import narrowed, narrowest
from compressor.recognition.tables import ENTRIES, Table

_LEAST_SAVED = 1 << 10
"""The bytes that another form must save: about what decoding it takes in a graph."""

_UNLIKE = 128
"""So many scales of more, no two of which are the same, are not of a table of 256."""


def spec(scales: NDArray, counts: Shape) -> ArraySpec | Palettized:
    """The smallest form of scales, of which there are `counts` along each axis.

    scales: these, or some of them.
    """
    flat, size = scales.reshape(-1), math.prod(counts)
    forms: list[tuple[int, ArraySpec | Palettized]] = [(size * flat.itemsize, ArraySpec(counts, flat.dtype))]
    if (stored := narrowest(flat)) is not None:
        forms.append((size * stored.itemsize, ArraySpec(counts, flat.dtype, stored)))
    few = distinct(flat)  # most often a sample rules a table out
    if few is not None and (entries := few.entries.size) <= ENTRIES and not _UNLIKE <= entries == flat.size < size:
        lut = ArraySpec((*(1,) * len(counts), entries, 1), flat.dtype)
        table = Palettized(ArraySpec(counts, UINT8), lut)
        forms.append((packed_nbytes(size, index_bits(lut)) + lut.nbytes, table))
    best = min(forms, key=lambda form: form[0])
    return best[1] if forms[0][0] - best[0] >= _LEAST_SAVED else forms[0][1]


def least_nbytes(count: int, dtype: DType) -> int:
    """The fewest bytes that so many scales of a type take, whatever they are."""
    dense, all_alike = count * dtype.itemsize, packed_nbytes(count, 1) + dtype.itemsize
    return dense if dense - all_alike < _LEAST_SAVED else all_alike


def encode(scales: NDArray, form: Array | Palettized) -> Array | Palettized:
    """The scales as `spec` says.

    Raises:
        ValueError: they are not what it says.
    """
    if not isinstance(form, Palettized):
        return narrowed(scales, None if stored_type(form) == form.dtype else stored_type(form))
    few = distinct(scales)
    if few is None or few.entries.size != form.lut.shape[-2]:
        got = "others" if few is None else few.entries.size
        raise ValueError(f"{form.lut.shape[-2]} distinct scales, got {got}")
    table = Table(np.sort(patterns(few.entries)).view(scales.dtype))  # in the order that artefacts have them
    return Palettized(table.index(scales), table.entries.reshape(form.lut.shape))
