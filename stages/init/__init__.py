"""`compressor init`: the stages, settings and ignore lines in a training repository that has none of them yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Project = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="The project: where its dvc.yaml is, or shall be.", show_default=False),
]


def init(
    project: Project = Path(),
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="What the training writes, from DIR.", show_default=False)
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION", help="Builds the module that a state dict belongs to.", show_default=False
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION|FILE",
            help="Returns (inputs, labels) to measure on; none: sizes only.",
            show_default=False,
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=DTYPE[SIZES]",
            help="What the model takes, where nothing says it. Repeatable.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="From `compressor targets`. Repeatable.", show_default="onnxruntime"),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|MODULE:FUNCTION", help="Compares labels with outputs.", show_default="accuracy_score"
        ),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(metavar="TEXT", help="In front of the stages' names.", show_default=False)
    ] = None,
    ci: Annotated[str | None, typer.Option(metavar="github|gitlab", help="Add a workflow.", show_default=False)] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")] = False,
) -> None:
    """Add the compression to the dvc.yaml of a training repository.

    What is not given is guessed, with the evidence, or asked for on a terminal. Nothing that is there changes.

    Examples:
        compressor init --dry-run
        compressor init --model models/finetuned.pt --factory src.model:create
        compressor init --target iOS17 --target onnxruntime --ci github
    """
    from compressor.errors import unknown

    from . import changes, conversation
    from .answers import Asked
    from .decide import decide
    from .plan import WORKFLOWS
    from .repository import locate

    if ci is not None and ci not in WORKFLOWS:
        raise unknown("service for --ci", ci, WORKFLOWS)
    asked = Asked(model, factory, data, tuple(inputs or ()), tuple(target or ()), metric, prefix)
    repository = locate(project)
    planned, evidence = decide(repository, asked, conversation.ask)
    changed, kept = changes.changes(repository, planned, ci)
    conversation.tell(evidence, changed, kept, dry_run=dry_run)
    if not dry_run:
        changes.write(changed)
        conversation.tell_next(changed, planned.params)
