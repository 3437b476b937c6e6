"""Where the constants of a MIL program come from: a weight, and how its elements were moved.

A frontend reorders a weight before an operator reads it (a transposed matrix, the gates of an LSTM). Such moves are
noted while they are still in the program, and made once more with whatever else is to take the weight's way: its codes,
its scales.

    a, b = split(w, axis=0);  t = transpose(b)      w: [4, 2]
    the origin of t is w, moved: [[0, 1], [2, 3], [4, 5], [6, 7]] -> [[4, 6], [5, 7]]
"""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Operation, Program, Var

from compressor.arrays import Shape
from compressor.targets.coreml.editing import operations
from compressor.targets.coreml.moves import MOVES, InTurn, Move, Read, moved
from compressor.weight import Copy, Origin

Origins = Callable[[Var], Origin | None]
"""Where a constant comes from, if it comes from a single weight."""


def traced(program: Program, weights: Mapping[str, Shape]) -> Origins:
    """The origins in a program whose constants are called like the weights, and which moves them by operators.

    To be called before the program is folded.
    """
    moves: list[Move] = []
    sources: dict[str, frozenset[str]] = {}  # of what a move gives, the constants whose elements it has
    for operation in operations(program):
        if operation.op_type not in MOVES or all(output.val is None for output in operation.outputs):
            continue
        results = {output.name: tuple(output.shape) for output in operation.outputs}
        move = Move(operation.op_type, _arguments(operation), results)
        if found := frozenset[str]().union(*(sources.get(name, {name}) for name in move.reads())):
            moves.append(move)
            sources.update(dict.fromkeys(results, found))

    def origin(var: Var) -> Origin | None:
        found = sources.get(var.name, frozenset())
        if len(found) == 1 and found <= weights.keys():
            (weight,) = found
            return Origin(weight, moved(var.name, weight, moves))
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
        return Origin(copy.weight, copy if found.move is None else InTurn((copy, found.move)))

    return origin


def _arguments(operation: Operation) -> dict[str, Any]:
    """What a move reads: numbers that are moved by their name, places and sizes as they are."""

    def part(var: Var) -> Any:
        return Read(var.name) if np.asarray(var.val).dtype.kind == "f" else var.val

    return {
        name: tuple(map(part, value)) if isinstance(value, list | tuple) else part(value)
        for name, value in operation.inputs.items()
        if value is not None
    }
