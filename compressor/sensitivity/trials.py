"""Trials: what became of the model when one weight alone was changed; and a journal of them that survives a kill."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor import specs
from compressor.compilation import publish
from compressor.errors import CompressorError, UsageError

_KIND = "compressor sensitivity"


@dataclass(frozen=True)
class Trial:
    """One weight in one variant.

    nbytes: of the weight in that form. changed: how many of its values are not the model's own.
    score, drop, agreement, error: see `study.Outcome`; None where it is not known.
    failure: why the model gave nothing to judge, or ``.
    """

    weight: str
    variant: str
    nbytes: int
    changed: int
    score: float | None = None
    drop: float | None = None
    agreement: float | None = None
    error: float | None = None
    failure: str = ""

    @property
    def loss(self) -> float | None:
        """What the trial is judged by: the drop, without labels the error, without numbers the share of other classes.

        None where it failed.
        """
        if self.drop is not None or self.error is not None:
            return self.error if self.drop is None else self.drop
        return None if self.agreement is None else 1 - self.agreement


@dataclass(frozen=True)
class Journal:
    """A file of trials, a line each, behind one that says what they depend on.

    path: of the file. key: by part, see `study.Bench.key`.
    """

    path: Path
    key: Mapping[str, str]

    def begin(self) -> tuple[list[Trial], tuple[str, ...]]:
        """The trials that are there, and which parts of the key are others than theirs: then there are none.

        A line that a kill has cut short is removed.

        Raises:
            UsageError: the file holds something else.
            CompressorError: it cannot be read or written.
        """
        found, other = self._read()
        lines = [{"kind": _KIND, "key": dict(self.key)}, *map(dataclasses.asdict, found)]
        publish.text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        return found, other

    def append(self, trial: Trial) -> None:
        """Add a trial, on the disk when this returns.

        Raises:
            OSError: the file cannot be written.
        """
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(dataclasses.asdict(trial)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> tuple[list[Trial], tuple[str, ...]]:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return [], ()
        except (OSError, UnicodeDecodeError) as error:
            raise CompressorError(f"{self.path}: cannot be read: {error}.") from error
        if not lines:
            return [], ()
        key = _object(lines[0]).get("key")
        if not isinstance(key, dict) or _object(lines[0]).get("kind") != _KIND:
            raise UsageError(f"{self.path}: holds something else than trials of `{_KIND}`. Name another file.")
        if other := tuple(part for part in self.key if key.get(part) != self.key[part]):
            return [], other
        return list(_trials(lines[1:])), ()


def _trials(lines: Sequence[str]) -> Sequence[Trial]:
    found = []
    for line in lines:
        try:
            found.append(specs.checked(Trial, _object(line)))
        except (TypeError, ValueError):  # cut short
            continue
    return found


def _object(line: str) -> dict[str, object]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
