"""Protobuf messages as runs of bytes, their keys and lengths included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from compressor.formats import wire
from compressor.formats.wire import FileBytes


class Run(NamedTuple):
    """A field: its number, its value if that is a varint, where it begins, where its content begins, and its end."""

    number: int
    value: int | None
    begin: int
    content: int
    end: int


def fields(data: FileBytes, start: int, end: int) -> Iterator[Run]:
    """The fields of the message from `start` to `end`.

    Raises:
        WireError: one is cut off or of an unknown kind.
    """
    at = start
    while at < end:
        begin = at
        number, value, content, at = wire.field(data, begin, end)
        yield Run(number, value, begin, content, at)


def inside(data: FileBytes, run: Run) -> Iterator[Run]:
    """The fields of a message inside of another one."""
    return fields(data, run.content, run.end)


def delimited(data: FileBytes, run: Run) -> Iterator[Run]:
    """The fields of a message that may be messages themselves; the others are the message's own."""
    return (one for one in inside(data, run) if one.value is None)


def numbers(data: FileBytes, run: Run) -> Iterator[int]:
    """The numbers that are packed in a field."""
    at = run.content
    while at < run.end:
        number, at = wire.read_varint(data, at, run.end)
        yield number


def text(data: FileBytes, run: Run) -> str:
    """A text; what is no UTF-8 in it is replaced."""
    return data[run.content : run.end].decode("utf-8", "replace")


def first_text(data: FileBytes, run: Run, number: int) -> str:
    """The text in the first field `number` of a message; empty where there is none."""
    return next((text(data, one) for one in delimited(data, run) if one.number == number), "")


def entry(data: FileBytes, run: Run) -> tuple[str, str]:
    """A key and a value that are texts: an entry of a map, or a `StringStringEntryProto`."""
    return first_text(data, run, 1), first_text(data, run, 2)
