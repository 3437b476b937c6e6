"""A batch norm behind a convolution, folded into its weight and bias where the weight's form survives that.

    y = (conv(x, W) + b - mean) * g + beta = conv(x, W * g) + (b - mean) * g + beta,    g = gamma / sqrt(variance + eps)

The product is made in float64, so the folded weight is rounded once.
"""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Operation, Program

from compressor.arrays import NDArray
from compressor.targets.coreml.editing import in_blocks, operations
from compressor.targets.coreml.slots import Slot

CHANNELS = {"conv": 0, "conv_transpose": 1}
"""The axis of a weight's output channels."""


def fold(
    program: Program, slots: Sequence[Slot], why_not: Callable[[Slot, NDArray], str]
) -> tuple[list[Slot], dict[str, str]]:
    """The slots, with a factor where a batch norm was folded, and by weight why one was not.

    why_not: the reason to keep the batch norm behind a slot with the factor that folding gives it; empty to fold.
    """
    by_var = {id(var): slot for slot in slots for var in slot.vars}
    folded: dict[str, Slot] = {}
    kept: dict[str, str] = {}

    def consider(norm: Operation) -> None:
        layer = norm.x.op
        slot = by_var.get(id(layer.weight)) if layer is not None and layer.op_type in CHANNELS else None
        if slot is None or layer is None:
            return
        slot = folded.get(slot.name, slot)  # one batch norm behind another
        factor = _factor(norm, layer)
        if factor is not None and slot.factor is not None:
            factor = factor * slot.factor
        reason = _shared(layer, slot) or ("" if factor is not None else "its channels are in groups")
        if factor is not None and not reason:
            reason = why_not(slot, factor)
        if reason:
            kept[slot.name] = f"the batch norm behind it stays: {reason}"
        else:
            folded[slot.name] = replace(slot, factor=factor)
            _absorb(norm, layer)

    in_blocks([found for found in operations(program) if found.op_type == "batch_norm"], consider)
    return [folded.get(slot.name, slot) for slot in slots], kept


def _gain(norm: Operation) -> NDArray:
    gamma = 1.0 if norm.gamma is None else norm.gamma.val.astype(np.float64)
    return np.asarray(gamma / np.sqrt(norm.variance.val.astype(np.float64) + float(norm.epsilon.val)))


def _factor(norm: Operation, layer: Operation) -> NDArray | None:
    """g, float64, of the weight's rank; None where the channels of a grouped transpose are not one axis."""
    factor = _gain(norm)
    axis, weight = CHANNELS[layer.op_type], layer.weight
    if weight.shape[axis] != factor.size:
        return None
    return np.asarray(factor.reshape([-1 if place == axis else 1 for place in range(weight.rank)]))


def _shared(layer: Operation, slot: Slot) -> str:
    result = layer.outputs[0]
    if len(result.child_ops) > 1 or result.consuming_blocks:
        return "others read the layer's result too"
    uses = sum(len(var.child_ops) for var in slot.vars)
    return "" if uses == 1 else f"{uses} operators share the weight"


def _absorb(norm: Operation, layer: Operation) -> None:
    """One layer in place of a layer and the batch norm behind it; the slot's constant stays its weight."""
    shift = 0.0 if norm.beta is None else norm.beta.val.astype(np.float64)
    bias = 0.0 if layer.bias is None else layer.bias.val.astype(np.float64)
    arguments: dict[str, Any] = {name: value for name, value in layer.inputs.items() if value is not None}
    dtype = layer.weight.val.dtype
    arguments["bias"] = ((bias - norm.mean.val.astype(np.float64)) * _gain(norm) + shift).astype(dtype)
    made = getattr(mb, layer.op_type)(**arguments, before_op=norm, name=norm.name)
    block = norm.enclosing_block
    block.replace_uses_of_var_after_op(anchor_op=norm, old_var=norm.outputs[0], new_var=made)
    block.remove_ops([norm, layer])
