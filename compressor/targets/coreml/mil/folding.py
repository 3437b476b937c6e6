"""Nodes whose operands are all constants: they are computed while the program is built, by ONNX's own reference.

What only moves the elements of weights is lowered like any other node: the way of a weight to its reader stays in the
program, whose own inference knows the values.
"""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from coremltools.converters.mil.mil import Var
from onnx.reference import ReferenceEvaluator

from compressor.arrays import NDArray
from compressor.formats.onnx.graphs import is_standard, subgraphs
from compressor.targets.coreml.mil.node import SHAPE_LIKE, Constant, Node, Value
from compressor.targets.coreml.mil.values import UnsupportedError, inferred, narrowed

_FLOATS = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.FLOAT16: np.float16}
_UNSTABLE = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())
_MOVES = frozenset("Concat Flatten Gather Reshape Slice Split Squeeze Transpose Unsqueeze".split())
"""Operators whose result is elements of their operands, and which MIL has too."""


def fold(node: Node) -> list[Value] | None:
    """The outputs of a node that reads constants alone; None if it must be lowered."""
    if not is_standard(node.proto) or node.operator in _UNSTABLE or any(True for _ in subgraphs(node.proto)):
        return None
    if node.operator == "Constant":
        return [Constant(_attribute(node))]
    if not node.operands or any(
        value is not None and node.known(place) is None for place, value in enumerate(node.operands)
    ):
        return None
    if any(node.is_weight(place) for place in range(len(node.operands))):
        if node.operator == "Identity" or _keeps(node):
            return [node.operands[0]]
        node.scope.allowance.take(_nbytes(node))
        return None if node.operator in _MOVES else _computed(node)
    node.scope.allowance.take(_nbytes(node))
    if node.operator == "ConstantOfShape":
        return [Constant(_filled(node))]
    return _computed(node)


def _nbytes(node: Node) -> int:
    """The bytes of what the node makes, by ONNX's own inference: as far as that knows them."""
    given = {
        name: value
        for place, name in enumerate(node.proto.input)
        if name and (value := node.known(place)) is not None and value.dtype.kind in "fiub"
    }
    types = {
        name: onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in given.items()
    }
    small = {name: onnx.numpy_helper.from_array(value) for name, value in given.items() if value.size <= SHAPE_LIKE}
    opset = onnx.helper.make_opsetid("", node.scope.opset)
    try:
        schema = onnx.defs.get_schema(node.operator, node.scope.opset, "")
        found = onnx.shape_inference.infer_node_outputs(
            schema, node.proto, types, small, opset_imports=[opset], ir_version=onnx.IR_VERSION
        )
    except Exception:  # noqa: BLE001 - what it does not understand is left to whoever computes it
        return 0
    tensors = [value.tensor_type for value in found.values()]
    return sum(4 * math.prod(dim.dim_value for dim in tensor.shape.dim) for tensor in tensors)


def _keeps(node: Node) -> bool:
    """Whether a cast is one to the type that a weight has anyway."""
    array = node.known(0)
    return node.operator == "Cast" and array is not None and array.dtype == _FLOATS.get(node.attribute("to"))


def _filled(node: Node) -> NDArray:
    """A view of one element: what it fills may be large."""
    value = node.attribute("value")
    filler = np.float32(0) if value is None else node.scope.tensor(value).reshape(())
    shape = node.constant(0, "the shape").reshape(-1)
    try:
        return np.broadcast_to(filler, tuple(int(dim) for dim in shape))
    except ValueError as error:  # strings, more axes than there can be, sizes below zero
        raise UnsupportedError(f"the shape {shape.tolist()[:8]} is impossible") from error


def _attribute(node: Node) -> NDArray:
    """The value of a `Constant` node."""
    tensor = node.attribute("value")
    if tensor is not None:
        return node.scope.tensor(tensor)
    (found,) = node.proto.attribute
    kinds = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    return np.array(onnx.helper.get_attribute_value(found), kinds.get(found.name))


def _computed(node: Node) -> list[Value] | None:
    given = {f"x{place}": node.known(place) for place, value in enumerate(node.operands) if value is not None}
    alone = onnx.NodeProto()
    alone.CopyFrom(node.proto)
    del alone.input[:], alone.output[:]
    alone.input.extend(f"x{place}" if value is not None else "" for place, value in enumerate(node.operands))
    alone.output.extend(f"y{place}" if node.reads(place) else "" for place in range(len(node.proto.output)))
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(alone, opsets={"": node.scope.opset}).run(None, given)
    except Exception:  # noqa: BLE001 - whatever the reference cannot do is left to the lowering
        return None
    return [Constant(np.asarray(value)) for value in found]


def known(value: Any) -> Any:
    """Small integers that MIL's own inference knows, as a constant: shapes, axes and the like."""
    found = inferred(value) if isinstance(value, Var) else None
    if found is None or found.dtype.kind not in "iub" or found.size > SHAPE_LIKE:
        return value
    return Constant(narrowed(found))
