"""Names that others gave, as a terminal and a spreadsheet may see them; and sizes."""

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


def size(count: int) -> str:
    """Bytes for a reader, in powers of 1000 as file managers and networks count.

    >>> size(999), size(1_566_000), size(12_345), size(2_040_000_000)
    ('999 B', '1.57 MB', '12.3 kB', '2.04 GB')
    """
    if count < 1000:
        return f"{count} B"
    for power, unit in ((3, "kB"), (6, "MB"), (9, "GB"), (12, "TB")):
        value = count / 10**power
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
