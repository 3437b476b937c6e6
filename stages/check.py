"""`compressor check`: the gate, apart from the measuring: a broken limit must not lose the record of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import completion
from .options import AsJson, Overrides, ParamsFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .groups import Evaluate


METRICS = Path("compression/metrics.json")

Metrics = Annotated[Path, typer.Argument(metavar="METRICS", help="What compressor evaluate wrote.")]
Revision = Annotated[
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


def check(
    metrics: Metrics = METRICS,
    against: Revision = None,
    tol: Tolerances = None,
    params: ParamsFile = None,
    settings: Overrides = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Fail if METRICS are not good enough.

    Exit status 1: METRICS break a limit, or are worse than at another revision; 2: the request is wrong. The limits
    are those in the settings, and those that evaluate judged when it wrote METRICS.

    Examples:
        compressor check
        compressor check --against main --tol accuracy=0.002 --tol size_mb=0.01
        compressor check compression/metrics.json -S evaluate.limits.size_mb=5
    """
    from compressor.errors import CompressorError, UsageError

    from . import files, revisions
    from .params import CheckParams, Given, load

    if tol and against is None:
        raise UsageError("--tol is for a comparison: name a revision with --against.")
    tolerances = _tolerances(tol or ())
    own = load(CheckParams, Given(params, settings or ())).evaluate
    now = _values(files.read_text(metrics), str(metrics))
    failures = _broken(now, own)
    if against is not None:
        from compressor.evaluation.metrics import regressions

        then = revisions.find(against, beside=metrics).text(metrics)
        failures += regressions(now, _values(then, f"{against}:{metrics}"), tolerances)
    if as_json:
        print(json.dumps({"ok": not failures, "failures": failures}, indent=2))
    if failures:
        raise CompressorError("\n".join(f"{metrics}: {failure}" for failure in failures))
    if not as_json:
        compared = f", and is not worse than at {against}" if against else ""
        print(f"{metrics} keeps every limit{compared}")


def _broken(now: Mapping[str, object], own: Evaluate) -> list[str]:
    """The limits that do not hold: those of now, and those that were judged when the metrics were written."""
    from compressor.evaluation.metrics import broken, key

    failures = list(broken(now, own.limits, metric=key(own.metric)))
    if now.get("passed") is False and not failures:
        failures.append("passed is false: a limit was broken that held when it was written")
    return failures


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


def _values(text: str, where: str) -> Mapping[str, object]:
    from compressor.errors import CompressorError

    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CompressorError(f"{where}: not valid JSON: {error}. Run `compressor evaluate` again.") from error
    if not isinstance(values, dict):
        raise CompressorError(f"{where}: expected the metrics by name, got a {type(values).__name__}.")
    return values
