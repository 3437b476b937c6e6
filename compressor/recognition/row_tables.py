"""The distinct values of every row of a weight: tables for palettes by channel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compressor import native
from compressor.arrays import NDArray
from compressor.blocks import row_blocks
from compressor.patterns import sign_bit, starts
from compressor.recognition.rows import in_memory
from compressor.recognition.tables import ENTRIES


def row_tables(rows: NDArray) -> NDArray | None:
    """The distinct patterns of every row of `rows`, whose further axes count as one; None if one has over `ENTRIES`.

    Unsigned `[len(rows), L]`, ascending, shorter ones filled up with their last; 0.0 stands for -0.0 too.
    """
    tables = []
    for some in [rows] if rows.ndim == 2 else _flattened(rows):
        memory, beside = in_memory(some)
        found = np.empty((len(some), min(ENTRIES, some.shape[1])), memory.dtype)
        longest = distinct_into(memory.reshape(-1), found.reshape(-1), len(some), int(sign_bit(rows.dtype)), beside)
        if not longest:
            return None
        tables.append(np.sort(found[:, :longest], axis=1))
    longest = max(table.shape[1] for table in tables)
    filled = [table[:, np.minimum(np.arange(longest), table.shape[1] - 1)] for table in tables]
    return np.asarray(np.concatenate(filled))


def places(rows: NDArray, tables: NDArray) -> NDArray:
    """The place of every value of `[rows, n]` in the table of its row, the first one: uint8, as rows lie in memory.

    A value that is not there gets an arbitrary place.

    tables: patterns `[rows, L]`, 0.0 for -0.0 too.
    """
    memory, beside = in_memory(rows)
    found = np.empty(memory.shape, np.uint8)
    row_places_into(
        memory.reshape(-1), tables.reshape(-1), found.reshape(-1), len(rows), int(sign_bit(rows.dtype)), beside
    )
    return found.T if beside else found


def without_duplicates(ordered: NDArray) -> NDArray:
    """Each row of patterns in ascending order, each once, filled up with the last one to the longest row."""
    new = starts(ordered)
    flat, counts = np.compress(new.reshape(-1), ordered.reshape(-1)), np.count_nonzero(new, axis=1)
    first = np.cumsum(counts) - counts
    return np.asarray(flat[first[:, None] + np.minimum(np.arange(counts.max()), counts[:, None] - 1)])


@native.loop
def distinct_into(flat: NDArray, tables: NDArray, count: int, minus_zero: int, beside: int) -> int:
    """Write the distinct patterns of each of `count` rows, in any order, and the greatest again to its table's end.

    How many a row has at most; 0 where one has more than its table. It says nothing of what it wrote then.

    minus_zero: a pattern that is taken for 0; 0 if there is none.
    """
    into = tables.reshape(count, -1)
    keys = flat.reshape(-1, count).T if beside else flat.reshape(count, -1)
    longest = 0
    for part in row_blocks(count, keys.size):
        some = keys[part]
        found = without_duplicates(np.sort(np.where(some == minus_zero, some.dtype.type(0), some), axis=1))
        longest = max(longest, found.shape[1])
        if longest > into.shape[1]:
            return 0
        into[part] = found[:, np.minimum(np.arange(into.shape[1]), found.shape[1] - 1)]
    return longest


@native.loop
def row_places_into(flat: NDArray, tables: NDArray, found: NDArray, count: int, minus_zero: int, beside: int) -> None:
    """Write the first place of every pattern of so many rows in the table of its row; of others it says nothing."""
    keys, into = (each.reshape(-1, count).T if beside else each.reshape(count, -1) for each in (flat, found))
    for row, table in enumerate(tables.reshape(count, -1)):
        order = np.argsort(table, kind="stable")
        some = np.where(keys[row] == minus_zero, table.dtype.type(0), keys[row])
        into[row] = order[np.searchsorted(table[order[:-1]], some)]


def _flattened(rows: NDArray) -> Iterator[NDArray]:
    """Rows of several axes, `[some, n]` at a time: they may be copied."""
    for part in row_blocks(len(rows), rows.size):
        yield rows[part].reshape(part.stop - part.start, -1)
