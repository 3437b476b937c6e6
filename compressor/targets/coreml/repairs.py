"""What passes of Core ML Tools do wrong, kept away from them by another spelling of the same program."""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Operation, Program, Var

from compressor.targets.coreml.editing import in_blocks, operations
from compressor.targets.coreml.mil.values import is_float
from compressor.targets.coreml.stubs import slot_index


def respell(program: Program) -> None:
    """Write `x - c` as `x + -c`.

    Behind a convolution, Core ML Tools' `conv_bias_fusion` negates a constant where it is, though others may read it or
    it may not be written to, and even where it then finds that it cannot be the bias. What stands between the two (a
    transpose, a batch norm) other passes may have taken away by then.
    """
    in_blocks([one for one in operations(program) if one.op_type == "sub" and _is_fixed(one.y)], _as_sum)


def _as_sum(operation: Operation) -> None:
    old, block = operation.outputs[0], operation.enclosing_block
    made = mb.add(x=operation.x, y=np.negative(operation.y.val), before_op=operation, name=old.name)
    block.replace_uses_of_var_after_op(anchor_op=operation, old_var=old, new_var=made)
    block.remove_ops([operation])


def _is_fixed(var: Var) -> bool:
    """Whether a variable is a constant of floats, and no weight's stub, whose values are not there yet."""
    return var.val is not None and is_float(var) and (var.op is None or slot_index(var.op) is None)
