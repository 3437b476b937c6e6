"""Weights without data in a MIL program: what Core ML Tools converts in place of them.

Core ML Tools' passes see a constant expression of the weight's shape and dtype, which they move and cast like any
compressed weight, but neither its values nor its form: nothing that they do can break an encoding, and they take no
longer for a large weight than for a small one. Each stub is replaced in the converted protobuf.
"""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

from collections.abc import Sequence

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Operation, types
from coremltools.converters.mil.mil.input_type import InputSpec, TensorInputType
from coremltools.converters.mil.mil.ops.defs._op_reqs import register_op

from compressor.formats.coreml.skeleton import STUB
from compressor.targets.coreml.editing import in_blocks
from compressor.targets.coreml.slots import Slot


@register_op(opset_version=ct.target.iOS16)
class constexpr_stub(Operation):  # type: ignore[misc]  # noqa: N801 - the class is called like the operator
    """A weight: `like` has its dtype, `shape` its sizes, `index` says which one it is.

    Passes know constant expressions by the beginning of their names.
    """

    input_spec = InputSpec(
        like=TensorInputType(const=True, type_domain="T"),
        shape=TensorInputType(const=True, type_domain=types.int32),
        index=TensorInputType(const=True, type_domain=types.int32),
    )
    type_domains = {"T": (types.fp16, types.fp32)}  # noqa: RUF012 - Core ML Tools reads a plain attribute

    def type_inference(self) -> object:
        return types.tensor(self.like.dtype, tuple(int(size) for size in self.shape.val))


def insert(slots: Sequence[Slot]) -> None:
    """Replace the constants of each slot by a stub whose index is the slot's place in `slots`."""
    indices = {var.op: index for index, slot in enumerate(slots) for var in slot.vars}

    def replace(constant: Operation) -> None:
        var, block = constant.outputs[0], constant.enclosing_block
        stub = mb.constexpr_stub(
            like=var.val.dtype.type(0),
            shape=np.array(var.shape, np.int32),
            index=np.int32(indices[constant]),
            before_op=constant,
            name=f"{var.name}_stub",
        )
        # Anchored where the old value is made, Core ML Tools visits its readers and not all of the block.
        block.replace_uses_of_var_after_op(anchor_op=constant, old_var=var, new_var=stub)
        block.remove_ops([constant])

    in_blocks(indices, replace)


def slot_index(operation: Operation) -> int | None:
    """Which slot an operation of a program stands for; None for any other operation."""
    return int(operation.index.val) if operation.op_type == STUB else None
