"""Operators of torch that Core ML Tools' own torch frontend lacks or gets wrong, in the form that it calls its own."""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from coremltools.converters.mil.frontend.torch.ops import NUM_TO_DTYPE_STRING
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY as REGISTRY
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Var, types

from compressor.targets.coreml.mil.elementwise import selected


@contextmanager
def known() -> Iterator[None]:
    """The frontend with these operators, which are not there for its other users."""
    mapping = REGISTRY.name_to_func_mapping
    before = dict(mapping)
    mapping.update({name: lower(before.get(name)) for name, lower in OPERATORS.items()})
    try:
        yield
    finally:
        mapping.clear()
        mapping.update(before)


Lower = Callable[[Any, Any], None]


def _new_ones(own: Lower | None) -> Lower:
    """`x.new_ones(size, dtype)`: ones, of the type of `x` where none is given."""

    def lower(context: Any, node: Any) -> None:
        x, size, dtype = (context[name] for name in node.inputs[:3])
        kind = types.builtin_to_string(x.dtype) if dtype is None else NUM_TO_DTYPE_STRING[int(dtype.val)]
        context.add(mb.cast(x=_ones(size), dtype=kind, name=node.name))

    return own or lower


def _ones(size: Any) -> Var:
    dims = mb.concat(values=size, axis=0) if isinstance(size, list) and size else size
    known = dims.val if isinstance(dims, Var) else np.array(dims, np.int32)
    if known is not None and not np.size(known):
        return mb.const(val=np.float32(1))
    return mb.fill(shape=dims, value=1.0)


def _where(own: Lower | None) -> Lower:
    """Where axes vary, the frontend's own has the shape of the branches, also where the condition is larger."""

    def lower(context: Any, node: Any) -> None:
        inputs = [context[name] for name in node.inputs]
        if len(inputs) != OPERANDS or not types.is_bool(inputs[0].dtype) or inputs[1].dtype != inputs[2].dtype:
            assert own is not None
            own(context, node)
            return
        condition, a, b = inputs
        context.add(selected(condition, a, b, node.name))

    return lower


OPERANDS = 3
"""Of `where`: with one, it gives indices."""
OPERATORS: Mapping[str, Callable[[Lower | None], Lower]] = {
    "new_ones": _new_ones,
    "where": _where,
    "where_scalarself": _where,
}
