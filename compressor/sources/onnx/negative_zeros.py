"""What ONNX's operators make of the sign of a zero: see `formats.negative_zeros`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from compressor.encodings import Encoding, decode
from compressor.formats.negative_zeros import Effect, Reader, shown_by
from compressor.sources.onnx.scopes import Index, operand

_DROPS = frozenset(
    # sums of products
    "Attention Conv ConvTranspose DeformConv Einsum GRU Gemm LSTM LinearAttention MatMul RNN "
    # ONNX Runtime's
    "BiasGelu EmbedLayerNormalization FusedConv FusedGemm FusedMatMul GroupQueryAttention MultiHeadAttention NhwcConv "
    "QAttention SkipGroupNorm SkipLayerNormalization SkipSimplifiedLayerNormalization "
    # a zero that is added to anything but a zero is gone
    "Add AveragePool BatchNormalization GlobalAveragePool GroupNormalization InstanceNormalization "
    "LayerNormalization Mean ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean ReduceSum ReduceSumSquare Sub "
    "Sum "
    # even, or not zero at zero
    "Abs And ArgMax ArgMin Cos Cosh DynamicQuantizeLinear Equal Exp Greater GreaterOrEqual HardSigmoid IsInf IsNaN "
    "Less LessOrEqual LogSoftmax NonZero Not Or QuantizeLinear Shape Sigmoid Size Softmax Softplus Xor".split()
)
_CARRIES = frozenset(
    "CastLike Ceil Celu Clip Compress Concat CumSum DepthToSpace Dropout Elu Erf Expand FastGelu Flatten Floor Gather "
    "GatherElements GatherND Gelu GlobalLpPool GlobalMaxPool GridSample HardSwish Identity LRN LeakyRelu "
    "LpNormalization LpPool Max MaxPool MaxUnpool Min Mish Mul Neg PRelu Pad QuickGelu RMSNormalization ReduceMax "
    "ReduceMin Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round ScatterElements ScatterND Selu "
    "SimplifiedLayerNormalization Sin Sinh Slice Softsign SpaceToDepth Split Sqrt Squeeze Swish Tan Tanh "
    "TensorScatter Tile TopK Transpose Trilu Unsqueeze Upsample Where".split()
)
# Integers have one zero. `TensorProto.DataType` of the types that have two.
_SIGNED_ZERO = {1, 10, 11, 16}


def shown_zeros(index: Index, weights: Mapping[str, Encoding]) -> Callable[[str], str]:
    """What tells -0.0 from 0.0 in a value by its name; empty if nothing does.

    weights: by name, what the constants are that `index` has no data of.
    """

    def readers(value: str) -> Iterator[Reader]:
        for number in index.readers.get(value, ()):
            node = index.nodes[number]
            told = f"{node.op_type} {node.name or (node.output[0] if node.output else '')!r}"
            places = [place for place, read in enumerate(node.input) if read == value]
            for place in places:
                yield Reader(told, _effect(index, number, place, weights), [one for one in node.output if one])

    known: dict[str, str] = {}
    return lambda name: shown_by(name, readers, index.outputs.__contains__, known)


def _effect(index: Index, number: int, place: int, weights: Mapping[str, Encoding]) -> Effect:
    node = index.nodes[number]
    match node.op_type:
        case "Cast":
            to = next((found.i for found in node.attribute if found.name == "to"), 1)
            return "carries" if to in _SIGNED_ZERO else "shows" if to == 8 else "drops"
        case "Einsum" | "Mean" | "Sum" if len(node.input) == 1:
            return "carries"
        case "Div":
            return "carries" if place == 0 else "shows"
        case "Pow":
            return "carries" if place == 0 and _is_positive(index, operand(node, 1), weights) else "shows"
    if node.op_type in _CARRIES:
        return "carries"
    return "drops" if node.op_type in _DROPS else "shows"


def _is_positive(index: Index, name: str, weights: Mapping[str, Encoding]) -> bool:
    """Whether a value is a constant above zero."""
    found = decode(weights[name]) if name in weights else index.constant(name)
    return found is not None and bool((np.asarray(found) > 0).all())
