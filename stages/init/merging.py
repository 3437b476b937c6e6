"""YAML of others with more in it: lines are added, and no byte of the old ones changes.

A round trip through a YAML library would break long lines anew, indent lists in its own way and respell numbers. So
the library only says where things lie, and new lines are put there; the result is read again and compared.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from compressor.errors import UsageError

from .. import yaml

if TYPE_CHECKING:
    from ruamel.yaml.nodes import MappingNode, Node

INDENT = 2
BOM = "\ufeff"
LINE = re.compile(r"[^\n\r\x85\u2028\u2029]*(?:\r\n|[\n\r\x85\u2028\u2029])|[^\n\r\x85\u2028\u2029]+$")
"""What YAML counts as a line."""


@dataclass(frozen=True)
class Piece:
    """A key of a mapping, with what belongs to it.

    text: its lines with the comments above, the key in the first column; ends with a line's end.
    value: what the key stands for.
    """

    key: str
    text: str
    value: Any


@dataclass(frozen=True)
class _Section:
    """A mapping in block style, by the numbers of lines.

    column: of its keys.
    starts: the line of each key, in order; none in a section that is empty.
    end: the line behind it, which is that of the next section's key, or of the end.
    null: what stands behind the key of an empty one, as the columns of that line that it takes.
    """

    column: int
    starts: Mapping[str, int]
    end: int
    null: tuple[int, int] = (0, 0)


@lru_cache(maxsize=32)  # most of the time goes into reading the same texts
def content(text: str, where: str) -> Mapping[str, Any]:
    """What a file says; nothing where it is empty.

    Raises:
        UsageError: it is no YAML, or no mapping.
    """
    value = yaml.read(text, where, tags=True)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected keys such as `stages:` or `export:`, got a {type(value).__name__}.")
    return value


def pieces(text: str, section: str = "", where: str = "template") -> tuple[Piece, ...]:
    """The keys of a file, or of one of its sections, each with its lines."""
    text = text.removeprefix(BOM)
    value, found = content(text, where), _find(text, section, where)
    if found is None or not found.starts:
        return ()
    lines = LINE.findall(text)
    values = value[section] if section else value
    firsts = [_with_comments(lines, start, found.column) for start in found.starts.values()]
    ends = [*firsts[1:], _trimmed(lines, found)]
    return tuple(
        Piece(key, _dedented(lines[first:end], found.column), values.get(key))
        for key, first, end in zip(found.starts, firsts, ends, strict=True)
    )


def insert(text: str, section: str, added: Sequence[Piece], where: str) -> str:
    """The text with pieces at the end of a section (empty: of the file), which is made where it is not there.

    Raises:
        UsageError: they cannot be added without changing what is there.
    """
    if not added:
        return text
    mark = BOM if text.startswith(BOM) else ""
    newline = "\r\n" if "\r\n" in text else "\n"
    old = text.removeprefix(mark)
    there = content(old, where)
    _find(old, section, where)
    wanted = repr(_with(there, section, added))
    for trimmed, gap in ((True, True), (False, True), (False, False)):  # a text may end with blank lines of its own
        new = _inserted(old, section, added, newline, where, trimmed=trimmed, gap=gap)
        if _means(new, where) == wanted:
            return mark + new
    raise UsageError(f"{where}: {section or 'the file'} cannot be extended without a change to what is there.")


def extensible(text: str, where: str) -> bool:
    """Whether keys can be added to the file."""
    try:
        _find(text.removeprefix(BOM), "", where)
    except UsageError:
        return False
    return True


def _with(old: Mapping[str, Any], section: str, added: Sequence[Piece]) -> dict[str, Any]:
    new = {piece.key: piece.value for piece in added}
    return {**old, section: {**(old.get(section) or {}), **new}} if section else {**old, **new}


def _means(text: str, where: str) -> str | None:
    try:
        return repr(content(text, where))
    except UsageError:
        return None


def _inserted(
    text: str, section: str, added: Sequence[Piece], newline: str, where: str, *, trimmed: bool, gap: bool
) -> str:
    lines = LINE.findall(text)
    if lines and not lines[-1].endswith(("\n", "\r")):
        lines[-1] += newline
    found = _find(text, section, where)
    column, head, at = (INDENT if section else 0), [f"{section}:"] if section else [], _end(lines)
    if found is not None:
        column, head = found.column, []
        at = _trimmed(lines, found) if trimmed else found.end
        if not found.starts:
            at = found.end
            start, stop = found.null
            lines[at - 1] = lines[at - 1][:start].rstrip() + lines[at - 1][stop:] if stop > start else lines[at - 1]
    blocks = [*(textwrap.indent(piece.text, " " * column) for piece in added)]
    body = "\n".join(blocks).splitlines()
    first = gap and at and lines[at - 1].strip() and not (found is not None and not found.starts)
    last = gap and at < len(lines) and lines[at].strip()
    new = [*[""] * bool(first), *head, *body, *[""] * bool(last)]
    return "".join([*lines[:at], *(line + newline for line in new), *lines[at:]])


@lru_cache(maxsize=32)
def _find(text: str, section: str, where: str) -> _Section | None:
    """The whole file as a section, or one of its keys; None where there is none.

    Raises:
        UsageError: it is no mapping, or in braces, which lines cannot be added to.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import ScalarNode

    root = YAML(pure=True).compose(text)
    end = _end(LINE.findall(text))
    if root is None or isinstance(root, ScalarNode):
        return None
    whole = _block(root, end, where)
    if not section:
        return whole
    lines = [*whole.starts.values(), end]
    for at, (key, value) in enumerate(root.value):
        if key.value == section:
            if _is_null(value):
                null = (value.start_mark.column, value.end_mark.column)
                return _Section(INDENT, {}, key.start_mark.line + 1, null)
            return _block(value, lines[at + 1], f"{where}: {section}")
    return None


def _block(node: Node, end: int, where: str) -> _Section:
    from ruamel.yaml.nodes import MappingNode

    if not isinstance(node, MappingNode):
        raise UsageError(f"{where}: expected keys with values, each on a line of its own.")
    if node.flow_style:
        raise UsageError(f"{where}: is written in braces; give each key a line of its own, so that lines can be added.")
    return _Section(node.start_mark.column, _starts(node), end)


def _starts(node: MappingNode) -> dict[str, int]:
    return {str(key.value): key.start_mark.line for key, _ in node.value}


def _is_null(node: Node) -> bool:
    from ruamel.yaml.nodes import MappingNode, ScalarNode

    if isinstance(node, ScalarNode):
        return str(node.tag).endswith(":null")
    return isinstance(node, MappingNode) and not node.value


def _end(lines: Sequence[str]) -> int:
    """The line behind the document."""
    return next((at for at, line in enumerate(lines) if line.startswith("...")), len(lines))


def _trimmed(lines: Sequence[str], section: _Section) -> int:
    """The line behind the last one of a section: blank lines and the next section's comments do not belong to it."""
    at = section.end
    while at and (not (text := lines[at - 1].strip()) or (text[0] == "#" and _indent(lines[at - 1]) < section.column)):
        at -= 1
    return at


def _with_comments(lines: Sequence[str], at: int, column: int) -> int:
    """The first line of a key with the comments right above it."""
    while at and lines[at - 1].lstrip().startswith("#") and _indent(lines[at - 1]) == column:
        at -= 1
    return at


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _dedented(lines: Sequence[str], column: int) -> str:
    text = "".join(line[column:] if not line[:column].strip() else line for line in lines)
    return text.rstrip() + "\n"
