"""ONNX operators in MIL: one small function for each, in tables by family."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.targets.coreml.mil import (
    activation,
    attention,
    boxes,
    control,
    einsum,
    elementwise,
    indexing,
    integer,
    linear,
    normalization,
    quantization,
    recurrent,
    reduction,
    resize,
    sampling,
    tensor,
    window,
)
from compressor.targets.coreml.mil.node import Operator

_FAMILIES = (
    activation, attention, boxes, control, einsum, elementwise, indexing, integer, linear, normalization,
    quantization, recurrent, reduction, resize, sampling, tensor, window,
)  # fmt: skip

OPERATORS: Mapping[str, Operator] = {name: lower for family in _FAMILIES for name, lower in family.OPERATORS.items()}
"""The lowering of each standard operator."""
