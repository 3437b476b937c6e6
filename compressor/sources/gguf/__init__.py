"""`.gguf` files of ggml and llama.cpp: weights without a graph, in blocks of codes with scales of their own.

    file --formats.gguf--> tensors --blocks--> codes, scales, tables --> weights

A model in several parts is read from any of them, the others lying beside it.
"""

from __future__ import annotations

import re
from pathlib import Path

from compressor.errors import CompressorError
from compressor.model import Model
from compressor.weight import Weight

SUFFIXES: tuple[str, ...] = (".gguf",)
_PART = re.compile(r"(?P<model>.*)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_COUNT = "split.count"


def files(path: Path) -> tuple[Path, ...]:
    """The parts of the model, as far as they lie beside the file; the file alone where it is no part."""
    return tuple(one for one in _parts(path) if one == path or one.is_file())


def _parts(path: Path) -> tuple[Path, ...]:
    """The files that a part's name says there are."""
    named = _PART.fullmatch(path.name)
    count = int(named["count"]) if named else 0
    if named is None or not 1 <= int(named["part"]) <= count:
        return (path,)
    return tuple(path.with_name(f"{named['model']}-{part:05}-of-{count:05}.gguf") for part in range(1, count + 1))


def read(path: Path) -> Model:
    """The weights of a file and of the parts beside it, without a graph.

    Raises:
        CompressorError: one is missing or damaged, or has a type that is not known.
    """
    from compressor.formats import gguf
    from compressor.sources.gguf.tensors import weight

    parts = _parts(path) if gguf.read(path).numbers.get(_COUNT, 1) > 1 else (path,)
    weights: dict[str, Weight] = {}
    for part in parts:
        if not part.is_file():
            raise CompressorError(f"{path}: one of {len(parts)} parts; {part.name} is missing. Download all of them.")
        header = gguf.read(part)
        if header.numbers.get(_COUNT, 1) not in {len(parts), 0}:
            raise CompressorError(
                f"{part}: one of {header.numbers[_COUNT]} parts, which the name does not say. Call it "
                f"MODEL-00001-of-{header.numbers[_COUNT]:05}.gguf, or another number, with the others beside it."
            )
        for tensor in header.tensors:
            if tensor.name in weights:
                raise CompressorError(f"{part}: holds {tensor.name[:80]!r}, which another part holds too. Remove one.")
            weights[tensor.name] = weight(part, tensor)
    return Model(path, tuple(weights.values()), None, files=parts)
