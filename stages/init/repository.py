"""The training repository as it lies there: its roots, and the files that `init` looks at."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from compressor.errors import CompressorError, UsageError

from ..revisions import dvc
from . import pipeline
from .pipeline import Pipeline

PIPELINE = "dvc.yaml"


@dataclass(frozen=True)
class Repository:
    """A project: a folder with a dvc.yaml, or one that shall have it.

    folder: of the project. root: of the DVC repository. git: of Git's; None where DVC was told to do without.
    config: DVC's, by section.
    """

    folder: Path
    root: Path
    git: Path | None
    config: Mapping[str, Mapping[str, str]]

    def text(self, name: str) -> str | None:
        """The text of a file of the project, None where there is none.

        Raises:
            CompressorError: it cannot be read, or is no text.
        """
        path = self.folder / name
        if not path.is_file():
            if path.exists() or path.is_symlink():
                raise UsageError(f"{path}: expected a file.")
            return None
        try:
            return path.read_bytes().decode("utf-8")
        except OSError as error:
            raise CompressorError(f"{path}: cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}.") from error

    @property
    def project(self) -> str:
        """The project's folder, from Git's root, else DVC's."""
        return self.folder.relative_to(self.git or self.root).as_posix()

    @cached_property
    def pipelines(self) -> tuple[Pipeline, ...]:
        """Every dvc.yaml of the repository, the project's own first.

        Raises:
            UsageError: one is no valid YAML, or no mapping.
        """
        own = self.folder / PIPELINE
        others = [path for path in self.listed(PIPELINE) if path != own]
        return tuple(map(self._parsed, (PIPELINE, *map(self.relative, others))))

    def _parsed(self, name: str) -> Pipeline:
        def text(file: str) -> str:
            return self.text((Path(name).parent / file).as_posix()) or ""

        return pipeline.parse(text(PIPELINE), name, text)

    @cached_property
    def tracked(self) -> tuple[str, ...]:
        """What DVC tracks by a `.dvc` file beside it."""
        return tuple(self.relative(path).removesuffix(".dvc") for path in self.listed("*.dvc"))

    def listed(self, pattern: str, below: str | None = None) -> list[Path]:
        """The files of a name below a folder of the project, or below DVC's root, that Git does not ignore."""
        if self.git is None:
            return []
        top = self.root if below is None else self.folder / below
        out = self._git("ls-files", "-z", "-co", "--exclude-standard", "--", f":(glob)**/{pattern}", cwd=top)
        return sorted({top / name for name in out.split("\0") if name})

    def ignored(self, paths: Iterable[str]) -> frozenset[str]:
        """Those that Git ignores, or would."""
        if self.git is None:
            return frozenset()
        out = self._git("check-ignore", "--no-index", "-z", "--stdin", cwd=self.folder, asked="\0".join(paths))
        return frozenset(out.split("\0")) - {""}

    def relative(self, path: Path) -> str:
        """A path as it stands in the project's dvc.yaml."""
        return Path(os.path.relpath(path, self.folder)).as_posix()

    def _git(self, *command: str, cwd: Path, asked: str = "") -> str:
        done = subprocess.run(["git", *command], cwd=cwd, capture_output=True, check=False, input=asked.encode())
        return done.stdout.decode("utf-8", "surrogateescape")


def locate(folder: Path) -> Repository:
    """The repository around a folder.

    Raises:
        UsageError: there is no such folder, or no repository of DVC and Git around it.
        CompressorError: DVC's configuration cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder. Name the one that has, or shall have, the project's dvc.yaml.")
    place = folder.resolve()
    around = (place, *place.parents)
    root = next((one for one in around if (one / ".dvc").is_dir()), None)
    git = next((one for one in around if (one / ".git").exists()), None)
    if root is None:
        first = "" if git is not None else "`git init`, then "
        raise UsageError(f"{folder}: not in a DVC repository. Make it one: {first}`dvc init`.")
    config = dvc.configuration(root / ".dvc" / "config", root / ".dvc" / "config.local")
    if git is None and config.get("core", {}).get("no_scm", "").lower() != "true":
        raise UsageError(f"{folder}: not in a Git repository, which DVC needs. Make it one: `git init`.")
    return Repository(place, root, git, config)
