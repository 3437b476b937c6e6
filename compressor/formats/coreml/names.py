"""Names that an ML Program has."""

from __future__ import annotations

import re


def spelling(name: str) -> str:
    """A name in the letters that a program has.

    >>> spelling("layers.0/weight"), spelling("0.weight"), spelling("")
    ('layers_0_weight', '_0_weight', '_')
    """
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{plain}" if plain[:1].isdigit() or not plain else plain


def take(name: str, taken: dict[str, int]) -> str:
    """The name, numbered where it is taken; it is taken from now on.

    taken: by name, the last number that was tried behind it: many weights of one spelling are not counted up each time.

    >>> taken = {"w": 0, "w_2": 0}
    >>> [take("w", taken) for _ in range(3)]
    ['w_1', 'w_3', 'w_4']
    """
    made = name
    while made in taken:
        taken[name] += 1
        made = f"{name}_{taken[name]}"
    taken[made] = 0
    return made
