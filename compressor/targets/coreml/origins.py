"""Where the constants of a MIL program come from: a weight, and how its elements were moved.

A frontend reorders a weight before an operator reads it (a transposed matrix, the gates of an LSTM). Such moves are
noted while they are still in the program, and made once more with positions in the place of values, so that the codes
of a weight can take the same way.

    a, b = split(w, axis=0);  t = transpose(b)      w: [4, 2], of the elements  0 1 | 2 3 | 4 5 | 6 7
    the origin of t: w, index [[4, 6], [5, 7]]
"""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Function, Operation, Program, Var

from compressor.arrays import NDArray, Shape
from compressor.targets.coreml.editing import operations
from compressor.weight import Origin

MOVES = frozenset(
    "concat expand_dims gather identity reshape reverse slice_by_index slice_by_size split squeeze stack "
    "transpose".split()
)
"""Operators whose results are values of their arguments, moved."""

FEWEST = 10
"""Core ML keeps smaller constants inside of the program."""


Origins = Callable[[Var], Origin | None]
"""Where a constant comes from, if it comes from a single weight."""


@dataclass(frozen=True)
class _Read:
    """An argument that an earlier move gave, or a constant that may be a weight: the name of its value."""

    name: str


@dataclass(frozen=True, eq=False)
class _Move:
    """An operator of `MOVES` that reads constants alone.

    arguments: by name, `_Read`, a value, or a tuple of both. results: the names of what it gives.
    """

    operator: str
    arguments: Mapping[str, Any]
    results: tuple[str, ...]

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
    sources: dict[str, frozenset[str]] = {}
    for operation in operations(program):
        if operation.op_type not in MOVES or all(output.val is None for output in operation.outputs):
            continue
        results = tuple(output.name for output in operation.outputs)
        move = _Move(operation.op_type, _arguments(operation, sources), results)
        moves.append(move)
        sources.update(dict.fromkeys(results, frozenset().union(*(sources.get(name, {name}) for name in move.reads()))))
    version = program.functions["main"].opset_version

    def origin(var: Var) -> Origin | None:
        found = sources.get(var.name, frozenset())
        if len(found) == 1 and found <= weights.keys():
            (weight,) = found
            return Origin(weight, partial(_index, var.name, moves, weight, weights[weight], version))
        return Origin(var.name) if weights.get(var.name) == var.val.shape else None

    return origin


def _arguments(operation: Operation, sources: Mapping[str, frozenset[str]]) -> dict[str, Any]:
    """What a move reads: by name where it was moved itself or may be a weight, else as a value."""

    def part(var: Var) -> Any:
        values, constant = var.val, var.op is not None and var.op.op_type == "const"
        named = constant and isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.size >= FEWEST
        return _Read(var.name) if named or sources.get(var.name) else values

    return {
        name: tuple(map(part, value)) if isinstance(value, list | tuple) else part(value)
        for name, value in operation.inputs.items()
        if value is not None
    }


def _index(name: str, moves: Sequence[_Move], weight: str, shape: Shape, version: Any) -> NDArray:
    """The moves that gave `name`, each made once, with positions in the weight in the place of values."""
    needed, made = {name}, list[_Move]()
    for move in reversed(moves):
        if not needed.isdisjoint(move.results):
            needed.update(move.reads())
            made.append(move)
    places = {weight: np.arange(math.prod(shape), dtype=np.int32).reshape(shape)}

    def value(argument: Any) -> Any:
        if isinstance(argument, tuple):
            return tuple(map(value, argument))
        return places[argument.name] if isinstance(argument, _Read) else argument

    with Function({}, opset_version=version):
        for move in reversed(made):
            found = getattr(mb, move.operator)(**{key: value(argument) for key, argument in move.arguments.items()})
            results = found if isinstance(found, list | tuple) else [found]
            places.update({result: np.asarray(one.val) for result, one in zip(move.results, results, strict=True)})
    return places[name]
