"""The bytes of a file, some at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compressor.errors import CompressorError

Read = Callable[[int], npt.NDArray[Any]]
"""Reads the next bytes, as many as are asked for: read-only uint8, gone once the next ones are read."""


@contextmanager
def reading(path: Path, begin: int, end: int) -> Iterator[Read]:
    """What reads the bytes of a file from one place to another.

    Raises:
        CompressorError: the file is missing or ends before, and so does the function.
    """
    content = np.empty(0, np.uint8)

    @contextmanager
    def reported() -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, ValueError, OverflowError) as error:
            raise CompressorError(f"{path}: cannot read bytes {begin} to {end}: {error}") from error

    def read(nbytes: int) -> npt.NDArray[Any]:
        nonlocal content
        if nbytes > content.size:
            content = np.empty(nbytes, np.uint8)
        run = content[:nbytes]
        with reported():
            _fill(file, memoryview(run.data))
        run.flags.writeable = False
        return run

    with ExitStack() as stack:
        with reported():
            file = stack.enter_context(path.open("rb", buffering=0))
            if end > os.fstat(file.fileno()).st_size:  # before memory is asked for
                raise EOFError("the file ends before")
            file.seek(begin)
        yield read


def _fill(file: FileIO, rest: memoryview) -> None:
    """Read until there is no room left. Raises `EOFError`."""
    while rest:
        if not (count := file.readinto(rest)):
            raise EOFError("the file was cut short while it was read")
        rest = rest[count:]
