"""What `init` says, and what it asks for on a terminal."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

import typer

from compressor.errors import UsageError

from ..text import visible
from .changes import Change, Kept, difference, proposal
from .plan import PARAMS

WIDTH = 110


def ask(option: str, question: str, default: str, *, needed: bool = True) -> str:
    """What a user answers, as `answers.Ask` has it."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        if not needed:
            return default
        raise UsageError(f"--{option} is missing: {question}")
    answer: str = typer.prompt(visible(question), default=default or None)
    return answer.strip()


def tell(
    evidence: Sequence[tuple[str, str, str]], changed: Sequence[Change], kept: Sequence[Kept], *, dry_run: bool
) -> None:
    """Print what was guessed and why, what differs from what would be written now, and with `dry_run` what changes."""
    for what, value, because in evidence:
        lines = textwrap.wrap(f"{value}: {because}" if value else because, WIDTH - 11, break_on_hyphens=False)
        for at, line in enumerate(lines):
            print(f"{what if not at else '':11}{visible(line)}".rstrip())
    for one in kept:
        print(f"\n{visible(one.name)}: {visible(one.part)} is kept as it is; it would be written like this now:")
        print("\n".join(map(visible, proposal(one))))
    if dry_run:
        print()
        print("\n".join(map(visible, difference(changed))) if changed else "nothing would change")


def tell_next(changed: Sequence[Change], params: str) -> None:
    """Print what was written, and what comes next.

    params: the file with the settings.
    """
    print()
    if not changed:
        print("nothing to add: everything is there")
        return
    for one in changed:
        print(f"{'made' if one.old is None else 'extended'}  {visible(one.name)}: {visible(', '.join(one.added))}")
    option = "" if params == PARAMS else f" --params {params}"
    print(f"next: compressor validate{option}, then dvc repro")
