"""`compressor explain`: where every byte of a model's files is, and what would make them fewer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import AsJson, Overrides, ParamsFile, TargetName

if TYPE_CHECKING:
    from compressor.accounting.account import Account
    from compressor.accounting.look import Look

    from ..given import Given

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        show_default=False,
        help="A model file, a package, a checkpoint, or a folder of these.",
    ),
]
Top = Annotated[int, typer.Option(min=0, metavar="N", help="How many weights, and how much advice, to print.")]
Advised = Annotated[
    bool,
    typer.Option("--advice/--no-advice", help="Look at every value for advice, or at the structure alone."),
]


MOST_MODELS = 5
"""So many are named where one must be."""


def explain(
    file: File,
    target: TargetName = None,
    top: Top = 10,
    params: ParamsFile = None,
    settings: Overrides = None,
    *,
    advised: Advised = True,
    as_json: AsJson = False,
) -> None:
    """Print where the bytes of FILE are, and how to save some.

    The bytes add up to the size of the files. Advice is for --target, or for what runs files of this format; it is
    ranked by the bytes that each line would save at most, and some of it excludes other.

    Examples:
        compressor explain models/exported
        compressor explain model.onnx --target iOS18 --top 30
        compressor explain checkpoint.pt --no-advice
    """
    from compressor.accounting.advice import advice
    from compressor.accounting.explain import explain as account_of
    from compressor.accounting.explain import named as with_name
    from compressor.errors import UsageError

    from .. import display
    from ..given import Given
    from . import tables

    for option, value in (("--target", target), ("--params", params), ("-S", settings)):
        if value and not advised:
            raise UsageError(f"--no-advice looks at the structure alone: leave {option} out.")
    file = with_name(file)
    given = Given(params, settings or (), {"target": target})
    found = account_of(file)
    look, why_not = _look(file, found, given, named=target is not None) if advised else (None, "")
    advised_on = advice(found, look) if advised else ()
    explained = tables.Explained(file, found, look, advised_on, why_not)
    if as_json:
        display.show_json(tables.document(explained))
    else:
        display.show(tables.rendered(explained, top))


def _look(file: Path, found: Account, given: Given, *, named: bool) -> tuple[Look | None, str]:
    """A look at the weights, or why there is none; a request that is wrong is an error."""
    from compressor.accounting.look import taken
    from compressor.errors import CompressorError, UsageError, line

    from .. import progress
    from ..params import ExplainParams, ExplainTargetParams, core_settings, load, target

    own = load(ExplainTargetParams if named else ExplainParams, given)
    try:
        with progress.shown() as shown:
            made_for = target(own) if isinstance(own, ExplainTargetParams) else None
            return taken(file, made_for, own.compress.pipeline, core_settings(own.detect), shown), ""
    except UsageError:
        raise
    except CompressorError as error:
        models = sorted({portion.model for portion in found.portions if portion.model})
        if len(models) > 1 and file.is_dir():
            several = ", ".join(models[:MOST_MODELS]) + (", ..." if len(models) > MOST_MODELS else "")
            return None, f"advice on weights is for one model: name one of {several}"
        return None, line(error)
