"""Errors that a user can act on.

Every message says what and where (file, weight, shape, dtype), expected against got, and what to do. A command prints
the message alone and exits with `exit_status`; a traceback means a defect of this package.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class CompressorError(Exception):
    """The work could not be done: a file, a model or a weight is not what it must be."""

    exit_status = 1


class UsageError(CompressorError):
    """The request is wrong: an unknown name, a value of the wrong kind, options that exclude each other."""

    exit_status = 2


class DamageError(ValueError):
    """What a weight stores contradicts itself, which shows only when it is read: whoever knows the weight names it."""


def located(path: Path, error: CompressorError) -> CompressorError:
    """The error with the path in front of what it says, unless it names that path already."""
    return CompressorError(str(error) if str(path) in str(error) else f"{path}: {error}")


def unknown(kind: str, name: str, choices: Iterable[str]) -> UsageError:
    """The error for a `name` that is none of the `choices`, with the closest one suggested."""
    known = sorted(choices)
    close = difflib.get_close_matches(name.lower(), [choice.lower() for choice in known], n=1)
    hint = next((f" Did you mean {choice!r}?" for choice in known if [choice.lower()] == close), "")
    return UsageError(f"unknown {kind} {name!r}.{hint} Choices: {', '.join(known) or 'none'}.")


def line(error: BaseException) -> str:
    """The text of an error, in a line."""
    return " ".join(str(error).split())


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "weight"), plural(1200, "value")
    ('1 weight', '1,200 values')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
