"""What `explain` prints: where the bytes are, the largest weights, and advice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from compressor.accounting.account import MEANINGS, Account, What
from compressor.accounting.advice import Advice
from compressor.accounting.look import Look
from compressor.compilation.manifest import Manifest
from compressor.compilation.publish import MANIFEST
from compressor.errors import CompressorError, plural

from ..files import read_text
from ..sheet import Row, Sheet
from ..text import size, visible

MOST_NAMES = 3
"""So many weights are named in a line."""


@dataclass(frozen=True)
class Explained:
    """All that is printed. why_not: why the weights were not looked at, where they should have been."""

    path: Path
    account: Account
    look: Look | None
    advice: Sequence[Advice]
    why_not: str


@dataclass(frozen=True)
class StoredWeight:
    """A weight where it lies. form: how it is stored. nbytes: of all its parts. reason: what it is, or why so.

    model: the file or package that it is in.
    """

    model: str
    name: str
    form: str
    nbytes: int
    reason: str


def stored_weights(explained: Explained) -> list[StoredWeight]:
    """The weights, the largest first."""
    sums: dict[tuple[str, str], int] = {}
    forms: dict[tuple[str, str], str] = {}
    for portion in explained.account.portions:
        if portion.what is What.WEIGHTS:
            key = portion.model, portion.name
            sums[key] = sums.get(key, 0) + portion.nbytes
            forms.setdefault(key, portion.detail)
    reasons = _reasons(explained)
    made = [StoredWeight(*key, forms[key], nbytes, reasons.get(key[1], "")) for key, nbytes in sums.items()]
    return sorted(made, key=lambda weight: -weight.nbytes)


def _reasons(explained: Explained) -> Mapping[str, str]:
    """What each weight is: as it is seen now, or as it was when the artefact was made, which knows its source."""
    look, path = explained.look, explained.path / MANIFEST
    reasons = {} if look is None else {choice.name: choice.facts.evidence for choice in look.plan.choices}
    if path.is_file():
        with suppress(CompressorError):
            made = Manifest.from_json(read_text(path))
            reasons |= {weight.name: weight.evidence for weight in made.weights}
    return reasons


def document(explained: Explained) -> dict[str, object]:
    """All of it for machines: every portion, every weight, all advice."""
    account = explained.account
    return {
        "path": str(explained.path),
        "nbytes": account.nbytes,
        "files": [{"name": name, "nbytes": nbytes} for name, nbytes in account.files.items()],
        "what": [{"what": what.value, "nbytes": nbytes} for what, nbytes in account.by_what().items()],
        "portions": [{**asdict(portion), "what": portion.what.value} for portion in account.portions],
        "weights": [asdict(weight) for weight in stored_weights(explained)],
        "target": None if explained.look is None else explained.look.target.name,
        "advice": [asdict(one) for one in explained.advice],
        "notes": [*account.notes, *([explained.why_not] if explained.why_not else [])],
    }


def rendered(explained: Explained, top: int) -> RenderableType:
    """All of it for a person. top: how many weights, and how much advice."""
    weights = stored_weights(explained)
    parts: list[RenderableType] = [_whats(explained.account)]
    if top and weights:
        parts += [Text(), _weights(weights, explained.account.nbytes, top)]
    if top and explained.advice:
        parts += [Text(), _advice(explained.advice, explained.account.nbytes, top)]
    parts += [Text(), Text(_summary(explained), "bold")]
    notes = [*explained.account.notes[:MOST_NAMES], *filter(None, [explained.why_not])]
    if len(explained.account.notes) > MOST_NAMES:
        notes.append(f"{plural(len(explained.account.notes) - MOST_NAMES, 'more note')}: --json has all")
    return Group(*parts, *(Text(visible(note), "yellow") for note in notes))


def _whats(account: Account) -> Sheet:
    sums = account.by_what()
    shares = percentages(list(sums.values()))
    rows = [
        Row((what.value, size(nbytes), share), MEANINGS[what], _largest(account, what))
        for (what, nbytes), share in zip(sums.items(), shares, strict=True)
    ]
    rows.append(Row(("total", size(account.nbytes), "100.0%"), style="bold", ruled=True))
    return Sheet(("bytes of", "size", "share"), tuple(rows), numbers=1)


_TOLD = {What.CONSTANTS, What.COPIES, What.NAMES, What.DECODING, What.UNREFERENCED, What.OTHER, What.UNREADABLE}
_LARGE = 0.01


def _largest(account: Account, what: What) -> tuple[str, ...]:
    """What most of it consists of, where that is a share of the model that counts."""
    if what not in {*_TOLD, What.TRAINING}:
        return ()
    sums: dict[str, int] = {}
    for portion in account.portions:
        if portion.what is what:
            sums[portion.name] = sums.get(portion.name, 0) + portion.nbytes
    large = sorted(((nbytes, name) for name, nbytes in sums.items() if nbytes >= _LARGE * account.nbytes), reverse=True)
    return tuple(f"{size(nbytes)} {name}" for nbytes, name in large[:MOST_NAMES] if name != what.value)


def percentages(parts: Sequence[int]) -> list[str]:
    """Shares of a whole, in tenths of a percent that add up to 100.0: the largest remainders are rounded up.

    >>> percentages([1, 1, 1]), percentages([999, 1]), percentages([0])
    (['33.4%', '33.3%', '33.3%'], ['99.9%', '0.1%'], ['0.0%'])
    """
    whole = sum(parts)
    if not whole:
        return ["0.0%"] * len(parts)
    tenths = [part * 1000 // whole for part in parts]
    order = sorted(range(len(parts)), key=lambda place: -(parts[place] * 1000 % whole))
    for place in order[: 1000 - sum(tenths)]:
        tenths[place] += 1
    return [f"{tenth / 10:.1f}%" for tenth in tenths]


def _weights(weights: Sequence[StoredWeight], nbytes: int, top: int) -> Sheet:
    several = len({weight.model for weight in weights}) > 1
    rows = [_weight(weight, nbytes, several=several) for weight in weights[:top]]
    rest = weights[top:]
    for (form, reason), same in _grouped(rest):
        total = sum(weight.nbytes for weight in same)
        cells = (f"{len(same)} more" if len(same) > 1 else same[0].name, form, size(total), _share(total, nbytes))
        rows.append(Row(cells, reason, style="dim"))
    return Sheet(("weight", "stored as", "size", "share"), tuple(rows), numbers=2)


def _weight(weight: StoredWeight, nbytes: int, *, several: bool) -> Row:
    name = f"{weight.model}: {weight.name}" if several else weight.name
    cells = (name, weight.form, size(weight.nbytes), _share(weight.nbytes, nbytes))
    return Row(cells, weight.reason)


MOST_GROUPS = 5


def _grouped(rest: Iterable[StoredWeight]) -> Iterator[tuple[tuple[str, str], list[StoredWeight]]]:
    """The others by form and reason, those that take most first; what is left of them by form alone."""
    groups: dict[tuple[str, str], list[StoredWeight]] = {}
    for weight in rest:
        groups.setdefault((weight.form, weight.reason), []).append(weight)
    order = sorted(groups.items(), key=lambda item: -sum(weight.nbytes for weight in item[1]))
    yield from order[:MOST_GROUPS]
    left: dict[tuple[str, str], list[StoredWeight]] = {}
    for (form, _), same in order[MOST_GROUPS:]:
        left.setdefault((form, ""), []).extend(same)
    yield from left.items()


def _share(nbytes: int, whole: int) -> str:
    return f"{nbytes / whole:.1%}" if whole else ""


def _advice(found: Sequence[Advice], nbytes: int, top: int) -> Sheet:
    rows = []
    for one in found[:top]:
        head, *rest = _parted(one.what)
        rows.append(Row((head, size(one.saves), _share(one.saves, nbytes)), details=(*rest, *_details(one))))
    if len(found) > top:
        saves = max(one.saves for one in found[top:])
        rows.append(Row((f"{len(found) - top} more, each of at most", size(saves), ""), style="dim"))
    return Sheet(("what would make it smaller", "saves", "share"), tuple(rows), numbers=1)


READABLE = 60
"""Columns of a line that needs no second one."""


def _parted(text: str) -> list[str]:
    """A text, or where that is long what it says first and what then.

    >>> _parted("5 weights can be stored smaller: 3 as sparse, 1 as palettized4, 1 as sparse(palettized4)")
    ['5 weights can be stored smaller', '3 as sparse, 1 as palettized4, 1 as sparse(palettized4)']
    """
    mark = re.search("[:;] ", text) if len(text) > READABLE else None
    return [text] if mark is None else [text[: mark.start()], text[mark.end() :]]


def _details(one: Advice) -> tuple[str, ...]:
    named = ", ".join(one.weights[:MOST_NAMES])
    more = f" and {len(one.weights) - MOST_NAMES} more" if len(one.weights) > MOST_NAMES else ""
    return tuple(filter(None, (one.do, f"{named}{more}")))


def _summary(explained: Explained) -> str:
    account, files = explained.account, plural(len(explained.account.files), "file")
    text = f"{size(account.nbytes)} in {files}, every byte accounted for"
    return text if explained.look is None else f"{text}; advice is for {explained.look.target.name}"
