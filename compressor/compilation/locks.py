"""One writer at a time: a lock file beside what is written, which the system releases however its holder ends."""

from __future__ import annotations

import errno
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from compressor.errors import CompressorError

_NONE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""How a file system says that it has no locks."""

_log = logging.getLogger(__name__)


@contextmanager
def held(lock: Path, what: Path, *, wait: bool = False) -> Iterator[bool]:
    """A block that alone holds the file `lock`, which is there only as long; False where the file system has no locks.

    what: what is written meanwhile, as its user calls it. wait: for another holder, instead of refusing.

    Raises:
        CompressorError: another process holds it.
        OSError: the file cannot be made.
    """
    number, alone = _open(lock, what, wait=wait)
    try:
        if alone:
            os.truncate(number, 0)
            os.pwrite(number, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        else:
            _log.warning("%s: the file system has no locks: another run into it at the same time goes unnoticed.", what)
        yield alone
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(number)


def _open(lock: Path, what: Path, *, wait: bool) -> tuple[int, bool]:
    """The number of the file `lock`, open, and whether it is locked. Raises as `held` does."""
    while True:
        number = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            alone = _take(number, wait=wait)
            if _is(number, lock):
                return number, alone
            os.close(number)  # its last holder has removed it meanwhile
        except BlockingIOError:
            holder = os.pread(number, 300, 0).decode(errors="replace").strip() or "another process"
            os.close(number)
            raise CompressorError(
                f"{what}: {holder} is writing it at this moment. Wait until it has ended, or name another place."
            ) from None
        except BaseException:
            os.close(number)
            raise


def _take(number: int, *, wait: bool) -> bool:
    try:
        import fcntl
    except ModuleNotFoundError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _NONE:
            return False
        raise
    return True


def _is(number: int, path: Path) -> bool:
    """Whether an open file is the one that the path names."""
    try:
        return os.path.samestat(os.fstat(number), path.stat())
    except FileNotFoundError:
        return False
