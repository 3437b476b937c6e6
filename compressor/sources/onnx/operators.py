"""Operators that read codes themselves: which of their inputs hold a weight, and `MatMulNBits` in standard operators.

Source: ONNX's operator documentation; ONNX Runtime's ContribOperators.md (domain com.microsoft).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from compressor.arrays import (
    UINT2,
    UINT4,
    UINT8,
    Array,
    ComputedArray,
    DType,
    MappedArray,
    NDArray,
    from_bytes,
    is_float,
    to_bytes,
)
from compressor.encodings import Dense, Quantized
from compressor.errors import CompressorError
from compressor.formats.onnx.dtypes import DTYPES
from compressor.formats.onnx.unsigned import signed
from compressor.packing import unpack
from compressor.sources.onnx.expressions import UnliftableError
from compressor.sources.onnx.scopes import Index, integer, operand

if TYPE_CHECKING:
    import onnx

CODE_INPUTS: Mapping[str, tuple[int, ...]] = {
    "ConvInteger": (1,),
    "DynamicQuantizeLSTM": (1, 2),
    "DynamicQuantizeMatMul": (1,),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "QAttention": (1,),
    "QGemm": (0, 3),
    "QLinearConv": (3,),
    "QLinearMatMul": (0, 3),
}
"""The inputs of integer operators, ONNX's and ONNX Runtime's, that may hold a weight's codes."""

_READ_PARAMETERS = {*CODE_INPUTS, "DequantizeLinear", "MatMulNBits", "QuantizeLinear"}
_NBITS_CODES: Mapping[int, DType] = {2: UINT2, 4: UINT4, 8: UINT8}
_A, _B, _SCALES, _ZERO_POINTS, _G_IDX, _BIAS = range(6)


def reads_parameters(operator: str) -> bool:
    """Whether the constant floats that an operator reads say how values are quantized: those are no weights."""
    return operator in _READ_PARAMETERS or operator.startswith("QLinear")


def mat_mul_nbits(index: Index, node: onnx.NodeProto) -> Quantized | None:
    """The weight `[K, N]` of a `MatMulNBits` node, in blocks along K; None if `B` is no constant.

    B: uint8 `[N, blocks, block_size * bits / 8]`: row-major codes `[N, K]`, packed, the last block filled up.
    scales: float `[N, blocks]`. zero_points: absent for `2 ** (bits - 1)`, packed in rows, or floats.
    Codes under zero points that are absent get a sign and lose `2 ** (bits - 1)`: the same values without any.

    Raises:
        UnliftableError: the codes are in an order, a width or blocks that no standard operator reads.
        CompressorError: a constant is not as long as the attributes say.
    """
    leaf = operand(node, _B)
    packed = index.constant(leaf)
    if packed is None:
        return None
    rows, columns = integer(node, "N", 0), integer(node, "K", 0)
    width, block = integer(node, "bits", 4), integer(node, "block_size", 0)
    if width not in _NBITS_CODES or packed.dtype != UINT8:
        raise UnliftableError(leaf, f"MatMulNBits with codes of {width} bits in {packed.dtype}")
    if operand(node, _G_IDX) or integer(node, "weight_prepacked", 0):
        raise UnliftableError(leaf, "MatMulNBits with codes in an order of its own (g_idx or prepacked)")
    if rows < 1 or block < 1 or columns < 1 or block * width % 8:
        raise UnliftableError(leaf, f"MatMulNBits with N = {rows}, K = {columns} and blocks of {block}")
    blocks = -(-columns // block)
    if (size := rows * blocks * (block * width // 8)) != packed.nbytes:
        raise CompressorError(
            f"tensor {leaf!r}: expected {size} bytes for N = {rows} and K = {columns}, got {packed.nbytes}."
        )
    scale = index.constant(operand(node, _SCALES))
    zero_point = _zero_point(index, node, (rows, blocks), _NBITS_CODES[width])
    if scale is None or not is_float(scale.dtype):
        raise UnliftableError(leaf, f"the scales of MatMulNBits are {'no constant' if scale is None else scale.dtype}")
    codes = _transposed(leaf, packed, (rows, blocks * block), _NBITS_CODES[width])
    if columns % block:
        codes = ComputedArray((columns, rows), codes.dtype, partial(_first, codes, columns))
    scale = _transposed(operand(node, _SCALES), scale, (rows, blocks), scale.dtype)
    found = Quantized(Dense(codes), scale, zero_point, (block, 1) if columns % block else None)
    return found if operand(node, _ZERO_POINTS) else signed(found)


def accuracy_level(index: Index, node: onnx.NodeProto) -> int | None:
    """How a `MatMulNBits` node multiplies by codes; None for one that does not, since its zero points are floats."""
    zero_point = index.tensors.get(operand(node, _ZERO_POINTS))
    codes = zero_point is None or DTYPES.get(zero_point.data_type) == UINT8
    return integer(node, "accuracy_level", 0) if codes else None


def mat_mul(node: onnx.NodeProto, weight: str) -> list[onnx.NodeProto]:
    """What a `MatMulNBits` node computes, on its decoded weight."""
    import onnx

    bias, output = operand(node, _BIAS), node.output[0]
    product = f"{output}.product" if bias else output
    nodes = [onnx.helper.make_node("MatMul", [operand(node, _A), weight], [product], name=node.name)]
    if bias:
        nodes.append(onnx.helper.make_node("Add", [product, bias], [output], name=f"{node.name}.bias"))
    return nodes


def _zero_point(index: Index, node: onnx.NodeProto, counts: tuple[int, int], codes: DType) -> NDArray:
    """The zero points of `[N, blocks]`, transposed."""
    leaf, name = operand(node, _B), operand(node, _ZERO_POINTS)
    width = {UINT2: 2, UINT4: 4, UINT8: 8}[codes]
    if not name:
        return np.broadcast_to(np.array(1 << (width - 1), np.uint8).astype(codes), counts[::-1])
    found = index.constant(name)
    if found is None:
        raise UnliftableError(leaf, "the zero points of MatMulNBits are no constant")
    values = np.asarray(found)
    if values.dtype == np.uint8:
        row = -(-counts[1] * width // 8)
        _check_size(name, values, counts[0] * row)
        numbers = unpack(values, width, values.size * 8 // width).reshape(counts[0], -1)[:, : counts[1]]
        return np.ascontiguousarray(numbers.T).view(codes)
    _check_size(name, values, counts[0] * counts[1])
    with np.errstate(invalid="ignore"):
        numbers = values.astype(np.float32).astype(np.uint8)
    if not np.array_equal(numbers, values.astype(np.float32)) or (numbers.size and numbers.max() >= 1 << width):
        raise UnliftableError(leaf, f"the zero points of MatMulNBits are no {codes}")
    return np.ascontiguousarray(numbers.reshape(counts).T).view(codes)


def _transposed(name: str, array: Array, stored: tuple[int, int], dtype: DType) -> Array:
    """The transpose of a matrix `stored` whose elements are packed in `array`."""
    rows, columns = stored
    if isinstance(array, MappedArray):
        matrix = MappedArray(array.path, array.offset, stored, dtype)
        if matrix.nbytes == array.nbytes:
            return ComputedArray((columns, rows), dtype, partial(_turned, matrix))
    raw = to_bytes(array)
    try:
        return np.ascontiguousarray(from_bytes(raw, stored, dtype).T)
    except ValueError as error:
        raise CompressorError(f"tensor {name!r}: expected {dtype}{list(stored)}, got {raw.size} bytes.") from error


def _turned(matrix: MappedArray) -> NDArray:
    return np.ascontiguousarray(np.asarray(matrix).T)


def _first(matrix: Array, rows: int) -> NDArray:
    """The first rows of a matrix."""
    return np.ascontiguousarray(np.asarray(matrix)[:rows])


def _check_size(name: str, values: NDArray, size: int) -> None:
    if values.size != size:
        raise CompressorError(f"tensor {name!r}: expected {size} zero points, got {list(values.shape)}.")
