"""What A and B stand for: files here, or as a revision has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.compilation.publish import MANIFEST
from compressor.errors import CompressorError, UsageError

from .. import revisions, yaml

if TYPE_CHECKING:
    from compressor.model import Model

DVC_FILE = Path("dvc.yaml")
LABEL = "compressed"
"""Of the artefacts in dvc.yaml that are compared where no path is named."""
DEFAULT = Path("models/compressed")


@dataclass(frozen=True)
class Side:
    """One of two. revision: None for what lies here."""

    path: Path
    revision: revisions.Revision | None = None

    def __str__(self) -> str:
        return str(self.path) if self.revision is None else f"{self.revision.name}:{self.path}"


Pairs = list[tuple[str, Side | None, Side | None]]
"""What is compared: the name of the artefact where there are several, and both sides; None where one has none."""


def pairs(before: str | None, after: str | None) -> Pairs:
    """What two words of a user stand for.

    Raises:
        UsageError: there is no such file or revision.
    """
    one = revisions.find("HEAD") if before is None else _parsed(before)
    if after is not None:
        return _paired(one, _parsed(after))
    if isinstance(one, revisions.Revision):
        return _paired(one, None)
    since = one if one.revision else replace(one, revision=revisions.find("HEAD", one.path))
    return _paired(since, Side(one.path))


def _parsed(text: str) -> Side | revisions.Revision:
    """A file here, or REV:PATH, or a revision. A Windows drive is part of a path that is there."""
    revision, _, path = text.partition(":")
    if Path(text).exists():
        return Side(Path(text))
    if path:
        return Side(Path(path), revisions.find(revision, Path(path)))
    try:
        return revisions.find(text)
    except UsageError as error:
        raise UsageError(f"{text}: no such file or folder, and {error}") from error


def _paired(one: Side | revisions.Revision, other: Side | revisions.Revision | None) -> Pairs:
    """A revision alone stands for the path of the other side, or for the artefacts of dvc.yaml."""
    if isinstance(other, Side):
        return _artefacts(one if isinstance(one, Side) else Side(other.path, one), other)
    if isinstance(one, Side):
        return _artefacts(one, Side(one.path, other))
    paths = _defaults()
    if len(paths) == 1:
        return _artefacts(Side(paths[0], one), Side(paths[0], other))
    sides = [(_there(Side(path, one)), _there(Side(path, other))) for path in paths]
    return [
        pair
        for mine, theirs in sides
        for pair in (_artefacts(mine, theirs) if mine and theirs else [("", mine, theirs)])
    ]


def _there(side: Side) -> Side | None:
    """The side, if there is anything: of several artefacts one may be younger than a revision."""
    found = side.path.exists() if side.revision is None else side.revision.files(side.path)
    return side if found else None


def _defaults() -> list[Path]:
    """The paths of the artefacts that dvc.yaml calls compressed."""
    if not DVC_FILE.is_file():
        return [DEFAULT]
    from .. import files

    content = yaml.read(files.read_text(DVC_FILE), str(DVC_FILE))
    listed = content.get("artifacts") if isinstance(content, dict) else None
    artefacts = [one for one in listed.values() if isinstance(one, dict)] if isinstance(listed, dict) else []
    paths = [str(one.get("path")) for one in artefacts if LABEL in str(one.get("labels"))]
    return [Path(path) for path in paths if "${" not in path] or [DEFAULT]


def _artefacts(one: Side, other: Side) -> Pairs:
    """Both sides as they are, or the artefacts of several targets in both folders by name."""
    mine, theirs = _inside(one), _inside(other)
    if not (mine or theirs):
        return [("", one, other)]
    return [
        (
            name,
            replace(one, path=one.path / name) if name in mine else None,
            replace(other, path=other.path / name) if name in theirs else None,
        )
        for name in sorted(mine | theirs)
    ]


def _inside(side: Side) -> frozenset[str]:
    """The names of the artefacts in a folder; none where it is one itself, or a file."""
    if side.revision is None:
        if not side.path.is_dir() or (side.path / MANIFEST).exists():
            return frozenset()
        return frozenset(found.parent.name for found in side.path.glob(f"*/{MANIFEST}"))
    names = side.revision.files(side.path)
    if any(name.as_posix() == MANIFEST for name in names):
        return frozenset()
    return frozenset(name.parts[0] for name in names if len(name.parts) == 2 and name.name == MANIFEST)


@contextmanager
def opened(side: Side) -> Iterator[Model]:
    """The model of a side, for as long as its files are there.

    Raises:
        CompressorError: there is none, or it cannot be read.
    """
    from compressor import sources

    if side.revision is None:
        yield sources.weights(side.path)
        return
    with side.revision.checked_out(side.path) as place:
        try:
            model = sources.weights(place)
        except CompressorError as error:
            raise type(error)(str(error).replace(str(place), str(side))) from error
        yield model
