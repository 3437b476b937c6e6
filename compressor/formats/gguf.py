"""The header of a `.gguf` file: where each tensor lies and in which of ggml's types, without reading one.

    bytes 0-23     "GGUF", version uint32, the number of tensors uint64, that of metadata uint64
    metadata       key, type uint32, value; each text with its length uint64 before it
    tensors        name, the number of dimensions uint32, dimensions uint64 (fastest first), type uint32, offset uint64
    the rest       the tensors in this order, each aligned to `general.alignment` bytes, 32 if it says nothing

All little-endian. Source: the specification of GGUF (ggml's docs/gguf.md), and ggml's reader where it is stricter.
"""

from __future__ import annotations

import math
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from compressor.arrays import Shape
from compressor.errors import CompressorError

MAGIC, VERSIONS = b"GGUF", (2, 3)
HEADER = 24
ALIGNMENT, _DEFAULT_ALIGNMENT = "general.alignment", 32
_MAX_RANK = 4
_MAX_NAME = (1 << 16) - 1
_SMALLEST_TENSOR, _SMALLEST_FIELD = 8 + 4 + 4 + 8, 8 + 4 + 1
_MAX_SIZE = 1 << 56


class Type(NamedTuple):
    """A type of ggml's: so many neighbours along the last axis lie in a block of so many bytes."""

    name: str
    elements: int
    nbytes: int


TYPES: Mapping[int, Type] = {
    0: Type("F32", 1, 4),
    1: Type("F16", 1, 2),
    2: Type("Q4_0", 32, 18),
    3: Type("Q4_1", 32, 20),
    6: Type("Q5_0", 32, 22),
    7: Type("Q5_1", 32, 24),
    8: Type("Q8_0", 32, 34),
    9: Type("Q8_1", 32, 36),
    10: Type("Q2_K", 256, 84),
    11: Type("Q3_K", 256, 110),
    12: Type("Q4_K", 256, 144),
    13: Type("Q5_K", 256, 176),
    14: Type("Q6_K", 256, 210),
    15: Type("Q8_K", 256, 292),
    16: Type("IQ2_XXS", 256, 66),
    17: Type("IQ2_XS", 256, 74),
    18: Type("IQ3_XXS", 256, 98),
    19: Type("IQ1_S", 256, 50),
    20: Type("IQ4_NL", 32, 18),
    21: Type("IQ3_S", 256, 110),
    22: Type("IQ2_S", 256, 82),
    23: Type("IQ4_XS", 256, 136),
    24: Type("I8", 1, 1),
    25: Type("I16", 1, 2),
    26: Type("I32", 1, 4),
    27: Type("I64", 1, 8),
    28: Type("F64", 1, 8),
    29: Type("IQ1_M", 256, 56),
    30: Type("BF16", 1, 2),
    34: Type("TQ1_0", 256, 54),
    35: Type("TQ2_0", 256, 66),
    39: Type("MXFP4", 32, 17),
    40: Type("NVFP4", 64, 36),
    41: Type("Q1_0", 128, 18),
    42: Type("Q2_0", 64, 18),
}
"""By their number in the file."""

INTEGERS = frozenset({"I8", "I16", "I32", "I64"})
"""Types that no weights have."""

_REMOVED: Mapping[int, str] = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
"""Types that ggml has given up, of which nothing reads the bytes any more."""

_NUMBERS: Mapping[int, str] = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 7: "<B", 10: "<Q", 11: "<q"}
_SIZES: Mapping[int, int] = {**{kind: struct.calcsize(form) for kind, form in _NUMBERS.items()}, 6: 4, 12: 8}
_TEXT, _ARRAY = 8, 9


@dataclass(frozen=True)
class Tensor:
    """name, shape: row-major, the slowest dimension first, as torch has it. kind: how its elements are stored.
    offset: of its first byte in the file. nbytes: how many it has.
    """

    name: str
    shape: Shape
    kind: Type
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """fields: the keys of the metadata, and where each with its value begins and ends in the file.
    numbers: the integers among the values. tensors: in the order of their data. start: where the data begin.
    described: where the descriptions of the tensors begin and end. nbytes: of the file.
    """

    fields: Mapping[str, tuple[int, int]]
    numbers: Mapping[str, int]
    tensors: tuple[Tensor, ...]
    described: tuple[int, int]
    start: int
    nbytes: int


def read(path: Path) -> Header:
    """What a file consists of.

    Raises:
        CompressorError: it is truncated, damaged, of another version, or has a type that is not known.
    """
    try:
        if path.is_fifo():  # opening it would wait for its writer
            raise _damaged(path, "not a regular file")
        with path.open("rb", buffering=1 << 16) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _damaged(path, "not a regular file")
            return _read(_Reader(path, file, found.st_size))
    except OSError as error:
        raise CompressorError(f"{path}: cannot be read: {error.strerror}.") from error


@dataclass
class _Reader:
    """A file from its beginning, in which nothing is believed to be longer than it."""

    path: Path
    file: BinaryIO
    size: int
    at: int = 0

    def take(self, count: int, what: str) -> bytes:
        self._expect(count, what)
        content = self.file.read(count)
        if len(content) != count:
            raise _damaged(self.path, f"cut short to {self.at + len(content)} bytes while it was read")
        self.at += count
        return content

    def skip(self, count: int, what: str) -> None:
        self._expect(count, what)
        self.at += count
        self.file.seek(self.at)

    def number(self, form: str, what: str) -> int:
        (found,) = struct.unpack(form, self.take(struct.calcsize(form), what))
        return int(found)

    def name(self, what: str) -> str:
        length = self.number("<Q", f"the length of {what}")
        if length > _MAX_NAME:
            raise _damaged(self.path, f"{what} of {length} bytes, expected at most {_MAX_NAME}")
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError as error:
            raise _damaged(self.path, f"{what} that is not UTF-8") from error

    def count(self, what: str, smallest: int) -> int:
        """How many of something follow, each of so many bytes at least."""
        found = self.number("<Q", f"the number of {what}")
        if found * smallest > self.size:
            raise _damaged(self.path, f"{found} {what} in a file of {self.size} bytes")
        return found

    def _expect(self, count: int, what: str) -> None:
        if self.at + count > self.size:
            raise _damaged(self.path, f"{what} takes {count} bytes from byte {self.at}, the file has {self.size}")


def _read(data: _Reader) -> Header:
    _check_version(data)
    counts = data.count("tensors", _SMALLEST_TENSOR), data.count("metadata", _SMALLEST_FIELD)
    fields: dict[str, tuple[int, int]] = {}
    numbers: dict[str, int] = {}
    for _ in range(counts[1]):
        begin = data.at
        key = data.name("a key of the metadata")
        if key in fields:
            raise _damaged(data.path, f"the key {key[:80]!r} stands there twice")
        value = _value(data, f"metadata {key[:80]!r}")
        if value is not None:
            numbers[key] = value
        fields[key] = begin, data.at
    alignment = numbers.get(ALIGNMENT, _DEFAULT_ALIGNMENT)
    if (ALIGNMENT in fields and ALIGNMENT not in numbers) or alignment < 1 or alignment & (alignment - 1):
        raise _damaged(data.path, f"{ALIGNMENT} {alignment}, expected a power of two")
    begin = data.at
    described = [_described(data) for _ in range(counts[0])]
    start = -(-data.at // alignment) * alignment
    tensors = tuple(_placed(data, described, start, alignment))
    return Header(fields, numbers, tensors, (begin, data.at), start, data.size)


def _check_version(data: _Reader) -> None:
    if data.size < HEADER or data.take(4, "the magic") != MAGIC:
        raise _damaged(data.path, "it does not begin with GGUF" if data.size >= HEADER else f"{data.size} bytes")
    version = data.number("<I", "the version")
    if version and version & 0xFFFF == 0:
        raise CompressorError(
            f"{data.path}: a big-endian GGUF file, expected little-endian. Convert it: gguf-convert-endian of the "
            "package gguf."
        )
    if version not in VERSIONS:
        expected = " or ".join(map(str, VERSIONS))
        raise CompressorError(f"{data.path}: version {version} of GGUF, expected {expected}. Convert the model anew.")


def _value(data: _Reader, what: str) -> int | None:
    """Read a value; the number where it is an integer."""
    kind = data.number("<I", f"the type of {what}")
    if kind in _NUMBERS:
        return data.number(_NUMBERS[kind], what)
    if kind == _ARRAY:
        kind = data.number("<I", f"the type of {what}")
        count = data.count(f"values of {what}", _SIZES.get(kind, 8))
    else:
        count = 1
    if kind == _TEXT:
        for _ in range(count):
            data.skip(data.number("<Q", f"the length of {what}"), what)
    elif kind in _SIZES:
        data.skip(count * _SIZES[kind], what)
    else:
        raise _damaged(data.path, f"{what} of the unknown type {kind}")
    return None


def _described(data: _Reader) -> Tensor:
    """A tensor as the header has it: its offset is from where the data begin."""
    name = data.name("the name of a tensor")
    what = f"tensor {name[:80]!r}"
    rank = data.number("<I", f"the rank of {what}")
    if rank > _MAX_RANK:
        raise _damaged(data.path, f"{what} of {rank} dimensions, expected at most {_MAX_RANK}")
    shape = tuple(data.number("<Q", f"the shape of {what}") for _ in range(rank))[::-1]
    kind = _type(data, what)
    if math.prod(max(dim, 1) for dim in shape) >= _MAX_SIZE:
        raise _damaged(data.path, f"{what} of the shape {list(shape)}")
    blocks, rest = divmod(shape[-1] if shape else 1, kind.elements)
    if rest:
        raise _damaged(data.path, f"{what} {kind.name}{list(shape)}: its rows are no blocks of {kind.elements}")
    offset = data.number("<Q", f"the offset of {what}")
    return Tensor(name, shape, kind, offset, math.prod(shape[:-1]) * blocks * kind.nbytes)


def _type(data: _Reader, what: str) -> Type:
    number = data.number("<I", f"the type of {what}")
    if number in TYPES:
        return TYPES[number]
    told = f"{_REMOVED[number]}, which ggml has removed" if number in _REMOVED else "which is not known"
    known = ", ".join(kind.name for kind in TYPES.values())
    raise CompressorError(
        f"{data.path}: {what} is of ggml's type {number}, {told}. Known: {known}. Convert the model to one of them."
    )


def _placed(data: _Reader, described: list[Tensor], start: int, alignment: int) -> Iterator[Tensor]:
    """The tensors where they lie: one behind the other, as ggml's own reader demands."""
    end = 0
    names: set[str] = set()
    for one in described:
        what, stop = f"tensor {one.name[:80]!r}", start + one.offset + one.nbytes
        if one.name in names:
            raise _damaged(data.path, f"{what} stands there twice")
        names.add(one.name)
        if one.offset != end:
            raise _damaged(data.path, f"{what} begins at byte {one.offset} of the data, expected {end}")
        if stop > data.size:
            told = f"{what} {one.kind.name}{list(one.shape)} ends at byte {stop}, the file has {data.size}"
            raise _damaged(data.path, told)
        end = -(-(one.offset + one.nbytes) // alignment) * alignment
        yield replace(one, offset=start + one.offset)


def _damaged(path: Path, what: str) -> CompressorError:
    return CompressorError(f"{path}: not a readable GGUF file ({what}). Save or download it again.")
