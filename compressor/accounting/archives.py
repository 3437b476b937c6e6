"""Zip archives as runs of bytes: what each entry's header, alignment and data take, and the directory behind them.

Source: PKWARE's APPNOTE (local file header, data descriptor); the extra field of PyTorch that aligns an entry's data.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

from compressor.accounting.account import Claim, What
from compressor.formats.wire import FileBytes

_LOCAL = struct.Struct("<4s22xHH")
_ALIGNS = b"FB"  # the extra field that PyTorch fills up with
_DESCRIPTOR = 24  # bytes behind an entry whose size was not known at first, at most
_HAS_DESCRIPTOR = 0x8


class Entry(NamedTuple):
    """A file in an archive. name: its path there. start, end: of its data. nbytes: of the data, uncompressed."""

    name: str
    start: int
    end: int
    nbytes: int

    @property
    def stored(self) -> bool:
        """Whether the data lie there as they are."""
        return self.end - self.start == self.nbytes


class _Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, data: FileBytes, start: int, end: int) -> None:
        super().__init__()
        self._data, self._start, self._end, self._at = data, start, end, start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: self._start, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        self._at = max(self._start, base + offset)
        return self._at - self._start

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._end - self._at))
        buffer[:count] = self._data[self._at : self._at + count]
        self._at += count
        return count


@contextmanager
def window(data: FileBytes, start: int, end: int) -> Iterator[IO[bytes]]:
    """The bytes from `start` to `end` as a file."""
    with io.BufferedReader(_Window(data, start, end)) as file:
        yield file


def is_archive(data: FileBytes, start: int, end: int) -> bool:
    """Whether these bytes are a zip archive, or a damaged one."""
    try:
        with window(data, start, end) as file:
            return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:
        return True


def entries(file: str, data: FileBytes, start: int, end: int) -> tuple[list[Entry], list[Claim]]:
    """The entries of the archive that the bytes from `start` to `end` are, and claims on all that is no entry's data.

    Raises:
        ValueError: it is damaged.
    """
    try:
        with window(data, start, end) as opened, zipfile.ZipFile(opened) as archive:
            infos, directory = archive.infolist(), start + archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, OSError, struct.error) as error:
        raise ValueError(str(error)) from error
    claims = [Claim(file, directory, end, What.CONTAINER, "zip directory")]
    found = []
    for info in infos:
        at = start + info.header_offset
        mark, name, extra = _LOCAL.unpack(data[at : at + _LOCAL.size]) if at + _LOCAL.size <= end else (b"", 0, 0)
        if mark != b"PK\3\4":
            raise ValueError(f"no entry {info.filename!r} at byte {at}")
        named = at + _LOCAL.size + name
        begin = named + extra
        stop = min(begin + info.compress_size, end)
        what = What.PADDING if extra and data[named : named + 2] == _ALIGNS else What.CONTAINER
        claims.append(Claim(file, at, named, What.CONTAINER, "zip headers"))
        claims.append(Claim(file, named, begin, what, "zip headers" if what is What.CONTAINER else "between parts"))
        found.append(Entry(info.filename, begin, stop, info.file_size))
        if info.flag_bits & _HAS_DESCRIPTOR and data[stop : min(stop + 4, end)] == b"PK\7\10":
            behind = data[stop : min(stop + _DESCRIPTOR, end)].find(b"PK", 4)
            claims.append(
                Claim(file, stop, stop + (behind if behind > 0 else _DESCRIPTOR), What.CONTAINER, "zip headers")
            )
    return found, claims


def content(data: FileBytes, entry: Entry, most: int) -> bytes:
    """The data of an entry that are stored as they are.

    Raises:
        ValueError: they are compressed, or more than `most` bytes.
    """
    if not entry.stored or entry.nbytes > most:
        raise ValueError(f"{entry.name} is compressed, or has more than {most:,} bytes")
    return data[entry.start : entry.end]
