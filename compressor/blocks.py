"""Walking a weight in blocks that stay in a core's second-level cache together with what is made of them.

Element-wise passes over a weight then read memory once, however many numpy calls they make.
"""

from __future__ import annotations

from collections.abc import Iterator

BLOCK = 1 << 16
"""The elements of a block."""


def blocks(size: int, block: int = BLOCK) -> Iterator[slice]:
    """Slices of at most `block` elements that cover `size` elements in order."""
    for start in range(0, size, block):
        yield slice(start, min(start + block, size))


def row_blocks(rows: int, size: int) -> Iterator[slice]:
    """Slices that cover `rows` rows of `size` elements together: as many rows as make a block, or a single long one."""
    return blocks(rows, max(1, BLOCK * rows // max(1, size)))
