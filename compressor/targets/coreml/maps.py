"""Weights as a program holds them: maps of copies of them, which nobody reads but who computes with them.

A map of the source's own file would end the process where that is cut short. A program moves most weights and computes
with hardly any, and a view of a copy says which elements it has: whoever wants them reads those of the source.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.arrays import Array, ComputedArray, MappedArray, NDArray, Shape
from compressor.encodings import Dense, Encoding, decode
from compressor.targets.coreml.spilling import SPILLED, in_file, spilled


class _Copy(np.memmap[Any, Any]):
    """A map of a copy of what lies in a file.

    source: where. largest: the largest magnitude; NaN where there is a NaN.
    """

    source: MappedArray
    largest: float


def held(encoding: Encoding) -> NDArray:
    """The values of a weight, in no memory: a map of a file without a name, which nobody can cut short.

    Raises:
        CompressorError: they cannot be read, or the file cannot be written.
    """
    array = encoding.values if isinstance(encoding, Dense) else None
    if not isinstance(array, MappedArray) or array.dtype.kind != "f" or array.nbytes < SPILLED:
        return spilled(decode(encoding))
    largest = [0.0]

    def seen(run: NDArray) -> NDArray:
        values = run.view(array.dtype)
        largest.append(np.maximum(values.max(), -values.min()))
        return run

    made = in_file(map(seen, array.runs(_RUN)), array, _Copy)
    made.source, made.largest = array, float(np.max(largest))
    return np.asarray(made)


def bound(values: NDArray) -> float:
    """What no magnitude is larger than, known without a look: the largest one of the whole weight, or infinity.

    NaN where the weight has a NaN.
    """
    owner = _owner(values)
    return owner.largest if isinstance(owner, _Copy) else math.inf


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
    if not isinstance(owner, _Copy):
        return values, order
    start, end = np.lib.array_utils.byte_bounds(values)
    path, offset = owner.source.path, owner.source.offset + start - _address(owner)
    range_ = MappedArray(path, offset, ((end - start) // values.itemsize,), values.dtype)
    if values.flags.c_contiguous:
        return MappedArray(range_.path, range_.offset, values.shape, values.dtype), order
    view = _View(range_, (_address(values) - start) // values.itemsize, values.shape, values.strides)
    return ComputedArray(values.shape, values.dtype, view), order


def read(values: NDArray) -> NDArray:
    """The elements, of a copy those of the source."""
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


_RUN = 1 << 19
"""Bytes that are copied at a time."""


def _address(values: NDArray) -> int:
    address, _ = values.__array_interface__["data"]
    return int(address)


def _owner(values: NDArray) -> object:
    """What has the memory of a view."""
    owner: object = values
    while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
        owner = owner.base
    return owner
