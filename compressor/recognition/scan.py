"""One pass over a weight: its zeros and its distinct values, by bit pattern.

Values are compared as unsigned integers of their width, so that NaN payloads, infinities and 16-bit types need no case
of their own; only -0.0 is taken for 0.0. Work goes block by block through buffers that stay in the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from compressor import native
from compressor.arrays import DType, NDArray
from compressor.blocks import blocks
from compressor.patterns import bound, magnitude_bits, patterns, sign_bit, unique
from compressor.recognition.row_tables import row_tables
from compressor.recognition.tables import ENTRIES, Table

COUNTED = 320
"""Distinct values are counted up to here, so that a palette just missed can be named."""

_FIRST, _TRUSTED = 1 << 11, 1 << 16
"""The values of a sample that rules a palette out, and of one that stands for a weight until all of it is compared."""

_RUNS = 8
"""Half of a sample is taken from so many places."""

_SMALL = 1 << 13
"""The distinct values of so few are found by sorting them."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What one weight holds.

    size: the number of values.
    zeros: how many are 0.0 or -0.0.
    small: how many others have a magnitude up to the threshold.
    table: the distinct values, None where there are more than `COUNTED`.
    least: how many distinct values there are at least: those that were seen.
    by_channel: along an axis, the `row_tables` of its channels; made when they are first asked for, and kept.
    sampled: whether a sample tells what the values are, as a hypothesis for whoever compares all of them later.
    """

    size: int
    zeros: int
    small: int
    table: Table | None
    least: int
    by_channel: Callable[[int], NDArray | None]
    sampled: bool = False


def scan(values: NDArray, threshold: float, *, sampled: bool = False) -> Scan:
    """The zeros, the small and the distinct values of a weight; the latter by a sample if `sampled`."""
    (table, least), by_channel = _distinct(values, 0, sampled), functools.cache(partial(_channel_tables, values))
    edge = bound(threshold, values.dtype)
    if table is not None:
        # The table tells which magnitudes occur at all: most palettes have no zero and no small entry.
        entries = patterns(table.entries) & magnitude_bits(values.dtype)
        if not (entries <= edge).any():
            return Scan(values.size, 0, 0, table, least, by_channel, sampled)
    zeros, small = _count_near_zero(values, edge)
    return Scan(values.size, zeros, small, table, least, by_channel, sampled)


def _channel_tables(values: NDArray, axis: int) -> NDArray | None:
    return row_tables(np.moveaxis(values, axis, 0))


def distinct(values: NDArray, *, enough: int = 0, sampled: bool = False) -> Table | None:
    """The distinct values, or None where there are more than `COUNTED`; a dense weight costs a small sample.

    enough: how many there are, from a former pass: then the search ends as soon as it has them all.
    sampled: trust a larger sample that has few enough for a palette, as a hypothesis that is verified later.
    """
    return _distinct(values, enough, sampled)[0]


def _distinct(values: NDArray, enough: int, sampled: bool) -> tuple[Table | None, int]:  # noqa: FBT001 - as `distinct`
    """The same, and how many were seen."""
    flat = patterns(values)
    first = flat if flat.size <= _SMALL else sample(flat)
    keys = _distinct_patterns(first, values.dtype)
    if keys.size > COUNTED:
        return None, keys.size
    table = Table.of(keys, values.dtype)
    if first is flat:
        return table, keys.size
    looked_at = sample(flat, _TRUSTED) if sampled else flat
    while looked_at.size and table.entries.size != enough:
        # Blocks after this one are looked at with its values in the table: what is missing there is new.
        missing, done = table.missing(looked_at)
        looked_at = looked_at[done:]
        if missing.size:
            keys = _distinct_patterns(np.concatenate([keys, missing]), values.dtype)
            if keys.size > COUNTED:
                return None, keys.size
            table = Table.of(keys, values.dtype)
    return _distinct(values, enough, False) if sampled and table.entries.size > ENTRIES else (table, keys.size)


def few_distinct(values: NDArray) -> NDArray | None:
    """The distinct values of a small weight, without a hash to find them by; None if they are more than `COUNTED`."""
    if values.size > _SMALL:
        table = distinct(values)
        return None if table is None else table.entries
    keys = _distinct_patterns(patterns(values), values.dtype)
    return None if keys.size > COUNTED else keys.view(values.dtype)


def _count_near_zero(values: NDArray, edge: Any) -> tuple[int, int]:
    """How many values are zero, and how many others have a magnitude pattern up to `edge`."""
    zeros, near = near_zero(patterns(values), int(magnitude_bits(values.dtype)), int(edge))
    return zeros, near - zeros


@native.loop
def near_zero(flat: NDArray, magnitude: int, edge: int) -> tuple[int, int]:
    """How many patterns are zero, and how many at most `edge`, by the bits of `magnitude`."""
    zeros = near = 0
    for part in blocks(flat.size):
        absolute = flat[part] & flat.dtype.type(magnitude)
        if count := int(np.count_nonzero(absolute <= edge)):
            near += count
            zeros += int(np.count_nonzero(absolute == 0))
    return zeros, near


def sample(flat: NDArray, size: int = _FIRST) -> NDArray:
    """Half of `size` values from the beginning, and runs from further on for the rest."""
    if flat.size <= size:
        return flat
    run = size // 2 // _RUNS
    further = np.linspace(size // 2, flat.size - run, _RUNS, dtype=np.intp)
    return np.concatenate([flat[: size // 2], *(flat[start : start + run] for start in further)])


def _distinct_patterns(flat: NDArray, dtype: DType) -> NDArray:
    """The distinct patterns of values of a type, ascending, with 0.0's where that of -0.0 is among them."""
    keys, minus_zero = unique(flat), sign_bit(dtype)
    return unique(np.where(keys == minus_zero, minus_zero ^ minus_zero, keys)) if minus_zero in keys else keys
