"""The structure of a mask: blocks over which it is constant, n:m patterns, channels that meet.

A mask is True where values are not zero. Blocks are given by their lengths along each axis.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from compressor.arrays import NDArray, Shape
from compressor.patterns import above
from compressor.recognition.granularity import channel_axes

_GROUP_LENGTHS = (2, 4, 8, 16, 32)
"""Lengths of groups and blocks of neighbours that are looked for."""

_TIGHT = 0.5
"""An n:m pattern describes a mask if at least this share of the groups hold all the n non-zeros that it allows."""

_PROBE = 1 << 16
"""The values of the first rows that rule most structures out."""

_CORNER = 64
"""The side of a part that rules out what is seen in any part of a weight."""

_NEARLY = 0.99
"""An n:m pattern that this share of the groups has was meant."""

_EXPLAINED = 0.4
"""Blocks describe zeros if they hold at least this share of those that chance would leave outside of them."""

_ROUNDED = 1e-9
"""More than sums of rates are rounded by, relatively."""

_FEWEST_BLOCKS, _LONG_BLOCK = 8, 64
"""So few empty blocks are no structure; of blocks of so many values, a single one is."""


class Structure(NamedTuple):
    """The blocks of a mask, each 1 long where there are none, and what a reader calls the structure."""

    lengths: Shape
    name: str


class Pattern(NamedTuple):
    """Of groups of m neighbours: the `n` that most have set, and the share of them that have no more; 0 if none has."""

    n: int
    share: float


def structure(values: NDArray, threshold: float) -> Structure:
    """The structure of the zeros of a weight, magnitudes up to `threshold` among them.

    A probe of the first rows, and a corner of it, rule most structures out: an unstructured weight is not read again.
    """
    rows = -(-_PROBE // (values.size // values.shape[0] * _CORNER)) * _CORNER
    probe, full = above(values[:rows], threshold), functools.cache(lambda: above(values, threshold))
    if max(_constant(probe, values.shape)) > 1 and max(lengths := _constant(full(), values.shape)) > 1:
        return _named(lengths, values.shape)
    single = (1,) * values.ndim
    for (axis, m), counts in _tallies(probe[(slice(_CORNER),) * probe.ndim], values.shape).items():
        if _described(counts).share == 1 and (found := _pattern(full(), axis, m)).share == 1:
            return Structure(single, f"{found.n}:{m} along axis {axis}")
    if _crosses(probe) and _crosses(full()):
        return Structure(single, "channels along axis 0 and 1")
    return Structure(single, "unstructured")


def almost(values: NDArray) -> Iterator[str]:
    """The n:m pattern that nearly all groups of an unstructured weight have."""
    corner = above(values[(slice(_CORNER),) * values.ndim], 0.0)
    for (axis, m), counts in _tallies(corner, values.shape).items():
        if _described(counts).share >= _NEARLY and (found := _pattern(above(values, 0.0), axis, m)).share >= _NEARLY:
            yield f"{found.n}:{m} along axis {axis} in all but {1 - found.share:.2%} of the groups"
            return


def cover(values: NDArray, value_nbytes: float) -> tuple[Structure, int] | None:
    """The blocks that explain the zeros of a weight though those that are kept have zeros too, and how many they keep.

    A weight that is pruned in blocks and lies on a grid, say: zero is one of its codes. None if nothing explains them.

    value_nbytes: what a value that is kept takes: the blocks that take the fewest bytes are chosen.
    """
    full = functools.cache(lambda: _Zeros(above(values, 0.0)))
    best, least = None, math.inf
    for blocks in _promising(values):
        if not _explained(full(), blocks.lengths):
            continue
        stored = kept(full().mask, blocks.lengths)
        count = int(np.count_nonzero(stored)) * math.prod(blocks.lengths)
        if (size := stored.size / 8 + count * value_nbytes) < least:
            best, least = (blocks, count), size
    return best


def kept(mask: NDArray, lengths: Shape) -> NDArray:
    """The blocks of a mask that have any place set.

    >>> kept(np.array([[True, False, False, False]]), (1, 2)).tolist()
    [[True, False]]
    """
    pairs = [size for dim, length in zip(mask.shape, lengths, strict=True) for size in (dim // length, length)]
    return np.asarray(mask.reshape(pairs).any(axis=tuple(range(1, len(pairs), 2))))


def _explained(zeros: _Zeros, lengths: Shape) -> bool:
    """Whether blocks were pruned as a whole: far more of them are empty than chance makes.

    Chance sets every place of a channel to zero by itself, as often as the channel has zeros: a share r of them makes
    r**n of its blocks of n places empty. Of the zeros beyond that, those in empty blocks are explained.

    >>> values = np.arange(1024).reshape(64, 16)
    >>> _explained(_Zeros(values % 32 < 16), (1, 16)), _explained(_Zeros(values % 4 < 2), (1, 16))
    (True, False)
    """
    mask = zeros.mask
    lengths = tuple(min(length, dim) for length, dim in zip(lengths, mask.shape, strict=True))
    cut = mask[tuple(slice(dim // length * length) for dim, length in zip(mask.shape, lengths, strict=True))]
    blocks = kept(cut, lengths)
    empty, whole = blocks.size - int(np.count_nonzero(blocks)), cut.size == mask.size
    return _beyond_chance(empty, math.prod(lengths), zeros if whole else _Zeros(cut))


class _Zeros:
    """The zeros of a mask: how many of all places, and of each channel's, along the axes of channels."""

    def __init__(self, mask: NDArray) -> None:
        self.mask, self.size, self.shape = mask, mask.size, mask.shape
        self.share = 1 - np.count_nonzero(mask) / mask.size
        self.rates = functools.cache(lambda axis: _rates(mask, axis))


def _rates(mask: NDArray, axis: int) -> NDArray:
    kept = np.count_nonzero(mask, axis=tuple(place for place in range(mask.ndim) if place != axis))
    return np.asarray(1 - kept / (mask.size // mask.shape[axis]))


def _beyond_chance(empty: int, size: int, zeros: _Zeros) -> bool:
    """Whether so many empty blocks of `size` places are far more than chance makes."""
    count, by_chance = zeros.size // size, 0.0
    if empty < (1 if size >= _LONG_BLOCK else _FEWEST_BLOCKS) or empty <= count * _EXPLAINED * zeros.share:
        return False  # whatever chance makes
    # A channel does not explain itself. Of zeros that are spread evenly over channels, chance makes the fewest blocks.
    axes = [axis for axis in channel_axes(len(zeros.shape)) if size * zeros.shape[axis] != zeros.size]
    evenly = zeros.share**size * (1 - _ROUNDED) if axes else 0.0
    if empty / count - evenly <= _EXPLAINED * (zeros.share - evenly):
        return False
    for axis in axes:
        by_chance = max(by_chance, float((zeros.rates(axis) ** size).mean()))
    return bool(empty / count - by_chance > _EXPLAINED * (zeros.share - by_chance))


def _promising(values: NDArray) -> Iterator[Structure]:
    """The blocks that explain the zeros of a part: channels and kernels, then groups of neighbours."""
    zeros_in = functools.cache(lambda *sides: _Zeros(above(values[tuple(map(slice, sides))], 0.0)))
    for blocks in _large_blocks(shape := values.shape):
        if _explained(zeros_in(*_corner(shape, blocks.lengths)), blocks.lengths):
            yield blocks
    zeros = zeros_in(*(min(side, _CORNER) for side in shape))
    for (axis, length), counts in _tallies(zeros.mask, shape).items():
        if _beyond_chance(int(counts[0]), length, zeros):
            yield _named(tuple(length if place == axis else 1 for place in range(len(shape))), shape)


def _large_blocks(shape: Shape) -> Iterator[Structure]:
    """Channels and kernels."""
    for axis in channel_axes(len(shape)):
        yield _named(tuple(1 if place == axis else dim for place, dim in enumerate(shape)), shape)
    if len(shape) > 2 and max(shape[2:]) > 1:
        yield _named((1, 1, *shape[2:]), shape)


def _corner(shape: Shape, lengths: Shape) -> Shape:
    """The sides of a part of the weight, of channels the beginning of each: a head that is pruned is many of them."""
    return tuple(dim if math.prod(lengths) * dim == math.prod(shape) else min(dim, _CORNER) for dim in shape)


def _tallies(mask: NDArray, shape: Shape) -> dict[tuple[int, int], NDArray]:
    """How many groups of neighbours have 0, 1, ... all of their places set, by the axis and the length of the groups.

    mask: a part of that of a weight of `shape`, whose sides groups of every length fill.
    """
    found = {}
    for axis, dim in enumerate(shape):
        before, counts = (slice(None),) * axis, mask.view(np.uint8)
        for length in _GROUP_LENGTHS:
            if dim % length or dim < 2 * length:
                break
            counts = counts[(*before, slice(0, None, 2))] + counts[(*before, slice(1, None, 2))]
            found[axis, length] = np.bincount(counts.reshape(-1), minlength=length + 1)
    return found


def _crosses(mask: NDArray) -> bool:
    """Whether the mask is set just where a channel of axis 0 that is kept meets one of axis 1 that is."""
    planes = mask.reshape(*mask.shape[:2], -1)
    rows, columns = np.asarray(planes.any(axis=(1, 2))), np.asarray(planes.any(axis=(0, 2)))
    crossed = rows[:, None] & columns
    return not (rows.all() or columns.all()) and np.array_equal(
        planes, np.broadcast_to(crossed[..., None], planes.shape)
    )


def _constant(mask: NDArray, shape: Shape) -> Shape:
    """The longest blocks of a weight of `shape` over which the mask of its first rows is constant.

    Along an axis, their length divides every place where the mask changes.

    >>> _constant(np.array([[True, True, False, False, True, True]]), (4, 6))
    (4, 2)
    """
    lengths = []
    for axis, dim in enumerate(shape):
        moved = np.moveaxis(mask, axis, 0)
        others = tuple(range(1, mask.ndim))
        changes = np.flatnonzero((moved[1:] != moved[:-1]).any(axis=others)) + 1
        lengths.append(math.gcd(dim, *changes.tolist()))
    return tuple(lengths)


def _named(lengths: Shape, shape: Shape) -> Structure:
    """Blocks with their name.

    >>> [_named(lengths, (8, 6, 3)).name for lengths in ((1, 6, 3), (2, 6, 3), (2, 1, 3), (8, 6, 3))]
    ['channels along axis 0', 'blocks of 2 channels along axis 0', 'blocks of 2x3 along axis 0 and 2', 'all of it']
    """
    varying = [axis for axis, length in enumerate(lengths) if length < shape[axis]]
    if not varying:
        return Structure(lengths, "all of it")
    if len(varying) == 1:
        length = lengths[varying[0]]
        return Structure(lengths, f"{f'blocks of {length} ' if length > 1 else ''}channels along axis {varying[0]}")
    blocked = [axis for axis, length in enumerate(lengths) if length > 1]
    sizes, axes = "x".join(str(lengths[axis]) for axis in blocked), " and ".join(map(str, blocked))
    return Structure(lengths, f"blocks of {sizes} along axis {axes}")


def _pattern(mask: NDArray, axis: int, m: int) -> Pattern:
    """The pattern of the groups of m neighbours along `axis`.

    >>> _pattern(np.array([[True, True, False, False], [True, False, False, True]]), 1, 4)
    Pattern(n=2, share=1.0)
    """
    grouped = mask[(slice(None),) * axis + (slice(mask.shape[axis] // m * m),)]
    grouped = grouped.reshape(*mask.shape[:axis], -1, m, *mask.shape[axis + 1 :])
    return _described(np.bincount(np.add.reduce(grouped, axis=axis + 1, dtype=np.uint8).reshape(-1), minlength=m + 1))


def _described(counts: NDArray) -> Pattern:
    """The pattern of groups of which so many have 0, 1, ... m places set."""
    m = counts.size - 1
    n, groups = int(counts.argmax()), int(counts.sum())
    if not 0 < n < m or counts[n] < _TIGHT * groups:
        return Pattern(0, 0.0)
    return Pattern(n, int(counts[: n + 1].sum()) / groups)
