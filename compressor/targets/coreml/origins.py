"""Where the constants of a MIL program come from: a weight, and how its elements were moved.

A frontend reorders a weight before an operator reads it (a transposed matrix, the gates of an LSTM). Such moves are
noted while they are still in the program, and made once more with whatever else is to take the weight's way: its codes,
its scales.

    a, b = split(w, axis=0);  t = transpose(b)      w: [4, 2]
    the origin of t is w, moved: [[0, 1], [2, 3], [4, 5], [6, 7]] -> [[4, 6], [5, 7]]
"""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Operation, Program, Var
from coremltools.converters.mil.mil.ops.defs._utils import compute_gather, solve_slice_by_index_slice

from compressor.arrays import NDArray, Shape
from compressor.targets.coreml.editing import operations
from compressor.weight import Copy, Origin

Shapes = Sequence[Shape]


def _split(shapes: Shapes, x: NDArray, axis: int, **_: Any) -> list[NDArray]:
    ends = np.cumsum([shape[axis] for shape in shapes])
    return np.split(x, ends[:-1], axis)


def _reverse(_: Shapes, x: NDArray, axes: Sequence[int] | None = None) -> list[NDArray]:
    return [np.flip(x, None if axes is None else tuple(axes))]


def _slice_by_index(shapes: Shapes, x: NDArray, begin: NDArray, end: NDArray, **given: Any) -> list[NDArray]:
    masks = (given.get(name) for name in ("stride", "begin_mask", "end_mask", "squeeze_mask"))
    return [x[solve_slice_by_index_slice(x.shape, begin, end, *masks)].reshape(shapes[0])]


def _slice_by_size(shapes: Shapes, x: NDArray, begin: NDArray, size: NDArray) -> list[NDArray]:  # noqa: ARG001
    starts = (int(start) % dim for start, dim in zip(begin, x.shape, strict=True))
    return [x[tuple(slice(start, start + count) for start, count in zip(starts, shapes[0], strict=True))]]


def _gather(_: Shapes, x: NDArray, indices: NDArray, axis: int = 0, batch_dims: int = 0, **__: Any) -> list[NDArray]:
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
"""Operators whose results are values of their arguments, moved: the results by their shapes and the arguments.

What numpy can it leaves a view, of a scale that stands for a whole row too.
"""

Origins = Callable[[Var], Origin | None]
"""Where a constant comes from, if it comes from a single weight."""


@dataclass(frozen=True)
class _Read:
    """An argument that is moved: the name of a weight, of what an earlier move gave, or of any other constant."""

    name: str


@dataclass(frozen=True, eq=False)
class _Move:
    """An operator of `MOVES` that reads constants alone.

    arguments: by name, `_Read`, a value, or a tuple of both. results: the names and the shapes of what it gives.
    """

    operator: str
    arguments: Mapping[str, Any]
    results: Mapping[str, Shape]

    def reads(self) -> Iterator[str]:
        for argument in self.arguments.values():
            for part in argument if isinstance(argument, tuple) else (argument,):
                if isinstance(part, _Read):
                    yield part.name


def traced(program: Program, weights: Mapping[str, Shape]) -> Origins:
    """The origins in a program whose constants are called like the weights, and which moves them by operators.

    To be called before the program is folded.
    """
    moves: list[_Move] = []
    sources: dict[str, frozenset[str]] = {}  # of what a move gives, the constants whose elements it has
    for operation in operations(program):
        if operation.op_type not in MOVES or all(output.val is None for output in operation.outputs):
            continue
        results = {output.name: tuple(output.shape) for output in operation.outputs}
        move = _Move(operation.op_type, _arguments(operation), results)
        if found := frozenset[str]().union(*(sources.get(name, {name}) for name in move.reads())):
            moves.append(move)
            sources.update(dict.fromkeys(results, found))

    def origin(var: Var) -> Origin | None:
        found = sources.get(var.name, frozenset())
        if len(found) == 1 and found <= weights.keys():
            (weight,) = found
            return Origin(weight, partial(_moved, var.name, moves, weight))
        return Origin(var.name) if weights.get(var.name) == var.val.shape else None

    return origin


def of_copies(origins: Origins, copies: Mapping[str, Copy], weights: Mapping[str, Shape]) -> Origins:
    """The origins, those in a copy of a weight in that weight itself."""

    def origin(var: Var) -> Origin | None:
        found = origins(var)
        copy = None if found is None else copies.get(found.weight)
        if found is None or copy is None:
            return found
        if not copy.order and copy.shape == weights[copy.weight]:
            return Origin(copy.weight, found.move)
        return Origin(copy.weight, copy if found.move is None else partial(_in_turn, copy, found.move))

    return origin


def _in_turn(first: Callable[[NDArray], NDArray], then: Callable[[NDArray], NDArray], array: NDArray) -> NDArray:
    return then(first(array))


def _arguments(operation: Operation) -> dict[str, Any]:
    """What a move reads: numbers that are moved by their name, places and sizes as they are."""

    def part(var: Var) -> Any:
        return _Read(var.name) if np.asarray(var.val).dtype.kind == "f" else var.val

    return {
        name: tuple(map(part, value)) if isinstance(value, list | tuple) else part(value)
        for name, value in operation.inputs.items()
        if value is not None
    }


def _moved(name: str, moves: Sequence[_Move], weight: str, array: NDArray) -> NDArray:
    """What the moves that gave `name`, each made once, make of an array in the place of the weight."""
    needed, chosen = {name}, list[_Move]()
    for move in reversed(moves):
        if not needed.isdisjoint(move.results):
            needed.update(move.reads())
            chosen.append(move)
    made = {weight: array}

    def value(part: Any) -> Any:
        return made[part.name] if isinstance(part, _Read) else part

    for move in reversed(chosen):
        given = {
            key: tuple(map(value, argument)) if isinstance(argument, tuple) else value(argument)
            for key, argument in move.arguments.items()
        }
        made.update(zip(move.results, MOVES[move.operator](tuple(move.results.values()), **given), strict=True))
    return made[name]
