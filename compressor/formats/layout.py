"""Where everything lies in the files of an artefact, known before there are data: any part is written by itself.

The bytes of a file belong to a weight each, or to what is no weight, or are zeros between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import BinaryIO, Protocol

from compressor.arrays import Array, MappedArray, NDArray, lies_so
from compressor.encodings import Encoding
from compressor.errors import CompressorError

_COPIED = 1 << 19
"""Bytes that are copied at a time: so many that the calls cost nothing, so few that they stay in the cache."""


def mapped(array: Array, width: int, nbytes: int) -> MappedArray | None:
    """What has the very bytes that the elements of an array take in so many bits each, where a file does."""
    return array if lies_so(array, width) and isinstance(array, MappedArray) and array.nbytes == nbytes else None


class Stored(Protocol):
    """What gives its bytes when they are asked for."""

    @property
    def mapped(self) -> MappedArray | None:
        """What has these very bytes, where a file does."""

    def payload(self) -> NDArray:
        """The bytes: uint8."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Bytes of a file. file: its path in the artefact. offset: where they begin. content: themselves."""

    file: str
    offset: int
    content: bytes | Stored

    @property
    def data(self) -> memoryview:
        """The bytes, read or computed now."""
        return memoryview(self.content if isinstance(self.content, bytes) else self.content.payload().data)

    def copy_to(self, file: BinaryIO) -> None:
        """Write the bytes where `file` stands; those of another file are never in memory as a whole."""
        mapped = None if isinstance(self.content, bytes) else self.content.mapped
        if mapped is None:
            file.write(self.data)
            return
        file.writelines(run.data for run in mapped.runs(_COPIED))


class Place(Protocol):
    """Where a weight lies: small, and all that is needed to write it."""

    def write(self, directory: Path, encoding: Encoding) -> None:
        """Write the weight, packed, into the artefact that was begun in `directory`.

        Raises:
            CompressorError: it takes other bytes than were planned.
            OSError: the files cannot be written.
        """


@dataclass(frozen=True)
class Followed:
    """A file that weights are written to one after the other.

    file: its path in the artefact. nbytes: its length. begins: where each weight begins in it that has bytes there.
    """

    file: str
    nbytes: int
    begins: Mapping[str, int]

    def complete(self, names: Sequence[str]) -> list[int]:
        """Up to where nothing is missing once each of the weights is written, in this order.

        >>> Followed("f", 9, {"a": 2, "b": 4, "d": 6}).complete(["a", "b", "c", "d"])
        [4, 6, 6, 9]
        """
        begins = (self.begins.get(name, self.nbytes) for name in reversed(names[1:]))
        return [*accumulate(begins, min, initial=self.nbytes)][::-1]


class Part(Protocol):
    """Files of an artefact that are written, read back and compared by themselves, after the parts before it."""

    @property
    def file(self) -> str:
        """What of the artefact is read to have its weights: the path of its file there; empty for all of it."""

    @property
    def nbytes(self) -> int:
        """The bytes of all files."""

    @property
    def followed(self) -> Followed | None:
        """The file whose digest may follow the writing, if one may."""

    @property
    def places(self) -> Mapping[str, Place]:
        """What writes each of its weights, by name; they pickle."""

    def begin(self, directory: Path) -> None:
        """Write all but the weights into `directory`.

        Raises:
            OSError: the files cannot be written.
        """

    def check(self, directory: Path) -> None:
        """Compare what is no weight with what `begin` has written.

        Raises:
            CompressorError: it is something else.
        """


@dataclass(frozen=True, eq=False)
class FileLayout:
    """An artefact, or a part of one, before its weights are there.

    files: the length of each, by its path in the artefact. rest: all that is no weight.
    places: of the weights, by name. file, followed: as those of a `Part`.
    """

    files: Mapping[str, int]
    rest: Sequence[Piece]
    places: Mapping[str, Place]
    file: str = field(default="", kw_only=True)
    followed: Followed | None = field(default=None, kw_only=True)

    @property
    def parts(self) -> tuple[FileLayout]:
        """Itself, alone."""
        return (self,)

    @property
    def nbytes(self) -> int:
        """The bytes of all files."""
        return sum(self.files.values())

    def begin(self, directory: Path) -> None:
        """Make the files, each as long as it is going to be, and write all but the weights.

        Raises:
            OSError: the files cannot be written.
        """
        for name, nbytes in self.files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            with (directory / name).open("wb") as file:
                file.truncate(nbytes)
        put(directory, self.rest)

    def check(self, directory: Path) -> None:
        """Compare what is no weight with what `begin` has written.

        Raises:
            CompressorError: it is something else.
        """
        for name, pieces in groupby(self.rest, lambda piece: piece.file):
            with (directory / name).open("rb") as file:
                for piece in pieces:
                    file.seek(piece.offset)
                    data = piece.data
                    if file.read(len(data)) != data:
                        raise CompressorError(
                            f"{directory / name}: bytes {piece.offset} to {piece.offset + len(data)}, read back, are "
                            "not what was written. Nothing was published."
                        )


def put(directory: Path, pieces: Iterable[Piece]) -> None:
    """Write pieces into files that are there.

    Raises:
        OSError: they cannot be written.
    """
    for name, group in groupby(pieces, lambda piece: piece.file):
        with (directory / name).open("r+b") as file:
            for piece in group:
                file.seek(piece.offset)
                piece.copy_to(file)


def around(file: str, content: bytes, taken: Iterable[tuple[int, int]]) -> Iterator[Piece]:
    """The content of a file but for what others write: from where to where `taken` says.

    >>> [(piece.offset, piece.content) for piece in around("file", b"abcdefgh", [(6, 8), (2, 3)])]
    [(0, b'ab'), (3, b'def')]
    """
    for (_, start), (stop, _) in pairwise([(0, 0), *sorted(taken), (len(content), 0)]):
        if start < stop:
            yield Piece(file, start, content[start:stop])
