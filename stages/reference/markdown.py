"""What the pages have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

WRITTEN = "Written from the code by `make reference`; change that, not this page."


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    r"""The lines of a table, none if it has no rows.

    >>> list(table(["key"], [["a|b"]]))
    ['| key |', '|---|', '| a\\|b |']
    """
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    if lines:
        yield f"| {' | '.join(header)} |"
        yield f"|{'---|' * len(header)}"
        yield from lines
