"""Progress on stderr: bars where a person looks on, a line a phase elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, int, int], None]

# A log gets a line when a phase begins, and then one in this time: enough to show life, too few to flood it.
SILENCE_SECONDS = 30.0


@contextmanager
def shown(counted: str = "") -> Iterator[Report]:
    """A function that takes (phase, bytes done, bytes in all) and shows it until the context ends.

    counted: what is done one by one, in the plural, where it is no bytes.
    """
    if sys.stderr.isatty():
        with _bars(counted) as report:
            yield report
    else:
        yield _lines(counted)


@contextmanager
def waiting() -> Iterator[Callable[[str], None]]:
    """A function that takes what is done now, of unknown length, and shows it to a person who looks on."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True, highlight=False, markup=False, emoji=False).status("") as status:
        yield status.update


@contextmanager
def _bars(counted: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
    )

    done = MofNCompleteColumn() if counted else DownloadColumn()
    columns = (TextColumn("{task.description:>9}"), BarColumn(), done, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield report


def _lines(counted: str) -> Report:
    from .text import size

    last: dict[str, float] = {}

    def report(phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase not in last:
            print(f"{phase}: {f'{total:,} {counted}' if counted else size(total)}", file=sys.stderr, flush=True)
        elif now - last[phase] >= SILENCE_SECONDS:
            print(f"{phase}: {done / max(total, 1):.0%}", file=sys.stderr, flush=True)
        else:
            return
        last[phase] = now

    return report
