"""`MatMulNBits`: products with codes of 2, 4 or 8 bits in blocks, written as the source has them.

The codes keep a weight small while a model runs, and `accuracy_level` says how they are multiplied: by floats at 0 and
1, by activations of 8 bits at 4. `MatMul` over decoded weights could say neither.

Source: ONNX Runtime, ContribOperators.md (domain com.microsoft).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from compressor.arrays import UINT8, Array, ArraySpec, ComputedArray, DType, NDArray, Shape, bits
from compressor.encodings import Dense, Encoding, Palettized, Quantized, codes_of, dtype, plain, shape
from compressor.formats.onnx.graphs import MICROSOFT, walk
from compressor.formats.onnx.lowered import Lowered
from compressor.formats.onnx.unsigned import unsigned

if TYPE_CHECKING:
    import onnx


FEWEST_IN_BLOCK = 16
"""Blocks are of a power of two from here on, the last one of a column filled up."""


def fits(encoding: Encoding) -> bool:
    """Whether the node can hold a weight `[K, N]`: stored codes without a sign, or with one and no zero point."""
    if not isinstance(encoding, Quantized) or not isinstance(encoding.data, Dense) or len(shape(encoding)) != 2:
        return False
    if isinstance(encoding.scale, Palettized) or encoding.rounded is not None or not codes_of(encoding):
        return False
    by_column, block = encoding.scale.shape[1] == shape(encoding)[1], block_size(encoding)
    if not by_column or block < FEWEST_IN_BLOCK or block & (block - 1):
        return False
    return (encoding.zero_point is None) == encoding.data.values.dtype.name.startswith("int")


def block_size(encoding: Quantized) -> int:
    """The codes of a column that have one scale: the fewest that a node can have where that is the whole column."""
    (rows, _), blocks = shape(encoding), encoding.scale.shape[0]
    if blocks == 1:
        return max(FEWEST_IN_BLOCK, 1 << (rows - 1).bit_length())
    return encoding.block[0] if encoding.block else rows // blocks


def store(made: Lowered, encoding: Quantized, name: str) -> None:
    """The inputs of the node: codes `[N, blocks, bytes]`, scales `[N, blocks]` and zero points `[N, bytes]`, if any."""
    (_, columns), blocks, block = shape(encoding), encoding.scale.shape[0], block_size(encoding)
    zero_point = encoding.zero_point
    codes = encoding if zero_point is not None else unsigned(encoding)
    assert isinstance(codes.data, Dense)
    width = bits(codes.data.values.dtype)
    made.store(name, _turned(codes.data.values, block), (columns, blocks, block * width // 8), width)
    made.store(f"{made.prefix}.s", _turned(plain(encoding.scale)), (columns, blocks))
    if zero_point is not None:
        step = 8 // width
        made.store(f"{made.prefix}.z", _turned(zero_point, step), (columns, -(-blocks // step)), width)


def _turned(array: Array, step: int = 1) -> Array:
    """A matrix transposed, codes as bytes; its rows filled up to a multiple of `step`."""
    rows, columns = array.shape
    to: Shape = (columns, math.ceil(rows / step) * step)
    of = array.dtype if bits(array.dtype) > 8 else UINT8
    if isinstance(array, ArraySpec):
        return ArraySpec(to, of)
    return ComputedArray(to, of, partial(_filled_up, array, to, of))


def _filled_up(array: Array, to: Shape, of: DType) -> NDArray:
    turned = np.zeros(to, of)
    turned[:, : array.shape[0]] = np.asarray(array).view(of).T
    return turned


def restore(
    model: onnx.ModelProto, levels: Mapping[str, int], specs: Mapping[str, Encoding], prefixes: Mapping[str, str]
) -> None:
    """Make nodes of the products with weights that are stored by `store`. levels: their `accuracy_level` by name."""
    for graph in walk(model.graph):
        readers = {name: node for node in graph.node for name in node.input}
        biases = []
        for node in graph.node:
            name = node.input[1] if node.op_type == "MatMul" and len(node.input) == 2 else ""
            encoding = specs.get(name)
            if name not in levels or not isinstance(encoding, Quantized):
                continue
            add = readers.get(node.output[0])
            # What `operators.mat_mul` of the source calls a product whose bias is the node's own.
            biased = add is not None and add.op_type == "Add" and node.output[0] == f"{add.output[0]}.product"
            if add is not None and biased:
                biases.append(add)
            node.CopyFrom(_node(node, encoding, prefixes[name], levels[name], add if biased else None))
        for add in biases:
            graph.node.remove(add)
    if levels and all(entry.domain != MICROSOFT for entry in model.opset_import):
        model.opset_import.add(domain=MICROSOFT, version=1)


def _node(
    product: onnx.NodeProto, encoding: Quantized, prefix: str, level: int, add: onnx.NodeProto | None
) -> onnx.NodeProto:
    """The node in the place of a product, and of what adds its bias."""
    import onnx

    zero_point = "" if encoding.zero_point is None else f"{prefix}.z"
    inputs = [*product.input, f"{prefix}.s", zero_point, "", "" if add is None else add.input[1]]
    while not inputs[-1]:
        inputs.pop()
    rows, columns = shape(encoding)
    return onnx.helper.make_node(
        "MatMulNBits",
        inputs,
        [(add or product).output[0]],
        name=product.name,
        domain=MICROSOFT,
        K=rows,
        N=columns,
        bits=bits(dtype(encoding.data)),
        block_size=block_size(encoding),
        accuracy_level=level or None,  # no attribute
    )
