"""How finely a weight is cut into blocks that have a scale of their own; each block becomes a row of its values."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from compressor.arrays import NDArray, Shape
from compressor.blocks import row_blocks

BLOCK_LENGTHS = (256, 128, 64, 32, 16)
"""Lengths of blocks that are looked for, longest first: fewest scales."""

_ROWS_PROBED, _VALUES_PROBED = 8, 256
"""So many blocks, and values of each along every axis, rule a granularity out."""


_CHANNEL_AXES = 2

_FEWEST_WITH_KERNELS = 3
"""The rank from which weights are of convolutions, whose kernels lie behind their channels, or of experts."""


def channel_axes(ndim: int) -> range:
    """The axes along which channels lie: the first ones, output and input channels in every common layout."""
    return range(min(ndim, _CHANNEL_AXES))


@dataclass(frozen=True)
class Granularity:
    """A weight cut into blocks.

    shape: the weight's.
    counts: of blocks along each axis, each divides the axis: the shape of the scales.
    name: for a reader: `per tensor`, `per channel along axis 0`, `per block of 32 along axis 1`.
    """

    shape: Shape
    counts: Shape
    name: str = ""

    def rows(self, values: NDArray) -> NDArray:
        """The values of each block in a row: `[blocks, n]`.

        >>> halves = Granularity((2, 4), (1, 2))
        >>> halves.rows(np.array([[1, 2, 3, 4], [5, 6, 7, 8]])).tolist()
        [[1, 2, 5, 6], [3, 4, 7, 8]]
        """
        return self._cut(values).reshape(math.prod(self.counts), -1)

    def whole(self, rows: NDArray) -> NDArray:
        """The inverse of `rows`."""
        cut = rows.reshape([self._pairs[place] for place in self._order])
        return np.ascontiguousarray(cut.transpose(np.argsort(self._order)).reshape(self.shape))

    def parts(self, values: NDArray) -> Iterator[tuple[slice, NDArray]]:
        """The rows of a weight, a few at a time: which they are, and their values `[rows, n]`."""
        rows = self.rows(values)
        for part in row_blocks(len(rows), rows.size):
            yield part, np.ascontiguousarray(rows[part])

    def probe(self, values: NDArray) -> NDArray:
        """Some values of some rows, to rule a granularity out without reading the weight: `[rows, n]`."""
        counts = (slice(_ROWS_PROBED),) * len(self.counts)
        lengths = (slice(_VALUES_PROBED),) * len(self.counts)
        corner = self._cut(values)[counts + lengths]
        rows = math.prod(corner.shape[: len(self.counts)])
        return corner.reshape(rows, -1)[:_ROWS_PROBED, :_VALUES_PROBED]

    def _cut(self, values: NDArray) -> NDArray:
        """Every axis as two, the count of blocks and their length, all counts first."""
        return values.reshape(self._pairs).transpose(self._order)

    @property
    def _pairs(self) -> tuple[int, ...]:
        return tuple(size for dim, count in zip(self.shape, self.counts, strict=True) for size in (count, dim // count))

    @property
    def _order(self) -> tuple[int, ...]:
        axes = 2 * len(self.counts)
        return (*range(0, axes, 2), *range(1, axes, 2))


def per_tensor(shape: Shape) -> Granularity:
    """One scale for all of a weight."""
    return Granularity(shape, (1,) * len(shape), "per tensor")


def chains(shape: Shape) -> Iterator[list[Granularity]]:
    """The granularities finer than the tensor, in chains, the coarsest of each first.

    A grid of one is also one of all that stand behind it, so the last of a chain rules all of it out at once.

        [N, K]            channels of axis 0, then blocks along axis 1; channels of axis 1, then blocks along axis 0
        [O, I, kh, kw]    and blocks along axis 1, each with its whole kernels
        [E, K, N]         and channels of an expert's own, along either axis, then blocks along the other
    """
    rank = len(shape)
    for axis in channel_axes(rank):
        yield _chain(shape, (axis,), 0 if axis else rank - 1, range(rank))
    if rank < _FEWEST_WITH_KERNELS:
        return
    yield _chain(shape, (), 1, (0, 1))
    if rank == _FEWEST_WITH_KERNELS:
        yield _chain(shape, (0, 2), 1, range(rank))
        yield _chain(shape, (0, 1), 2, range(rank))


def _chain(shape: Shape, channels: Collection[int], blocked: int, single: Collection[int]) -> list[Granularity]:
    """By channel, if axes of `channels` are given; then by block along `blocked`, one place of each `single` axis."""
    made = []
    if channels and all(shape[axis] > 1 for axis in channels):
        axes = f"ax{'i' if len(channels) == 1 else 'e'}s {' and '.join(map(str, channels))}"
        made.append(Granularity(shape, _counts(shape, dict.fromkeys(channels, 1)), f"per channel along {axes}"))
    for length in BLOCK_LENGTHS:
        if shape[blocked] % length == 0 and shape[blocked] > length:
            counts = _counts(shape, dict.fromkeys(single, 1) | {blocked: length})
            made.append(Granularity(shape, counts, f"per block of {length} along axis {blocked}"))
    return made


def _counts(shape: Shape, lengths: Mapping[int, int]) -> Shape:
    """How many blocks there are along each axis, of which an axis without a length has one."""
    return tuple(dim // lengths.get(axis, dim) for axis, dim in enumerate(shape))
