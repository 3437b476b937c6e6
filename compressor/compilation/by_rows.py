"""Palettes and masks of a weight that lies in a file, made of some rows at a time.

Neither all values nor all codes are in memory as such: codes are packed at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from compressor import gaps
from compressor.arrays import UINT8, NDArray, PackedArray, Shape
from compressor.cutting import in_rows
from compressor.encodings import Dense, Encoding, Palettized, Sparse, decode, dtype, index_bits, shape, stands_alone
from compressor.gaps import is_gaps
from compressor.kernels import select
from compressor.packing import pack_runs
from compressor.patterns import above
from compressor.recognition.schemes import palettize


def is_palette(spec: Encoding) -> bool:
    """Whether all values have one table, and rows bytes of codes of their own."""
    return isinstance(spec, Palettized) and stands_alone(spec) and _in_bytes(shape(spec), index_bits(spec.lut))


def palettized(source: Dense, spec: Palettized) -> Palettized:
    """The place of every value in the table of all.

    Raises:
        ValueError: there are more values than the table has.
    """
    width = index_bits(spec.lut)
    table = palettize.table(map(decode, in_rows(source)), spec.lut.shape[-2])
    codes = pack_runs((table.index(decode(some)) for some in in_rows(source)), math.prod(shape(spec)), width)
    indices = PackedArray(codes, shape(spec), UINT8, width)
    lut = palettize.padded(table.entries, spec.lut.shape[-2]).reshape(spec.lut.shape)
    return Palettized(indices if width < 8 else np.asarray(indices), lut)


def is_mask(spec: Encoding) -> bool:
    """Whether each place has a bit, in rows of whole bytes, or distances tell it; and each value stands alone."""
    if not isinstance(spec, Sparse) or not stands_alone(spec.values):
        return False
    return is_gaps(spec.mask) or (spec.mask.shape == spec.shape and _in_bytes(spec.shape, 1))


def masked(source: Dense, spec: Sparse, threshold: float, described: Callable[[NDArray], Any]) -> Sparse:
    """The mask, or the distances, and what `described` makes of the values that it keeps.

    Raises:
        ValueError: it keeps others than as many as were planned.
    """
    planned, counts = math.prod(shape(spec.values)), [0]
    values = np.empty(planned, dtype(source))

    def kept() -> Iterator[NDArray]:
        for some in in_rows(source):
            each = decode(some)
            where = above(each, threshold)
            nonzeros, start = select(each, where), sum(counts)
            values[start : start + nonzeros.size] = nonzeros[: max(0, planned - start)]
            counts.append(nonzeros.size)
            yield where

    mask = gaps.of_masks(kept(), spec.mask.dtype) if is_gaps(spec.mask) else _bits(kept(), spec.shape)
    if ((count := sum(counts)), mask.size) != (planned, spec.mask.size):
        raise ValueError(f"{planned:,} values at {spec.mask.size:,} stored places, got {count:,} at {mask.size:,}")
    return Sparse(mask, described(values), spec.shape)


def _bits(masks: Iterable[NDArray], shape: Shape) -> PackedArray:
    return PackedArray(pack_runs(masks, math.prod(shape), 1), shape, np.dtype(np.bool_), 1)


def _in_bytes(shape: Shape, width: int) -> bool:
    return len(shape) > 1 and math.prod(shape[1:]) * width % 8 == 0
