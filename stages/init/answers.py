"""What is asked for, what is set already, and who is asked for the rest."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from compressor.errors import UsageError

from . import merging
from .layout import value
from .repository import Repository

PATH = re.compile(r"(?:[\w.+@=/]|\$\{[\w.\[\]]+\})(?:[\w.+@=/-]|\$\{[\w.\[\]]+\})*")
REFERENCE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class Asked:
    """The options of the command, None or empty where not given."""

    model: str | None = None
    factory: str | None = None
    data: str | None = None
    inputs: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    metric: str | None = None
    prefix: str | None = None


class Ask(Protocol):
    """Asks a user for what an option was to say."""

    def __call__(self, option: str, question: str, default: str, *, needed: bool = True) -> str:
        """What is answered; `default` where nothing is, and where nobody is there and it is not `needed`.

        Raises:
            UsageError: it is needed, and nobody is there.
        """


@dataclass
class Decision:
    """A plan in the making. found: the evidence so far, as (what, value, because)."""

    repository: Repository
    asked: Asked
    ask: Ask
    settings: Mapping[str, Any]
    file: str
    found: list[tuple[str, str, str]] = field(default_factory=list)

    def note(self, what: str, chosen: str, because: str) -> None:
        if because:
            self.found.append((what, chosen, because))

    def known(self, option: str, given: str | None, *keys: str) -> str | None:
        """What is set already, or what is asked for: not both, unless they agree.

        Raises:
            UsageError: they do not.
        """
        there = value(self.settings, *keys)
        if there is None or there == given or given is None:
            return given if there is None else str(there)
        raise UsageError(
            f"--{option} {given}: {self.file} has {'.'.join(keys)}: {there}, and init changes nothing that is there. "
            "Change it in that file."
        )


def settings(repository: Repository, name: str) -> Mapping[str, Any]:
    """The settings that are there already.

    Raises:
        UsageError: a stage would not take them.
    """
    from ..given import Given
    from ..params import Settings, load

    content = merging.content(repository.text(name) or "", name)
    if content:
        with contextlib.chdir(repository.folder):
            load(Settings, Given(Path(name)))
    return content


def path(text: str, option: str) -> str:
    """A path that can stand in a command of dvc.yaml, in any shell."""
    if PATH.fullmatch(text):
        return text
    raise UsageError(f"--{option} {text}: expected a path of letters, digits, and . _ - + @ = between slashes.")


def reference(text: str, option: str, others: str = "") -> str:
    if REFERENCE.fullmatch(text):
        return text
    raise UsageError(f"--{option} {text}: expected module:function, such as training.model:create{others}.")
