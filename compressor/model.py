"""A model: a graph, and the weights that it names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from compressor.arrays import Array
from compressor.encodings import Encoding
from compressor.errors import CompressorError


class Stamp(NamedTuple):
    """What tells one state of a file from another. modified: in nanoseconds."""

    device: int
    inode: int
    nbytes: int
    modified: int


Stamps = Mapping[Path, Stamp]
"""The state in which each file was found."""


UNTRACED = "compressor.untraced"
"""The key in the metadata of why there is no traced module beside a graph that was exported from torch."""


@dataclass(frozen=True, eq=False)
class Weight:
    """One named constant of a graph.

    name: unique in the model; the name that training gave it where the source kept that.
    encoding: how it is stored, `Dense` or compressed; arrays lie in files, so a weight is small until it is read.
    uses: the operator types that read it (`Conv`, `MatMul`, ...), sorted.
    pinned: why it must stay stored as it is; empty for a weight that may be encoded.
    note: what its source says about it, for a reader: a declaration that did not hold, codes that were not kept, ...
    linear: whether its source decodes it by `DequantizeLinear`, so that a runtime may compute with its codes.
    n_bits: the `accuracy_level` of the `MatMulNBits` that multiplies by its codes in the source; None where none does.
    values: as the source has them, where the encoding is codes that were found in them; None where it has no others.
    scaled: whether its values are products of those that were trained: what is small there says nothing about training.
    signed: what tells -0.0 from 0.0 where the weight is read (a division, an output, ...): then it keeps both. Empty
        where every reader is linear in it and the like: then 0.0 may stand for -0.0.
    """

    name: str
    encoding: Encoding
    uses: tuple[str, ...] = ()
    pinned: str = ""
    note: str = ""
    linear: bool = False
    n_bits: int | None = None
    scaled: bool = False
    signed: str = ""
    values: Array | None = None


@dataclass(frozen=True, eq=False)
class Model:
    """A graph whose constants are the weights.

    path: the file that it was read from.
    weights: in the order of the graph.
    graphs: the graph by kind. `onnx`: an `onnx.ModelProto` in which each weight is an initializer of its name, dtype
        and shape without data, read as a plain tensor: whatever decoding the source had is in `Weight.encoding`.
        `torch`: the path of the same module, traced, whose parameters have no values. `coreml`: a `Skeleton`.
    metadata: what this package wrote about itself when it wrote the file; keys begin with `compressor.`.
    notes: what there is to say of the model as a whole: what was translated in another way than one expects.
    files: those that the model consists of, in the order in which they are read: `path` alone if none are given.
    stamps: every file that is read for it, `files` among them, as they were before; none for what lies in memory.
    """

    path: Path
    weights: Sequence[Weight]
    graphs: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    stamps: Stamps = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.files:
            object.__setattr__(self, "files", (self.path,))


def stamps(files: Iterable[Path]) -> Stamps:
    """The files as they are now.

    Raises:
        CompressorError: one cannot be looked at.
    """
    found = {}
    for file in files:
        try:
            state = file.stat()
        except OSError as error:
            raise CompressorError(f"{file}: cannot be read: {error.strerror}.") from error
        found[file] = Stamp(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    return found


@contextmanager
def unchanged(found: Stamps) -> Iterator[None]:
    """A block that needs the files to stay as they were found: what it reads at two moments is of one model.

    Raises:
        CompressorError: one has changed, which also explains whatever error the block ended with.
    """
    try:
        yield
    except Exception as error:
        _compare(found, error)
        raise
    _compare(found, None)


def _compare(found: Stamps, cause: Exception | None) -> None:
    for file, before in found.items():
        try:
            now = stamps([file])[file]
        except CompressorError:
            now = None
        if now != before:
            happened = "is gone" if now is None else "was replaced" if now[:2] != before[:2] else "was written to"
            raise CompressorError(
                f"{file}: {happened} while it was read: what was made of it is discarded. Wait until it is complete, "
                "and run the command again."
            ) from cause
