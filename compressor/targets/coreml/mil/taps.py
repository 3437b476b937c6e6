"""Pools that MIL has no operator for, as what each place of the window sees: strided slices of the padded input."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.arrays import NDArray
from compressor.targets.coreml.mil.values import UnsupportedError, like, shape

_MOST = 256
"""Places of a window: each becomes a slice."""


@dataclass(frozen=True)
class Taps:
    """A window along spatial axes of sizes that are known.

    sizes, strides, dilations, begins, ends: by axis, pads as they are declared. counts: of the results, by axis.
    """

    sizes: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    begins: Sequence[int]
    ends: Sequence[int]
    counts: Sequence[int]

    @property
    def places(self) -> list[tuple[int, ...]]:
        """Where each place of the window lies, from its first one."""
        return [
            tuple(step * dilation for step, dilation in zip(place, self.dilations, strict=True))
            for place in itertools.product(*map(range, self.sizes))
        ]

    def slices(self, x: Var, filler: float) -> list[Var]:
        """`[batch, channels, *counts]` for each place; what lies outside is `filler`."""
        if math.prod(self.sizes) > _MOST:
            raise UnsupportedError(f"a window of {math.prod(self.sizes)} places, the most are {_MOST}")
        pads = list(zip(self.begins, self._needed(shape(x)[2:]), strict=True))
        if any(map(any, pads)):
            flat = [end for pair in pads for end in pair]
            x = mb.pad(x=x, pad=[0, 0, 0, 0, *flat], constant_val=like(x, filler), mode="constant")
        return [self._slice(x, place) for place in self.places]

    def _needed(self, dims: Sequence[int]) -> list[int]:
        """The pads at the ends: the last window may reach further than those declared."""
        spans = [(size - 1) * dilation + 1 for size, dilation in zip(self.sizes, self.dilations, strict=True)]
        return [
            max((count - 1) * stride + span - dim - begin, 0)
            for count, stride, span, dim, begin in zip(self.counts, self.strides, spans, dims, self.begins, strict=True)
        ]

    def _slice(self, x: Var, place: Sequence[int]) -> Var:
        ends = [
            at + (count - 1) * stride + 1 for at, count, stride in zip(place, self.counts, self.strides, strict=True)
        ]
        free, spatial = [True, True], [False] * len(place)
        return mb.slice_by_index(
            x=x, begin=[0, 0, *place], end=[0, 0, *ends], stride=[1, 1, *self.strides], begin_mask=free + spatial,
            end_mask=free + spatial,
        )  # fmt: skip

    def within(self, dims: Sequence[int], *, pads: bool) -> NDArray:
        """How many places of each window lie in the input, or in its pads too: `[1, 1, *counts]` float32."""
        axes = []
        for axis, dim in enumerate(dims):
            first = np.arange(self.counts[axis]) * self.strides[axis] - self.begins[axis]
            seen = first[:, None] + np.arange(self.sizes[axis]) * self.dilations[axis]
            low, high = (-self.begins[axis], dim + self.ends[axis]) if pads else (0, dim)
            axes.append(((seen >= low) & (seen < high)).sum(axis=1))
        counted: NDArray = reduce(np.multiply.outer, axes)
        return np.maximum(counted, 1).astype(np.float32)[None, None]

    def indices(self, best: Var, dims: Sequence[int]) -> Any:
        """Where the input has what place `best` of each window sees, counted over all axes of the input: int32."""
        steps = [math.prod(dims[axis + 1 :]) for axis in range(2, len(dims))]
        table = [sum(at * step for at, step in zip(place, steps, strict=True)) for place in self.places]
        firsts = [
            (np.arange(count) * stride - begin) * step
            for count, stride, begin, step in zip(self.counts, self.strides, self.begins, steps, strict=True)
        ]
        first = reduce(np.add.outer, firsts)[None, None]
        channels = np.arange(dims[0] * dims[1]).reshape(dims[0], dims[1], *[1] * len(steps)) * math.prod(dims[2:])
        moved = mb.gather(x=np.array(table, np.int32), indices=best, axis=0)
        return mb.add(x=moved, y=(first + channels).astype(np.int32))


def largest(parts: Sequence[Var], name: str) -> Var:
    return _joined(mb.maximum, parts, name)


def total(parts: Sequence[Var], name: str | None = None) -> Var:
    return _joined(mb.add, parts, name)


def _joined(emit: Any, parts: Sequence[Var], name: str | None) -> Var:
    named = {} if name is None else {"name": name}
    if len(parts) == 1:
        return mb.identity(x=parts[0], **named)
    return emit(x=reduce(lambda x, y: emit(x=x, y=y), parts[:-1]), y=parts[-1], **named)
