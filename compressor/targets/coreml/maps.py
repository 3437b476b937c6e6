"""Weights as a program holds them: maps of the files in which they lie, which nobody reads but who computes with them.

A map ends the process where its file is cut short and it is read then. A program moves most weights and computes with
hardly any, and a view of a map says which elements it has: whoever wants them reads those of the file, in slices.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressor.arrays import Array, ComputedArray, MappedArray, NDArray, Shape
from compressor.encodings import Dense, Encoding, decode
from compressor.errors import CompressorError
from compressor.targets.coreml.spilling import SPILLED, spilled


def held(encoding: Encoding) -> NDArray:
    """The values of a weight, in no memory: a map of where they lie, or of a file without a name for what is computed.

    Raises:
        CompressorError: they cannot be read, or the file cannot be written.
    """
    array = encoding.values if isinstance(encoding, Dense) else None
    if not isinstance(array, MappedArray) or array.dtype.kind != "f" or array.nbytes < SPILLED:
        return spilled(decode(encoding))
    if array.offset % array.dtype.itemsize:  # torch takes no values in between
        return spilled(decode(encoding))
    try:  # whoever writes to it all the same, as torch may, has a copy of that page
        made = np.asarray(np.memmap(array.path, array.dtype, "c", array.offset, array.shape))
    except (OSError, ValueError) as error:
        raise CompressorError(f"{array.path}: cannot be mapped from byte {array.offset} on: {error}") from error
    made.flags.writeable = False
    return made


def keeping(maps: Iterable[NDArray]) -> Callable[[NDArray], NDArray]:
    """What takes values out of memory: to the map that has them already, whoever has passed it on, or to a file."""
    known = {_address(one): one for one in maps if isinstance(_owner(one), np.memmap)}
    firsts = sorted(known)

    def kept(values: NDArray) -> NDArray:
        start, end = np.lib.array_utils.byte_bounds(values)
        place = bisect_right(firsts, start)
        if place and end <= firsts[place - 1] + known[firsts[place - 1]].nbytes:
            first = firsts[place - 1]
            return np.ndarray(values.shape, values.dtype, known[first], _address(values) - first, values.strides)
        return spilled(values)

    return kept


def lying(values: NDArray) -> tuple[Array, tuple[int, ...]]:
    """Where the elements lie, to be read, and the order of its axes in which they are `values`."""
    order = tuple(range(values.ndim))
    if not values.flags.c_contiguous:
        descending = sorted(order, key=lambda axis: -values.strides[axis])
        if values.transpose(descending).flags.c_contiguous:
            values, order = values.transpose(descending), tuple(int(axis) for axis in np.argsort(descending))
    owner = _owner(values)
    if not isinstance(owner, np.memmap) or owner.filename is None:
        return values, order
    start, end = np.lib.array_utils.byte_bounds(values)
    range_ = MappedArray(
        Path(owner.filename), owner.offset + start - _address(owner), ((end - start) // values.itemsize,), values.dtype
    )
    if values.flags.c_contiguous:
        return MappedArray(range_.path, range_.offset, values.shape, values.dtype), order
    view = _View(range_, (_address(values) - start) // values.itemsize, values.shape, values.strides)
    return ComputedArray(values.shape, values.dtype, view), order


def read(values: NDArray) -> NDArray:
    """The elements, of a map those of its file."""
    array, order = lying(values)
    return np.asarray(array).transpose(order)


@dataclass(frozen=True)
class _View:
    """Some elements of a range of a file.

    first: where the first one is in the range. strides: in bytes.
    """

    range: MappedArray
    first: int
    shape: Shape
    strides: tuple[int, ...]

    def __call__(self) -> NDArray:
        values = np.asarray(self.range)
        return np.ndarray(self.shape, values.dtype, values, self.first * values.itemsize, self.strides)


def _address(values: NDArray) -> int:
    address, _ = values.__array_interface__["data"]
    return int(address)


def _owner(values: NDArray) -> object:
    """What has the memory of a view."""
    owner: object = values
    while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
        owner = owner.base
    return owner
