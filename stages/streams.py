"""The standard streams of a command: usable when they are closed, and ending it in a known way when they are full.

A closed stream is as one that leads to /dev/null.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

NO_READER = 141
"""The exit status where nobody reads stdout any longer: that of a process which SIGPIPE ends."""


def open_all() -> None:
    """Puts streams that can be relied on in place of the interpreter's.

    Where one is closed, the next file that is opened would get its number, and whatever is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
    # Names may hold what a terminal cannot show.
    sys.stdout = _Stdout(_raw(1), errors="replace", line_buffering=os.isatty(1))
    sys.stderr = _Stderr(_raw(2), errors="replace", line_buffering=True)


def _raw(number: int) -> io.BufferedWriter:
    return open(number, "wb", closefd=False)


class _Stdout(io.TextIOWrapper):
    """Stdout, whose errors end the command."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise _end(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise _end(error) from None


class _Stderr(io.TextIOWrapper):
    """Stderr, whose errors can be told nowhere, and must not end what is being done."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def _end(error: OSError) -> SystemExit:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # the interpreter flushes stdout once more when it ends, and would complain
    os.close(nowhere)
    if isinstance(error, BrokenPipeError):
        return SystemExit(NO_READER)
    print(f"error: stdout: {error.strerror or error}", file=sys.stderr)
    return SystemExit(1)
