"""Where the output channels of a weight lie: a training that quantizes by channel has a scale for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_RECURRENT = ("LSTM", "GRU", "RNN")


def axes(graph: onnx.GraphProto, ranks: Mapping[str, int]) -> dict[str, int]:
    """The axis by weight; where several operators read a weight, the first one tells. ranks: of the weights, by name.

    What no operator here knows is taken for a layer of torch, whose output channels come first: so is what is
    transposed before it is read.
    """
    found: dict[str, int] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in ranks and name not in found:
                found[name] = _axis(node, place, ranks[name])
    return {name: found.get(name, 0) for name in ranks}


def _axis(node: onnx.NodeProto, place: int, rank: int) -> int:
    if node.op_type == "MatMul":
        return rank - 1 if place else max(rank - 2, 0)
    if node.op_type == "Gemm":
        turned = any(one.name == ("transB" if place else "transA") and one.i for one in node.attribute)
        return int(turned == (place == 0))
    return 1 if node.op_type == "ConvTranspose" or (node.op_type in _RECURRENT and rank == 3) else 0
