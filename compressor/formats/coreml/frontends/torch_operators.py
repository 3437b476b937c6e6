"""Operators of torch that Core ML Tools' own torch frontend lacks, in the form that it calls its own."""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from coremltools.converters.mil.frontend.torch.ops import NUM_TO_DTYPE_STRING
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY as REGISTRY
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Var, types


def register() -> None:
    """Make the frontend know them, unless it does."""
    for name, lower in OPERATORS.items():
        if name not in REGISTRY.name_to_func_mapping:
            REGISTRY.register_func(lower, [], False)


def new_ones(context: Any, node: Any) -> None:
    """`x.new_ones(size, dtype)`: ones, of the type of `x` where none is given."""
    x, size, dtype = (context[name] for name in node.inputs[:3])
    kind = types.builtin_to_string(x.dtype) if dtype is None else NUM_TO_DTYPE_STRING[int(dtype.val)]
    context.add(mb.cast(x=_filled(size, 1.0), dtype=kind, name=node.name))


def _filled(size: Any, value: float) -> Var:
    dims = mb.concat(values=size, axis=0) if isinstance(size, list) and size else size
    known = dims.val if isinstance(dims, Var) else np.array(dims, np.int32)
    if known is not None and not np.size(known):
        return mb.const(val=np.float32(value))
    return mb.fill(shape=dims, value=value)


OPERATORS: Mapping[str, Callable[[Any, Any], None]] = {"new_ones": new_ones}
