"""The files that change: their new texts, the differences, and the writing of all of them or of none."""

from __future__ import annotations

import difflib
import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import CompressorError

from . import merging, plan
from .merging import Piece
from .plan import Plan
from .repository import PIPELINE, Repository

IGNORE = ".gitignore"


@dataclass(frozen=True)
class Change:
    """A file of the project, as it is (None: not there) and as it shall be.

    added: what is new, in words.
    """

    path: Path
    name: str
    old: str | None
    new: str
    added: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """A part that is there, and is not what would be written now."""

    name: str
    part: str
    there: str
    now: str


def changes(
    repository: Repository, planned: Plan, service: str | None = None
) -> tuple[tuple[Change, ...], tuple[Kept, ...]]:
    """What changes, and what stays as it is although it would be written in another way.

    service: that shall run the pipeline, one of `plan.WORKFLOWS`.

    Raises:
        UsageError: a file cannot be extended.
    """
    kept: list[Kept] = []
    parts = {
        PIPELINE: {"stages": plan.stages(planned), "artifacts": plan.artifacts(planned)},
        planned.params: {"": plan.groups(planned)},
    }
    found = [_extended(repository, name, sections, kept) for name, sections in parts.items()]
    found += [_ignoring(repository, name, lines) for name, lines in _ignored(repository, planned, found[0]).items()]
    if service is not None:
        found += [_workflow(repository, planned, service, kept)]
    return tuple(one for one in found if one is not None), tuple(kept)


def _extended(
    repository: Repository, name: str, sections: dict[str, tuple[Piece, ...]], kept: list[Kept]
) -> Change | None:
    old = repository.text(name)
    text, added = old or "", list[str]()
    for section, wanted in sections.items():
        there = {piece.key: piece for piece in merging.pieces(text, section, name)}
        missing = [piece for piece in wanted if piece.key not in there]
        if section:
            kept += [
                Kept(name, f"{section}.{piece.key}", there[piece.key].text, piece.text)
                for piece in wanted
                if piece.key in there and there[piece.key].value != piece.value
            ]
        text = merging.insert(text, section, missing, name)
        added += [f"{section}.{piece.key}" if section else piece.key for piece in missing]
    return Change(repository.folder / name, name, old, text, tuple(added)) if added else None


def _ignored(repository: Repository, planned: Plan, pipeline: Change | None) -> dict[str, list[str]]:
    """The lines that each .gitignore needs, by its name: of folders that are new, where DVC looks for them.

    DVC writes them itself, but only where a stage has run, and `git add` may be earlier.
    """
    found = {IGNORE: list(planned.ignored)}
    new = () if pipeline is None else pipeline.added
    outs = [out for part, out in plan.outs(planned).items() if part in new]
    hidden = repository.ignored(outs) if outs else frozenset()
    for folder, name in map(posixpath.split, () if repository.git is None else outs):
        if f"{folder}/{name}" not in hidden:
            found.setdefault(f"{folder}/{IGNORE}", []).append(f"/{name}")
    return found


def _ignoring(repository: Repository, name: str, lines: Sequence[str]) -> Change | None:
    old = repository.text(name)
    there = (old or "").split("\n")
    missing = [line for line in lines if line not in there]
    if not missing:
        return None
    newline = "\r\n" if old and "\r\n" in old else "\n"
    end = newline if old and not old.endswith("\n") else ""
    new = (old or "") + end + "".join(line + newline for line in missing)
    return Change(repository.folder / name, name, old, new, tuple(missing))


def _workflow(repository: Repository, planned: Plan, service: str, kept: list[Kept]) -> Change | None:
    """A file of its own, or where a service has but one for all, the new keys in it."""
    file, text = plan.workflow(planned, service)
    path = (repository.git or repository.root) / file
    name = repository.relative(path)
    old = repository.text(name)
    if old is None:
        return Change(path, name, None, text, (f"for {service}",))
    if service == "gitlab":
        return _extended(repository, name, {"": merging.pieces(text)}, kept)
    if old != text:
        kept.append(Kept(name, "the workflow", old, text))
    return None


def difference(changed: Sequence[Change]) -> Iterator[str]:
    """A unified diff of all files, without line ends."""
    for one in changed:
        old = "/dev/null" if one.old is None else f"a/{one.name}"
        yield from difflib.unified_diff(_lines(one.old or ""), _lines(one.new), old, f"b/{one.name}", lineterm="")


def proposal(kept: Kept) -> Iterator[str]:
    """The difference between a part as it is and as it would be written now."""
    yield from difflib.unified_diff(
        _lines(kept.there), _lines(kept.now), f"{kept.name}: {kept.part}", "as init writes it now", lineterm=""
    )


def write(changed: Sequence[Change]) -> None:
    """Write all files, or leave all as they were.

    Raises:
        CompressorError: one cannot be written.
    """
    for one in changed:
        _check(one)
    done: list[Change] = []
    try:
        for one in changed:
            done.append(one)
            _replace(one.path, one.new)
    except BaseException:
        for one in reversed(done):
            if one.old is None:
                one.path.unlink(missing_ok=True)
            else:
                _replace(one.path, one.old)
        raise


def _replace(path: Path, text: str) -> None:
    """Another text for a file, with the permissions that it has."""
    from compressor.compilation import publish

    place = _place(path)
    mode = place.stat().st_mode if place.exists() else None
    publish.text(place, text)
    if mode is not None:
        place.chmod(mode)


def _check(change: Change) -> None:
    """That a file may be written, and is still what it was when it was read."""
    path = _place(change.path)
    if path.exists() and not (path.stat().st_mode & 0o222 and os.access(path, os.W_OK)):
        raise CompressorError(f"{change.path}: is read-only. Nothing was changed.")
    folder = next(folder for folder in path.parents if folder.exists())
    if not folder.is_dir() or not (folder.stat().st_mode & 0o222 and os.access(folder, os.W_OK)):
        raise CompressorError(f"{change.path}: {folder} may not be written to. Nothing was changed.")
    now = path.read_bytes().decode("utf-8", "replace") if path.exists() else None
    if now != change.old:
        raise CompressorError(f"{change.path}: changed meanwhile. Nothing was changed; run it again.")


def _place(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _lines(text: str) -> list[str]:
    return text.splitlines()
