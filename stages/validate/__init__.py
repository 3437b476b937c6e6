"""`compressor validate`: what would fail after an hour of training, before it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import AsJson, Overrides, ParamsFile, TargetName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from .checks import Check


Model = Annotated[
    Path | None,
    typer.Argument(
        metavar="MODEL",
        help="What the training writes, there or not yet; without it what the export stage in dvc.yaml names.",
        show_default=False,
    ),
]


def validate(
    model: Model = None,
    target: TargetName = None,
    params: ParamsFile = None,
    settings: Overrides = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Look for what would fail later, before a training.

    Settings, functions, checkpoint, inputs, data, metric, limits, targets and outputs are tried as the stages would,
    on two samples; where there is no checkpoint yet, with the weights that the factory's model starts with. Nothing is
    written here. Exit status 1: something would fail; 2: the request is wrong.

    Examples:
        compressor validate                          # the model of dvc.yaml
        compressor validate models/finetuned.pt
        compressor validate bert-sst2 --target iOS17
    """
    import sys
    from contextlib import redirect_stdout

    from compressor import targets
    from compressor.errors import CompressorError, UsageError, plural

    from .. import display, progress
    from ..given import Given
    from ..params import Settings, asked
    from . import everything, stages

    asked(Settings, settings or ())
    if target is not None:
        targets.get(target)
    pipeline: stages.Pipeline | CompressorError | None
    try:
        pipeline = stages.read()
    except CompressorError as error:
        pipeline = error
    named = pipeline if isinstance(pipeline, stages.Pipeline) else None
    if params is not None and not params.is_file():
        raise UsageError(f"{params}: no such file. Name a params file that exists.")
    given = Given(params or (named.params if named else None), settings or (), {"target": target})
    source = model or (named.model if named else None)
    with progress.waiting() as begun, redirect_stdout(sys.stderr):  # what code of the user prints
        checks = everything.checks(source, given, pipeline, begun)
    failed = [check.name for check in checks if check.result == "failed"]
    if as_json:
        document = [{"check": one.name, "result": one.result, "reason": one.reason} for one in checks]
        display.show_json({"ok": not failed, "checks": document})
    else:
        display.show(_table(checks))
    if failed:
        raise CompressorError(f"{len(failed)} of {plural(len(checks), 'check')} failed: {', '.join(failed)}.")


def _table(checks: Sequence[Check]) -> RenderableType:
    """The checks, each with its reason."""
    from rich.console import Group
    from rich.text import Text

    from ..sheet import Row, Sheet

    styles = {"ok": "", "failed": "bold red", "skipped": "dim"}
    rows = []
    for check in checks:
        first, *others = check.reason.split("\n")
        if check.result == "failed":  # its reason is long: below the row, so that those of the others fit beside theirs
            first, others = "", [first, *others]
        rows.append(Row((check.name, check.result), first, tuple(others), styles[check.result]))
    results = [check.result for check in checks]
    counts = ", ".join(f"{results.count(result)} {result}" for result in styles if result in results)
    return Group(Sheet(("check", "result"), tuple(rows), numbers=2), Text(), Text(counts, "bold"))
