"""`compressor report`: what a model was compressed to, as one page that people forward, and as markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import completion
from ..options import Overrides, ParamsFile
from ..text import size, visible

PAGE = Path("report.html")
STDOUT = Path("-")

Artefacts = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="ARTEFACT",
        help="Artefacts or model files to report by themselves, instead of the repository here.",
        show_default=False,
    ),
]
Page = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The page, an .html; report.html if no file is named.", show_default=False),
]
Markdown = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Markdown for a pull request, an .md; - is stdout.", show_default=False),
]
Revision = Annotated[
    str | None,
    typer.Option(
        metavar="REV",
        help="Also compare with this git revision or experiment.",
        show_default=False,
        autocompletion=completion.revisions,
    ),
]


def report(
    artefacts: Artefacts = None,
    out: Page = None,
    markdown: Markdown = None,
    against: Revision = None,
    params: ParamsFile = None,
    settings: Overrides = None,
) -> None:
    """Write a report of what lies here.

    In a training repository it tells of the metrics, artefacts, detection, parameters and experiments that its stages
    have written; with ARTEFACT, of these alone. The page is one file that loads nothing: it can be mailed as it is. A
    broken limit is told and is no failure: for that there is `compressor check`.

    Examples:
        compressor report
        compressor report --against main --out report.html --markdown report.md
        compressor report --markdown -  # for a comment, on stdout
        compressor report out-ios17/ out-onnx/  # artefacts by themselves
    """
    from importlib.metadata import version

    from compressor.compilation import publish

    from .. import files
    from ..given import Given
    from . import collect, portraits
    from .markdown import text
    from .page import html

    page = out if out is not None or markdown is not None else PAGE
    _check(page, markdown)
    if artefacts:
        _check_alone(against, params, settings)
    read = [file for path in artefacts for file in files.read_by(path)] if artefacts else collect.read()
    publish.check_files([page, None if markdown == STDOUT else markdown], read)
    given = Given(params, settings or ())
    found = collect.of_artefacts(artefacts) if artefacts else collect.of_repository(given, against)
    if page is not None:
        _write(page, html(found, portraits.of_report(found), version("compressor")))
    if markdown == STDOUT:
        print(text(found), end="")
    elif markdown is not None:
        _write(markdown, text(found))


def _check(page: Path | None, markdown: Path | None) -> None:
    """Refuse what cannot be meant, before anything is read.

    Raises:
        UsageError: a name does not say what is written.
    """
    from compressor.errors import UsageError

    for path, suffixes in ((page, (".html", ".htm")), (None if markdown == STDOUT else markdown, (".md", ".markdown"))):
        if path is not None and path.suffix.lower() not in suffixes:
            raise UsageError(f"{path}: expected a name that ends with {suffixes[0]}, got {path.suffix!r}.")


def _check_alone(against: str | None, params: Path | None, settings: list[str] | None) -> None:
    """Refuse what artefacts by themselves do not have.

    Raises:
        UsageError: they are to be compared with a revision, or judged by settings.
    """
    from compressor.errors import UsageError

    if against is not None:
        raise UsageError(
            "--against compares a training repository with its past: leave ARTEFACT out. `compressor diff` compares "
            "artefacts."
        )
    for option, value in (("--params", params), ("-S", settings)):
        if value:
            raise UsageError(f"{option} is for the report of a training repository: leave ARTEFACT out, or {option}.")


def _write(path: Path, content: str) -> None:
    from compressor.compilation import publish

    publish.text(path, content)
    print(f"{visible(str(path))} {size(len(content.encode()))}")
