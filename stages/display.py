"""What a command prints: tables for people, or one JSON document for machines, on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from rich.console import Console, Group, RenderableType
from rich.text import Text

from compressor.compilation.manifest import Manifest, WeightFacts
from compressor.compilation.plan import Plan
from compressor.encodings import nbytes
from compressor.errors import plural
from compressor.recognition.findings import Detection, Finding

from .sheet import Row, Sheet
from .text import size, visible

T = TypeVar("T")

SPARSITY_COLUMNS, BYTES_COLUMNS = ("weight", "sparsity"), ("weight", "bytes")

TIMES = "\N{MULTIPLICATION SIGN}"
LOG_WIDTH = 120  # where stdout is a file or a pipe, and COLUMNS says nothing else


def show(*renderables: RenderableType) -> None:
    """Print for a person."""
    terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    Console(width=None if terminal else LOG_WIDTH, highlight=False, markup=False, emoji=False).print(
        *renderables, sep="\n"
    )


def show_json(document: object) -> None:
    """Print one JSON document; a text is one already."""
    text = document if isinstance(document, str) else json.dumps(document, indent=2, ensure_ascii=False)
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def ratio(before: int, after: int) -> str:
    """How many times smaller.

    >>> ratio(764, 100), ratio(5, 0)
    ('7.64', '')
    """
    return f"{before / after:.2f}" if after else ""


def smaller(before: int, after: int) -> str:
    """The same in words, before the name of what it is compared with.

    >>> smaller(764, 100), smaller(5, 5)
    ('7.64 times smaller than', 'not smaller than')
    """
    return f"{ratio(before, after)} times smaller than" if after < before else "not smaller than"


def pairs(first: str, second: str, rows: Iterable[tuple[str, str]]) -> Sheet:
    """A table of two columns."""
    return Sheet((first, second), tuple(Row(row) for row in rows), numbers=2)


def detection(found: Detection, planned: Plan) -> RenderableType:
    """What each weight is; those that were not looked at by reason.

    planned: what the weights would become, and where.
    """
    looked_at = [finding for finding in found.findings if not finding.skipped]
    rows = [_finding(finding) for finding in looked_at]
    for reason, skipped in _grouped(found.findings, lambda finding: finding.skipped):
        if reason:
            total = size(sum(finding.source_nbytes for finding in skipped))
            rows.append(Row((_names(skipped), _shape(skipped), _dtype(skipped), total, "", ""), reason, style="dim"))
    sheet = _sheet(("shape", "dtype", "bytes", "zeros", "values"), rows, numbers=3)
    pairs = zip(found.findings, planned.choices, strict=True)
    smaller = sum(nbytes(choice.legal) < finding.source_nbytes for finding, choice in pairs)
    total = size(sum(finding.source_nbytes for finding in found.findings))
    summary = f"{smaller} of {len(found.findings)} weights can be stored smaller for {planned.target}; {total} in all."
    return Group(sheet, Text(), Text(summary, "bold"))


def _finding(finding: Finding) -> Row:
    declared = [candidate.evidence for candidate in finding.candidates if not candidate.schemes]
    what = [
        *declared,
        *filter(None, (finding.structure, finding.palette, finding.grid, finding.precision, finding.parts)),
    ]
    cells = (
        finding.name,
        _shape([finding]),
        _dtype([finding]),
        size(finding.source_nbytes),
        f"{finding.sparsity:.1%}",
        "> 256" if finding.distinct is None else str(finding.distinct),
    )
    misses = tuple(f"near miss: {miss}" for miss in finding.near_misses)
    note = "; ".join(what) or ("" if misses else finding.evidence)
    return Row(cells, note, (*filter(None, (finding.note,)), *misses))


def plan(planned: Plan) -> RenderableType:
    """What each weight would become, and why it would become nothing else."""
    rows = [choice.facts for choice in planned.choices]
    threshold = max((choice.form.loss.threshold for choice in planned.choices), default=0.0)
    return Group(
        weights(rows, refusals=True),
        Text(),
        Text(_outcome(planned.target, planned.pipeline, planned.dense_nbytes, planned.nbytes, "weights"), "bold"),
        *_changed(rows, threshold),
        *(Text(visible(note), "yellow") for note in planned.notes),
    )


def manifest(made: Manifest, *, refusals: bool = False, threshold: float = 0.0) -> RenderableType:
    """What each weight is stored as, and the size of the artefact.

    threshold: the magnitude up to which values became zero, where some did.
    """
    files = ", ".join(f"{file.name} {size(file.nbytes)}" for file in made.files)
    return Group(
        weights(made.weights, refusals=refusals),
        Text(),
        Text(_outcome(made.target, made.pipeline, made.dense_nbytes, made.nbytes, "model"), "bold"),
        *_changed(made.weights, threshold),
        *(Text(visible(note), "yellow") for note in made.notes),
        *(() if refusals else _refused(made.weights)),
        Text(visible(files), "dim"),
    )


def weights(rows: Sequence[WeightFacts], *, refusals: bool) -> Sheet:
    """Compressed weights one by one, the dense ones by reason, and the sum."""
    compressed = [weight for weight in rows if weight.encoding != "dense"]
    dense = [weight for weight in rows if weight.encoding == "dense"]
    lines = [_weight([weight], weight.evidence, refusals=refusals) for weight in compressed]
    # A reason that mentions refused forms belongs to one weight; nothing is gained by merging those lines.
    for _, same in _grouped(dense, lambda weight: (weight.evidence, weight.rejected if refusals else ())):
        lines.append(_weight(same, same[0].evidence, refusals=refusals))
    before, after = sum(weight.dense_nbytes for weight in rows), sum(weight.nbytes for weight in rows)
    lines.append(Row(("total", "", "", "", size(before), size(after), ratio(before, after)), style="bold", ruled=True))
    return _sheet(("shape", "dtype", "stored as", "before", "after", "ratio"), lines, numbers=4)


def _sheet(titles: tuple[str, ...], rows: Sequence[Row], numbers: int) -> Sheet:
    """Weights in rows; a dtype that all have is said once, for names need the room."""
    dtypes = {row.cells[2] for row in rows} - {""}
    if len(dtypes) != 1:
        return Sheet(("weight", *titles), tuple(rows), numbers)
    plain = tuple(replace(row, cells=(*row.cells[:2], "", *row.cells[3:])) for row in rows)
    return Sheet((f"weight ({dtypes.pop()})", *titles), plain, numbers)


def _weight(same: Sequence[WeightFacts], note: str, *, refusals: bool) -> Row:
    before, after = sum(weight.dense_nbytes for weight in same), sum(weight.nbytes for weight in same)
    inexact = "; not exact" if same[0].exact is False else ""
    details = tuple(f"not {form}: {reason}" for form, reason in same[0].rejected) if refusals else ()
    cells = (
        _names(same),
        _shape(same),
        _dtype(same),
        same[0].encoding,
        size(before),
        size(after),
        ratio(before, after),
    )
    return Row(cells, note + inexact, details, "dim" if same[0].encoding == "dense" else "")


def _outcome(target: str, pipeline: str, before: int, after: int, what: str) -> str:
    made = "".join(f" {word} {name}" for word, name in (("for", target), ("by", pipeline)) if name)
    return f"{what}{made}: {size(after)}, {smaller(before, after)} dense ({size(before)})"


def _changed(rows: Sequence[WeightFacts], threshold: float) -> Iterator[Text]:
    """What is not exact, and how it would be; nothing where every value is kept."""
    zeroed = [weight.changed for weight in rows if weight.changed and not weight.max_error]
    if zeroed:
        values, places = plural(sum(zeroed), "value"), plural(len(zeroed), "weight")
        yield Text(
            f"{values} up to {threshold:g} became zero in {places}: detect.threshold=0 (-S) keeps them", "yellow"
        )
    moved = [weight for weight in rows if weight.max_error]
    if moved:
        values, places = plural(sum(weight.changed for weight in moved), "value"), plural(len(moved), "weight")
        furthest = max(weight.max_error for weight in moved)
        yield Text(f"{values} moved by up to {furthest:.1e} in {places}: detect.tolerance=0 (-S) keeps them", "yellow")


def _refused(rows: Sequence[WeightFacts]) -> Iterator[Text]:
    """Where to read why weights are dense that something else was found for: their evidence alone does not tell."""
    if count := sum(weight.encoding == "dense" and bool(weight.rejected) for weight in rows):
        verb = "is" if count == 1 else "are"
        yield Text(f"{plural(count, 'weight')} {verb} dense though other forms were found: -v says why", "dim")


def _grouped(items: Iterable[T], key: Callable[[T], object]) -> Iterable[tuple[Any, list[T]]]:
    groups: dict[object, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups.items()


Named = WeightFacts | Finding


def _names(same: Sequence[Named]) -> str:
    return same[0].name if len(same) == 1 else f"{len(same)} weights"


def _shape(same: Sequence[Named]) -> str:
    if len({weight.shape for weight in same}) > 1:
        return ""
    return TIMES.join(map(str, same[0].shape)) or "scalar"


def _dtype(same: Sequence[Named]) -> str:
    return same[0].dtype if len({weight.dtype for weight in same}) == 1 else ""


def sparsity_rows(found: Detection) -> list[Mapping[str, object]]:
    """Rows for `dvc plots`: the share of zeros of every weight that was looked at."""
    looked_at = [finding for finding in found.findings if not finding.skipped]
    return [
        {"weight": label, "sparsity": round(finding.sparsity, 4)}
        for label, finding in zip(labels([finding.name for finding in looked_at]), looked_at, strict=True)
    ]


def bytes_rows(made: Sequence[WeightFacts]) -> list[Mapping[str, object]]:
    """Rows for `dvc plots`: the bytes of every weight of two axes and more, and of all others together, in both forms.

    A bar chart of DVC draws one bar a label, so the form is part of it.
    """
    large = [weight for weight in made if len(weight.shape) > 1]
    small = [weight for weight in made if len(weight.shape) <= 1]
    sizes = [
        (label, weight.dense_nbytes, weight.nbytes)
        for label, weight in zip(labels([weight.name for weight in large]), large, strict=True)
    ]
    if small:
        sizes.append(("others", sum(weight.dense_nbytes for weight in small), sum(weight.nbytes for weight in small)))
    return [
        {"weight": f"{label} {form}", "bytes": count}
        for label, before, after in sizes
        for form, count in (("uncompressed", before), ("stored", after))
    ]


def labels(names: Sequence[str]) -> list[str]:
    """Names for the axis of a plot: without `.weight` where that leaves them different.

    >>> labels(["conv1.weight", "rnn.weight", "rnn"])
    ['conv1', 'rnn.weight', 'rnn']
    """
    short = [name.removesuffix(".weight") for name in names]
    return [one if short.count(one) == 1 else name for one, name in zip(short, names, strict=True)]
