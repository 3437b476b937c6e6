"""The smallest sum: one form for each weight, where forms share what decodes them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cost:
    """What a form of a weight takes.

    own: bytes of its own. shared: by name, the bytes of what it takes once, however many weights do.
    """

    own: int
    shared: Mapping[str, int] = field(default_factory=dict)


def smallest(costs: Mapping[str, Sequence[Cost]]) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
    """The place of each weight's form, and of every shared part that was given up, what it saves and what it takes.

    Each weight begins with the form that is smallest by itself. Then a part that takes more than it saves is given up,
    the most wasteful first, until none is left: all of its weights take their next best form without it.

    >>> smallest({"a": [Cost(10), Cost(4, {"p": 9})]})
    ({'a': 0}, {'p': (6, 9)})
    >>> smallest({"a": [Cost(10), Cost(4, {"p": 9})], "b": [Cost(10), Cost(4, {"p": 9})]})
    ({'a': 1, 'b': 1}, {})
    """
    picked = {name: min(range(len(forms)), key=lambda place: forms[place].own) for name, forms in costs.items()}
    given_up: dict[str, tuple[int, int]] = {}
    while True:
        users: dict[str, list[str]] = defaultdict(list)
        for name, place in picked.items():
            for part in costs[name][place].shared:
                users[part].append(name)
        count = Counter({part: len(names) for part, names in users.items()})
        trials = [trial for part, names in users.items() if (trial := _without(part, names, costs, picked, count))]
        best = max(trials, key=lambda trial: trial.takes - trial.saves, default=None)
        if best is None or best.takes < best.saves:
            return picked, given_up
        given_up[best.part] = best.saves, best.takes
        # What was given up stays so: it ends.
        costs = {name: _banned(forms, best.part) for name, forms in costs.items()}
        picked |= best.picked


@dataclass(frozen=True)
class _Trial:
    """A part given up. picked: the forms of those that had it. saves, takes: the part, against them."""

    part: str
    picked: Mapping[str, int]
    saves: int
    takes: int


def _without(
    part: str,
    names: Iterable[str],
    costs: Mapping[str, Sequence[Cost]],
    picked: Mapping[str, int],
    count: Counter[str],
) -> _Trial | None:
    """What the weights `names` are without `part`; None where one has no form without it."""
    before = [costs[name][picked[name]] for name in names]
    freed = Counter(other for cost in before for other in cost.shared)

    def alone(cost: Cost) -> dict[str, int]:
        """What no other weight has of what a form shares."""
        return {other: size for other, size in cost.shared.items() if count[other] == freed[other]}

    made: dict[str, int] = {}
    for name in names:
        forms = [
            (cost.own + sum(alone(cost).values()), place)
            for place, cost in enumerate(costs[name])
            if part not in cost.shared
        ]
        if not forms:
            return None
        made[name] = min(forms)[1]
    after = [costs[name][place] for name, place in made.items()]
    gone, added = ({other: size for cost in forms for other, size in alone(cost).items()} for forms in (before, after))
    saves = sum(cost.own for cost in after) - sum(cost.own for cost in before)
    return _Trial(part, made, saves, sum(gone.values()) - sum(added.values()))


def _banned(forms: Sequence[Cost], part: str) -> Sequence[Cost]:
    """The forms, those with `part` at a price that none pays, in the same places."""
    if not any(part in cost.shared for cost in forms):
        return forms
    return [Cost(cost.own + (1 << 62), cost.shared) if part in cost.shared else cost for cost in forms]
