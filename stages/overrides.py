"""`-S key=value`: settings on the command line, whose values are YAML as in params.yaml.

    override = ["+"] key "=" [value]  |  "~" key

A key is dotted; `dvc exp run -S` wants a `+` before a new one, `~` takes a key back to its default. `dvc exp run -S`
reads the same values of what people type: numbers, text, `null`, `[a, b]`, `{a: 1}`, `'1'`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.errors import UsageError

from . import yaml

_OVERRIDE = re.compile(r"(~|\+{0,2})([\w$-]+(?:\.[\w$-]+)*)(?:=(.*))?", re.DOTALL)
_SHOWN = 80
"""So much of an override stands in the message that it is no YAML."""


@dataclass(frozen=True)
class Override:
    """One `-S`.

    text: as it was given.
    key: the names from the top of the settings down.
    value: what to set.
    remove: whether the key goes back to its default instead.
    """

    text: str
    key: tuple[str, ...]
    value: object = None
    remove: bool = False


def parse(text: str) -> Override:
    """Read one override.

    >>> parse("detect.threshold=1e-4").value
    0.0001
    >>> parse("export.inputs={image: {shape: [1, 28, 28], dynamic: {0: batch}}}").value
    {'image': {'shape': [1, 28, 28], 'dynamic': {0: 'batch'}}}

    Raises:
        UsageError: the text is not one.
    """
    found = _OVERRIDE.fullmatch(text)
    if found is None:
        raise UsageError(f"-S {text}: expected key=value or ~key, with a key such as compress.pipeline.")
    mark, key, value = found.groups()
    names, remove = tuple(key.split(".")), mark == "~"
    if remove and value is not None:
        raise UsageError(f"-S {text}: expected the key alone after ~.")
    if not remove and value is None:
        raise UsageError(f"-S {text}: expected = and a value after the key.")
    # Nothing is empty text, as for `dvc exp run -S`; null is spelled so.
    return Override(text, names, yaml.read(value, f"-S {text[:_SHOWN]}") if value else "", remove)


def apply(settings: Mapping[str, Any], overrides: Sequence[Override]) -> Mapping[str, Any]:
    """`settings` with every override in its turn: mappings are merged, anything else is replaced.

    Raises:
        UsageError: a key goes through a plain value, or what is to be removed is not there.
    """
    changed: Mapping[str, Any] = settings
    for override in overrides:
        changed = _changed(changed, override, 0)
    return changed


def _changed(node: Any, override: Override, depth: int) -> Any:
    """A copy of what lies under the first `depth` names of the override's key, with what it asks for further down."""
    name, text = override.key[depth], override.text
    if not isinstance(node, dict | list):
        raise UsageError(f"-S {text}: {'.'.join(override.key[:depth])} is {node!r}, which has no {name!r}.")
    node = node.copy()
    place = _place(node, name, text)
    old = node.get(place) if isinstance(node, dict) else node[place]
    if depth + 1 < len(override.key):
        node[place] = _changed({} if old is None else old, override, depth + 1)
    elif not override.remove:
        node[place] = _merged(old, override.value)
    elif isinstance(node, dict) and place not in node:
        raise UsageError(f"-S {text}: {'.'.join(override.key)} is not set.")
    else:
        del node[place]
    return node


def _merged(old: object, new: object) -> object:
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {key: _merged(old.get(key), value) for key, value in new.items()}
    return new


def _place(node: dict[Any, Any] | list[Any], name: str, text: str) -> Any:
    """The key or index that `name` spells: YAML also has whole numbers as keys."""
    if isinstance(node, list):
        if not name.isdecimal() or int(name) >= len(node):
            raise UsageError(f"-S {text}: {name!r} is no index into the {len(node)} values of a list.")
        return int(name)
    return int(name) if name.isdecimal() and name not in node and int(name) in node else name
