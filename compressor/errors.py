"""Errors that a user can act on.

Every message says what and where (file, weight, shape, dtype), expected against got, and what to do. A command prints
the message alone and exits with `exit_status`; a traceback means a defect of this package.
"""

from __future__ import annotations

import difflib
import re
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
    close = max(((_likeness(name.lower(), choice.lower()), choice) for choice in known), default=None)
    hint = f" Did you mean {close[1]!r}?" if close is not None and close[0][0] >= _ALIKE else ""
    return UsageError(f"unknown {kind} {name!r}.{hint} Choices: {', '.join(known) or 'none'}.")


_ALIKE = 0.6


def _likeness(name: str, choice: str) -> tuple[float, bool, int]:
    """How alike two names are. Of versions that are equally so: the one with these digits, else the nearest.

    >>> _likeness("ios71", "ios17") > _likeness("ios71", "ios18") > _likeness("ios71", "ios16")
    True
    """
    ratio = difflib.SequenceMatcher(None, choice, name).ratio()
    return ratio, sorted(name) == sorted(choice), -abs(_version(name) - _version(choice))


def _version(name: str) -> int:
    found = re.search(r"[0-9]{1,9}$", name)
    return int(found[0]) if found else 0


def line(error: BaseException) -> str:
    """The text of an error, in a line."""
    return " ".join(str(error).split())


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "weight"), plural(1200, "value")
    ('1 weight', '1,200 values')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
