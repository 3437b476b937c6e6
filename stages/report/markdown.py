"""Markdown for the comment of a pull request: what it says first is what a reviewer wants to know."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence

from compressor.compilation.manifest import WeightFacts
from compressor.errors import plural

from .. import display
from ..text import size, visible
from . import tradeoff, views
from .facts import Change, Report, Variant, number

MOST = 65_536
"""The characters that a comment on GitHub may have."""

_ROOM = MOST - 2048  # a workflow puts something around it
_MOST_ROWS = (100, 25, 5)  # of a table that is folded away; fewer where that is too long

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()+!|~$&]|:(?=[\w+-]+:|//))")  # a colon begins an emoji, or a link
_CALLS = re.compile(
    r"([@#])"
)  # a mention or a reference, wherever it stands, unless something parts it from what follows


def text(report: Report) -> str:
    """The report as markdown that a comment has room for."""
    for most in _MOST_ROWS:
        made = "\n".join(_lines(report, most)) + "\n"
        if len(made) <= _ROOM:
            return made
    return made[:_ROOM].rpartition("\n")[0] + "\n\nThe rest is too long for a comment.\n"


def escaped(said: object) -> str:
    r"""Text of others, in which nothing is markdown, HTML, a mention or a reference.

    >>> escaped("w|<b>"), escaped("@me #1"), escaped("2:4 :x:")
    ('w\\|\\<b\\>', '@<!-- -->me #<!-- -->1', '2:4 \\:x:')
    """
    return _CALLS.sub(r"\1<!-- -->", _SPECIAL.sub(r"\\\1", visible(str(said))))


def code(name: str) -> str:
    r"""A name as it is; a table wants its bars escaped even there.

    >>> code("w|x"), code("a`b")
    ('`w\\|x`', '``a`b``')
    """
    shown = visible(name).replace("|", r"\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if not shown or "`" in (shown[0], shown[-1]) else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _lines(report: Report, most: int) -> Iterator[str]:
    yield f"### Compression of {escaped(report.title)}\n"
    several = len(report.variants) > 1
    for variant in report.variants:
        yield f"{'- ' if several else ''}{_summary(variant)}"
    if not report.variants:
        yield "Nothing has been compressed here yet."
    yield ""
    for note in report.notes:
        yield f"> {escaped(note)}\n"
    for variant in report.variants:
        if several:
            yield f"#### {escaped(variant.name)}\n"
        yield from _metrics(variant, report.against)
        yield from _limits(variant)
        yield from _changed(variant, report.against, most)
        yield from _weights(variant, most)
    yield from _runs(report)


def _summary(variant: Variant) -> str:
    made, values = variant.manifest, variant.metrics
    parts = []
    if made is not None:
        parts.append(f"**{size(made.nbytes)}**")
        if made.nbytes:
            parts.append(f"{display.smaller(made.dense_nbytes, made.nbytes)} uncompressed")
    elif values:
        parts.append(f"**{escaped(values['size_mb'])} MB**")
    if variant.metric:
        parts.append(f"{escaped(views.said(variant.metric))} **{escaped(values[variant.metric])}**")
    if variant.limits:
        broken = sum(not limit.kept for limit in variant.limits)
        kept = f"✅ {plural(len(variant.limits), 'limit')} kept"
        parts.append(f"❌ {broken} of {plural(len(variant.limits), 'limit')} broken" if broken else kept)
    return f"{code(variant.name)}: " + (", ".join(parts) or "not measured, and not here")


def _metrics(variant: Variant, against: str) -> Iterator[str]:
    if variant.past is not None and variant.past.metrics:
        rows = [(escaped(views.said(one.name)), *_then_and_now(one)) for one in variant.changes]
        yield from _table(("metric", escaped(against), "now", "change"), rows)
        return
    known = [(name, number(value)) for name, value in variant.metrics.items()]
    now = [(escaped(views.said(name)), f"{value:g}") for name, value in known if value is not None]
    yield from _table(("metric", "now"), now)


def _then_and_now(one: Change) -> tuple[str, str, str]:
    then, now = ("" if value is None else f"{value:g}" for value in (one.then, one.now))
    if one.then is None or one.now is None:
        return then, now, "new" if one.then is None else "gone"
    if one.then == one.now:
        return then, now, ""
    word = "" if one.better is None else " better" if one.better else " **worse**"
    return then, now, f"{views.signed(one.now - one.then)}{word}"


def _limits(variant: Variant) -> Iterator[str]:
    rows = [
        (
            escaped(views.said(one.name)),
            views.bound(one),
            "not known" if one.value is None else f"{one.value:g}",
            "kept" if one.kept else "❌ **broken**",
        )
        for one in variant.limits
    ]
    yield from _table(("limit", "must be", "is", "verdict"), rows)


def _changed(variant: Variant, against: str, most: int) -> Iterator[str]:
    """The weights that are stored otherwise than they were."""
    changed = variant.weight_changes
    rows = [
        (code(one.name), _stored(one.then), _stored(one.now), f"{views.signed(one.nbytes)} B") for one in changed[:most]
    ]
    # Markdown does not look into a summary: it is HTML.
    summary = f"{plural(len(changed), 'weight')} stored otherwise than at <code>{html.escape(visible(against))}</code>"
    yield from _folded(summary, len(changed) - len(rows), ("weight", "then", "now", "change"), rows)


def _stored(weight: WeightFacts | None) -> str:
    return "" if weight is None else f"{escaped(weight.encoding)}, {size(weight.nbytes)}"


def _weights(variant: Variant, most: int) -> Iterator[str]:
    """The largest weights in the order of the model, then those that stay dense, by reason."""
    weights = variant.manifest.weights if variant.manifest else ()
    alone, alike = list[WeightFacts](), dict[str, list[WeightFacts]]()
    for weight in weights:
        if weight.encoding != "dense":
            alone.append(weight)
        else:
            alike.setdefault(weight.evidence, []).append(weight)
    largest = {weight.name for weight in sorted(alone, key=lambda weight: -weight.dense_nbytes)[:most]}
    rows = [_row(code(one.name), [one]) for one in alone if one.name in largest]
    rows += [_row(_named(same), same) for same in list(alike.values())[:most]]
    left = len(alone) + len(alike) - len(rows)
    heads = ("weight", "shape", "stored as", "before", "after", "ratio", "why")
    yield from _folded(plural(len(weights), "weight"), left, heads, rows)


def _named(same: Sequence[WeightFacts]) -> str:
    return code(same[0].name) if len(same) == 1 else plural(len(same), "weight")


def _row(name: str, same: Sequence[WeightFacts]) -> tuple[str, ...]:
    before, after = sum(one.dense_nbytes for one in same), sum(one.nbytes for one in same)
    return (
        name,
        views.shape(same[0]) if len(same) == 1 else "",
        escaped(same[0].encoding),
        size(before),
        size(after),
        display.ratio(before, after),
        escaped(same[0].evidence),
    )


def _runs(report: Report) -> Iterator[str]:
    """The front of the experiments."""
    drawn = tradeoff.scatter(report)
    if drawn is None or len(drawn.points) == 1:
        return
    best = [point.run for point in drawn.points if point.best]
    rows = [
        (code(one.name), one.revision, escaped(one.target), escaped(one.size), escaped(one.metrics[drawn.metric]))
        for one in best[: _MOST_ROWS[1]]
    ]
    heads = ("experiment", "commit", "target", "size in MB", escaped(views.said(drawn.metric)))
    summary = f"{drawn.count}, {len(best)} of them beaten by none in size and score"
    yield from _folded(summary, len(best) - len(rows), heads, rows)


def _folded(summary: str, left: int, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table behind its summary, which is HTML. left: how many rows it lacks."""
    if rows:
        yield f"<details><summary>{summary}</summary>\n"
        yield from _table(heads, rows)
        if left:
            yield f"{left:,} more are left out.\n"
        yield "</details>\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table of cells that are markdown; nothing without rows."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    if lines:
        yield "| " + " | ".join(heads) + " |"
        yield "|" + " --- |" * len(heads)
        yield from lines
        yield ""
