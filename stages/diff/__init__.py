"""`compressor diff`: two artefacts, models or revisions, weight by weight."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import completion
from ..options import AsJson

if TYPE_CHECKING:
    from compressor.differences.models import Difference, Differences

    from .sides import Side

Before = Annotated[
    str | None,
    typer.Argument(
        metavar="A",
        help="A path, REV:PATH, or REV alone: the artefacts of dvc.yaml there.",
        show_default="HEAD",
        autocompletion=completion.sides,
    ),
]
After = Annotated[
    str | None,
    typer.Argument(
        metavar="B", help="The same.", show_default="the path of A as it is now", autocompletion=completion.sides
    ),
]
ExitCode = Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if there are differences, 2 for an error.")]
ValuesOnly = Annotated[
    bool, typer.Option("--values", help="Ask only whether B has the values of A, in whatever form and float type.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also print the weights that are the same.")]


def diff(
    before: Before = None,
    after: After = None,
    *,
    exit_code: ExitCode = False,
    values: ValuesOnly = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Compare two models weight by weight.

    A and B are artefacts, model files, exported directories, checkpoints or Hugging Face folders, of one format or of
    two; PATH goes from here, and a file that exists is never taken for a revision. REV is what Git knows or an
    experiment of DVC; what DVC tracks comes from its cache.

    Examples:
        compressor diff                      # the artefacts now, since HEAD
        compressor diff main                 # since main
        compressor diff main my-experiment   # of two revisions
        compressor diff model.onnx out       # what compression has changed
        compressor diff HEAD:models/compressed models/compressed --exit-code
    """
    from compressor.errors import CompressorError, UsageError

    from .. import display
    from . import sides, table

    try:
        pairs = sides.pairs(before, after)
        compared = [(name, one, other, _compared(one, other)) for name, one, other in pairs]
    except CompressorError as error:  # with an exit status that says what differs, 1 has its meaning
        raise UsageError(str(error)) if exit_code else error from error
    same = all(found is not None and (found.same_values if values else found.same) for *_, found in compared)
    if as_json:
        display.show_json({"same": same, "artefacts": [_document(*one, values=values) for one in compared]})
    else:
        for name, one, other, found in compared:
            display.show(table.shown(name, one, other, found, verbose=verbose, values=values))
    if exit_code and not same:
        raise typer.Exit(1)


def _compared(one: Side | None, other: Side | None) -> Differences | None:
    from compressor.differences.models import differences

    from .sides import opened

    if one is None or other is None:
        return None
    with opened(one) as before, opened(other) as after:
        return differences(before, after)


def _document(
    name: str, one: Side | None, other: Side | None, found: Differences | None, *, values: bool
) -> dict[str, Any]:
    document: dict[str, Any] = {"name": name, "before": one and str(one), "after": other and str(other)}
    if found is None:
        return document
    shown = [weight for weight in found.weights if weight.told(values=values)]
    return document | {
        "same": found.same,
        "same_values": found.same_values,
        "before_nbytes": found.before_nbytes,
        "after_nbytes": found.after_nbytes,
        "gained": dict(found.forms("gained")),
        "lost": dict(found.forms("lost")),
        "weights": len(found.weights),
        "differences": [_weight(weight) for weight in shown],
    }


def _weight(weight: Difference) -> dict[str, Any]:
    return {"name": weight.name, "form": weight.form, "renamed": weight.renamed} | dataclasses.asdict(weight)
