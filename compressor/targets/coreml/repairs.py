"""What passes of Core ML Tools do wrong, kept away from them by another spelling of the same program."""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Operation, Program

from compressor.targets.coreml.editing import in_blocks, operations


def respell(program: Program) -> None:
    """Write `x - c` as `x + -c` behind a convolution.

    Core ML Tools' `conv_bias_fusion` negates a constant where it is, though others may read it, and even where it then
    finds that it cannot be the bias.
    """
    differences = [
        operation
        for operation in operations(program)
        if operation.op_type == "sub" and _is_convolution(operation.x.op) and operation.y.val is not None
    ]
    in_blocks(differences, _as_sum)


def _as_sum(operation: Operation) -> None:
    old, block = operation.outputs[0], operation.enclosing_block
    made = mb.add(x=operation.x, y=np.negative(operation.y.val), before_op=operation, name=old.name)
    block.replace_uses_of_var_after_op(anchor_op=operation, old_var=old, new_var=made)
    block.remove_ops([operation])


def _is_convolution(operation: Operation | None) -> bool:
    return operation is not None and operation.op_type in {"conv", "conv_transpose"}
