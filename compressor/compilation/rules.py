"""Rules by name: what may become of the weights whose names match a pattern, whatever holds for the others."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from compressor.compilation.pipelines import PIPELINES, PassPipeline
from compressor.errors import UsageError, unknown
from compressor.recognition.findings import Settings
from compressor.weight import Weight

DENSE = "dense"
"""The rule of weights that stay as they are."""

_ALIKE, _AS_NEAR = 0.6, 0.1
"""How alike a part of a name must be to one of a pattern; by how much a name that is as near may be less so."""

_MOST_KINDS = 5
"""So many kinds of names are told."""

_KEYS = ("exact", "schemes", "threshold", "tolerance")

Asked = str | Sequence[str] | Mapping[str, Any]
"""A rule as it is written: `dense`; names of schemes; or a mapping of `schemes`, `exact`, `threshold`, `tolerance`."""


@dataclass(frozen=True)
class Rule:
    """What holds for the weights of some names.

    pattern: of their names, as a shell's: `*` any text, `?` a character, `[ab]` one of these.
    schemes: that may take part; None for those of the pipeline.
    threshold, tolerance: instead of those of the settings; None for theirs.
    """

    pattern: str
    schemes: frozenset[str] | None = None
    threshold: float | None = None
    tolerance: float | None = None

    def pipeline(self, general: PassPipeline) -> PassPipeline:
        """The pipeline for these weights. general: that of all others."""
        schemes = general.schemes if self.schemes is None else self.schemes
        threshold = general.threshold if self.threshold is None else self.threshold
        return replace(general, schemes=schemes, threshold=threshold, rule=self.pattern)

    def settings(self, general: Settings) -> Settings:
        """The settings of a look at these weights. general: those of all others."""
        threshold = general.threshold if self.threshold is None else self.threshold
        tolerance = general.tolerance if self.tolerance is None else self.tolerance
        return replace(general, threshold=threshold, tolerance=tolerance)


@dataclass(frozen=True)
class Rules:
    """The rule of each weight that one holds for, by its name in the source."""

    by_name: Mapping[str, Rule] = field(default_factory=dict)

    def of(self, weight: Weight) -> Rule | None:
        """The rule of a weight of the source, or of one that a target has made of it."""
        return self.by_name.get(weight.name if weight.origin is None else weight.origin.weight)

    def pipeline(self, weight: Weight, general: PassPipeline) -> PassPipeline:
        rule = self.of(weight)
        return general if rule is None else rule.pipeline(general)

    def settings(self, weight: Weight, general: Settings) -> Settings:
        rule = self.of(weight)
        return general if rule is None else rule.settings(general)


NONE = Rules()
"""Those of who has given none."""


def resolved(asked: Mapping[str, Asked], names: Iterable[str], copies: Mapping[str, str] = {}) -> Rules:
    """The rules of weights of these names: of several whose patterns match one, the first holds.

    copies: by names that are gone, the weights that stand for them. A rule for such a name is one for its weight.

    Raises:
        UsageError: a rule says nothing that is understood, or its pattern matches no name.
    """
    if not isinstance(asked, Mapping):
        raise UsageError(f"the rules are {asked!r}: expected a mapping of patterns to what holds.")
    known: dict[str, list[str]] = {name: [name] for name in names}
    for copy, name in copies.items():
        known[name].append(copy)
    every, by_name = [*known, *copies], dict[str, Rule]()
    for one in (rule(pattern, value) for pattern, value in asked.items()):
        matching = {name for name in every if fnmatch.fnmatchcase(name, one.pattern)}
        if not matching:
            raise UsageError(f"the rule {one.pattern!r} matches no weight. {_instead(one.pattern, every)}")
        for name, called in known.items():
            if matching.intersection(called):
                by_name.setdefault(name, one)
    return Rules(by_name)


def rule(pattern: str, asked: Asked) -> Rule:
    """A rule as it is written.

    >>> rule("*.head.*", "dense").schemes
    frozenset()
    >>> rule("embed*", {"exact": False, "tolerance": 1e-3}).tolerance
    0.001

    Raises:
        UsageError: it says nothing that is understood.
    """
    where = f"the rule {pattern!r}"
    if not isinstance(pattern, str):
        raise UsageError(f"{where}: expected a pattern of names, which is text.")
    if isinstance(asked, str):
        if asked != DENSE:
            raise UsageError(f"{where} is {asked!r}: expected {DENSE}, a list of schemes, or a mapping.")
        return Rule(pattern, frozenset())
    if not isinstance(asked, Mapping):
        return Rule(pattern, _schemes(where, asked))
    if wrong := next((key for key in asked if key not in _KEYS), None):
        raise unknown(f"key of the rule {pattern!r}:", str(wrong), _KEYS)
    schemes = asked.get("schemes")
    limits = {key: _amount(where, key, asked[key]) for key in ("threshold", "tolerance") if key in asked}
    exact = asked.get("exact")
    if exact is not None and not isinstance(exact, bool):
        raise UsageError(f"{where}: exact is {exact!r}: expected true or false.")
    if exact and any(limits.values()):
        raise UsageError(f"{where} is exact, and has a {next(key for key in limits if limits[key])}: take one away.")
    if exact is False and not any(limits.values()):
        raise UsageError(f"{where} is not exact: say by how much, as a threshold or a tolerance.")
    if exact:
        limits = {"threshold": 0.0, "tolerance": 0.0}
    return Rule(pattern, None if schemes is None else _schemes(where, schemes), **limits)


def _instead(pattern: str, names: Sequence[str]) -> str:
    """The names that are near a pattern, which has all of its parts as they have; where there are none, their kinds."""
    parts = _parts(re.sub(r"\[.*?\]", "*", pattern))
    likeness = {name: _likeness(parts, _parts(name)) for name in names}
    most = max(likeness.values(), default=0.0)
    near = [name for name in names if likeness[name] >= max(most - _AS_NEAR, _ALIKE)]
    if near:
        return f"Close to it: {_kinds(near)}."
    return f"Its weights are called {_kinds(names)}." if names else "The model has none."


def _parts(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W_]+", name.lower()))


def _likeness(parts: frozenset[str], others: frozenset[str]) -> float:
    """How alike all parts are to one of the others, on average; 0 where one is like none. Numbers are alike."""
    best = [max((_alike(part, other) for other in others), default=0.0) for part in parts]
    return sum(best) / len(best) if best and min(best) >= _ALIKE else 0.0


@cache
def _alike(part: str, other: str) -> float:
    if part != other and part.isdigit() and other.isdigit():
        return _ALIKE
    return difflib.SequenceMatcher(None, other, part).ratio()


def _kinds(names: Iterable[str]) -> str:
    """Names without their numbers, the most common first: patterns that match them."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub("[0-9]+", "*", name), []).append(name)
    common = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    told = [f"{kind} ({len(same)})" if len(same) > 1 else same[0] for kind, same in common[:_MOST_KINDS]]
    return ", ".join(told) + (f" and {len(common) - _MOST_KINDS} more kinds" if len(common) > _MOST_KINDS else "")


def _schemes(where: str, names: object) -> frozenset[str]:
    known = PIPELINES["auto"].schemes
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        raise UsageError(f"{where}: expected a list of schemes, got {names!r}. Choices: {', '.join(sorted(known))}.")
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise unknown(f"scheme of {where}:", str(name), known)
    return frozenset(names)


def _amount(where: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise UsageError(f"{where}: {key} is {value!r}: expected a number from 0 on.")
    return float(value)
