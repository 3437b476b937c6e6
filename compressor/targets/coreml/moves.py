"""Moves of a weight's elements, as Core ML Tools' operators make them: once more, on any array, in any process.

What numpy can it leaves a view, of a scale that stands for a whole row too. Core ML Tools, which takes long to import,
is asked for two of the operators alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.arrays import NDArray, Shape

Shapes = Sequence[Shape]


def _split(shapes: Shapes, x: NDArray, axis: int, **_: Any) -> list[NDArray]:
    ends = np.cumsum([shape[axis] for shape in shapes])
    return np.split(x, ends[:-1], axis)


def _reverse(_: Shapes, x: NDArray, axes: Sequence[int] | None = None) -> list[NDArray]:
    return [np.flip(x, None if axes is None else tuple(axes))]


def _slice_by_index(shapes: Shapes, x: NDArray, begin: NDArray, end: NDArray, **given: Any) -> list[NDArray]:
    from coremltools.converters.mil.mil.ops.defs._utils import solve_slice_by_index_slice

    masks = (given.get(name) for name in ("stride", "begin_mask", "end_mask", "squeeze_mask"))
    return [x[solve_slice_by_index_slice(x.shape, begin, end, *masks)].reshape(shapes[0])]


def _slice_by_size(shapes: Shapes, x: NDArray, begin: NDArray, size: NDArray) -> list[NDArray]:  # noqa: ARG001
    starts = (int(start) % dim for start, dim in zip(begin, x.shape, strict=True))
    return [x[tuple(slice(start, start + count) for start, count in zip(starts, shapes[0], strict=True))]]


def _gather(_: Shapes, x: NDArray, indices: NDArray, axis: int = 0, batch_dims: int = 0, **__: Any) -> list[NDArray]:
    from coremltools.converters.mil.mil.ops.defs._utils import compute_gather

    return [np.asarray(compute_gather(x, indices, axis, batch_dims))]


def _in_shape(shapes: Shapes, x: NDArray, **_: Any) -> list[NDArray]:
    return [x.reshape(shapes[0])]


MOVES: Mapping[str, Callable[..., list[NDArray]]] = {
    "concat": lambda _, values, axis, **__: [np.concatenate(values, axis)],
    "expand_dims": _in_shape,
    "gather": _gather,
    "identity": _in_shape,
    "reshape": _in_shape,
    "reverse": _reverse,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "split": _split,
    "squeeze": _in_shape,
    "stack": lambda _, values, axis: [np.stack(values, axis)],
    "transpose": lambda _, x, perm: [x.transpose(perm)],
}
"""Operators whose results are values of their arguments, moved: the results by their shapes and the arguments."""


@dataclass(frozen=True)
class Read:
    """An argument that is moved: the name of a weight, of what an earlier move gave, or of any other constant."""

    name: str


@dataclass(frozen=True, eq=False)
class Move:
    """An operator of `MOVES` that reads constants alone.

    arguments: by name, `Read`, a value, or a tuple of both. results: the names and the shapes of what it gives.
    """

    operator: str
    arguments: Mapping[str, Any]
    results: Mapping[str, Shape]

    def reads(self) -> Iterator[str]:
        for argument in self.arguments.values():
            for part in argument if isinstance(argument, tuple) else (argument,):
                if isinstance(part, Read):
                    yield part.name


@dataclass(frozen=True, eq=False)
class Moved:
    """The way of a weight's elements to a constant.

    name: of what the last move gives. weight: what stands for the weight in the moves. moves: each made once, in order.
    """

    name: str
    weight: str
    moves: Sequence[Move]

    def __call__(self, array: NDArray) -> NDArray:
        """What the moves make of an array in the place of the weight."""
        made = {self.weight: array}

        def value(part: Any) -> Any:
            return made[part.name] if isinstance(part, Read) else part

        for move in self.moves:
            given = {
                key: tuple(map(value, argument)) if isinstance(argument, tuple) else value(argument)
                for key, argument in move.arguments.items()
            }
            made.update(zip(move.results, MOVES[move.operator](tuple(move.results.values()), **given), strict=True))
        return made[self.name]


@dataclass(frozen=True, eq=False)
class InTurn:
    """Ways of a weight's elements, one after the other."""

    steps: Sequence[Callable[[NDArray], NDArray]]

    def __call__(self, array: NDArray) -> NDArray:
        for step in self.steps:
            array = step(array)
        return array


@dataclass(frozen=True)
class Slice:
    """A way of a weight's elements: those of some channels alone."""

    axis: int
    start: int
    end: int

    def __call__(self, array: NDArray) -> NDArray:
        """The elements of these channels."""
        return array[(slice(None),) * self.axis + (slice(self.start, self.end),)]


def moved(name: str, weight: str, moves: Sequence[Move]) -> Moved:
    """The way to `name` alone, of all moves of a program."""
    needed, chosen = {name}, list[Move]()
    for move in reversed(moves):
        if not needed.isdisjoint(move.results):
            needed.update(move.reads())
            chosen.append(move)
    return Moved(name, weight, tuple(reversed(chosen)))
