"""Publishing: what a command writes appears whole or not at all.

Files are written beside their destination and renamed, so that a full disk or a kill leaves the old ones in place.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from compressor.errors import CompressorError

_PREFIX = ".compressor-"


@contextmanager
def directory(path: Path) -> Iterator[Path]:
    """A new directory beside `path` that takes its place when the block ends; an error removes it.

    An existing directory is replaced as a whole: it is moved aside, and back if the new one cannot take its place. A
    link stays, and where it leads to is replaced.

    Raises:
        CompressorError: `path` is a file, or nothing that this package or a user would want replaced; or the disk is
            full.
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
