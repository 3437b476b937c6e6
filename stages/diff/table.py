"""Differences as a person reads them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from compressor.errors import plural

from ..display import TIMES, ratio
from ..sheet import Row, Sheet
from ..text import size, visible

if TYPE_CHECKING:
    from compressor.differences.models import Difference, Differences, Stored

    from .sides import Side

ARROW = "\N{RIGHTWARDS ARROW}"


def shown(
    name: str, one: Side | None, other: Side | None, found: Differences | None, *, verbose: bool, values: bool
) -> RenderableType:
    """One comparison: its heading, the weights that differ, and the sums."""
    title = Text(visible(f"{name}: " * bool(name) + f"{one or 'nothing'} {ARROW} {other or 'nothing'}"), "bold")
    if found is None:
        return Group(title, Text("there is one side only", "yellow"), Text())
    told = [weight for weight in found.weights if verbose or weight.told(values=values)]
    rows = [_row(weights) for weights in _alike(told, verbose=verbose)]
    shown = set(map(id, told))
    if rest := [weight for weight in found.weights if id(weight) not in shown]:
        before, after = (sum(side.nbytes for side in sides if side) for sides in _sides(rest))
        what = "the values of A" if values else "the same"
        rows.append(Row((plural(len(rest), "weight"), "", size(before), size(after)), what, style="dim"))
    before, after = (sum(side.nbytes for side in sides if side) for sides in _sides(found.weights))
    rows.append(Row(("total", "", size(before), size(after)), style="bold", ruled=True))
    sheet = Sheet(("weight", "stored as", "before", "after"), tuple(rows), numbers=2)
    return Group(title, sheet, Text(), *(Text(visible(line)) for line in _sums(found)), Text())


def _sides(weights: Sequence[Difference]) -> tuple[list[Stored | None], list[Stored | None]]:
    return [one.before for one in weights], [one.after for one in weights]


def _alike(weights: Iterable[Difference], *, verbose: bool) -> Iterable[list[Difference]]:
    """Weights that differ in the type of their values alone, and in the same way, together; each other by itself."""
    groups: dict[object, list[Difference]] = {}
    for weight in weights:
        alone = verbose or weight.renamed or weight.form or not weight.same_values
        groups.setdefault(id(weight) if alone else tuple(_notes(weight)), []).append(weight)
    return groups.values()


def _row(weights: Sequence[Difference]) -> Row:
    weight = weights[0]
    before, after = weight.before, weight.after
    if len(weights) > 1:
        sums = [size(sum(side.nbytes for side in sides if side)) for sides in _sides(weights)]
        return Row((plural(len(weights), "weight"), "", *sums), "; ".join(_notes(weight)), style="dim")
    forms = [_form(side, weight) for side in (before, after) if side is not None]
    form = forms[0] if len(set(forms)) == 1 else f" {ARROW} ".join(forms)
    if len(forms) == 1 and (before is None or after is None):
        form = f"{form}, {'new' if before is None else 'gone'}"
    style = "dim" if weight.same else "" if weight.same_values else "yellow"
    nbytes = [size(side.nbytes) if side is not None else "" for side in (before, after)]
    return Row((weight.name, form, *nbytes), "; ".join(_notes(weight)), style=style)


def _form(side: Stored, weight: Difference) -> str:
    """How it is stored, with the type where that is not the other's."""
    other = weight.after if side is weight.before else weight.before
    plain = other is None or other.dtype == side.dtype
    return side.encoding if plain else f"{side.encoding} {side.dtype}"


def _notes(weight: Difference) -> list[str]:
    before, after, values = weight.before, weight.after, weight.values
    if before is None or after is None or values is None:
        return [f"{weight.copy} has its values"] if weight.copy else []
    said = [f"was {before.name}"] if weight.renamed else []
    narrow = min(before.dtype, after.dtype, key=lambda name: int("".join(filter(str.isdigit, name)) or 0))
    match values.verdict:
        case "equal":
            text = "equal"
        case "zeros":
            text = "equal, but 0.0 for some -0.0"
        case "rounded":
            text = f"equal as {narrow}"
        case "none":
            return [*said, f"{_shape(before)} {ARROW} {_shape(after)}"]
        case "apart":
            far = f" by up to {values.max_error:.2g}" if values.changed > values.not_finite else ""
            odd = f", {values.not_finite:,} of them not finite" if values.not_finite else ""
            rms = "" if values.relative_rms is None else f", relative RMS {values.relative_rms:.2g}"
            rms += "; batch norm folded in" if after.folded and not before.folded else ""
            text = f"{values.changed:,} of {plural(math.prod(after.shape), 'value')} apart{far}{odd}{rms}"
    if values.way == "reshaped":
        return [*said, f"{text}, {_shape(before)} {ARROW} {_shape(after)}"]
    return [*said, text + {"transposed": ", transposed", "reordered": ", in another order"}.get(values.way, "")]


def _shape(side: Stored) -> str:
    return TIMES.join(map(str, side.shape)) or "scalar"


def _sums(found: Differences) -> list[str]:
    lines = []
    for what in ("gained", "lost"):
        if forms := found.forms(what):
            named = ", ".join(f"{form} ({plural(count, 'weight')})" for form, count in forms.most_common())
            lines.append(f"{what}: {named}")
    counts = Counter(_kind(weight) for weight in found.weights)
    if told := [f"{counts[kind]:,} {kind}" for kind in ("changed", "new", "gone", "renamed") if counts[kind]]:
        lines.append(f"weights: {', '.join(told)}")
    before, after = found.before_nbytes, found.after_nbytes
    times, what = (ratio(before, after), "smaller") if after <= before else (ratio(after, before), "larger")
    changed = f", {times} times {what}" if times not in {"", "1.00"} else ""
    lines.append(f"files: {size(before)} {ARROW} {size(after)}{changed}")
    return lines


def _kind(weight: Difference) -> str:
    if weight.before is None or weight.after is None:
        return "new" if weight.before is None else "gone"
    if not weight.same_values:
        return "changed"
    return "renamed" if weight.renamed else ""
