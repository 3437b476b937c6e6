"""Palettes: few distinct values, each weight stored as the place of its value in a table.

A table serves the whole weight, a group of channels or one channel; the granularity that takes the fewest bytes wins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from compressor.arrays import UINT8, ArraySpec, DType, NDArray, Shape, bits, blocks
from compressor.encodings import Palettized
from compressor.scan import ENTRIES, Scan, Table, above, distinct, few_distinct, patterns
from compressor.schemes import Candidate

NAME = "palettize"

MAX_GROUPED_AXES = 2
"""Groups of channels are looked for along the first axes: output and input channels in every common layout."""


def detect(values: NDArray, scan: Scan, best: float) -> Iterator[Candidate]:
    """Palettes of at most 256 values: for the whole weight, and for groups of channels where that saves most.

    best: the bytes of the smallest form known so far. Groups that cannot beat it are not looked for.
    """
    if scan.table is not None and scan.table.entries.size <= ENTRIES:
        count = scan.table.entries.size
        whole = spec(values.shape, values.dtype, (1,) * values.ndim, count)
        yield Candidate((NAME,), whole, plural(count, "distinct value"))
        best = min(best, _least_nbytes(scan, values, 1, scan.table.entries))
    for axis in range(min(values.ndim, MAX_GROUPED_AXES)):
        found = _grouped(values, scan, axis, best)
        if found is not None:
            best, grouped, evidence = found
            yield Candidate((NAME,), grouped, evidence)


def encode(values: NDArray, spec: Palettized, where: NDArray | None) -> Palettized:
    """The place of every value in its group's table; tables are filled up with zeros to the longest one."""
    groups, entries = spec.lut.shape[:-2], spec.lut.shape[-2]
    if math.prod(groups) == 1:
        chosen = values if where is None else select(values, where)
        table = _table(chosen, entries)
        lut = padded(table.entries, entries).reshape(*groups, entries, 1)
        return Palettized(table.index(chosen), lut)
    lut = np.zeros((*groups, entries, 1), values.dtype)
    indices = np.empty(values.shape, np.uint8)
    for group in np.ndindex(*groups):
        part = _part(values.shape, groups, group)
        chosen = values[part] if where is None else select(values[part], where[part])
        if chosen.size:
            table = _table(chosen, entries)
            lut[group][: table.entries.size, 0] = table.entries
            indices[part] = table.index(values[part])
    return Palettized(indices if where is None else select(indices, where), lut)


def spec(shape: Shape, dtype: DType, groups: Shape, entries: int) -> Palettized:
    """The spec of a palette with a table of `entries` values for each of `groups`."""
    return Palettized(ArraySpec(tuple(shape), UINT8), ArraySpec((*groups, entries, 1), dtype))


def without_zero(values: NDArray, candidate: Palettized, threshold: float, scan: Scan) -> int:
    """The longest table of a palette when magnitudes up to `threshold` are left to a mask; 0 if nothing is left."""
    groups = candidate.lut.shape[:-2]
    if math.prod(groups) == 1:
        assert scan.table is not None  # a palette for the whole weight was found in it
        return int(np.count_nonzero(above(scan.table.entries, threshold)))
    tables = (distinct(values[_part(values.shape, groups, group)]) for group in np.ndindex(*groups))
    return max(int(np.count_nonzero(above(table.entries, threshold))) for table in tables if table is not None)


def select(values: NDArray, where: NDArray) -> NDArray:
    """`values[where]`, as fast as numpy can: `compress` has no branch an element, unlike indexing by a mask.

    It makes an eight-byte index of each value that it takes, so it is called block by block.
    """
    flat, mask, start = values.reshape(-1), where.reshape(-1), 0
    chosen = np.empty(np.count_nonzero(mask), values.dtype)
    for part in blocks(flat.size):
        taken = np.compress(mask[part], flat[part])
        chosen[start : start + taken.size] = taken
        start += taken.size
    return chosen


def padded(entries: NDArray, count: int) -> NDArray:
    """A table filled up with zeros to `count` entries."""
    return np.concatenate([entries, np.zeros(count - entries.size, entries.dtype)])


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "distinct value"), plural(1200, "channel")
    ('1 distinct value', '1,200 channels')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _table(chosen: NDArray, entries: int) -> Table:
    table = distinct(chosen, enough=entries) if chosen.size else None
    if table is None or table.entries.size > entries:
        found = "more" if table is None else str(table.entries.size)
        raise ValueError(f"at most {entries} distinct values, got {found}")
    return table


def _part(shape: Shape, groups: Shape, group: tuple[int, ...]) -> tuple[slice, ...]:
    """The slices of one group of channels."""
    lengths = [dim // count for dim, count in zip(shape, groups, strict=True)]
    return tuple(slice(place * length, (place + 1) * length) for place, length in zip(group, lengths, strict=True))


def _grouped(values: NDArray, scan: Scan, axis: int, best: float) -> tuple[float, Palettized, str] | None:
    """The palette by groups of 1, 2, 4, ... channels along `axis` that takes the fewest bytes, if fewer than `best`."""
    moved = np.moveaxis(values, axis, 0)
    if len(moved) < 2 or values.size == len(moved) or not _promising(values, scan, moved, best):
        return None
    tables: list[NDArray] = []
    for channel in moved:
        table = distinct(channel)
        if table is None or table.entries.size > ENTRIES:
            return None
        tables.append(patterns(table.entries))
    found, group = None, 1
    while True:
        longest = max(tables, key=len)
        size = _least_nbytes(scan, values, len(tables), longest.view(values.dtype))
        if longest.size <= ENTRIES and size < best:
            best = size
            groups = tuple(len(tables) if place == axis else 1 for place in range(values.ndim))
            scope = f"{plural(group, 'channel')} along axis {axis}" if group > 1 else f"channel along axis {axis}"
            evidence = f"{plural(longest.size, 'distinct value')} per {scope}"
            found = best, spec(values.shape, values.dtype, groups, longest.size), evidence
        if len(tables) % 2 or len(tables) == 2:
            return found
        tables = [np.union1d(left, right) for left, right in zip(tables[::2], tables[1::2], strict=True)]
        group *= 2


def _promising(values: NDArray, scan: Scan, moved: NDArray, best: float) -> bool:
    """Whether the first group of some size has few enough values: channels are looked at one by one only then."""
    group = 1
    while group < len(moved):
        first = few_distinct(moved[:group])
        # Larger groups have no fewer values, and there are two groups at least: more cannot be saved than that.
        if first is None or _least_nbytes(scan, values, 2, first) >= best:
            return False
        if _least_nbytes(scan, values, len(moved) // group, first) < best:
            return True
        group *= 2
    return False


def _least_nbytes(scan: Scan, values: NDArray, groups: int, entries: NDArray) -> float:
    """The bytes of a palette with such a table for each group, or of the same under a mask: whichever is fewer."""
    nonzero = int(np.count_nonzero(entries))
    whole = _nbytes(values.size, groups, entries.size, values.dtype)
    return min(whole, values.size / 8 + _nbytes(values.size - scan.zeros, groups, nonzero, values.dtype))


def _nbytes(codes: int, groups: int, entries: int, dtype: DType) -> float:
    return codes * max(1, (entries - 1).bit_length()) / 8 + groups * entries * bits(dtype) / 8
