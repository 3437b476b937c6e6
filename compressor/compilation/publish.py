"""Publishing: what a command writes appears whole or not at all.

Files are written beside their destination and renamed, so that a full disk or a kill leaves the old ones in place.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from compressor import sources, targets
from compressor.compilation import journal, locks, renaming
from compressor.compilation.manifest import Manifest
from compressor.errors import CompressorError, UsageError

MANIFEST = "manifest.json"

_PREFIX = ".compressor-"


def check_directory(out: Path, inputs: Collection[Path]) -> None:
    """Refuses an output directory whose replacement would lose something that this package has not written.

    inputs: the files and folders that are read for the output.

    Raises:
        UsageError: `out` is a file, holds foreign files, or holds one of the inputs, under whatever name.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        what = "a file" if out.exists() else "a link that leads nowhere"
        raise UsageError(f"{out}: {what}; expected a directory to write to, or the name of a new one.")
    held = [source for source in inputs if source.resolve().is_relative_to(out.resolve())]
    if held:
        raise UsageError(f"{out}: holds {held[0]}, which would be replaced by the output. Name another directory.")
    if out.resolve() == Path.cwd():
        raise UsageError(f"{out}: is the current directory, which cannot be replaced. Name another one.")
    ours = {MANIFEST, *sources.exported(), *targets.files()}
    listed = _listed(out / MANIFEST)
    foreign = sorted(
        entry.name
        for entry in out.iterdir()
        if entry.name + "/" * entry.is_dir() not in ours and not _all_in(entry, out, listed)
    )
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise UsageError(
            f"{out}: holds {', '.join(foreign[:3])}{more}, which this package has not written and would delete. "
            "Name an empty or a new directory."
        )
    # A hard link, or a name in another case on a file system that knows none, does not show in a path.
    below = {_identity(file): file for file in out.rglob("*")}
    for source in inputs:
        same = below.get(_identity(source)) if source.exists() else None
        if same is not None:
            also = "" if same == source else f" ({source})"
            raise UsageError(
                f"{out}: holds {same}{also}, which would be replaced by the output. Name another directory."
            )


def _listed(manifest: Path) -> frozenset[str]:
    """The files that a manifest lists, if it is one."""
    try:
        return frozenset(file.name for file in Manifest.from_json(manifest.read_text(encoding="utf-8")).files)
    except (OSError, ValueError, CompressorError):
        return frozenset()


def _all_in(entry: Path, out: Path, listed: Collection[str]) -> bool:
    """Whether a file, or every file in a folder, is one of those."""
    files = [file for file in entry.rglob("*") if not file.is_dir()] if entry.is_dir() else [entry]
    return bool(files) and all(file.relative_to(out).as_posix() in listed for file in files)


def check_files(outputs: Iterable[Path | None], sources: Iterable[Path]) -> None:
    """Refuses files to write that are read for what is written, are the same one twice, or could not be written.

    Raises:
        UsageError: one is.
        CompressorError: its folder may not be written to.
    """
    read = [*sources]
    for output in outputs:
        if output is None:
            continue
        if output.is_dir():
            raise UsageError(f"{output}: is a directory, expected the name of a file.")
        check_writable(output)
        for source in read:
            if output.resolve() == source.resolve() or (
                output.exists() and source.exists() and output.samefile(source)
            ):
                raise UsageError(f"{output}: would replace {source}, which this command reads or writes. Name another.")
        read.append(output)


def check_writable(output: Path) -> None:
    """Refuses a file or directory whose folder may not be written to, or is none.

    Raises:
        CompressorError: it could not be written.
    """
    folder = next(folder for folder in output.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        why = "is not a directory" if not folder.is_dir() else "may not be written to"
        raise CompressorError(f"{output}: cannot be written: {folder} {why}; name another.")


@contextmanager
def directory(path: Path, *, resume: bool = False) -> Iterator[Path]:
    """A new directory beside `path` that takes its place when the block ends; an error removes it.

    resume: what a run before has kept (`journal`) is in it, and where an error ends the block, what is kept stays.

    An existing directory is replaced as a whole, in one step where the file system can. A link stays, and where it
    leads to is replaced. What can stand in the way of the end is found out at the beginning.

    Raises:
        CompressorError: `path` is a file, cannot be written, or is being written by another process.
        UsageError: `path` is a mount point, which cannot be replaced.
    """
    path = Path(path)
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    if place.exists() and not place.is_dir():
        raise CompressorError(f"{path}: is a file, expected a directory to write; remove it or name another")
    with _reported(path, " Nothing was changed."), _parent(place), locks.held(_lock(place), path) as alone:
        left = _kept(place) if alone and resume else None
        if alone:
            _sweep(place, left)
        temporary = left or Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{place.name}-", dir=place.parent))
        done = False
        try:
            _check_replaceable(path, place, temporary)
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            renaming.replace(temporary, place)
            done = True
        finally:
            if done or not resume or not (temporary / journal.NAME).is_dir():
                shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def attempt(directory: Path) -> Iterator[Path]:
    """A folder inside one that is being written, whose content moves there when the block ends; an error removes it.

    Its name is never used again: whoever is late with an attempt that has failed writes into no other one.
    """
    folder = Path(tempfile.mkdtemp(prefix=".", dir=directory))
    try:
        yield folder
        for entry in folder.iterdir():
            entry.rename(directory / entry.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def beside(directory: Path) -> Iterator[Path]:
    """A folder beside one that is being written, for what is not published; gone when the block ends.

    It is called like what a killed run leaves, which the next one sweeps.
    """
    name = directory.name.rpartition("-")[0]
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=directory.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def text(path: Path, content: str) -> None:
    """Writes a text file, lines ending in LF, whole or not at all. A link is replaced, not what it leads to.

    Raises:
        CompressorError: it cannot be written.
    """
    path = Path(path)
    with _reported(path), _parent(path), locks.held(_lock(path), path, wait=True) as alone:
        if alone:
            _sweep(path)
        number, name = tempfile.mkstemp(prefix=f"{_PREFIX}{path.name}-", dir=path.parent)
        try:
            with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
                file.write(content)
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)


@contextmanager
def _reported(path: Path, consequence: str = "") -> Iterator[None]:
    """A block whose errors of the system are told with the path that the user named."""
    try:
        yield
    except OSError as error:
        raise CompressorError(f"{path}: cannot be written: {error.strerror or error}.{consequence}") from error


@contextmanager
def _parent(path: Path) -> Iterator[None]:
    """A block in which the folder of `path` is there; folders that were made for a block that fails go with it."""
    for folder in path.parents:
        if folder.exists() and not folder.is_dir():
            raise CompressorError(f"{path}: cannot be written: {folder} is a file, expected a directory; name another")
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):  # another one writes there too
            for folder in missing:
                folder.rmdir()
        raise


def _lock(path: Path) -> Path:
    return path.with_name(f"{_PREFIX}{path.name}.lock")


def _check_replaceable(path: Path, place: Path, temporary: Path) -> None:
    try:
        renaming.check_replaceable(place, temporary)
    except OSError as error:
        if error.errno not in {errno.EBUSY, errno.EXDEV}:
            raise
        raise UsageError(
            f"{path}: a mount point, or part of a container's image, cannot be replaced as a whole "
            f"({error.strerror}). Name a directory inside of it: {path / 'model'}."
        ) from error


def _kept(path: Path) -> Path | None:
    """The directory that a run before has left with what it had done, emptied of all else."""
    left = [other for other in _left(path) if (other / journal.NAME).is_dir()]
    if not left:
        return None
    newest = max(left, key=lambda other: (other / journal.NAME).stat().st_mtime_ns)
    for entry in newest.iterdir():
        if entry.name != journal.NAME:
            _remove(entry)
    return newest


def _left(path: Path) -> list[Path]:
    """What runs before have left beside `path`."""
    ours = re.compile(re.escape(f"{_PREFIX}{path.name}-") + "[a-z0-9_]{8}(-old)?")
    return sorted(other for other in path.parent.iterdir() if ours.fullmatch(other.name))


def _sweep(path: Path, but: Path | None = None) -> None:
    """What a killed run left: a directory that had stepped aside goes back, half-written ones are removed.

    Only what was made for this very path: `out-int8` may be written at this moment while `out` is. Nobody lives in
    what is found, since whoever writes `path` holds its lock.
    """
    for left in _left(path):
        if left == but:
            continue
        if left.name.endswith("-old") and not path.exists():
            left.rename(path)
        else:
            _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int]:
    """What is one file under all of its names; a link that leads nowhere is itself."""
    found = path.stat() if path.exists() else path.lstat()
    return found.st_dev, found.st_ino


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
