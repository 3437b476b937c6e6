"""The floats of a program's weights: read where they lie, moved, multiplied and rounded whenever they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from compressor.arrays import Array, ComputedArray, DType, NDArray
from compressor.cutting import in_blocks, rows
from compressor.encodings import Encoding, decode
from compressor.patterns import patterns
from compressor.targets.coreml.maps import lying
from compressor.turning import halves, turned

Move = Callable[[NDArray], NDArray]
"""Takes an array of a weight's shape the way that its values have gone."""


def later(values: NDArray, to: DType, factor: NDArray | None, known: Traced | None) -> ComputedArray:
    """Values multiplied and rounded, whenever they are read. known: what has them in another process."""
    array, order = lying(values)
    made = Rounded(array, order, to, factor, known)
    return ComputedArray(values.shape, to, made, made.rows if made.in_rows else None)


@dataclass(frozen=True, eq=False)
class Traced:
    """Values that are elements of a weight of the source, read where that lies and moved."""

    source: Encoding
    move: Move | None

    def __call__(self) -> NDArray:
        values = decode(self.source)
        return values if self.move is None else self.move(values)


@dataclass(frozen=True, eq=False)
class Rounded:
    """Values multiplied and rounded, whenever they are read.

    values: where they lie: in the source's file, or in one without a name. In another process, where there is no such
        file, they are those of `known`, if these are the same bits: none of them goes from one process to another then.
    order: their axes in the weight's order.
    to: the type that they are rounded to. factor: what they are multiplied with, float64, of their rank.
    """

    values: Array
    order: tuple[int, ...]
    to: DType
    factor: NDArray | None
    known: Traced | None

    def __call__(self) -> NDArray:
        return turned(self._rounded(), self.order)

    def rows(self, start: int, end: int) -> NDArray:
        """The rows from one to another, where they lie as rows."""
        factor = self.factor if self.factor is None or len(self.factor) == 1 else self.factor[start:end]
        return replace(self, values=rows(self.values, start, end), factor=factor)()

    @property
    def in_rows(self) -> bool:
        """Whether some rows cost less than all of them."""
        return bool(self.order) and self.order == (*range(len(self.order)),) and type(self.values) is not ComputedArray

    @property
    def is_quick(self) -> bool:
        """Whether to compute it whenever it is read costs less than a file, in time and in memory."""
        return self.factor is None and (self.in_rows or self.values.size * self.to.itemsize <= _LARGE)

    def _rounded(self) -> NDArray:
        """As they lie."""
        if self.values.dtype == self.to and self.factor is None:
            return np.asarray(self.values, order="C")
        made = np.empty(self.values.shape, self.to)
        if self.factor is not None:  # in float64, a buffer of a few values at a time
            factor = self.factor.transpose(np.argsort(self.order))
            with np.errstate(over="ignore"):
                np.multiply(np.asarray(self.values), factor, out=made, dtype=np.float64, casting="unsafe")
            return made
        flat, done = made.reshape(-1), 0
        for part in in_blocks(self.values):
            flat[done : done + part.size] = halves(part) if self._is_halved else part
            done += part.size
        return made

    @property
    def _is_halved(self) -> bool:
        return self.values.dtype == np.float32 and self.to == np.float16

    @cached_property
    def _is_known(self) -> bool:
        """Whether the source has the very values: asked once, however often a weight is sent."""
        return self.known is not None and _same(np.asarray(self.values).transpose(self.order), self.known())

    def __reduce__(self) -> tuple[type[Rounded], tuple[object, ...]]:
        values, order = self.values, self.order
        if isinstance(values, np.ndarray) and self._is_known:
            assert self.known is not None
            dims = tuple(values.shape[axis] for axis in order)
            values, order = ComputedArray(dims, values.dtype, self.known), (*range(len(order)),)
        return Rounded, (values, order, self.to, self.factor, None)


_LARGE = 32 << 20
"""Bytes of rounded values from which on a file is made of those that are turned: all of them would be in memory."""


def _same(one: NDArray, other: NDArray) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(np.array_equal(patterns(a), patterns(b)) for a, b in zip(one, other, strict=True))
