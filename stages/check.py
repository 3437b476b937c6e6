"""`compressor check`: the gate, apart from the measuring: a broken limit must not lose the record of the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import completion
from .options import AsJson, Overrides, ParamsFile
from .text import visible

if TYPE_CHECKING:
    from .gate import Gate, Verdict
    from .given import Given
    from .groups import Evaluate
    from .params import CheckParams


FOLDER, NAME = Path("compression"), "metrics.json"
FORMATS = ("text", "json", "github")

Files = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="METRICS",
        help="What compressor evaluate wrote. Default: compression/metrics.json, or that of each target.",
        show_default=False,
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        metavar="REV",
        help="Also compare with METRICS at this git revision.",
        show_default=False,
        autocompletion=completion.revisions,
    ),
]
Tolerances = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=AMOUNT",
        help="Compare only what is named so, and let it get worse by this much; otherwise nothing may. Repeatable.",
        show_default=False,
    ),
]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Let METRICS pass that REV does not have.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="text, json, or github: annotations at the lines of limits and metrics.",
        show_default="text",
        autocompletion=lambda: list(FORMATS),
    ),
]


def check(
    metrics: Files = None,
    against: Against = None,
    tol: Tolerances = None,
    params: ParamsFile = None,
    settings: Overrides = None,
    form: Format = None,
    *,
    allow_missing: AllowMissing = False,
    as_json: AsJson = False,
) -> None:
    """Fail if METRICS are not good enough.

    Exit status 1: METRICS break a limit, or are worse than at another revision; 2: the request is wrong, or a file is
    missing or no metrics. The limits are those in the settings, and those that evaluate judged when it wrote METRICS.

    Examples:
        compressor check
        compressor check --against main --tol accuracy=0.002 --tol size_mb=0.01
        compressor check compression/metrics.json -S evaluate.limits.size_mb=5
        compressor check --against origin/main --allow-missing --format github
    """
    from compressor.errors import CompressorError, UsageError

    from .annotations import annotation
    from .given import Given
    from .params import CheckParams, load

    shown = _format(form, as_json=as_json)
    try:
        given = Given(params, settings or ())
        own = load(CheckParams, given)
        files = metrics or _expected(own)
        gate = _gate(own.evaluate, files[0], against, tol or (), allow_missing=allow_missing)
        found = [gate.verdict(file) for file in files]
    except CompressorError as error:
        if shown == "github":
            print("\n".join(annotation("error", line) for line in str(error).split("\n")))
            raise typer.Exit(UsageError.exit_status) from None
        # 1 says that the metrics were judged.
        raise UsageError(str(error)) from error
    failed = [f"{one.file}: {failure.text}" for one in found for failure in one.failures]
    if shown == "github":
        print("\n".join(line for one in found for line in _annotated(one, given)))
        if failed:
            raise typer.Exit(1)
    elif shown == "json":
        print(json.dumps(_document(found), indent=2))
    else:
        print("".join(f"{visible(one.praise)}\n" for one in found if not one.failures), end="")
    if failed:
        raise CompressorError("\n".join(failed))


def _format(form: str | None, *, as_json: bool) -> str:
    """How the outcome is printed.

    Raises:
        UsageError: there is no such way, or two are asked for.
    """
    from compressor.errors import UsageError, unknown

    if form is not None and form not in FORMATS:
        raise unknown("format", form, FORMATS)
    if as_json and form not in {None, "json"}:
        raise UsageError(f"--json and --format {form} exclude each other.")
    return form or ("json" if as_json else "text")


def _expected(own: CheckParams) -> list[Path]:
    """The files that the pipeline writes: one, or one a target."""
    if own.targets:
        return [FOLDER / name / NAME for name in own.targets]
    one = FOLDER / NAME
    return [one] if one.exists() else sorted(FOLDER.glob(f"*/{NAME}")) or [one]


def _gate(own: Evaluate, beside: Path, against: str | None, tol: Sequence[str], *, allow_missing: bool) -> Gate:
    """What is asked of metrics.

    beside: in whose repository the revision is.

    Raises:
        UsageError: it contradicts itself, or there is no such revision.
    """
    from compressor.errors import UsageError

    from . import revisions
    from .gate import Gate

    if against is None and (tol or allow_missing):
        option = "--tol" if tol else "--allow-missing"
        raise UsageError(f"{option} is for a comparison: name a revision with --against.")
    tolerances = _tolerances(tol)
    revision = revisions.find(against, beside=beside) if against is not None else None
    return Gate(own, revision, tolerances, allow_missing)


def _tolerances(given: Sequence[str]) -> dict[str, float]:
    """The amounts by name.

    Raises:
        UsageError: one is not spelled NAME=AMOUNT, or is negative.
    """
    from compressor.errors import UsageError

    tolerances = {}
    for text in given:
        name, _, amount = text.partition("=")
        try:
            tolerances[name.strip()] = float(amount)
        except ValueError:
            raise UsageError(f"--tol {text}: expected a name and an amount, such as accuracy=0.002.") from None
        if not 0 <= tolerances[name.strip()] < float("inf"):
            raise UsageError(f"--tol {text}: expected an amount of 0 or more.")
    return tolerances


def _document(found: Sequence[Verdict]) -> dict[str, object]:
    by_file = {str(one.file): [failure.text for failure in one.failures] for one in found}
    failures = [failure for failures in by_file.values() for failure in failures]
    return {"ok": not failures, "failures": failures, "files": by_file}


def _annotated(found: Verdict, given: Given) -> list[str]:
    """A verdict as GitHub shows it: beside the limit that is broken, or the number that got worse."""
    from . import annotations, params

    if not found.failures:
        return [visible(found.praise), *([annotations.annotation("notice", found.note)] if found.note else ())]
    lines = []
    for failure in found.failures:
        file, line = found.file, annotations.metric(found.text, failure.name or "passed")
        if failure.limit and (place := params.place(given, "evaluate", "limits", failure.name)):
            file, line = place
        lines.append(annotations.annotation("error", f"{found.file}: {failure.text}", file, line))
    return lines
