"""Blocks of elements and of rows."""

from __future__ import annotations

import pytest

from compressor.blocks import BLOCK, blocks, row_blocks


@pytest.mark.parametrize(("size", "bounds"), [(0, []), (3, [(0, 3)]), (4, [(0, 4)]), (9, [(0, 4), (4, 8), (8, 9)])])
def test_blocks_cover_all_in_order(size: int, bounds: list[tuple[int, int]]) -> None:
    assert [(part.start, part.stop) for part in blocks(size, 4)] == bounds


@pytest.mark.parametrize(
    ("rows", "size", "lengths"),
    [
        (5, 5 * BLOCK // 2, [2, 2, 1]),
        (3, 3 * (BLOCK + 1), [1, 1, 1]),
        (3, 30, [3]),
        (4, 0, [4]),
        (0, 0, []),
    ],
)
def test_rows_make_blocks_together(rows: int, size: int, lengths: list[int]) -> None:
    assert [part.stop - part.start for part in row_blocks(rows, size)] == lengths
