"""Annotations: what a command says beside a line of a file, in the words that GitHub's runners obey.

Source: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands; which characters are
spelled out is that of `@actions/core`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from .text import visible

_DATA = (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"))
_PROPERTY = (*_DATA, (":", "%3A"), (",", "%2C"))


def annotation(level: str, message: str, file: Path | None = None, line: int | None = None) -> str:
    r"""A workflow command.

    level: `error`, `warning` or `notice`.
    file: what it is about, from the current folder; the runner wants it from the top of what was checked out.

    >>> annotation("error", "50% of a: b\nc", Path("a,b.yaml"), 3)
    '::error file=a%2Cb.yaml,line=3::50%25 of a: b\\nc'
    """
    properties = {"file": _from_workspace(file) if file else "", "line": str(line or "")}
    told = ",".join(f"{name}={_escaped(value, _PROPERTY)}" for name, value in properties.items() if value)
    return f"::{level}{' ' if told else ''}{told}::{_escaped(visible(message), _DATA)}"


def metric(text: str, name: str) -> int | None:
    r"""The line in which a JSON document has a number first, from 1.

    >>> metric('{\n  "accuracy_drop": 0.1,\n  "accuracy": 0.9\n}', "accuracy")
    3
    """
    found = re.search(rf'[{{,]\s*"{re.escape(name)}"\s*:', text)
    return text.count("\n", 0, found.end()) + 1 if found else None


def _from_workspace(file: Path) -> str:
    """As GitHub knows it, whose annotations lie in no other folder than the top one, wherever the command ran."""
    top, place = os.environ.get("GITHUB_WORKSPACE"), Path(os.path.realpath(file))
    if top and place.is_relative_to(os.path.realpath(top)):
        return place.relative_to(os.path.realpath(top)).as_posix()
    return file.as_posix()


def _escaped(text: str, rules: tuple[tuple[str, str], ...]) -> str:
    for character, spelled in rules:
        text = text.replace(character, spelled)
    return text
