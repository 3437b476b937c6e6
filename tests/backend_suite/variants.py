"""The same model with weights that compress: palettized, pruned, on a grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tests.backend_suite.cases import Case


def _palettized(values: Any) -> Any:
    """Four values: quantiles, so that signs and ranges stay."""
    table = np.quantile(values, [0.1, 0.4, 0.6, 0.9]).astype(values.dtype)
    return table[np.abs(values[..., None] - table).argmin(-1)]


def _pruned(values: Any) -> Any:
    """The smaller half is zero."""
    return np.where(np.abs(values) < np.median(np.abs(values)), values.dtype.type(0), values)


def _gridded(values: Any) -> Any:
    """Multiples of a scale, up to 127."""
    scale = np.float32(max(float(np.abs(values).max(initial=0)), 1e-3) / 127)
    return (np.round(values / scale).astype(np.float32) * scale).astype(values.dtype)


CHANGES: Mapping[str, Callable[[Any], Any]] = {"palettized": _palettized, "pruned": _pruned, "on a grid": _gridded}

AS_SHIPPED, CONSTANT = "as shipped", "constant operands"


def variant(case: Case, name: str) -> Case | None:
    """The case under another name's conditions; None where they do not apply.

    Constant operands: all inputs but the first are initializers, as they are in most networks. The others are changed
    weights, whose outputs the suite does not know: float initializers and constants of two elements and more; in a
    model without any, its operands become constants first.
    """
    if name == AS_SHIPPED:
        return case
    if name == CONSTANT:
        return _with_constants(case)
    shipped = _copy(case)
    made = shipped if _weights(shipped.model.graph) else _with_constants(case)
    if made is None or not _weights(made.model.graph):
        return None
    for tensor in _weights(made.model.graph):
        changed = CHANGES[name](numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), tensor.name))
    return replace(made, expected=())


def _copy(case: Case) -> Case:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    return replace(case, model=model)


def _with_constants(case: Case) -> Case | None:
    if len(case.feeds) < 2 or not all(isinstance(value, np.ndarray | np.generic) for value in case.feeds[1:]):
        return None
    made = _copy(case)
    for value, feed in zip(case.inputs[1:], case.feeds[1:], strict=True):
        made.model.graph.initializer.append(numpy_helper.from_array(np.asarray(feed), value.name))
        made.model.graph.input.remove(value)
    return replace(made, feeds=case.feeds[:1])


_PARAMETERS = frozenset("DequantizeLinear QLinearConv QLinearMatMul QuantizeLinear Resize Upsample".split())
"""Operators whose float constants say how something is scaled: those are no weights."""


def _weights(graph: onnx.GraphProto) -> list[TensorProto]:
    parameters = {name for node in graph.node if node.op_type in _PARAMETERS for name in node.input}
    constants = [
        attribute.t
        for node in graph.node
        if node.op_type == "Constant" and node.output[0] not in parameters
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    found = [*(tensor for tensor in graph.initializer if tensor.name not in parameters), *constants]
    return [one for one in found if one.data_type == TensorProto.FLOAT and _is_weight(numpy_helper.to_array(one))]


def _is_weight(value: Any) -> bool:
    return (
        isinstance(value, np.ndarray)
        and value.dtype == np.float32
        and value.size > 1
        and bool(np.isfinite(value).all())
    )
