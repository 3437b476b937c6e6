"""Publishing: what a command writes appears whole or not at all.

Files are written beside their destination and renamed, so that a full disk or a kill leaves the old ones in place.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from compressor.errors import CompressorError, UsageError

WRITTEN = {"model.onnx": False, "model.onnx.data": False, "model.traced.pt": False, "manifest.json": False} | {
    "model.mlpackage": True
}
"""What this package writes to a directory, and whether it is a folder: nothing else in it is its to replace."""

_PREFIX = ".compressor-"


def check_directory(out: Path, sources: Collection[Path]) -> None:
    """Refuses an output directory whose replacement would lose something that this package has not written.

    sources: the files and folders that are read for the output.

    Raises:
        UsageError: `out` is a file, holds foreign files, or holds one of the sources, under whatever name.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        what = "a file" if out.exists() else "a link that leads nowhere"
        raise UsageError(f"{out}: {what}; expected a directory to write to, or the name of a new one.")
    held = [source for source in sources if source.resolve().is_relative_to(out.resolve())]
    if held:
        raise UsageError(f"{out}: holds {held[0]}, which would be replaced by the output. Name another directory.")
    if out.resolve() == Path.cwd():
        raise UsageError(f"{out}: is the current directory, which cannot be replaced. Name another one.")
    foreign = sorted(entry.name for entry in out.iterdir() if WRITTEN.get(entry.name) != entry.is_dir())
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise UsageError(
            f"{out}: holds {', '.join(foreign[:3])}{more}, which this package has not written and would delete. "
            "Name an empty or a new directory."
        )
    # A hard link, or a name in another case on a file system that knows none, does not show in a path.
    below = {_identity(file): file for file in out.rglob("*")}
    for source in sources:
        same = below.get(_identity(source)) if source.exists() else None
        if same is not None:
            also = "" if same == source else f" ({source})"
            raise UsageError(
                f"{out}: holds {same}{also}, which would be replaced by the output. Name another directory."
            )


def check_files(outputs: Iterable[Path | None], sources: Iterable[Path]) -> None:
    """Refuses files to write that are read for what is written, or are the same one twice.

    Raises:
        UsageError: one is.
    """
    read = [*sources]
    for output in outputs:
        if output is None:
            continue
        for source in read:
            if output.resolve() == source.resolve() or (
                output.exists() and source.exists() and output.samefile(source)
            ):
                raise UsageError(f"{output}: would replace {source}, which this command reads or writes. Name another.")
        read.append(output)


@contextmanager
def directory(path: Path) -> Iterator[Path]:
    """A new directory beside `path` that takes its place when the block ends; an error removes it.

    An existing directory is replaced as a whole: it is moved aside, and back if the new one cannot take its place. A
    link stays, and where it leads to is replaced.

    Raises:
        CompressorError: `path` is a file, or cannot be written.
    """
    path = Path(path)
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    if place.exists() and not place.is_dir():
        raise CompressorError(f"{path}: is a file, expected a directory to write; remove it or name another")
    temporary = None
    try:
        _make_parent(place)
        _sweep(place)
        temporary = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{place.name}-", dir=place.parent))
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        _replace(temporary, place)
    except OSError as error:
        raise CompressorError(f"{path}: cannot be written: {error.strerror or error}. Nothing was changed.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def text(path: Path, content: str) -> None:
    """Writes a text file, lines ending in LF, whole or not at all.

    Raises:
        CompressorError: it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f"{_PREFIX}{path.name}-{os.getpid()}")
    try:
        _make_parent(path)
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(content)
        temporary.replace(path)
    except OSError as error:
        raise CompressorError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it is gone where it was renamed
            temporary.unlink()


def _make_parent(path: Path) -> None:
    for folder in path.parents:
        if folder.exists() and not folder.is_dir():
            raise CompressorError(f"{path}: cannot be written: {folder} is a file, expected a directory; name another")
    path.parent.mkdir(parents=True, exist_ok=True)


def _replace(temporary: Path, path: Path) -> None:
    """Renames a directory over another one: POSIX wants the other one empty, so the old one steps aside."""
    if not path.exists():
        temporary.rename(path)
        return
    aside = temporary.with_name(temporary.name + "-old")
    try:
        path.rename(aside)
        temporary.rename(path)
    finally:  # of an interruption too
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(path)


def _sweep(path: Path) -> None:
    """What a killed run left: a directory that had stepped aside goes back, half-written ones are removed.

    Only what `mkdtemp` named for this very path: `out-int8` may be written at this moment while `out` is.
    """
    ours = re.compile(re.escape(f"{_PREFIX}{path.name}-") + "[a-z0-9_]{8}(-old)?")
    for left in sorted(other for other in path.parent.iterdir() if ours.fullmatch(other.name)):
        if left.name.endswith("-old") and not path.exists():
            left.rename(path)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _identity(path: Path) -> tuple[int, int]:
    """What is one file under all of its names; a link that leads nowhere is itself."""
    found = path.stat() if path.exists() else path.lstat()
    return found.st_dev, found.st_ino


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
