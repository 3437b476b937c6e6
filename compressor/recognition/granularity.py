"""How finely a weight is cut into blocks that have a scale of their own; each block becomes a row of its values."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compressor.arrays import NDArray, Shape
from compressor.blocks import BLOCK

BLOCK_LENGTHS = (256, 128, 64, 32, 16)
"""Lengths of blocks that are looked for, longest first: fewest scales."""

_ROWS_PROBED, _VALUES_PROBED = 8, 256
"""So many blocks, and values of each, all over the weight, rule a granularity out."""

_PART = 4 * BLOCK
"""The values of a part: what is done once for it must not count."""

_SHORT, _WIDE = 64, 64
"""Rows of so few values lie side by side, and so do so many rows at least: then numpy's inner loops are long."""

_CHANNEL_AXES = 2

_SHAPES = 64
"""Of so many shapes the granularities are kept: most models have many weights of few shapes."""

_FEWEST_WITH_KERNELS = 3
"""The rank from which weights are of convolutions, whose kernels lie behind their channels, or of experts."""


def channel_axes(ndim: int) -> range:
    """The axes along which channels lie: the first ones, output and input channels in every common layout."""
    return range(min(ndim, _CHANNEL_AXES))


@dataclass(frozen=True)
class Part:
    """A box of blocks of equal length.

    blocks: which they are, of those along each axis.
    places: where their values are.
    """

    blocks: tuple[slice, ...]
    places: tuple[slice, ...]

    @property
    def counts(self) -> Shape:
        """How many blocks there are along each axis."""
        return tuple(map(_count, self.blocks))

    def rows(self, values: NDArray) -> NDArray:
        """The values of each block in a row, `[blocks, n]`; in memory along rows or along columns, as is faster.

        >>> half = Part((slice(0, 1), slice(1, 2)), (slice(0, 2), slice(2, 4)))
        >>> half.rows(np.array([[1, 2, 3, 4], [5, 6, 7, 8]])).tolist()
        [[3, 4, 7, 8]]
        """
        cut, count = self._cut(values), math.prod(self.counts)
        if self._side_by_side(cut):
            return np.ascontiguousarray(_turned(cut)).reshape(-1, count).T
        return np.ascontiguousarray(cut).reshape(count, -1)

    def put(self, values: NDArray, rows: NDArray) -> None:
        """The inverse of `rows`: write them into a weight."""
        cut = self._cut(values)
        if self._side_by_side(cut):
            cut = _turned(cut)
            rows = rows.T
        cut[...] = rows.reshape(cut.shape)

    def _side_by_side(self, cut: NDArray) -> bool:
        """Whether rows lie next to each other, value by value: they do in the weight, or they are short."""
        rank = len(self.blocks)
        longest = max(range(rank), key=lambda axis: (cut.shape[axis] * cut.shape[rank + axis] > 1, axis))
        return math.prod(cut.shape[rank:]) <= _SHORT or cut.shape[rank + longest] == 1

    def _cut(self, values: NDArray) -> NDArray:
        """Every axis as two, the count of blocks and their length, all counts first: a view."""
        box, counts = values[self.places], self.counts
        pairs = [size for dim, count in zip(box.shape, counts, strict=True) for size in (count, dim // count)]
        return box.reshape(pairs).transpose(*range(0, 2 * box.ndim, 2), *range(1, 2 * box.ndim, 2))


@dataclass(frozen=True)
class Granularity:
    """A weight cut into blocks.

    shape: the weight's.
    lengths: of a block along each axis; the last block of an axis may be shorter.
    name: for a reader: `per tensor`, `per channel along axis 0`, `per block of 32 along axis 1`.
    """

    shape: Shape
    lengths: Shape
    name: str = ""

    @property
    def counts(self) -> Shape:
        """How many blocks there are along each axis: the shape of the scales."""
        return tuple(-(-dim // length) for dim, length in zip(self.shape, self.lengths, strict=True))

    @property
    def block(self) -> Shape | None:
        """The lengths, where they do not follow from the shapes of the weight and of the scales."""
        short = any(dim % length for dim, length in zip(self.shape, self.lengths, strict=True))
        return self.lengths if short else None

    def parts(self) -> Iterator[Part]:
        """All blocks, some at a time, a short last one apart from the others."""
        for region in itertools.product(*(self._regions(axis) for axis in range(len(self.shape)))):
            yield from self._boxes(region)

    def probe(self, values: NDArray) -> NDArray:
        """Some values of some whole blocks, to rule a granularity out without reading the weight: `[rows, n]`."""
        whole, cut = self._whole_blocks(values)
        rank = len(self.shape)
        each = max(2, round(_ROWS_PROBED ** (1 / max(1, sum(count > 1 for count in whole)))))
        some = [_spread(count, each) for count in whole]
        left = _VALUES_PROBED
        for length in reversed(cut.shape[rank:]):
            some.insert(rank, _spread(length, left))
            left = max(1, left // length)
        corner = cut[tuple(some)]
        return corner.reshape(math.prod(corner.shape[:rank]), -1)

    def some(self, values: NDArray, count: int) -> NDArray:
        """So many whole blocks at most, all over the weight: `[blocks, n]`."""
        whole, cut = self._whole_blocks(values)
        places = np.linspace(0, math.prod(whole) - 1, min(count, math.prod(whole)), dtype=np.intp)
        return np.ascontiguousarray(cut[np.unravel_index(places, whole)]).reshape(places.size, -1)

    def _whole_blocks(self, values: NDArray) -> tuple[Shape, NDArray]:
        """How many blocks along each axis are no shorter than the others; their counts, then their lengths: a view."""
        whole = tuple(max(1, dim // length) for dim, length in zip(self.shape, self.lengths, strict=True))
        blocks = tuple(slice(0, count) for count in whole)
        return whole, Part(blocks, self._places(blocks))._cut(values)  # noqa: SLF001 - of this file

    def _regions(self, axis: int) -> list[slice]:
        """The blocks along an axis, a short last one apart."""
        whole, rest = divmod(self.shape[axis], self.lengths[axis])
        return [slice(0, whole)] * (whole > 0) + [slice(whole, whole + 1)] * (rest > 0)

    def _boxes(self, region: Sequence[slice]) -> Iterator[Part]:
        """A region in parts worth the calls: a few places along one axis, a single one along those before it."""
        size = math.prod(map(_count, self._places(region)))
        axis = 0
        while (size := size // _count(region[axis])) > _PART and axis < len(region) - 1:
            axis += 1
        along = region[axis]
        alone = all(_count(inner) == 1 for inner in region[axis + 1 :])
        step = max(_PART // size, _WIDE if alone and self.lengths[axis] == 1 else 1)
        outer = [range(each.start, each.stop) for each in region[:axis]]
        for at in itertools.product(*outer, range(along.start, along.stop, step)):
            before = (slice(place, place + 1) for place in at[:-1])
            blocks = (*before, slice(at[-1], min(at[-1] + step, along.stop)), *region[axis + 1 :])
            yield Part(blocks, self._places(blocks))

    def _places(self, blocks: Sequence[slice]) -> tuple[slice, ...]:
        """Where the values of blocks are."""
        return tuple(
            slice(part.start * length, min(part.stop * length, dim))
            for part, length, dim in zip(blocks, self.lengths, self.shape, strict=True)
        )


def per_tensor(shape: Shape) -> Granularity:
    """One scale for all of a weight."""
    return Granularity(shape, shape, "per tensor")


@functools.lru_cache(_SHAPES)
def chains(shape: Shape) -> tuple[tuple[Granularity, ...], ...]:
    """The granularities finer than the tensor, in chains, the coarsest of each first.

    A grid of one is also one of all that stand behind it, so the last of a chain rules all of it out at once.

        [N, K]            channels of axis 0, then blocks along axis 1; channels of axis 1, then blocks along axis 0
        [O, I, kh, kw]    and blocks along axis 1, each with its whole kernels
        [kh, kw, I, O]    channels of axis 3 or 2, as TensorFlow has them, then blocks along the other, as these
        [E, K, N]         and channels of an expert's own, along either axis, then blocks along the other
    """
    return tuple(map(tuple, _chains(shape)))


def _chains(shape: Shape) -> Iterator[list[Granularity]]:
    rank = len(shape)
    for axis in channel_axes(rank):
        yield _chain(shape, (axis,), 0 if axis else rank - 1, range(rank))
    if rank < _FEWEST_WITH_KERNELS:
        return
    yield _chain(shape, (), 1, (0, 1))
    if rank == _FEWEST_WITH_KERNELS:
        yield _chain(shape, (0, 2), 1, range(rank))
        yield _chain(shape, (0, 1), 2, range(rank))
        return
    last = (rank - 1, rank - 2)
    for axis, other in (last, last[::-1]):
        yield _chain(shape, (axis,), other, last)


def longer(cut: Granularity, values: NDArray, fits: Callable[[NDArray], bool]) -> Granularity | None:
    """The same blocks, several times as long, of which the first of some rows fit; None for channels, or if none do.

    Blocks need not be of a length that is looked for: those of 96 are found as three of 32 first.
    """
    axis = next((at for at, length in enumerate(cut.lengths) if 1 < length < cut.shape[at]), None)
    if axis is None or (named := f" {cut.lengths[axis]} along axis {axis}") not in cut.name:
        return None
    found, length = None, 2 * cut.lengths[axis]
    while length < cut.shape[axis]:
        lengths = tuple(length if at == axis else other for at, other in enumerate(cut.lengths))
        first = values[(slice(None),) * axis + (slice(length),)]
        if not fits(Granularity(first.shape, lengths).some(first, _ROWS_PROBED)):
            break
        found = Granularity(cut.shape, lengths, cut.name.replace(named, f" {length} along axis {axis}"))
        length += cut.lengths[axis]
    return found


def _chain(shape: Shape, channels: Collection[int], blocked: int, single: Collection[int]) -> list[Granularity]:
    """By channel, if axes of `channels` are given; then by block along `blocked`, one place of each `single` axis."""
    made = []
    if channels and all(shape[axis] > 1 for axis in channels):
        axes = f"ax{'i' if len(channels) == 1 else 'e'}s {' and '.join(map(str, channels))}"
        made.append(Granularity(shape, _lengths(shape, dict.fromkeys(channels, 1)), f"per channel along {axes}"))
    for length in BLOCK_LENGTHS:
        if shape[blocked] > length:
            lengths = _lengths(shape, dict.fromkeys(single, 1) | {blocked: length})
            made.append(Granularity(shape, lengths, f"per block of {length} along axis {blocked}"))
    return made


def _lengths(shape: Shape, lengths: Mapping[int, int]) -> Shape:
    """Of a block along each axis: all of an axis that has no length of its own."""
    return tuple(lengths.get(axis, dim) for axis, dim in enumerate(shape))


def _spread(count: int, most: int) -> slice:
    """At most so many places of an axis, all over it, none of them the first where there are others.

    >>> list(range(100)[_spread(100, 4)]), list(range(3)[_spread(3, 8)])
    ([12, 37, 62, 87], [0, 1, 2])
    """
    step = max(1, count // most)
    return slice(step // 2, step // 2 + step * most, step)


def _count(part: slice) -> int:
    return int(part.stop - part.start)


def _turned(cut: NDArray) -> NDArray:
    """The lengths of blocks first, the counts behind them."""
    rank = cut.ndim // 2
    return cut.transpose(*range(rank, 2 * rank), *range(rank))
