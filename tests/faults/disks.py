"""A disk that is full from some write on: of bytes, of a folder, of a name."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import pytest

from compressor.compilation import renaming


@dataclass
class Disk:
    """room: how many writes it takes. writes: those that were tried."""

    room: float
    writes: list[str] = field(default_factory=list)

    def take(self, what: str) -> None:
        self.writes.append(what)
        if len(self.writes) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def taking(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            self.take(what)
            return function(*arguments, **named)

        return called


class _File:
    """An open file whose writes take room."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file = file
        self.write = disk.taking("write", file.write)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def disk_of(room: float) -> Iterator[Disk]:
    """A block in which this process writes to such a disk."""
    disk = Disk(room)
    opened, made = io.open, os.open

    def open_file(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if not set(mode) & set("wax+"):
            return opened(file, mode, *arguments, **named)
        disk.take("open")
        return _File(opened(file, mode, *arguments, **named), disk)

    def open_number(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            disk.take("open")
        return made(path, flags, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", open_file)
        patch.setattr(os, "open", open_number)
        for name in ("mkdir", "rename", "replace", "pwrite"):
            patch.setattr(os, name, disk.taking(name, getattr(os, name)))
        patch.setattr(renaming, "exchange", disk.taking("exchange", renaming.exchange))
        yield disk
