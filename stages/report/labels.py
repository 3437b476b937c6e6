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
    """Names of at most about `width` characters that differ where the names do.

    >>> distinct(["encoder.layers.10.attention.query.weight", "encoder.layers.11.attention.query.weight"], 24)
    ['encod…rs.10.att…weight', 'encod…rs.11.att…weight']
    >>> distinct(["fc1.weight", "encoder.layers.11.attention.query.weight"], 24)
    ['fc1.weight', 'encoder.laye…uery.weight']
    """
    short = [elided(name, width) for name in names]
    for label in [one for one, count in Counter(short).items() if count > 1]:
        same = [place for place, one in enumerate(short) if one == label]
        alike = [names[place] for place in same]
        if len(set(alike)) == 1:
            continue
        head, tail = _alike(alike), _alike([name[::-1] for name in alike])
        for place in same:
            name = names[place]
            short[place] = _around(name, head, max(head, len(name) - tail), width)
    return short


def _alike(names: Sequence[str]) -> int:
    """With how many characters all of them begin: as many as the first and the last one, sorted."""
    one, two = min(names), max(names)
    return next((place for place, letter in enumerate(one) if letter != two[place]), len(one))


def _around(name: str, start: int, stop: int, width: int) -> str:
    """A name with its first and last characters and what is around the part that tells it apart."""
    context = max(2, width // 6)
    first, last = max(0, start - context), min(len(name), stop + context)
    head, tail = name[: min(first, context + 1)], name[max(last, len(name) - context - 2) :]
    return (
        head
        + ("…" if len(head) < first else "")
        + name[first:last]
        + ("…" if last < len(name) - len(tail) else "")
        + tail
    )
