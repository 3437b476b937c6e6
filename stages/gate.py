"""The gate: whether metrics that compressor evaluate wrote are good enough, by limits and beside a revision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import CompressorError, UsageError
from compressor.evaluation.metrics import broken, key, regressions

from . import files
from .groups import Evaluate
from .revisions import Revision


@dataclass(frozen=True)
class Failure:
    """A number that is not good enough.

    name: of the number; empty for the verdict of evaluate itself.
    text: in words.
    limit: whether it breaks a limit of the settings.
    """

    name: str
    text: str
    limit: bool


@dataclass(frozen=True)
class Verdict:
    """What there is to say of a file of metrics.

    text: its content.
    praise: what is said where nothing fails.
    note: what was not compared, and why; empty where all was.
    """

    file: Path
    text: str
    failures: tuple[Failure, ...]
    praise: str
    note: str


@dataclass(frozen=True)
class Gate:
    """What is asked of every file of metrics.

    own: the limits, and the metric that names some of them.
    revision: to compare with; None where nothing is compared.
    tolerances: by name.
    allow_missing: whether a file may be new since that revision.
    """

    own: Evaluate
    revision: Revision | None
    tolerances: Mapping[str, float]
    allow_missing: bool

    def verdict(self, file: Path) -> Verdict:
        """Whether a file is good enough.

        Raises:
            CompressorError: that cannot be said.
        """
        if not file.exists():
            raise UsageError(f"{file}: no such file. `dvc repro` writes it, or `compressor evaluate --out {file}`.")
        text = files.read_text(file)
        now = values(text, str(file))
        worse, compared, note = self._compared(file, now)
        limits = "keeps every limit" if self.own.limits else "passed when it was measured (no limits are set here)"
        return Verdict(file, text, (*self._broken(now), *worse), f"{file} {limits}{compared}", note)

    def _broken(self, now: Mapping[str, object]) -> tuple[Failure, ...]:
        """The limits that do not hold: those of now, and those that were judged when the metrics were written."""
        lines = broken(now, self.own.limits, metric=key(self.own.metric))
        if now["passed"] is False and not lines:
            return (Failure("", "passed is false: a limit was broken that was set when it was measured", limit=False),)
        return tuple(Failure(line.partition(" ")[0], line, limit=True) for line in lines)

    def _compared(self, file: Path, now: Mapping[str, object]) -> tuple[tuple[Failure, ...], str, str]:
        """What is worse than at the revision, how praise goes on, and what could not be compared."""
        if self.revision is None:
            return (), "", ""
        name = self.revision.name
        if not self.revision.files(file):
            if not self.allow_missing:
                raise UsageError(
                    f"{name} has no {file} to compare with. Name a revision that has, commit the file there, "
                    "or let it be new with --allow-missing."
                )
            return (), f"; {name} has none to compare with", f"{name} has no {file}: only the limits were checked"
        then = values(self.revision.text(file), f"{name}:{file}")
        lines = regressions(now, then, self.tolerances)
        worse = tuple(Failure(line.partition(" ")[0], line, limit=False) for line in lines)
        return worse, f", and is not worse than at {name}", ""


def values(text: str, where: str) -> Mapping[str, object]:
    """The metrics by name.

    Raises:
        CompressorError: the text holds none, or those of another tool.
    """
    try:
        values = json.loads(text, parse_int=float)
    except (ValueError, RecursionError) as error:
        raise CompressorError(f"{where}: not valid JSON: {error}. Run `compressor evaluate` again.") from error
    if not isinstance(values, dict):
        raise CompressorError(f"{where}: expected the metrics by name, got a {type(values).__name__}.")
    if not isinstance(values.get("passed"), bool) or not isinstance(values.get("size_mb"), float):
        named = f"{', '.join(list(values)[:3])}{', ...' if len(values) > 3 else ''}" or "nothing"
        raise CompressorError(
            f"{where}: not what `compressor evaluate` writes: expected size_mb, passed and others, got {named}. "
            "Another tool writes there: give one of the two another place."
        )
    return values
