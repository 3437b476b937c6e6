"""An operator for each part of a fused weight, where its parts are stored in different ways.

    linear(x, W, b) = concat(linear(x, W[:n], b[:n]), linear(x, W[n:], b[n:]))

Core ML has no constant that is made of several: a `concat` of constants is an operator like any other, and what reads
it has no constant for a weight. But an output channel depends on no other one, so there can be an operator for each
part, whose results are concatenated.
"""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Operation, Var

from compressor.model import part_name
from compressor.targets.coreml.editing import in_blocks
from compressor.targets.coreml.moves import InTurn, Slice
from compressor.targets.coreml.slots import Slot
from compressor.weight import Origin


class Side(NamedTuple):
    """Where output channels lie: the parameter that is the weight, its axis of them, and that of the result."""

    parameter: str
    axis: int
    result: int


def axis(slot: Slot) -> int | None:
    """The axis along which all that reads a weight can be several operators; None where something cannot."""
    if any(var.consuming_blocks or var.shape != slot.values.shape for var in slot.vars):
        return None
    sides = [_side(use, var) for var in slot.vars for use in var.child_ops]
    axes = {None if side is None else side.axis for side in sides}
    return axes.pop() if len(axes) == 1 else None


def parts(slot: Slot, along: int, ends: Sequence[int]) -> list[Slot]:
    """The parts of a slot, without constants in the program. ends: where each of them ends."""
    made = []
    for start, end in pairwise([0, *ends]):
        only = Slice(along, start, end)
        origin, factor = slot.origin, slot.factor
        if origin is not None:
            origin = Origin(origin.weight, only if origin.move is None else InTurn((origin.move, only)))
        if factor is not None and factor.shape[along] > 1:
            factor = only(factor)
        name = part_name(slot.name, start, end)
        made.append(replace(slot, name=name, origin=origin, values=only(slot.values), vars=(), factor=factor))
    return made


def split(slot: Slot, pieces: Sequence[Slot]) -> list[Slot]:
    """The parts with constants of their own, read by operators in the place of those that have read all of the slot."""
    consts: dict[Var, list[Var]] = {}

    def cut(constant: Operation) -> None:
        var = constant.outputs[0]
        consts[var] = [
            mb.const(val=np.ascontiguousarray(piece.values), before_op=constant, name=f"{var.name}_part_{place}")
            for place, piece in enumerate(pieces)
        ]

    in_blocks([var.op for var in slot.vars], cut)
    readers = dict.fromkeys(use for var in slot.vars for use in var.child_ops)
    in_blocks(readers, lambda use: _rewrite(use, consts))
    for var in slot.vars:
        var.op.enclosing_block.remove_ops([var.op])
    return [
        replace(piece, vars=tuple(made[place] for made in consts.values()), uses=tuple(sorted({*slot.uses, "concat"})))
        for place, piece in enumerate(pieces)
    ]


def _rewrite(use: Operation, consts: dict[Var, list[Var]]) -> None:
    """Put an operator for each part, and their concatenation, in the place of one."""
    var = next(value for value in use.inputs.values() if isinstance(value, Var) and value in consts)
    side = _side(use, var)
    assert side is not None
    given: dict[str, Any] = {name: value for name, value in use.inputs.items() if value is not None}
    name, made, start = use.outputs[0].name, [], 0
    for place, part in enumerate(consts[var]):
        end = start + part.shape[side.axis]
        own = {**given, side.parameter: part}
        if "bias" in given:
            own["bias"] = np.ascontiguousarray(given["bias"].val[start:end])
        made.append(getattr(mb, use.op_type)(**own, before_op=use, name=f"{name}_part_{place}"))
        start = end
    joined = mb.concat(values=made, axis=side.result, before_op=use, name=name)
    block = use.enclosing_block
    block.replace_uses_of_var_after_op(anchor_op=use, old_var=use.outputs[0], new_var=joined)
    block.remove_ops([use])


def _linear(use: Operation, var: Var) -> Side | None:
    return Side("weight", 0, -1) if use.x is not var and (use.bias is None or use.bias.val is not None) else None


def _conv(use: Operation, var: Var) -> Side | None:
    known = use.bias is None or use.bias.val is not None
    return Side("weight", 0, 1) if use.x is not var and known and int(use.groups.val) == 1 else None


def _matmul(use: Operation, var: Var) -> Side | None:
    """A matrix: with more axes it may be broadcast."""
    if var.rank != 2 or use.x is use.y or use.x.rank < 2 or use.y.rank < 2:
        return None
    if use.y is var:
        return Side("y", 0 if use.transpose_y.val else 1, -1)
    return Side("x", 1 if use.transpose_x.val else 0, -2)


_SIDES: dict[str, Callable[[Operation, Var], Side | None]] = {"conv": _conv, "linear": _linear, "matmul": _matmul}


def _side(use: Operation, var: Var) -> Side | None:
    """Where the output channels of an operator lie that reads a weight; None where they are no axis of it."""
    return _SIDES[use.op_type](use, var) if use.op_type in _SIDES else None
