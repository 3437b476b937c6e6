"""Names of weights as a page shows them: what all share is said once, and what tells them apart is never cut."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ..sheet import elided

_LEAST_PREFIX = 6  # what is shorter costs less where it stands than a sentence about it
_BREAKS = re.compile(r"[./:]")


def fold(names: Sequence[str]) -> tuple[str, list[str]]:
    """What all names begin with, whole parts of it, and the rest of each.

    >>> fold(["model.layers.0.q", "model.layers.0.k", "model.layers.11.q"])
    ('model.layers.', ['0.q', '0.k', '11.q'])
    >>> fold(["conv1.weight", "conv2.weight"])
    ('', ['conv1.weight', 'conv2.weight'])
    """
    shared = names[0][: _alike(names)] if len(names) > 1 else ""
    ends = [found.end() for found in _BREAKS.finditer(shared)]
    cut = max((end for end in ends if all(len(name) > end for name in names)), default=0)
    if cut < _LEAST_PREFIX:
        return "", list(names)
    return shared[:cut], [name[cut:] for name in names]


def distinct(names: Sequence[str], width: int) -> list[str]:
    """Names of at most `width` characters, of more only where they would not differ as the names do.

    >>> distinct(["encoder.layers.10.attention.query.weight", "encoder.layers.11.attention.query.weight"], 24)
    ['encoder.l…10.…ery.weight', 'encoder.l…11.…ery.weight']
    >>> distinct(["fc1.weight", "encoder.layers.11.attention.query.weight"], 24)
    ['fc1.weight', 'encoder.laye…uery.weight']
    """
    short = [elided(name, width) for name in names]
    for label in [one for one, count in Counter(short).items() if count > 1]:
        same = [place for place, one in enumerate(short) if one == label]
        alike = [names[place] for place in same]
        # What is between that which all begin with and that which all end with differs wherever the names do.
        head = max((found.end() for found in _BREAKS.finditer(alike[0][: _alike(alike)])), default=0)
        rest = [name[head:][::-1] for name in alike]
        tail = max((found.start() for found in _BREAKS.finditer(rest[0][: _alike(rest)])), default=0)
        for place in same:
            short[place] = _around(names[place], head, tail, width)
    return short


def _alike(names: Sequence[str]) -> int:
    """With how many characters all of them begin: as many as the first and the last one, sorted."""
    one, two = min(names), max(names)
    return next((place for place, letter in enumerate(one) if letter != two[place]), len(one))


def _around(name: str, head: int, tail: int, width: int) -> str:
    """A name without what is beside its middle, as far as there is no room for it."""
    middle = name[head : len(name) - tail]
    room = max(0, width - len(middle) - 2)
    before, after = _begun(name[:head], room // 2), _begun(name[len(name) - tail :][::-1], room - room // 2)[::-1]
    return before + middle + after


def _begun(text: str, width: int) -> str:
    """The first characters of a text, and a sign that there are more."""
    return text if len(text) <= width + 1 else f"{text[:width]}…"
