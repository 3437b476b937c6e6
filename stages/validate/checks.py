"""What was looked at, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from compressor.errors import CompressorError

Result = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One thing that the pipeline needs.

    result: `failed` if the pipeline would fail, too; `skipped` where that cannot be known, or need not.
    reason: what is there, what is wrong with it, or why it was not looked at.
    """

    name: str
    result: Result
    reason: str


@dataclass
class Checks:
    """Those that are done, in their order.

    begun: is told what is looked at now.
    """

    begun: Callable[[str], None]
    done: list[Check] = field(default_factory=list)

    def add(self, name: str, result: Result, reason: str) -> None:
        self.done.append(Check(name, result, reason))

    def skip(self, names: Iterable[str], reason: str) -> None:
        for name in names:
            self.add(name, "skipped", reason)

    def look(self, name: str) -> Look:
        """A block that looks at one thing."""
        return Look(self, name)


@dataclass
class Look:
    """A block that looks at one thing; what it appends to the list is told of it. An error of it is a failed check."""

    checks: Checks
    name: str
    told: list[str] = field(default_factory=list)

    def __enter__(self) -> list[str]:
        self.checks.begun(self.name)
        return self.told

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None:
            self.checks.add(self.name, "ok", "; ".join(self.told))
        elif isinstance(error, CompressorError):
            self.checks.add(self.name, "failed", str(error))
        return isinstance(error, CompressorError)
