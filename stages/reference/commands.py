"""The commands, as their own help says it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

from typer.testing import CliRunner

from ..app import COMMANDS, app
from .markdown import WRITTEN

INTRODUCTION = f"""\
# Commands

{WRITTEN}

`compressor COMMAND --help` prints what is here.

| exit status | |
|---:|---|
| 0 | done |
| 1 | it could not be done (there is no such model, too), or a limit is broken: a line says what, where, what to do |
| 2 | a wrong request: an unknown option, name or key; settings, samples or metrics that are not there |
| 70 | a defect of this package |
| 129, 130, 143 | hung up, interrupted, terminated; nothing is left half-written |
| 141 | nobody reads what it prints |
"""


def page() -> str:
    """The whole text."""
    return "\n".join([INTRODUCTION, *_help("compressor"), *(line for name in COMMANDS for line in _help(name))])


def _help(name: str) -> Iterator[str]:
    arguments = [] if name == "compressor" else [name]
    with mock.patch.dict(os.environ, {"COLUMNS": "100", "TERMINAL_WIDTH": "100"}):
        printed = CliRunner().invoke(app, [*arguments, "--help"], prog_name="compressor", catch_exceptions=False)
    yield f"## {name}\n\n```text\n{printed.stdout.strip()}\n```\n"
