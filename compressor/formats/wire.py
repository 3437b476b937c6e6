"""The wire format of protobuf: fields one after the other, whose messages are runs of bytes inside of another one's.

    field = key varint (number << 3 | kind), then varint | 8 bytes | length varint, bytes | 4 bytes

Source: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol, overload

VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""The kinds of fields."""


class WireError(Exception):
    """The bytes are no protobuf message."""


class Bytes(Protocol):
    """Bytes in memory, or read from a file where they are asked for."""

    def __getitem__(self, place: int) -> int: ...


_AHEAD = 4096  # bytes, of which a scan looks at a few before it jumps over a tensor


class FileBytes:
    """The bytes of an open file, read where they are asked for.

    Not a mapping: that of a file which is cut short meanwhile would end the process.

    Raises:
        WireError: the file has become shorter than it was.
        OSError: it cannot be read.
    """

    def __init__(self, number: int) -> None:
        self._number, self._nbytes = number, os.fstat(number).st_size
        self._start, self._held = 0, b""

    def __len__(self) -> int:
        return self._nbytes

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> bytes: ...
    def __getitem__(self, place: int | slice) -> int | bytes:
        if isinstance(place, slice):
            return self._read(place.start, place.stop - place.start)
        ahead = place - self._start
        if not 0 <= ahead < len(self._held):
            self._start, self._held, ahead = place, self._read(place, min(_AHEAD, self._nbytes - place)), 0
        return self._held[ahead]

    def _read(self, start: int, count: int) -> bytes:
        parts = []
        while count:
            parts.append(os.pread(self._number, count, start))
            if not parts[-1]:
                raise WireError(f"it was cut short to {start} bytes while it was read")
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return b"".join(parts)


def field(data: Bytes, at: int, end: int) -> tuple[int, int | None, int, int]:
    """The field that begins at `at`: its number, its value if that is a varint, where its content begins and ends."""
    first, at = read_varint(data, at, end)
    kind, value, content = first & 7, None, at
    if kind == VARINT:
        value, at = read_varint(data, at, end)
    elif kind == _BYTES:
        length, content = read_varint(data, at, end)
        at = content + length
    elif kind in (_FIXED64, _FIXED32):
        at += 8 if kind == _FIXED64 else 4
    else:
        raise WireError(f"a field of unknown kind {kind} before byte {at}")
    if at > end:
        raise WireError(f"a field from byte {content} to {at} in a message or file that ends at byte {end}")
    return first >> 3, value, content, at


def runs(data: Bytes, start: int, end: int, number: int) -> Iterator[tuple[int, int, int]]:
    """The fields `number` of the message from `start` to `end`: where each begins, where its content does, its end.

    >>> list(runs(bytes([0x0A, 1, 7, 0x12, 1, 7, 0x0A, 0]), 0, 8, 1))
    [(0, 2, 3), (6, 8, 8)]
    """
    at = start
    while at < end:
        begin = at
        found, _, content, at = field(data, begin, end)
        if found == number:
            yield begin, content, at


def read_varint(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """The number at `at`, seven bits a byte, lowest first, and where it ends."""
    if at < end and (byte := data[at]) < 0x80:  # most are so short
        return byte, at + 1
    number = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise WireError(f"it ends at byte {end}, inside of a number")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise WireError(f"a number of more than ten bytes before byte {at}")


def varint(number: int) -> bytes:
    """Seven bits a byte, lowest first, the high bit set in all but the last."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*groups, number))


def key(number: int, kind: int = _BYTES) -> bytes:
    """What a field begins with: a length-delimited one if no other kind is given."""
    return varint(number << 3 | kind)


def run(number: int, content: bytes | bytearray) -> bytes:
    """A length-delimited field."""
    return key(number) + varint(len(content)) + content
