"""The examples of a command: the section `Examples:` at the end of its docstring, printed at the end of its help.

Each is a line of at most 76 columns, with or without a comment behind it.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable

HEADING = "Examples:"


def split(command: Callable[..., object]) -> tuple[str, str]:
    """What a command does, and its examples as lines; empty if it has none."""
    said, _, examples = (inspect.getdoc(command) or "").partition(f"\n{HEADING}\n")
    return said.strip(), inspect.cleandoc(examples)


def epilog(examples: str) -> str:
    r"""The end of a help; the mark in its first line keeps whoever prints it from filling lines.

    >>> epilog("compressor targets")
    '\x08\nExamples:\n  compressor targets'
    """
    return "\n".join(["\b", HEADING, *(f"  {line}" for line in examples.splitlines())]) if examples else ""


def arguments(line: str) -> list[str]:
    """What an example gives to the command, its name first, without what is for the reader.

    >>> arguments("compressor check -S 'evaluate.limits={size_ratio: 4}'  # twice")
    ['check', '-S', 'evaluate.limits={size_ratio: 4}']
    """
    return shlex.split(line, comments=True)[1:]
