"""A table that stays readable at 80 columns: long names lose their middle, a note goes beside its row or below it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.text import Text

from .text import visible

GAP = "  "
LEAST_NAME = 12  # columns that a name keeps, however narrow the terminal is
READABLE_NAME = 40  # a note beside the row may not cost a name more than what goes beyond this


@dataclass(frozen=True)
class Row:
    """One line of a sheet.

    cells: texts, one for each title.
    note: what explains the row.
    details: further lines, always below the row.
    style: of the cells, as rich names it.
    ruled: whether a line parts it from the rows above.
    """

    cells: tuple[str, ...]
    note: str = ""
    details: tuple[str, ...] = ()
    style: str = ""
    ruled: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(map(visible, self.cells)))
        object.__setattr__(self, "note", visible(self.note))
        object.__setattr__(self, "details", tuple(map(visible, self.details)))


@dataclass(frozen=True)
class Sheet:
    """Rows under titles; the first column holds names, and the columns from `numbers` on are set to the right.

    Columns in which no row has a text are left out, and a sheet without rows is empty.
    """

    titles: tuple[str, ...]
    rows: tuple[Row, ...]
    numbers: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if not self.rows:
            return
        shown = [place for place in range(len(self.titles)) if any(row.cells[place] for row in self.rows)]
        widths = [max(cell_len(cells[place]) for cells in self._lines()) for place in shown]
        beside, widths[0] = self._fit(options.max_width, widths)
        rule = Text("─" * min(options.max_width, sum(widths) + len(GAP) * (len(widths) - 1)), "dim", no_wrap=True)
        for place, row in enumerate((Row(self.titles, style="bold"), *self.rows)):
            if row.ruled or place == 1:
                yield rule
            cells = [
                (self._cell(place, row.cells[place], width), row.style)
                for place, width in zip(shown, widths, strict=True)
            ]
            line = Text.assemble(*(part for cell in cells for part in (cell, GAP)), no_wrap=True, overflow="ellipsis")
            if beside:
                line.append(row.note, "dim")
            line.rstrip()
            yield line
            below = row.details if beside or not row.note else (row.note, *row.details)
            for note in below:
                yield Padding(Text(note, "dim"), (0, 0, 0, 2 * len(GAP)), expand=False)

    def _lines(self) -> Iterable[tuple[str, ...]]:
        return (self.titles, *(row.cells for row in self.rows))

    def _fit(self, width: int, widths: list[int]) -> tuple[bool, int]:
        """Whether the notes go beside their rows, and the width of the names."""
        name, others = widths[0], sum(widths[1:]) + len(GAP) * (len(widths) - 1)
        note = max((cell_len(row.note) for row in self.rows), default=0) + len(GAP)
        beside = min(name, READABLE_NAME) + others + note <= width
        room = width - others - (note if beside else 0)
        return beside, min(name, max(room, LEAST_NAME))

    def _cell(self, place: int, text: str, width: int) -> str:
        text = elided(text, width)
        fill = " " * (width - cell_len(text))
        return fill + text if place >= self.numbers else text + fill


def elided(text: str, width: int) -> str:
    """`text` without its middle where it is longer than `width`.

    >>> elided("encoder.layers.11.attention.query.weight", 24)
    'encoder.laye…uery.weight'
    """
    if cell_len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"
