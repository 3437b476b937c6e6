"""Arrays in no memory of this process: a program has all of its constants at once."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from tempfile import TemporaryFile, gettempdir
from typing import Any, TypeVar

import numpy as np

from compressor.arrays import Array, ComputedArray, NDArray
from compressor.errors import CompressorError

M = TypeVar("M", bound="np.memmap[Any, Any]")

SPILLED = 1 << 20
"""Arrays of so many bytes lie in a file."""


def spilled(values: NDArray) -> NDArray:
    """The values in a file without a name, mapped; as they are where they are small or lie in such a file already.

    Raises:
        CompressorError: the file cannot be written.
    """
    if values.nbytes < SPILLED or _is_mapped(values):
        return values
    return np.asarray(in_file([np.ascontiguousarray(values)], values, np.memmap))


def in_file(parts: Iterable[NDArray], like: Array, kind: type[M]) -> M:
    """The parts, one behind the other, in a file without a name, mapped with the shape and the type of an array.

    Raises:
        CompressorError: the file cannot be written.
    """
    try:
        with TemporaryFile(prefix="compressor-") as file:
            file.writelines(part.data for part in parts)
            file.flush()
            # Whoever writes to it all the same, as torch may, has a copy of that page.
            made = kind(file, like.dtype, "c", shape=like.shape)
    except OSError as error:
        raise CompressorError(f"{gettempdir()}: cannot be written: {error.strerror}.") from error
    made.flags.writeable = False
    return made


@dataclass(frozen=True, eq=False)
class _Kept:
    """What was computed once, for a look, a file and a comparison with that; in another process it is computed anew."""

    values: NDArray
    compute: Callable[[], NDArray]

    def __call__(self) -> NDArray:
        return self.values

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object]]:
        return _itself, (self.compute,)


@dataclass(frozen=True, eq=False)
class _KeptRows:
    """The rows of what was computed once."""

    values: NDArray
    rows: Callable[[int, int], NDArray] | None

    def __call__(self, start: int, end: int) -> NDArray:
        return self.values[start:end]

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object]]:
        return _itself, (self.rows,)


def computed_once(array: Array) -> Array:
    """A large array that is computed as the file of what that gives; any other as it is.

    Raises:
        CompressorError: the file cannot be written.
    """
    if not isinstance(array, ComputedArray) or array.size * array.dtype.itemsize < SPILLED:
        return array
    if getattr(array.compute, "is_quick", False):
        return array
    values = np.ascontiguousarray(array)
    spilled_ = spilled(values.reshape(-1).view(np.uint8))  # codes of few bits are no type that files have
    made = spilled_.view(values.dtype).reshape(values.shape)
    return replace(array, compute=_Kept(made, array.compute), rows=_KeptRows(made, array.rows))


def _itself(compute: object) -> object:
    return compute


def _is_mapped(values: NDArray) -> bool:
    owner: object = values
    while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
        owner = owner.base
    return isinstance(owner, np.memmap | mmap.mmap)
