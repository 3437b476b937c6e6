"""Constants that are copies of each other, also under another shape or with their axes in another order.

    [N, K] a linear layer     [N, K, 1, 1] a 1x1 convolution     [K, N] a head whose exporter transposed it

They are told apart by little first: size, first and last element, a corner, sums that no order changes. What then looks
alike is compared bit by bit. So a model without copies is hardly read, and one with many is read a few times, not each
constant with each other one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, permutations

import numpy as np

from compressor.arrays import Array, MappedArray, NDArray, Shape, bits
from compressor.blocks import row_blocks
from compressor.cutting import in_blocks, leading
from compressor.patterns import patterns
from compressor.reshaping import reshaped
from compressor.weight import Copy

_RUN = 256
"""So many first elements are looked at; copies whose rows stay rows have the same."""

_CORNERS = {2: 16, 3: 6, 4: 4, 5: 3}
"""How many elements along each axis a corner has, by the number of axes; of more axes none is looked at."""

_MOST = 8
"""With so many constants that look alike and have the same sums one is compared."""


def copies(constants: Mapping[str, Array]) -> dict[str, Copy]:
    """By the name of a constant, how its values lie in an earlier one; one of two axes or more comes before the others.

    Raises:
        CompressorError: one of them cannot be read.
    """
    ordered = sorted(constants, key=lambda name: len(constants[name].shape) < 2)
    groups = _alike([ordered], lambda name: (constants[name].size, constants[name].dtype))
    groups = _alike(groups, lambda name: _first(constants[name]))
    groups = _alike(groups, lambda name: _last(constants[name]))
    found: dict[str, Copy] = {}
    for group in groups:
        known = _Known(constants)
        found.update((name, copy) for name in group if (copy := known.copy(name)) is not None)
    return found


def _alike(groups: Iterable[Sequence[str]], key: Callable[[str], Hashable]) -> list[list[str]]:
    """The groups, each parted by a key, without those of one member."""
    made: list[list[str]] = []
    for group in groups:
        parted: dict[Hashable, list[str]] = defaultdict(list)
        for name in group:
            parted[key(name)].append(name)
        made += [names for names in parted.values() if len(names) > 1]
    return made


def _first(values: Array) -> bytes:
    """The first element, which stays where it is in any order of the axes."""
    if isinstance(values, MappedArray):
        return np.asarray(replace(values, shape=(1,))).tobytes()
    return np.asarray(values).reshape(-1)[:1].tobytes()


def _last(values: Array) -> bytes:
    """The last one, which does too."""
    if isinstance(values, MappedArray):
        last = (values.size - 1) // 8 * 8  # eight codes end with a byte, of however many bits they are
        place = values.offset + last * (values.width or bits(values.dtype)) // 8
        values = replace(values, offset=place, shape=(values.size - last,))
    return np.asarray(values).reshape(-1)[-1:].tobytes()


@dataclass(frozen=True)
class _Look:
    """What is looked at of a constant.

    key: what copies have in common, and hardly anything else has.
    frame, corner: the shape in which the axes may be in another order, and some elements in it; empty for rows.
    """

    key: Hashable
    frame: Shape = ()
    corner: NDArray = field(default_factory=lambda: np.empty(0))

    def orders(self, other: _Look) -> Iterator[tuple[int, ...]]:
        """The orders of the other's axes that may give this one; an empty one where rows may be rows."""
        if not self.frame:
            yield ()
        for order in [*permutations(range(len(self.frame)))][1:]:  # but for the one that changes nothing
            turned = tuple(other.frame[axis] for axis in order)
            if turned == self.frame and np.array_equal(other.corner.transpose(order), self.corner):
                yield order


@dataclass(frozen=True)
class _Known:
    """The constants that were seen and are no copies, by what they look like. sums: of all elements, where needed."""

    constants: Mapping[str, Array]
    looks: dict[Hashable, list[tuple[str, _Look]]] = field(default_factory=lambda: defaultdict(list))
    sums: dict[str, tuple[int, int]] = field(default_factory=dict)

    def copy(self, name: str) -> Copy | None:
        """How a constant lies in one that was seen; None for another one, which is seen now."""
        looks = [*_looks(self.constants[name])]
        for look in looks:
            same = ((of, other) for of, other in self.looks[look.key] if self._sums(of) == self._sums(name))
            for of, other in islice(same, _MOST):
                for order in look.orders(other):
                    copy = Copy(of, tuple(self.constants[name].shape), other.frame, order)
                    if self._is(name, copy):
                        return copy
        for look in looks:
            self.looks[look.key].append((name, look))
        return None

    def _sums(self, name: str) -> tuple[int, int]:
        if name not in self.sums:
            self.sums[name] = _sums(self.constants[name])
        return self.sums[name]

    def _is(self, name: str, copy: Copy) -> bool:
        """Whether the values are those of the copy, bit by bit."""
        values, others = self.constants[name], self.constants[copy.weight]
        if not copy.order:
            pairs = zip(in_blocks(values), in_blocks(others), strict=True)
            return all(np.array_equal(patterns(one), patterns(other)) for one, other in pairs)
        turned = np.asarray(others).reshape(copy.frame).transpose(copy.order)
        read = np.asarray(values).reshape(turned.shape)
        parts = row_blocks(len(read), read.size)
        return all(np.array_equal(patterns(read[part]), patterns(turned[part])) for part in parts)


def _looks(values: Array) -> Iterator[_Look]:
    """What there is to see without reading on."""
    if not isinstance(values, MappedArray):
        values = np.asarray(values)
    yield _Look(patterns(np.asarray(leading(reshaped(values, (values.size,)), _RUN))).tobytes())
    for frame in _frames(tuple(values.shape)):
        count = _CORNERS[len(frame)]
        rows = np.asarray(leading(reshaped(values, frame), count))
        corner = rows[(slice(count),) * len(frame)]
        corner = patterns(corner).reshape(corner.shape)
        yield _Look((tuple(sorted(frame)), np.sort(corner, axis=None).tobytes()), frame, corner)


def _frames(shape: Shape) -> Iterator[Shape]:
    """The shapes of a constant in which axes may be in another order: its own, and with all but one axis in one.

    >>> [*_frames((8, 3, 2, 1))], [*_frames((8, 6, 1, 1))]
    ([(8, 3, 2), (8, 6), (24, 2)], [(8, 6)])
    """
    own = tuple(dim for dim in shape if dim > 1)
    if len(own) in _CORNERS:
        yield own
    if len(own) > min(_CORNERS):
        size = int(np.prod(own))
        yield own[0], size // own[0]
        yield size // own[-1], own[-1]


def _sums(values: Array) -> tuple[int, int]:
    """The sum of all patterns and that of their squares modulo 2**64, which no order of the elements changes."""
    total = squares = 0
    for block in in_blocks(values):
        wide = patterns(block).astype(np.uint64)
        total += int(wide.sum())
        squares += int(np.dot(wide, wide))
    return total, squares % (1 << 64)  # a block's own wraps: what blocks there are must not show
