"""Files as accountants read them, and what lies between the parts of one."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.accounting.account import Claim, What
from compressor.errors import CompressorError
from compressor.formats.wire import FileBytes

MOST_PADDING = 1 << 16
"""So many zeros may align the next part: writers align to 64 bytes, to pages of 4 KiB, or to 64 KiB."""


@contextmanager
def opened(path: Path) -> Iterator[FileBytes]:
    """The bytes of a file.

    Raises:
        CompressorError: it is no file, or has become one meanwhile.
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
        raise CompressorError(f"{path}: not a file, expected a model.")
    with path.open("rb", buffering=0) as file:
        yield FileBytes(file.fileno())


def gap(root: Path, name: str, start: int, end: int) -> Claim:
    """What bytes are that nobody claims: zeros that align what follows, or of no use.

    Raises:
        OSError: the file cannot be read.
    """
    with opened(root / name) as data:
        if end - start < MOST_PADDING and not data[start:end].strip(b"\0"):
            return Claim(name, start, end, What.PADDING, "between parts")
    return Claim(name, start, end, What.UNREFERENCED, "bytes that nothing refers to")
