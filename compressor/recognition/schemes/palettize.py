"""Palettes: few distinct values, each weight stored as the place of its value in a table.

A table serves the whole weight, a group of channels or one channel; the granularity that takes the fewest bytes wins.
Its entries are scalars, or vectors of neighbours along an axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np

from compressor.arrays import UINT8, ArraySpec, DType, NDArray, Shape, bits, is_float
from compressor.encodings import Palettized, nbytes
from compressor.errors import plural
from compressor.kernels import select, take
from compressor.patterns import above, eps, patterns, sortable, starts, unique, unsortable
from compressor.recognition import clusters
from compressor.recognition.granularity import Granularity, channel_axes
from compressor.recognition.row_tables import places, row_tables, without_duplicates
from compressor.recognition.scan import Scan, distinct, few_distinct
from compressor.recognition.schemes import Candidate, vectors
from compressor.recognition.tables import ENTRIES, Table

NAME = "palettize"

_FEW_CHANNELS = 16
"""So many channels tell whether their tables may be one times a factor."""

_TELLING = 3
"""Tables of fewer entries are alike by chance: any two of a positive and a negative value may be."""


def detect(values: NDArray, scan: Scan, best: float) -> Iterator[Candidate]:
    """Palettes of at most 256 entries: for the whole weight, for vectors and for groups of channels.

    best: the bytes of the smallest form known so far. Groups and vectors that cannot beat it are not looked for.
    """
    if scan.table is not None and scan.table.entries.size <= ENTRIES:
        count = scan.table.entries.size
        whole = spec(values.shape, values.dtype, (1,) * values.ndim, count)
        yield Candidate((NAME,), whole, plural(count, "distinct value"))
        best = min(best, _least_nbytes(scan, values, 1, count, int(np.count_nonzero(scan.table.entries))))
    scalars = math.inf if scan.table is None else scan.table.entries.size
    for axis, length in itertools.product(channel_axes(values.ndim), vectors.LENGTHS):
        if scan.least > ENTRIES * length:  # each of them lies in some vector
            continue
        if (by_vector := vectors.find(values, axis, length, scalars, best)) is not None:
            best = nbytes(by_vector)
            evidence = f"{plural(by_vector.lut.shape[-2], 'distinct vector')} of {length} along axis {axis}"
            yield Candidate((NAME,), by_vector, evidence)
    # Whatever the groups, each value but zero stands in some table, and each place has a bit of a code or of a mask.
    if values.size / 8 + (scan.least - 1) * values.dtype.itemsize >= best:
        return
    for axis in channel_axes(values.ndim):
        if (found := _grouped(values, scan, axis, best)) is not None:
            best, candidate = found
            yield candidate


def nearest(values: NDArray, tolerance: float) -> NDArray | None:
    """Every value replaced by the middle of its cluster, or by zero if that lies in it."""
    if (found := clusters.find(values, tolerance)) is None:
        return None
    near = take(found.middle, np.searchsorted(found.low, values.reshape(-1).astype(np.float64), side="right") - 1)
    return near.reshape(values.shape)


def factored(dtype: DType, spec: Palettized, scan: Scan) -> tuple[int, int, float] | None:
    """Whether the tables of a palette by channel are one table, each times a factor but for a rounding.

    The axis of the channels, the entries of the one table, and the greatest relative error; None if they are not.
    """
    groups = spec.lut.shape[:-2]
    axes = [axis for axis, count in enumerate(groups) if count > 1]
    if len(axes) != 1 or spec.vector_axis is not None or not is_float(dtype):
        return None
    tables = scan.by_channel(axes[0])
    found = None if tables is None else _factored(tables, dtype)
    return None if found is None else (axes[0], *found)


def _factored(tables: NDArray, dtype: DType) -> tuple[int, float] | None:
    """The entries of the one table, and the greatest relative error of what it is times a factor for each channel."""
    if tables.shape[1] < _TELLING:
        return None
    full = _counts(tables, np.ones(tables.shape, np.bool_)) == tables.shape[1]
    with np.errstate(invalid="ignore"):  # a signalling NaN
        exact = np.sort(tables.view(dtype).astype(np.float64), axis=1)
    if full.sum() < max(2, len(tables) // 2) or not np.isfinite(exact).all():
        return None
    largest = np.abs(exact).max(axis=1, keepdims=True)
    shapes = exact / np.where(largest, largest, 1)
    one, others = shapes[full][0], shapes[~full]
    # A negative factor turns a table around.
    apart = [np.abs(turned - one).max(axis=1) for turned in (shapes[full], -shapes[full, ::-1])]
    error, most = float(np.minimum(*apart).max()), 4 * eps(dtype)
    if error > most or not _within(others[:: max(1, len(others) // _FEW_CHANNELS)], one, most):
        return None
    return tables.shape[1], error


def _within(tables: NDArray, one: NDArray, most: float) -> bool:
    """Whether some of the entries of `one`, each times a factor, are each of the tables: one of them is its largest."""
    between, fits = (one[1:] + one[:-1]) / 2, ~tables.any(axis=1)  # zero times the table is zero
    for factor in (*one, *-one):
        scaled = tables * factor
        fits |= (np.abs(one[np.searchsorted(between, scaled)] - scaled) <= most).all(axis=1) & (factor != 0)
    return bool(fits.all())


def encode(values: NDArray, spec: Palettized, where: NDArray | None) -> Palettized:
    """The place of every value, or vector, in its group's table; tables are filled up with zeros to the longest one."""
    groups, (entries, length) = spec.lut.shape[:-2], spec.lut.shape[-2:]
    if spec.vector_axis is not None:
        return vectors.encode(values, spec.vector_axis, entries, length)
    if math.prod(groups) == 1:
        chosen = values if where is None else select(values, where)
        found = table([chosen] if chosen.size else [], entries)
        lut = padded(found.entries, entries).reshape(*groups, entries, 1)
        return Palettized(found.index(chosen), lut)
    lut, indices = np.zeros((*groups, entries, 1), values.dtype), np.empty(values.shape, np.uint8)
    lengths = tuple(dim // count for dim, count in zip(values.shape, groups, strict=True))
    for part in Granularity(values.shape, lengths).parts():
        rows = part.rows(values)
        chosen = np.ones((len(rows), 1), np.bool_) if where is None else part.rows(where)
        tables, new = _ascending(rows, chosen, entries)
        part.put(indices, places(rows, tables))
        stored = np.zeros((len(rows), entries), values.dtype)
        stored[:, : new.shape[1]][new] = tables.view(values.dtype)[new]
        lut[part.blocks] = stored.reshape(*part.counts, entries, 1)
    return Palettized(indices if where is None else select(indices, where), lut)


def _ascending(rows: NDArray, chosen: NDArray, entries: int) -> tuple[NDArray, NDArray]:
    """The patterns of every row by ascending value, filled up with the last one; and which of them are new: bool.

    chosen: the values that count, bool `[rows, n]`, or `[rows, 1]`; a row without one has no entry.

    Raises:
        ValueError: a row has more entries.
    """
    first = np.take_along_axis(rows, chosen.argmax(axis=1)[:, None], axis=1)
    tables = row_tables(rows if chosen.shape[1] == 1 else np.where(chosen, rows, first))
    if tables is None or tables.shape[1] > entries:
        raise ValueError(f"at most {entries} distinct values, got {'more' if tables is None else tables.shape[1]}")
    keys = sortable(tables.view(rows.dtype)).reshape(tables.shape)
    ordered = without_duplicates(np.sort(keys, axis=1))
    values = unsortable(ordered, rows.dtype)
    return values.view(ordered.dtype), starts(ordered) & np.asarray(chosen.any(axis=1))[:, None]


def spec(shape: Shape, dtype: DType, groups: Shape, entries: int) -> Palettized:
    """The spec of a palette with a table of `entries` values for each of `groups`."""
    return Palettized(ArraySpec(tuple(shape), UINT8), ArraySpec((*groups, entries, 1), dtype))


def has_more_tables(values: NDArray, scan: Scan) -> bool:
    """Whether values that have one table may have smaller ones by channel, or of vectors, in a larger weight."""
    if scan.table is None or (count := scan.table.entries.size) > ENTRIES:
        return False
    by_channel = (scan.by_channel(axis) for axis in channel_axes(values.ndim))
    if any(one is not None and _width(one.shape[1]) < _width(count) for one in by_channel):
        return True
    every = itertools.product(channel_axes(values.ndim), vectors.LENGTHS)
    return any(vectors.find(values, axis, length, count, math.inf) is not None for axis, length in every)


def _width(entries: int) -> int:
    return max(1, (entries - 1).bit_length())


def without_zero(values: NDArray, candidate: Palettized, threshold: float, scan: Scan) -> int:
    """The longest table of a palette when magnitudes up to `threshold` are left to a mask; 0 if nothing is left."""
    groups = candidate.lut.shape[:-2]
    if math.prod(groups) == 1:
        assert scan.table is not None  # a palette for the whole weight was found in it
        return int(np.count_nonzero(above(scan.table.entries, threshold)))
    (axis,) = (place for place, count in enumerate(groups) if count > 1)
    tables = next(some for some in _by_group(scan.by_channel(axis)) if len(some) == groups[axis])
    return int(_counts(tables, above(tables.view(values.dtype), threshold)).max())


def padded(entries: NDArray, count: int) -> NDArray:
    """A table filled up with zeros to `count` entries."""
    return np.concatenate([entries, np.zeros(count - entries.size, entries.dtype)])


def table(parts: Iterable[NDArray], entries: int) -> Table:
    """The distinct values of what has at least one; no more is looked at once so many are found.

    Raises:
        ValueError: there are more.
    """
    found: Table | None = None
    for some in parts:
        new = distinct(some, enough=entries)
        if new is not None and found is not None:
            keys = unique(np.concatenate([patterns(found.entries), patterns(new.entries)]))
            new = Table.of(keys, some.dtype)
        if new is None or new.entries.size > entries:
            raise ValueError(f"at most {entries} distinct values, got {'more' if new is None else new.entries.size}")
        found = new
        if new.entries.size == entries:
            break
    if found is None:
        raise ValueError(f"at most {entries} distinct values, got no value")
    return found


def _counts(tables: NDArray, chosen: NDArray) -> NDArray:
    """How many distinct entries each table has where `chosen`: intp `[tables]`."""
    return np.asarray(np.count_nonzero(starts(tables) & chosen, axis=1))


def _grouped(values: NDArray, scan: Scan, axis: int, best: float) -> tuple[float, Candidate] | None:
    """The palette by groups of 1, 2, 4, ... channels along `axis` that takes the fewest bytes, if fewer than `best`."""
    moved = np.moveaxis(values, axis, 0)
    if len(moved) < 2 or values.size == len(moved) or not _promising(values, scan, moved, best):
        return None
    found = None
    for tables in _by_group(scan.by_channel(axis)):
        entries, group = tables.shape[1], len(moved) // len(tables)
        nonzero = int(_counts(tables, tables != 0).max())
        if (size := _least_nbytes(scan, values, len(tables), entries, nonzero)) < best:
            best = size
            groups = tuple(len(tables) if place == axis else 1 for place in range(values.ndim))
            scope = f"{plural(group, 'channel')} along axis {axis}" if group > 1 else f"channel along axis {axis}"
            evidence = f"{plural(entries, 'distinct value')} per {scope}"
            found = best, Candidate((NAME,), spec(values.shape, values.dtype, groups, entries), evidence)
    return found


def _by_group(tables: NDArray | None) -> Iterator[NDArray]:
    """The tables of groups of 1, 2, 4, ... channels, at least two of them: each is merged from those of its halves."""
    while tables is not None and tables.shape[1] <= ENTRIES:
        yield tables
        if len(tables) % 2 or len(tables) == 2:
            return
        tables = without_duplicates(np.sort(tables.reshape(len(tables) // 2, -1), axis=1))


def _promising(values: NDArray, scan: Scan, moved: NDArray, best: float) -> bool:
    """Whether the first group of some size has few enough values: all channels are looked at only then."""
    group = 1
    while group < len(moved):
        first = few_distinct(moved[:group])
        if first is None:
            return False
        counts = first.size, int(np.count_nonzero(first))
        # Larger groups have no fewer values, and there are two groups at least: more cannot be saved than that.
        if _least_nbytes(scan, values, 2, *counts) >= best:
            return False
        if _least_nbytes(scan, values, len(moved) // group, *counts) < best:
            return True
        group *= 2
    return False


def _least_nbytes(scan: Scan, values: NDArray, groups: int, entries: int, nonzero: int) -> float:
    """The bytes of a palette with such a table for each group, or of the same under a mask: whichever is fewer."""
    whole = _nbytes(values.size, groups, entries, values.dtype)
    return min(whole, values.size / 8 + _nbytes(values.size - scan.zeros, groups, nonzero, values.dtype))


def _nbytes(codes: int, groups: int, entries: int, dtype: DType) -> float:
    return codes * max(1, (entries - 1).bit_length()) / 8 + groups * entries * bits(dtype) / 8
