"""One constant where operators read a matrix and others its transpose.

    linear(x, W, b) = matmul(x, transpose(W)) + b

A frontend gives some readers of a shared weight a transposed copy, which would be stored beside it.
"""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Operation, Var

from compressor.targets.coreml.editing import in_blocks
from compressor.targets.coreml.slots import Slot


@dataclass(frozen=True, eq=False)
class _Shared:
    """A slot, and those that are its transposes."""

    slot: Slot
    transposes: tuple[Slot, ...] = ()


def share(slots: Sequence[Slot]) -> list[Slot]:
    """The slots without those that are another one's transpose: what reads them is rewritten to read that one."""
    by_weight: dict[str, list[Slot]] = defaultdict(list)
    for slot in slots:
        by_weight[slot.name if slot.origin is None else slot.origin.weight].append(slot)
    shared = [one for group in by_weight.values() for one in _shared(group)]
    turned = _turned([var for one in shared for slot in one.transposes for var in slot.vars])
    return [_merged(one, turned) for one in shared]


def _shared(group: Sequence[Slot]) -> list[_Shared]:
    """The slots of one weight; of two transposes, the one stays that must or that is the weight as it is."""
    kept: list[_Shared] = []
    for slot in sorted(group, key=lambda each: (_is_free(each), _is_moved(each))):
        place = next((at for at, other in enumerate(kept) if _is_free(slot) and _transposes(slot, other.slot)), None)
        if place is None:
            kept.append(_Shared(slot))
        else:
            kept[place] = replace(kept[place], transposes=(*kept[place].transposes, slot))
    return [replace(one, slot=replace(one.slot, name=named.name)) for one, named in zip(kept, group, strict=False)]


def _is_moved(slot: Slot) -> bool:
    return slot.move is not None


def _is_free(slot: Slot) -> bool:
    """Whether all that reads a slot can read its transpose."""
    return slot.values.ndim == 2 and all(
        not var.consuming_blocks and all(_is_product(use, var) for use in var.child_ops) for var in slot.vars
    )


def _is_product(use: Operation, var: Var) -> bool:
    if use.op_type == "matmul":
        return bool(use.x.rank >= 2 and use.y.rank >= 2)
    return bool(use.op_type == "linear" and use.x is not var and use.x.rank >= 2)


def _transposes(slot: Slot, other: Slot) -> bool:
    return bool(other.values.shape == slot.values.shape[::-1] and np.array_equal(slot.values.T, other.values))


def _merged(one: _Shared, turned: Mapping[Var, Var]) -> Slot:
    """The slot as what has read its transposes has it too."""
    if not one.transposes:
        return one.slot
    vars_ = (*one.slot.vars, *(turned[var] for slot in one.transposes for var in slot.vars))
    return replace(one.slot, vars=vars_, uses=tuple(sorted({*one.slot.uses, "matmul"})))


def _turned(constants: Sequence[Var]) -> dict[Var, Var]:
    """By each constant its transpose, which is what its readers read in its place."""
    turned: dict[Var, Var] = {}

    def turn(constant: Operation) -> None:
        var = constant.outputs[0]
        turned[var] = mb.const(val=np.ascontiguousarray(var.val.T), before_op=constant, name=f"{var.name}_transposed")

    in_blocks([var.op for var in constants], turn)
    readers = dict.fromkeys(use for var in constants for use in var.child_ops)
    in_blocks(readers, lambda use: _rewrite(use, turned))
    for var in constants:
        var.op.enclosing_block.remove_ops([var.op])
    return turned


def _rewrite(use: Operation, turned: Mapping[Var, Var]) -> None:
    """Put operators that read what is `turned` in the place of one that reads its transpose."""
    arguments: dict[str, Any] = {"x": use.x, "y": use.weight if use.op_type == "linear" else use.y}
    transposed = {"x": False, "y": use.op_type == "linear"}
    if use.op_type == "matmul":
        transposed = {"x": bool(use.transpose_x.val), "y": bool(use.transpose_y.val)}
    for name, value in arguments.items():
        if value in turned:
            arguments[name], transposed[name] = turned[value], not transposed[name]
    bias = use.bias if use.op_type == "linear" and use.bias.val is not None and use.bias.val.any() else None
    name = use.outputs[0].name
    made = mb.matmul(
        **arguments,
        **{f"transpose_{key}": flag for key, flag in transposed.items()},
        before_op=use,
        name=name if bias is None else f"{name}_product",
    )
    if bias is not None:
        made = mb.add(x=made, y=bias, before_op=use, name=name)
    block = use.enclosing_block
    block.replace_uses_of_var_after_op(anchor_op=use, old_var=use.outputs[0], new_var=made)
    block.remove_ops([use])
