"""weight.bin: a header, then blobs, each behind 64 bytes that describe it.

    header    u32 blobs, u32 version 2, zeros up to 64 bytes
    metadata  u32 0xDEADBEEF, u32 type, u64 bytes, u64 where the data begin, u64 unused bits of the last byte, zeros
              up to 64 bytes
    data      right behind its metadata, little-endian, sub-byte elements packed

Metadata begin at multiples of 64; a program refers to a blob by where its metadata begin.

Source: Core ML Tools, MILBlob/Blob/StorageFormat.hpp, and the bytes that its `_BlobStorageWriter` writes.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from compressor.arrays import Array, ArraySpec, MappedArray, NDArray, Shape, bits, to_bytes
from compressor.errors import CompressorError
from compressor.formats.coreml.types import TYPES, Type
from compressor.formats.layout import Piece, mapped
from compressor.formats.wire import FileBytes
from compressor.packing import packed_nbytes

ALIGNMENT = 64
VERSION = 2
SENTINEL = 0xDEADBEEF

_HEADER = struct.Struct("<II56x")
_METADATA = struct.Struct("<IIQQQ32x")


@dataclass(frozen=True, eq=False)
class Stored:
    """What is stored for a value.

    type, dims: as the program declares them.
    array: the elements, in any shape, or their spec.
    width: the bits of an element of `array`; fewer than the type's where codes are packed in bytes `[M]`.
    """

    type: Type
    dims: Shape
    array: Array
    width: int

    @property
    def nbytes(self) -> int:
        """The bytes that the elements take in the file."""
        return packed_nbytes(self.array.size, self.width)

    def payload(self) -> NDArray:
        """The bytes: uint8 `[nbytes]`.

        Raises:
            CompressorError: the elements take other bytes.
        """
        data = to_bytes(self.array, self.width)
        if data.size != self.nbytes:
            raise CompressorError(f"a blob of {data.size} bytes came where {self.nbytes} were expected.")
        return data

    @property
    def mapped(self) -> MappedArray | None:
        """What has these very bytes, where a file does."""
        return mapped(self.array, self.width, self.nbytes)


def whole(type_: str, array: Array, dims: Sequence[int] | None = None) -> Stored:
    """An array whose elements are stored as the type `type_` has them; in its own shape if `dims` are not given."""
    kind = TYPES[type_]
    return Stored(kind, tuple(array.shape if dims is None else dims), array, kind.bits)


def packed_bytes(array: Array, width: int) -> Stored:
    """Codes of `width` bits as the bytes that they are packed in: uint8 `[M]`."""
    return Stored(TYPES["uint8"], (packed_nbytes(array.size, width),), array, width)


class Store(Protocol):
    """Where blobs go, one after the other."""

    def append(self, stored: Stored) -> int:
        """Where the blob's metadata begin."""


@dataclass
class Blobs:
    """A store that keeps what it is given, and where.

    end: of the file so far. stored: each blob by where its metadata begin.
    """

    end: int = ALIGNMENT
    stored: dict[int, Stored] = field(default_factory=dict)

    def append(self, stored: Stored) -> int:
        start = -(-self.end // ALIGNMENT) * ALIGNMENT
        self.stored[start] = stored
        self.end = start + ALIGNMENT + stored.nbytes
        return start

    def metadata(self, file: str) -> Iterator[Piece]:
        """All but the data: what a file begins with, and what lies before the data of each blob."""
        yield Piece(file, 0, _HEADER.pack(len(self.stored), VERSION))
        for start, stored in self.stored.items():
            unused = stored.nbytes * 8 - stored.array.size * stored.width if stored.type.bits < 8 else 0
            metadata = _METADATA.pack(SENTINEL, stored.type.blob, stored.nbytes, start + ALIGNMENT, unused)
            yield Piece(file, start, metadata)

    def data(self, file: str) -> Iterator[Piece]:
        """The data of each blob."""
        return (Piece(file, start + ALIGNMENT, stored) for start, stored in self.stored.items())


@dataclass(frozen=True)
class BlobFile:
    """A weight.bin to read from. path: the file. nbytes: its size."""

    path: Path
    nbytes: int

    def read(self, offset: int, type_: Type, shape: Shape) -> MappedArray:
        """The elements of the blob whose metadata begin at `offset`, as a slice of the file.

        Raises:
            CompressorError: there is no blob of that type and size, or it does not lie inside the file.
        """
        where = f"{self.path}: the blob at {offset}"
        if offset < ALIGNMENT or offset % ALIGNMENT or offset + ALIGNMENT > self.nbytes:
            raise CompressorError(f"{where}: expected a multiple of {ALIGNMENT} inside the file's {self.nbytes} bytes.")
        sentinel, kind, nbytes, start, unused = _METADATA.unpack(_bytes(self.path, offset, ALIGNMENT))
        if sentinel != SENTINEL:
            raise CompressorError(f"{where}: expected metadata that begin with {SENTINEL:#x}, got {sentinel:#x}.")
        if kind != type_.blob:
            got = next((row.name for row in TYPES.values() if row.blob == kind), f"type {kind}")
            raise CompressorError(f"{where}: the model declares {type_.name}, the blob has {got}.")
        expected = packed_nbytes(ArraySpec(shape, type_.dtype).size, type_.bits)
        padding = expected * 8 - ArraySpec(shape, type_.dtype).size * type_.bits
        # Before there were types of less than a byte, nothing was written there: anything may stand in its place.
        unused = unused if type_.bits < 8 else padding
        if (nbytes, unused) != (expected, padding):
            raise CompressorError(
                f"{where}: {type_.name}{list(shape)} takes {expected} bytes and leaves {padding} bits unused, "
                f"got {nbytes} and {unused}."
            )
        if start + nbytes > self.nbytes or start < offset + ALIGNMENT:
            raise CompressorError(
                f"{where}: its data are bytes {start} to {start + nbytes}, the file has {self.nbytes}."
            )
        native = bits(type_.dtype) == type_.bits
        return MappedArray(self.path, start, shape, type_.dtype, 0 if native else type_.bits)


def blobs(data: FileBytes) -> Iterator[tuple[int, int, int]]:
    """The blobs of a file: where the metadata of each begin, where its data do, and where these end.

    It ends where no metadata follow, or where they say what cannot be.
    """
    at = ALIGNMENT
    while at + ALIGNMENT <= len(data):
        sentinel, _, nbytes, start, _ = _METADATA.unpack(data[at : at + ALIGNMENT])
        if sentinel != SENTINEL or start < at + ALIGNMENT or start + nbytes > len(data):
            return
        yield at, start, start + nbytes
        at = -(-(start + nbytes) // ALIGNMENT) * ALIGNMENT


def open_file(path: Path) -> BlobFile:
    """The weight.bin at `path`, its header checked.

    Raises:
        CompressorError: it cannot be read or is none.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise CompressorError(f"{path}: the weights' file cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(found.st_mode) or found.st_size < ALIGNMENT:
        raise CompressorError(f"{path}: {found.st_size} bytes, expected a weight file of {ALIGNMENT} or more.")
    count, version = _HEADER.unpack(_bytes(path, 0, ALIGNMENT))
    if version != VERSION or (found.st_size - ALIGNMENT) // ALIGNMENT < count:
        raise CompressorError(
            f"{path}: not a weight file of version {VERSION}: its header says version {version} and {count} blobs."
        )
    return BlobFile(path, found.st_size)


def _bytes(path: Path, offset: int, count: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read(count)
    except OSError as error:
        raise CompressorError(f"{path}: cannot be read: {error.strerror}.") from error
