"""A directory takes the place of another in one step: there is one at every moment, even where a run is killed."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

_HERE = -100  # AT_FDCWD: paths are relative to the current directory
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_UNABLE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def exchange(one: Path, other: Path) -> bool:
    """Whether the system has given each of two paths what the other one named; False where it cannot.

    Raises:
        OSError: it can, and they may not be renamed.
    """
    library = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            status = library.renamex_np(*paths, _EXCHANGE)
        else:
            status = library.renameat2(_HERE, paths[0], _HERE, paths[1], _EXCHANGE)
    except AttributeError:  # an older C library
        return False
    code = ctypes.get_errno()
    if status and code not in _UNABLE:
        raise OSError(code, os.strerror(code), str(one), None, str(other))
    return not status


def replace(temporary: Path, path: Path) -> None:
    """Gives the directory `temporary` the name `path`; what was there before is under `temporary`, or gone.

    Where paths cannot be exchanged the old directory steps aside for a moment, under a name that ends with `-old`.

    Raises:
        OSError: it cannot be renamed; `path` is what it was.
    """
    if not path.exists():
        temporary.rename(path)
        return
    if exchange(temporary, path):
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


def check_replaceable(path: Path, temporary: Path) -> None:
    """Whether `replace` will be allowed to, found out without changing anything. temporary: an empty directory.

    A rename to a directory that holds something never succeeds, and fails for that reason only if nothing else is in
    its way, such as a mount.

    Raises:
        OSError: it will not.
    """
    if not path.exists():
        return
    probe = temporary / "probe"
    probe.touch()
    try:
        path.rename(temporary)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
    else:
        temporary.rename(path)  # a file system of its own mind: as it was
    finally:
        probe.unlink()
