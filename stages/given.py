"""Where the settings of a command come from, as far as that is known before any is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_FILE, OWN_FILE = Path("params.yaml"), Path("compressor.yaml")
"""Where settings stand that no `--params` names: in a file of their own, if there is one, as `init` makes it."""


@dataclass(frozen=True)
class Given:
    """Where a command's settings come from; what stands further down wins.

    file: a params file; None: `params.yaml` in the current directory, if there is one.
    overrides: the texts of `-S`.
    options: the values of the command's own options by the key they set; None where an option is not given.
    """

    file: Path | None = None
    overrides: Sequence[str] = ()
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """Whether the command's own options are all that is given."""
        return not self.overrides and self.file is None and not file(None).exists()


def file(named: Path | None) -> Path:
    """The params file that is meant: the one that is named, or the one that is here."""
    return named or (OWN_FILE if OWN_FILE.is_file() else DEFAULT_FILE)
