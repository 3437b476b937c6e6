"""Templates: texts in which `%{name}` stands for a word, or a line for as many lines as there are words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files

PLACE = re.compile(r"%\{(\w+)\}")

Values = Mapping[str, str | Sequence[str]]
"""What stands for each name; a sequence repeats its line, one word after the other, and an empty one leaves it out."""


def read(name: str) -> str:
    """A template of this package."""
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def render(text: str, values: Values) -> str:
    r"""The text with its places filled.

    >>> render("a: %{a}\n  - %{b}\n  - %{c}\n", {"a": "1", "b": ("x", "y"), "c": ()})
    'a: 1\n  - x\n  - y\n'
    """
    return "".join(filled for line in text.splitlines(keepends=True) for filled in _lines(line, values))


def _lines(line: str, values: Values) -> Iterator[str]:
    several = next((name for name in PLACE.findall(line) if not isinstance(values[name], str)), None)
    for value in ("",) if several is None else values[several]:
        words = values if several is None else {**values, several: value}
        yield PLACE.sub(lambda place: str(words[place[1]]), line)  # noqa: B023 - used before the next one
