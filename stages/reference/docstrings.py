"""Docstrings as the house writes them: a sentence, lines for each name, and what is raised."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Docstring:
    """What a docstring says.

    text: all but what follows, in Markdown.
    names: the text of each parameter or field, by its name.
    raised: the text of each exception, by its name.
    """

    text: str
    names: dict[str, str]
    raised: dict[str, str]


def parse(documented: object, names: Collection[str]) -> Docstring:
    """The docstring of a class or a function that has these parameters or fields.

    >>> def half(number):
    ...     '''The half of it.
    ...
    ...     number: in metres,
    ...         above zero.
    ...
    ...     Raises:
    ...         ValueError: it is not.
    ...     '''
    >>> parse(half, {"number"})
    Docstring(text='The half of it.', names={'number': 'in metres, above zero.'}, raised={'ValueError': 'it is not.'})
    """
    text, _, raised = (inspect.getdoc(documented) or "").partition("Raises:\n")
    kept, found = [], dict[str, str]()
    entry = ""
    for line in text.splitlines():
        begun = re.match(r"([\w, ]+): (.*)", line)
        if begun and set(begun[1].split(", ")) <= set(names):
            entry = begun[1]
            found[entry] = begun[2]
        elif entry and line.strip():
            found[entry] += f" {line.strip()}"
        else:
            entry = ""
            kept.append(line)
    each = {name: told for entry, told in found.items() for name in entry.split(", ")}
    plain = re.sub(r"\n{3,}", "\n\n", "\n".join(_without_doctests(kept)))
    return Docstring(plain.strip(), each, _raised(raised))


def _without_doctests(lines: list[str]) -> list[str]:
    """The lines without the examples that are tests: what they print belongs to them, up to an empty line."""
    kept, inside = [], False
    for line in lines:
        inside = line.startswith(">>>") or (inside and bool(line.strip()))
        if not inside:
            kept.append(line)
    return kept


def _raised(text: str) -> dict[str, str]:
    found = dict[str, str]()
    entry = ""
    for line in filter(str.strip, text.splitlines()):
        if not line.startswith(" "):  # the next section
            break
        begun = re.match(r" {4}([\w, ]+): (.*)", line)
        if begun:
            entry = begun[1]
            found[entry] = begun[2]
        elif entry:
            found[entry] += f" {line.strip()}"
    return found
