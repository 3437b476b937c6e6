"""Decode subgraphs over constants, read as encodings.

    DequantizeLinear(codes, scale, zero_point)       Quantized, by tensor, axis or block
    Mul(Sub(Cast(codes), zero_point), scale)         Quantized; the subtraction may be missing
    Gather(lut, Cast(indices))                       Palettized; the cast may be missing

`codes` may itself be a Gather from a table of codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from compressor.arrays import CODE_DTYPES, Array, NDArray, Shape, as_uint8, is_float
from compressor.encodings import Dense, Palettized, Quantized, Values, dtype, shape
from compressor.formats.onnx.dtypes import DTYPES
from compressor.formats.onnx.graphs import is_standard
from compressor.reshaping import reshaped
from compressor.sources.onnx.scopes import Index, integer, operand

if TYPE_CHECKING:
    import onnx

MOST_ENTRIES = 256

_MOST_CASTS = 4
"""Exporters write one or two in a row; a look at a node must not take as long as the graph is."""

_EXACT_CASTS = {data_type for data_type, dtype in DTYPES.items() if is_float(dtype) or dtype.str in {"<i4", "<i8"}}
"""Types that hold every code, so that a cast to them changes none."""


class UnliftableError(Exception):
    """Constants are decoded in a way that no encoding expresses."""

    def __init__(self, leaf: str, reason: str) -> None:
        super().__init__(reason)
        self.leaf = leaf
        self.reason = reason


@dataclass(frozen=True, eq=False)
class Expression:
    """A value that nodes compute from constants alone.

    encoding: what it is.
    leaf: the constant that holds its codes or indices.
    nodes: the numbers of the nodes that compute it, outermost first; empty for a constant.
    """

    encoding: Values
    leaf: str
    nodes: tuple[int, ...] = ()


def read(index: Index, name: str) -> Expression | None:
    """The expression that the value `name` is; None if it is not computed by a decode node from constants.

    Raises:
        UnliftableError: a decode node reads codes in a way that has no encoding.
        CompressorError: a constant's data are missing or impossible.
    """
    node = index.producer(name)
    if node is None or not is_standard(node) or len(node.output) != 1:
        return None
    form = {"DequantizeLinear": _dequantize_linear, "Gather": _gather, "Mul": _mul}.get(node.op_type)
    found = None if form is None else form(index, node)
    return None if found is None else replace(found, nodes=(index.producers[name], *found.nodes))


def _integers(index: Index, name: str) -> Expression | None:
    """Codes: a constant, or what a Gather takes from a table of them."""
    node = index.producer(name)
    if node is None or (node.op_type == "Constant" and is_standard(node)):
        codes = _codes(index, name)
        return None if codes is None else Expression(Dense(codes), name)
    found = read(index, name) if node.op_type == "Gather" else None
    return None if found is None or dtype(found.encoding) not in CODE_DTYPES.values() else found


def _dequantize_linear(index: Index, node: onnx.NodeProto) -> Expression | None:
    """`Quantized`, its parameters brought to the codes' rank."""
    data = _integers(index, operand(node, 0))
    if data is None:
        return None
    scale, zero = index.constant(operand(node, 1)), operand(node, 2)
    zero_point = index.constant(zero) if zero else None
    if scale is None or (zero and zero_point is None):
        raise UnliftableError(data.leaf, "its scale or zero point is no constant")
    if not is_float(scale.dtype) or DTYPES.get(integer(node, "output_dtype", 0), scale.dtype) != scale.dtype:
        raise UnliftableError(data.leaf, f"it is dequantized with a scale {scale.dtype} to another type")
    to, block = _parameter_shape(node, data, tuple(scale.shape))
    try:
        if zero_point is not None:
            zero_point = reshaped(zero_point, (1,) * len(to) if zero_point.size == 1 else to)
        scale = reshaped(scale, to)
    except ValueError as error:
        raise UnliftableError(data.leaf, str(error)) from error
    return _quantized(data, scale, zero_point, block)


def _parameter_shape(node: onnx.NodeProto, data: Expression, scale: Shape) -> tuple[Shape, Shape | None]:
    """The shape of a `DequantizeLinear` node's parameters at the rank of its data, and a block whose last is short."""
    whole = shape(data.encoding)
    if math.prod(scale) == 1:
        return (1,) * len(whole), None
    axis = integer(node, "axis", 1)
    axis += len(whole) if axis < 0 else 0
    block = integer(node, "block_size", 0)
    if not 0 <= axis < len(whole):
        raise UnliftableError(data.leaf, f"DequantizeLinear has axis {axis} for a rank of {len(whole)}")
    if block == 0 and scale == (whole[axis],):
        return tuple(dim if place == axis else 1 for place, dim in enumerate(whole)), None
    blocked = tuple(-(-dim // max(block, 1)) if place == axis else dim for place, dim in enumerate(whole))
    if block > 0 and scale == blocked:
        short = whole[axis] % block and blocked[axis] > 1
        return scale, tuple(block if place == axis else 1 for place in range(len(whole))) if short else None
    raise UnliftableError(data.leaf, f"a scale {list(scale)} in blocks of {block} along axis {axis} of {list(whole)}")


def _gather(index: Index, node: onnx.NodeProto) -> Expression | None:
    """`Palettized` with one table of scalars."""
    lut, (leaf, casts) = index.constant(operand(node, 0)), _uncast(index, operand(node, 1))
    codes = index.constant(leaf)
    if lut is None or codes is None or integer(node, "axis", 0) != 0 or len(lut.shape) != 1 or not codes.shape:
        return None
    if not 1 <= lut.size <= MOST_ENTRIES or not (is_float(lut.dtype) or lut.dtype in CODE_DTYPES.values()):
        return None
    bytes_ = _as_bytes(codes, lut.size)
    if bytes_ is None:
        return None
    table = np.asarray(lut).reshape((1,) * len(codes.shape) + (lut.size, 1))
    return Expression(Palettized(bytes_, table), leaf, casts)


def _mul(index: Index, node: onnx.NodeProto) -> Expression | None:
    """`Quantized` whose parameters broadcast as numpy's do."""
    factors = [operand(node, 0), operand(node, 1)]
    for codes, factor in (factors, reversed(factors)):
        scale = index.constant(factor)
        if scale is None or not is_float(scale.dtype):
            continue
        difference, zero_point = codes, None
        inner: tuple[int, ...] = ()
        subtraction = index.producer(codes)
        if subtraction is not None and subtraction.op_type == "Sub" and is_standard(subtraction):
            difference, zero_point = operand(subtraction, 0), index.constant(_uncast(index, operand(subtraction, 1))[0])
            if zero_point is None:
                continue
            inner = (index.producers[codes],)
        source, casts = _uncast(index, difference)
        data = _integers(index, source) if casts else None
        if data is not None:
            found = _broadcast(data, np.asarray(scale), None if zero_point is None else np.asarray(zero_point))
            return None if found is None else replace(found, nodes=(*inner, *casts, *data.nodes))
    return None


def _broadcast(data: Expression, scale: NDArray, zero_point: NDArray | None) -> Expression | None:
    """The expression with parameters of any lower rank; None where they enlarge the codes or are none of their type."""
    whole, codes = shape(data.encoding), dtype(data.encoding)
    with np.errstate(invalid="ignore"):
        offset = np.zeros((), codes) if zero_point is None else zero_point.astype(codes)
    if zero_point is not None and not np.array_equal(offset.astype(np.float64), zero_point.astype(np.float64)):
        raise UnliftableError(data.leaf, f"its zero point is no {codes}")
    parameter = np.broadcast_shapes(scale.shape, offset.shape)
    to = (1,) * (len(whole) - len(parameter)) + parameter
    if len(to) != len(whole) or any(have not in {1, dim} for have, dim in zip(to, whole, strict=True)):
        return None
    scale, offset = np.broadcast_to(scale, parameter), np.broadcast_to(offset, parameter)
    return _quantized(data, scale.reshape(to), None if zero_point is None else offset.reshape(to))


def _quantized(data: Expression, scale: Array, zero_point: Array | None, block: Shape | None = None) -> Expression:
    """`Quantized` in its shortest form: without a zero point that is zero everywhere."""
    assert not isinstance(data.encoding, Quantized)
    if zero_point is not None and not np.asarray(zero_point).any():
        zero_point = None
    if zero_point is not None and zero_point.shape != scale.shape:
        zero_point = np.broadcast_to(np.asarray(zero_point), scale.shape)
    try:
        encoding = Quantized(data.encoding, scale, zero_point, block)
    except ValueError as error:
        raise UnliftableError(data.leaf, str(error)) from error
    return Expression(encoding, data.leaf, data.nodes)


def _codes(index: Index, name: str) -> Array | None:
    found = index.tensors.get(name)
    if found is None or DTYPES.get(found.data_type) not in CODE_DTYPES.values():
        return None
    return index.constant(name)


def _uncast(index: Index, name: str) -> tuple[str, tuple[int, ...]]:
    """What a short chain of `Cast` begins with, and the numbers of the casts."""
    casts: tuple[int, ...] = ()
    for _ in range(_MOST_CASTS):
        node = index.producer(name)
        if (
            node is None
            or node.op_type != "Cast"
            or not is_standard(node)
            or integer(node, "to", 0) not in _EXACT_CASTS
        ):
            break
        casts, name = (*casts, index.producers[name]), operand(node, 0)
    return name, casts


def _as_bytes(codes: Array, entries: int) -> Array | None:
    """Indices as uint8, packed ones still packed in their file; None if one lies outside of a table."""
    unsigned = {CODE_DTYPES[name] for name in ("uint2", "uint4", "uint8")}
    if codes.dtype in unsigned:
        return as_uint8(codes)
    values = np.asarray(codes)
    if values.dtype.kind not in "iu" or (values.size and (values.min() < 0 or values.max() >= entries)):
        return None
    return values.astype(np.uint8)
