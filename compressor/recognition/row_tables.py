"""The distinct values of every row of a weight: tables for palettes by channel.

A few values of a row tell nearly all that it has. The others are looked up by a hash of their patterns in a table for
each row; what is not there, be it rare or another's place, is collected, and only that is sorted.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compressor.arrays import DType, NDArray
from compressor.blocks import blocks, row_blocks
from compressor.patterns import magnitude_bits, starts, unique
from compressor.recognition.scan import ENTRIES

_FEW = 256
"""So many values of a row, all over it, are its first table."""

_SLOT_BITS = 11
"""A row has so many slots: few entries of a table share one, and the tables of some rows stay in the cache."""

_MULTIPLIER = 0x9E3779B1
"""Odd: 2**32 by the golden ratio. The upper bits of a product with it are the slot."""

_HALF = np.uint64(32)

_HASHED = {2, 4}
"""The bytes of a pattern that is looked up by its hash; of those of one byte there are no more than entries."""

_RARE = 1 / 4
"""Where more of the values than this are not found, sorting all is faster."""

_TILE = 64
"""So many columns are copied at once where rows lie along them."""


def row_tables(rows: NDArray) -> NDArray | None:
    """The distinct patterns of every row of `rows`, whose further axes count as one; None if one has over `ENTRIES`.

    Unsigned `[len(rows), L]`, ascending, shorter ones filled up with their last; 0.0 stands for -0.0 too.
    """
    tables = []
    for some in _contiguous(rows):
        keys = some.view(f"<u{rows.dtype.itemsize}")
        table = _merged(
            _by_hash(keys) if keys.shape[1] > 2 * _FEW and keys.itemsize in _HASHED else _sorted(keys), rows.dtype
        )
        if table.shape[1] > ENTRIES:
            return None
        tables.append(table)
    longest = max(table.shape[1] for table in tables)
    return np.concatenate([table[:, np.minimum(np.arange(longest), table.shape[1] - 1)] for table in tables])


def without_duplicates(ordered: NDArray) -> NDArray:
    """Each row of patterns in ascending order, each once, filled up with the last one to the longest row."""
    new = starts(ordered)
    return _filled(np.compress(new.reshape(-1), ordered.reshape(-1)), np.count_nonzero(new, axis=1))


def _filled(flat: NDArray, counts: NDArray) -> NDArray:
    """Rows of so many patterns each, one behind the other, filled up with their last to the longest."""
    first = np.cumsum(counts) - counts
    return np.asarray(flat[first[:, None] + np.minimum(np.arange(counts.max()), counts[:, None] - 1)])


def _merged(table: NDArray, dtype: DType) -> NDArray:
    """The table with the pattern of 0.0 for that of -0.0."""
    zeros = table & magnitude_bits(dtype) == 0
    if not np.count_nonzero(table[zeros]):
        return table
    return without_duplicates(np.sort(np.where(zeros, table.dtype.type(0), table), axis=1))


def _sorted(keys: NDArray) -> NDArray:
    return without_duplicates(np.sort(keys, axis=1))


def _by_hash(keys: NDArray) -> NDArray:
    """The distinct patterns of every row of `[rows, n]`, of at most 32 bits."""
    rows, n = keys.shape
    few = np.sort(keys[:, :: n // _FEW], axis=1)
    new = starts(few)
    known, row = few[new], np.nonzero(new)[0]
    begun = np.arange(0, rows << _SLOT_BITS, 1 << _SLOT_BITS)
    table = np.repeat(few[:, 0], 1 << _SLOT_BITS)
    table[begun[row] + _slots(known)] = known
    common = few[:, few.shape[1] // 2]  # what is more than half of a row, zeros say, keeps its slot
    table[begun + _slots(common)] = common
    places = _slots(keys)
    places += begun[:, None]
    missing = np.flatnonzero(np.take(table, places, mode="clip") != keys)
    if missing.size > _RARE * keys.size:
        return _sorted(keys)
    rare = unique(_in_row(missing // n, keys.reshape(-1)[missing]))
    pairs = unique(np.concatenate([_in_row(row, known), rare]))
    counts = np.bincount((pairs >> _HALF).astype(np.intp), minlength=rows)
    return _filled(pairs.astype(np.uint32).astype(keys.dtype), counts)


def _in_row(row: NDArray, keys: NDArray) -> NDArray:
    """Numbers that sort by row, then by pattern: uint64."""
    return np.asarray(row.astype(np.uint64) << _HALF | keys)


def _slots(keys: NDArray) -> NDArray:
    """The slot of each pattern in the table of its row."""
    bits = keys.dtype.itemsize * 8
    products = np.multiply(keys, keys.dtype.type(_MULTIPLIER >> 32 - bits | 1))
    products >>= keys.dtype.type(bits - _SLOT_BITS)
    return np.asarray(products.astype(np.intp))


def _contiguous(rows: NDArray) -> Iterator[NDArray]:
    """Rows in blocks, values next to each other: `[some, n]` each."""
    if rows.ndim > 2 or len(rows) == 1 or rows.strides[0] != rows.itemsize:
        for part in row_blocks(len(rows), rows.size):
            yield np.ascontiguousarray(rows[part]).reshape(part.stop - part.start, -1)
        return
    # Columns: numpy would read a cache line for each of their values.
    for part in blocks(len(rows), _TILE):
        tile = np.ascontiguousarray(rows[part].T)
        turned = np.empty(tile.shape[::-1], tile.dtype)
        for some in blocks(len(tile), _TILE):
            turned[:, some] = tile[some].T
        yield turned
