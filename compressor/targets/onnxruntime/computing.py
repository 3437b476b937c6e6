"""Weights by whose codes ONNX Runtime multiplies, and the forms in which it does."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from compressor.arrays import bits
from compressor.encodings import Encoding, codes_of, dtype, shape
from compressor.formats.onnx import n_bits
from compressor.formats.onnx.graphs import walk
from compressor.formats.onnx.quantized import Form, is_linear
from compressor.model import Model

if TYPE_CHECKING:
    import onnx

QUANTIZERS = {"QuantizeLinear", "DynamicQuantizeLinear"}
"""Operators that quantize activations."""

PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Transpose"}
"""Operators that lead to an integer kernel whose products can saturate."""


def wanted(model: Model) -> dict[str, Form]:
    """By weight, the form in which ONNX Runtime computes what it does for the source, where that is not `folded`.

    Only where the source decodes a weight by an operator that runs with its codes: whatever else lies on a grid was
    trained to be multiplied as floats. In a model that quantizes activations that is every `DequantizeLinear`:
    quantization moves through what stands between a product and its inputs, and floats would be quantized anew, one
    scale for all. Elsewhere it is a product, which becomes `MatMulNBits`.

    Source: ONNX Runtime, qdq_propagation.cc, weight_bias_quantization.cc, qdq_selectors.cc.
    """
    assert model.onnx is not None
    nodes = [node for inner in walk(model.onnx.graph) for node in inner.node]
    in_codes = any(node.op_type in QUANTIZERS for node in nodes)
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            readers[name].append(node)
    forms: dict[str, Form] = {one.name: "n_bits" for one in model.weights if one.n_bits is not None}
    for one in model.weights:
        reading = readers[one.name] if one.linear else []
        if in_codes and any(node.op_type in PRODUCTS for node in reading):
            forms[one.name] = "linear"
        elif reading and (in_codes or (_by_column(one.encoding) and all(_multiplies_by(n, one.name) for n in reading))):
            forms[one.name] = "stored"
    return forms


def held(form: Form, one: Encoding, opset: int) -> Form:
    """The form that is wanted, where it can hold the encoding; `folded` holds any."""
    holds = {
        "folded": True,
        "linear": is_linear(one, opset),
        "stored": is_linear(one, opset),
        "n_bits": n_bits.fits(one),
    }
    return form if holds[form] else "folded"


def _multiplies_by(node: onnx.NodeProto, name: str) -> bool:
    if node.op_type not in {"MatMul", "Gemm"} or name in node.input[:1] or name not in node.input[1:2]:
        return False
    return not any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _by_column(one: Encoding) -> bool:
    """Whether `MatMulNBits` can have the weight `[K, N]`: a scale by column, or in blocks along K."""
    quantized = codes_of(one)
    if quantized is None or len(shape(one)) != 2:
        return False
    (rows, columns), counts = shape(one), tuple(quantized.scale.shape)
    block = quantized.block[0] if quantized.block else rows // max(counts[0], 1)
    # ONNX Runtime 1.31 multiplies something else where rows of 2-bit codes do not fill bytes.
    if bits(dtype(quantized.data)) == 2 and columns % 4:
        return False
    in_blocks = counts[0] == 1 or (block >= n_bits.FEWEST_IN_BLOCK and block & (block - 1) == 0)
    return counts[1] == columns and in_blocks
