"""One constant where operators read a matrix and others its transpose.

    linear(x, W, b) = matmul(x, transpose(W)) + b

A frontend gives some readers of a shared weight a transposed copy, which would be stored beside it.
"""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Operation, Var

from compressor.formats.coreml.slots import Slot
from compressor.formats.coreml.stubs import scope_of


def share(slots: Sequence[Slot]) -> list[Slot]:
    """The slots without those that are another one's transpose: what reads them is rewritten to read that one."""
    by_weight: dict[str, list[Slot]] = defaultdict(list)
    for slot in slots:
        by_weight[slot.name if slot.origin is None else slot.origin.weight].append(slot)
    return [slot for group in by_weight.values() for slot in _shared(group)]


def _shared(group: Sequence[Slot]) -> list[Slot]:
    """The slots of one weight; of two transposes, the one stays that must or that is the weight as it is."""
    kept: list[Slot] = []
    for slot in sorted(group, key=lambda each: (_is_free(each), _is_moved(each))):
        place = next((at for at, other in enumerate(kept) if _is_free(slot) and _transposes(slot, other)), None)
        if place is None:
            kept.append(slot)
        else:
            kept[place] = _merged(kept[place], slot)
    return [replace(slot, name=named.name) for slot, named in zip(kept, group, strict=False)]


def _is_moved(slot: Slot) -> bool:
    return slot.origin is not None and slot.origin.index is not None


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


def _merged(kept: Slot, slot: Slot) -> Slot:
    """`kept` as what reads `slot`, its transpose, has it too."""
    vars_, uses = list(kept.vars), {*kept.uses}
    for var in slot.vars:
        with scope_of(var.op):
            turned = mb.const(val=np.ascontiguousarray(var.val.T), before_op=var.op, name=f"{var.name}_transposed")
        for use in list(var.child_ops):
            _rewrite(use, var, turned)
        var.op.enclosing_block.remove_ops([var.op])
        vars_.append(turned)
        uses.add("matmul")
    return replace(kept, vars=tuple(vars_), uses=tuple(sorted(uses)))


def _rewrite(use: Operation, var: Var, turned: Var) -> None:
    """Put operators that read `turned` in the place of one that reads its transpose `var`."""
    arguments: dict[str, Any] = {"x": use.x, "y": use.weight if use.op_type == "linear" else use.y}
    transposed = {"x": False, "y": use.op_type == "linear"}
    if use.op_type == "matmul":
        transposed = {"x": bool(use.transpose_x.val), "y": bool(use.transpose_y.val)}
    for name, value in arguments.items():
        if value is var:
            arguments[name], transposed[name] = turned, not transposed[name]
    bias = use.bias if use.op_type == "linear" and use.bias.val is not None and use.bias.val.any() else None
    with scope_of(use):
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
