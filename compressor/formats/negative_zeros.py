"""Who can tell -0.0 from 0.0 in a weight.

Most forms store one zero, and pruning by a mask leaves half of its zeros negative. Where a sum takes the products of a
weight, the sign of a zero is lost anyway; a division by it, or an output, shows it. So the readers of a weight are
followed through the operators that carry the sign on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Effect = Literal["drops", "carries", "shows"]
"""What an operator makes of the sign of a zero: `drops`: no result depends on it but for the sign of a zero sum;
`carries`: a zero result has it; `shows`: anything else, and every operator that is not known."""


@dataclass(frozen=True)
class Reader:
    """An operator that reads a value.

    told: what it is, for a reader. effect: on the sign of a zero of that value. outputs: the values that it gives.
    """

    told: str
    effect: Effect
    outputs: Sequence[str] = ()


def shown_by(
    name: str, readers: Callable[[str], Iterable[Reader]], outputs: Callable[[str], bool], known: dict[str, str]
) -> str:
    """What tells -0.0 from 0.0 in the value `name`; empty if nothing does.

    readers: of a value by its name. outputs: whether a value leaves the graph. known: what was found out
    before, so that no part of the graph is followed twice.
    """
    reached: dict[str, str | None] = {name: None}  # and from which value
    pending = [name]
    while pending:
        value = pending.pop()
        if (told := known.get(value)) is None:
            read = list(readers(value))
            told = "an output of the graph" if outputs(value) else ""
            told = told or next((reader.told for reader in read if reader.effect == "shows"), "")
            carried = (output for reader in read if reader.effect == "carries" for output in reader.outputs)
            new = [output for output in dict.fromkeys(carried) if output not in reached]
            reached.update(dict.fromkeys(new, value))
            pending.extend(new)
        if told:
            step: str | None = value
            while step is not None:
                known[step], step = told, reached[step]
            return told
    known.update(dict.fromkeys(reached, ""))
    return ""
