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
from compressor.targets.coreml.slots import Slot, is_same


@dataclass(frozen=True, eq=False)
class _Family:
    """A slot that stays, and those that go: its transposes."""

    stays: Slot
    go: tuple[Slot, ...] = ()


def share(slots: Sequence[Slot]) -> list[Slot]:
    """The slots without those that are another one's transpose: what reads them is rewritten to read that one."""
    by_weight: dict[str, list[Slot]] = defaultdict(list)
    for slot in slots:
        by_weight[slot.name if slot.origin is None else slot.origin.weight].append(slot)
    families = [family for group in by_weight.values() for family in _families(group)]
    turned = _turned([var for family in families for slot in family.go for var in slot.vars])
    return [_merged(family, turned) for family in families]


def stored_again(slots: Sequence[Slot], sizes: Mapping[str, int]) -> dict[str, str]:
    """Why a slot that holds all of a weight is stored beside another one that does, by its name.

    sizes: the elements of each weight.
    """
    first: dict[str, Slot] = {}
    told: dict[str, str] = {}
    for slot in slots:
        weight = "" if slot.origin is None else slot.origin.weight
        if slot.values.size == sizes.get(weight) and slot.factor is None and first.setdefault(weight, slot) is not slot:
            by = ", ".join(slot.uses) or "an output"
            told[slot.name] = f"as {first[weight].name}, whose axes {by} reads in another order: stored a second time"
    return told


def _families(group: Sequence[Slot]) -> list[_Family]:
    """The slots of one weight: what can only be read as it is stays, then what is the weight as it is.

    w (read by gather), w.1 (its transpose, read by matmul)      w stays, w.1 goes
    w (its transpose, read by linear), w.1 (read by gather)      w.1 stays, called w, and w goes
    """
    families: list[_Family] = []
    for slot in sorted(group, key=lambda each: (_is_free(each), each.move is not None)):
        for place, family in enumerate(families):
            if _is_free(slot) and _transposes(slot, family.stays):
                families[place] = replace(family, go=(*family.go, slot))
                break
        else:
            families.append(_Family(slot))
    names = (slot.name for slot in group)  # the weight's own first
    return [replace(one, stays=replace(one.stays, name=name)) for one, name in zip(families, names, strict=False)]


def _is_free(slot: Slot) -> bool:
    """Whether all that reads a slot can read its transpose."""
    return all(
        var.rank == 2 and not var.consuming_blocks and all(_is_product(use, var) for use in var.child_ops)
        for var in slot.vars
    )


def _is_product(use: Operation, var: Var) -> bool:
    if use.op_type == "matmul":
        return bool(use.x.rank >= 2 and use.y.rank >= 2)
    return bool(use.op_type == "linear" and use.x is not var and use.x.rank >= 2)


def _transposes(slot: Slot, other: Slot) -> bool:
    """Whether a matrix is the transpose of another constant, which may have the shape of a 1x1 convolution."""
    return is_same(slot.values.T, other.values)


def _merged(family: _Family, turned: Mapping[Var, Var]) -> Slot:
    """The slot that stays, as what has read the others has it too."""
    if not family.go:
        return family.stays
    consts = (*family.stays.vars, *(turned[var] for slot in family.go for var in slot.vars))
    return replace(family.stays, vars=consts, uses=tuple(sorted({*family.stays.uses, "matmul"})))


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
