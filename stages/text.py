"""Names that others gave, as a terminal and a spreadsheet may see them."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def visible(text: str) -> str:
    r"""`text` with what a terminal would obey, or that shows elsewhere than it stands, spelled out.

    >>> visible("w\x1b[2J\n\u202e")
    'w\\x1b[2J\\n\\u202e'
    """
    if text.isprintable():  # nearly every one, and a report has hundreds of thousands
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def cell(value: object) -> object:
    """What a spreadsheet does not take for a formula.

    >>> cell("=1+1"), cell("@a"), cell("w.b"), cell(-1)
    ("'=1+1", "'@a", 'w.b', -1)
    """
    if not isinstance(value, str):
        return value
    return visible(f"'{value}" if value.startswith(_FORMULA) else value)
