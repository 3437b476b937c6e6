"""`-S key=value`: settings on the command line, in the grammar of `dvc exp run -S` (Hydra's basic override grammar).

    override = ["+" | "++"] key "=" [element]  |  "~" key ["=" [element]]
    element  = quoted | "[" [element ("," element)*] "]" | "{" [name ":" element ("," name ":" element)*] "}" | scalar

A scalar is null, true or false in any case, a number, or else text; quotes keep text as it is. What only a sweep or a
composition knows (`a,b`, `choice(...)`, `${...}`, `group@package`) is refused.

Source: https://hydra.cc/docs/advanced/override_grammar/basic/
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.errors import UsageError

Tree = dict[str, Any]

_KEY = re.compile(r"[A-Za-z_$][\w$-]*(?:\.(?:[A-Za-z_$][\w$-]*|0|[1-9]\d*))*", re.ASCII)
_QUOTED = re.compile(r"""(["'])((?:(?!\1)[^\\]|\\.)*)\1""", re.DOTALL)
_ESCAPED = r"\\[\\()\[\]{}:=, \t]"
_NAME = re.compile(rf"(?:{_ESCAPED}|[\w/\-\\+.$%*@?| \t])+", re.ASCII)
_SCALAR = re.compile(rf"(?:{_ESCAPED}|[\w/\-\\+.$%*@?|: \t])+", re.ASCII)
_TOKEN_ESCAPED = re.compile(_ESCAPED)
_TOKEN = re.compile(rf"{_ESCAPED}|[ \t]*:[ \t]*|.")  # blanks around a colon are part of the text
_SPACE = re.compile(r"[ \t]*")

_INT = r"(?:0|[1-9](?:_?\d)*)"
_POINT = rf"(?:{_INT}\.|{_INT}?\.\d(?:_?\d)*)"
_FLOAT = rf"[+-]?(?:(?:{_INT}|{_POINT})e[+-]?\d(?:_?\d)*|{_POINT}|inf|nan)"
_TYPED: tuple[tuple[re.Pattern[str], Callable[[str], object]], ...] = (
    (re.compile("null", re.IGNORECASE), lambda _: None),
    (re.compile("true", re.IGNORECASE), lambda _: True),
    (re.compile("false", re.IGNORECASE), lambda _: False),
    (re.compile(rf"[+-]?{_INT}", re.ASCII), int),
    (re.compile(_FLOAT, re.IGNORECASE | re.ASCII), float),
)


@dataclass(frozen=True)
class Override:
    """One `-S`.

    text: as it was given.
    key: the names from the top of the settings down.
    value: what to set; for a removal, what must be there, `...` for anything.
    remove: whether the key goes back to its default.
    """

    text: str
    key: tuple[str, ...]
    value: object
    remove: bool = False

    @property
    def dotted(self) -> str:
        return ".".join(self.key)


def parse(text: str) -> Override:
    """Read one override.

    >>> parse("detect.threshold=1e-4").value
    0.0001
    >>> parse("export.inputs={image: {shape: [1, 28, 28], dynamic: {0: batch}}}").value
    {'image': {'shape': [1, 28, 28], 'dynamic': {0: 'batch'}}}

    Raises:
        UsageError: the text is not one.
    """
    remove = text.startswith("~")
    start = 1 if remove else re.match(r"\+{0,2}", text).end()  # type: ignore[union-attr]  # matches any text
    key = _KEY.match(text, start)
    if key is None:
        raise _refusal(text, start, "a key such as compress.pipeline")
    names = tuple(key[0].split("."))
    if remove and key.end() == len(text):
        return Override(text, names, ..., remove)
    if not text.startswith("=", key.end()):
        raise _refusal(text, key.end(), "= and a value after the key")
    at = _skip(text, key.end() + 1)
    if at == len(text):
        return Override(text, names, "", remove)
    try:
        value, at = _element(text, at)
    except RecursionError as error:
        raise UsageError(f"-S {text[:80]}: nested too deep.") from error
    if at < len(text):
        raise _refusal(text, at, "the end of the value")
    return Override(text, names, value, remove)


def apply(settings: Mapping[str, Any], overrides: Sequence[Override]) -> Tree:
    """`settings` with every override in its turn: dictionaries are merged, anything else is replaced.

    Raises:
        UsageError: a key goes through a plain value, or what is to be removed is not there.
    """
    tree: Tree = copy.deepcopy(dict(settings))
    for override in overrides:
        node: Any = tree
        for depth, name in enumerate(override.key[:-1]):
            place = _place(node, name, override)
            if isinstance(node, dict) and node.get(place) is None:
                if override.remove:
                    raise UsageError(f"-S {override.text}: {override.dotted} is not set.")
                node[place] = {}
            node = node[place]
            if not isinstance(node, dict | list):
                above = ".".join(override.key[: depth + 1])
                raise UsageError(f"-S {override.text}: {above} is {node!r}, which has no {override.key[depth + 1]!r}.")
        place = _place(node, override.key[-1], override)
        if override.remove:
            _remove(node, place, override)
        else:
            node[place] = _merged(node.get(place) if isinstance(node, dict) else None, override.value)
    return tree


def _merged(old: object, new: object) -> object:
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {key: _merged(old.get(key), value) for key, value in new.items()}
    return copy.deepcopy(new)


def _remove(node: Any, place: Any, override: Override) -> None:
    if isinstance(node, dict) and place not in node:
        raise UsageError(f"-S {override.text}: {override.dotted} is not set.")
    if override.value is not ... and node[place] != override.value:
        raise UsageError(f"-S {override.text}: {override.dotted} is {node[place]!r}.")
    del node[place]


def _place(node: Any, name: str, override: Override) -> Any:
    """The key or index that `name` spells: YAML also has whole numbers as keys."""
    if isinstance(node, list):
        if not name.isdecimal() or int(name) >= len(node):
            raise UsageError(f"-S {override.text}: {name!r} is no index into the {len(node)} values of a list.")
        return int(name)
    return int(name) if name.isdecimal() and name not in node and int(name) in node else name


def _element(text: str, at: int) -> tuple[object, int]:
    """The value at `at`, and where the text goes on."""
    if quoted := _QUOTED.match(text, at):
        return _unquoted(quoted[2], quoted[1]), quoted.end()
    if text.startswith("[", at):
        return _list(text, at)
    if text.startswith("{", at):
        return _dict(text, at)
    scalar = _SCALAR.match(text, at)
    if scalar is None:
        raise _refusal(text, at, "a value; put text with special characters into quotes")
    if text.startswith("(", scalar.end()):
        raise _refusal(text, at, "a plain value; functions are for sweeps of dvc exp run")
    if text.startswith("{", scalar.end()) and scalar[0].endswith("$"):
        raise _refusal(text, scalar.end() - 1, "a plain value; ${...} is not read here")
    return _typed(scalar[0]), scalar.end()


def _list(text: str, at: int) -> tuple[list[object], int]:
    values: list[object] = []
    at = _skip(text, at + 1)
    while not text.startswith("]", at) or values:
        value, at = _element(text, at)
        values.append(value)
        at = _skip(text, at)
        if text.startswith("]", at):
            break
        at = _expect(text, at, ",", "a comma or ]")
    return values, at + 1


def _dict(text: str, at: int) -> tuple[dict[object, object], int]:
    values: dict[object, object] = {}
    at = _skip(text, at + 1)
    while not text.startswith("}", at) or values:
        name = _NAME.match(text, at)
        if name is None:
            raise _refusal(text, at, "a name and a colon")
        at = _expect(text, name.end(), ":", "a colon after the name")
        values[_typed(name[0])], at = _element(text, at)
        at = _skip(text, at)
        if text.startswith("}", at):
            break
        at = _expect(text, at, ",", "a comma or }")
    return values, at + 1


def _expect(text: str, at: int, mark: str, wanted: str) -> int:
    if not text.startswith(mark, at):
        raise _refusal(text, at, wanted)
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]  # matches any text


def _typed(raw: str) -> object:
    """An unquoted scalar: null, a boolean, a number, or text without its escapes and the blanks around it."""
    tokens = _TOKEN.findall(raw)
    while tokens and tokens[0] in " \t":
        tokens.pop(0)
    while tokens and tokens[-1] in " \t":
        tokens.pop()
    plain = "".join(tokens)
    for pattern, convert in _TYPED:
        if pattern.fullmatch(plain):
            return convert(plain)
    return "".join(token[1:] if _TOKEN_ESCAPED.fullmatch(token) else token for token in tokens)


def _unquoted(inner: str, quote: str) -> str:
    """Backslashes escape a quote or one another, but only in front of a quote."""
    return re.sub(rf"(\\+)({quote}|$)", lambda found: "\\" * (len(found[1]) // 2) + found[2], inner, flags=re.DOTALL)


def _refusal(text: str, at: int, wanted: str) -> UsageError:
    if text.startswith(",", at):
        wanted = "one value: write a list as [a,b]; a sweep over a,b is for dvc exp run --queue"
    found = repr(text[at : at + 12]) if at < len(text) else "the end"
    return UsageError(f"-S {text}: expected {wanted}, found {found} at character {at + 1}.")
