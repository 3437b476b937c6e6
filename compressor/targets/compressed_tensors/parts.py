"""The parts of a folder: each shard is written by itself, tensor by tensor; what lies beside them is copied."""

from __future__ import annotations

import filecmp
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.arrays import UINT8, DType, MappedArray, NDArray, Shape, to_bytes
from compressor.cutting import in_blocks
from compressor.encodings import Encoding, Quantized, decode
from compressor.errors import CompressorError
from compressor.formats import safetensors
from compressor.formats.compressed_tensors import layers
from compressor.formats.layout import FileLayout, Followed, Part, Piece, Place
from compressor.formats.narrow_floats import E4M3


@dataclass(frozen=True)
class Tensor:
    """A tensor of a shard. weight: the one that it belongs to; empty for none. source: where it lies as it is."""

    dtype: DType
    shape: Shape
    weight: str
    source: MappedArray | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * safetensors.DTYPES[safetensors.KINDS[self.dtype]][1] // 8


@dataclass(frozen=True)
class FolderLayout:
    """A folder before its weights are there. parts: what lies beside the shards, then each shard."""

    parts: Sequence[Part]

    @property
    def nbytes(self) -> int:
        """The bytes of all files."""
        return sum(part.nbytes for part in self.parts)


@dataclass(frozen=True)
class Beside:
    """What is no shard: files that are written, and others that are copied.

    texts, copied: by path in the folder, what they hold and where from. places: of weights that lie there.
    """

    texts: Mapping[str, bytes]
    copied: Mapping[str, Path]
    places: Mapping[str, Place]
    file: str = ""
    followed: Followed | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of all of them."""
        return sum(map(len, self.texts.values())) + sum(path.stat().st_size for path in self.copied.values())

    def begin(self, directory: Path) -> None:
        """Write them.

        Raises:
            OSError: one cannot be written.
        """
        for name, source in self.copied.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, directory / name)
        for name, text in self.texts.items():
            (directory / name).write_bytes(text)

    def check(self, directory: Path) -> None:
        """Compare what was written.

        Raises:
            CompressorError: it is something else.
        """
        wrong = [name for name, text in self.texts.items() if (directory / name).read_bytes() != text]
        wrong += [name for name, path in self.copied.items() if not filecmp.cmp(path, directory / name, shallow=False)]
        if wrong:
            raise CompressorError(
                f"{directory / wrong[0]}: read back, it is not what was written. Nothing was published."
            )


class Kept:
    """The place of a weight whose file is copied."""

    def write(self, directory: Path, encoding: Encoding) -> None:
        """It lies there."""


@dataclass(frozen=True)
class LayerPlace:
    """The tensors of a quantized layer. begins: where each begins in the file."""

    file: str
    prefix: str
    begins: Mapping[str, int]

    def write(self, directory: Path, encoding: Encoding) -> None:
        """Write them."""
        assert isinstance(encoding, Quantized)
        _put(directory / self.file, ((self.begins[name], [made]) for name, made in self._made(encoding)))

    def _made(self, encoding: Quantized) -> Iterable[tuple[str, NDArray]]:
        return layers.values(self.prefix, encoding).items()


@dataclass(frozen=True)
class DensePlace:
    """A tensor. source: the one that it is, as it lies in its file; None for values that are computed."""

    file: str
    begin: int
    source: MappedArray | None

    def write(self, directory: Path, encoding: Encoding) -> None:
        """Write it."""
        content = [decode(encoding)] if self.source is None else in_blocks(_raw(self.source))
        _put(directory / self.file, [(self.begin, content)])


def _raw(array: MappedArray) -> MappedArray:
    """The bytes of a tensor."""
    return MappedArray(array.path, array.offset, (array.nbytes,), UINT8)


def _put(path: Path, pieces: Iterable[tuple[int, Iterable[NDArray]]]) -> None:
    with path.open("r+b") as file:
        for begin, content in pieces:
            file.seek(begin)
            for some in content:
                file.write(to_bytes(some).data)


@dataclass(frozen=True, eq=False)
class _Bytes:
    """What gives its bytes when they are asked for. mapped: a tensor that is no weight."""

    mapped: MappedArray

    def payload(self) -> NDArray:
        return self.mapped.raw()


def shard_layout(file: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> FileLayout:
    """A shard of these tensors."""
    head, begins, size = safetensors.laid_out({name: (one.dtype, one.shape) for name, one in tensors.items()}, metadata)
    rest = [Piece(file, 0, head)]
    places: dict[str, Place] = {}
    layer: dict[str, dict[str, int]] = {}
    for name in sorted(tensors, key=lambda name: begins[name]):
        one = tensors[name]
        if not one.weight and one.source is not None:
            rest.append(Piece(file, begins[name], _Bytes(one.source)))
        elif one.weight == name and not _is_coded(one):
            places[name] = DensePlace(file, begins[name], one.source)
        else:
            layer.setdefault(one.weight, {})[name] = begins[name]
    for name, own in layer.items():
        places[name] = LayerPlace(file, name.removesuffix("weight"), own)
    return FileLayout({file: size}, rest, places, file=file)


def _is_coded(tensor: Tensor) -> bool:
    """Whether a tensor that is called as its weight has its codes alone."""
    return tensor.source is None and tensor.dtype == E4M3
