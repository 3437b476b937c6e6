"""Constants that nodes compute from constants: a weight is what the runtime computes with.

    QuantizeLinear(w, scale)          codes, which a `DequantizeLinear` behind them reads
    Clip(QuantizeLinear(w, scale))    the same, of fewer bits
    Mul(w, mask)                      pruned values
    Mul(Round(Div(w, s)), s)          values on a grid

What only decodes a constant stays, and becomes an encoding (`expressions`); what only moves or scales one stays too:
the constant itself is the weight that was trained. All else is one mechanism, not a pattern each: the value is what
ONNX Runtime computes, and takes the place of what it was computed from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressor.arrays import CODE_DTYPES, Array, ComputedArray, is_float
from compressor.errors import CompressorError
from compressor.formats.onnx import reading
from compressor.formats.onnx.dtypes import DTYPES
from compressor.formats.onnx.graphs import is_standard, subgraphs
from compressor.formats.onnx.programs import MOST_BYTES, computed
from compressor.formats.onnx.wire import EXTERNAL, KEPT_BELOW
from compressor.packing import packed_nbytes
from compressor.sources.onnx import expressions
from compressor.sources.onnx.expressions import UnliftableError
from compressor.sources.onnx.scopes import Index

if TYPE_CHECKING:
    import onnx

_MOST_NODES = 256

_CODES_SINCE = 13
"""The opset since which codes are decoded by channel. Conversion to it would change which integer kernels run."""

_DECIDES = set("Ceil Clip Floor QuantizeLinear Round Sign Where".split())
"""Operators that give other values than any constant has, however those are scaled."""

_PAIRS = set("Add Div Max Min Mul Sub".split())
"""Operators that do so where both of their operands are as large as the result: one of them is a mask, or an update."""

_OTHERS = set(
    "Abs And Cast CastLike Concat Equal Exp Expand Flatten Gather Greater GreaterOrEqual Identity Less "
    "LessOrEqual Log Neg Not Or Pad Pow Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum Reshape Slice Split Sqrt "
    "Squeeze Tile Transpose Unsqueeze Xor".split()
)
"""What may stand between."""


@dataclass(frozen=True, eq=False)
class Fold:
    """A constant that nodes compute.

    name: what it is called from now on: as the largest of the constants that nothing else reads.
    value: what the nodes call it.
    array: its elements.
    nodes: the numbers of the nodes that nothing else needs.
    """

    name: str
    value: str
    array: ComputedArray
    nodes: tuple[int, ...]


def folds(index: Index, imports: Sequence[onnx.OperatorSetIdProto]) -> tuple[list[Fold], dict[str, str]]:
    """The values of the main graph that are constants, and by the name of a weight why one that might be is none."""
    fixed = _fixed(index)
    found, refused = [], dict[str, str]()
    for number in sorted(fixed):
        value = index.nodes[number].output[0]
        if value in index.outputs or all(reader in fixed for reader in index.readers.get(value, ())):
            continue
        fold = _fold(index, number, imports)
        if isinstance(fold, Fold):
            found.append(fold)
        elif fold is not None:
            refused.update([fold])
    return found, refused


def _fixed(index: Index) -> set[int]:
    """The numbers of the nodes of the main graph that compute constants from constants, and decode none."""
    fixed: set[int] = set()
    known = {name for name in index.tensors if name not in index.inputs}
    for number, node in enumerate(index.nodes):
        reads = [name for name in node.input if name]
        if index.home[number] or not reads or not known.issuperset(reads) or not _computes(index, node):
            continue
        fixed.add(number)
        known.update(node.output)
    return fixed


def _computes(index: Index, node: onnx.NodeProto) -> bool:
    """Whether an operator gives one value, always the same, that is no decoded weight."""
    known = node.op_type in _DECIDES or node.op_type in _PAIRS or node.op_type in _OTHERS
    if not known or not is_standard(node) or len(node.output) != 1 or not node.output[0]:
        return False
    try:
        return not any(True for _ in subgraphs(node)) and expressions.read(index, node.output[0]) is None
    except (UnliftableError, CompressorError):
        return False


def _fold(index: Index, number: int, imports: Sequence[onnx.OperatorSetIdProto]) -> Fold | tuple[str, str] | None:
    """The value of a node as a constant; or a weight and why it is none; None where nothing is computed of one."""
    nodes, leaves = _behind(index, number)
    large = {name: nbytes for name in leaves if (nbytes := _nbytes(index, name)) >= KEPT_BELOW}
    if not large or not any(_decides(index, index.nodes[one]) for one in nodes):
        return None
    gone = set(_unneeded(index, nodes, number))
    alone = [name for name in large if name not in index.outputs and gone.issuperset(index.readers[name])]
    main = max(alone or large, key=lambda name: large[name])
    operators = ", ".join(sorted({index.nodes[one].op_type for one in nodes}))
    if not alone:
        return main, f"{operators} computes another constant from it, and others read it as it is"
    if len(nodes) > _MOST_NODES or sum(large.values()) > MOST_BYTES:
        return main, f"it is computed with by {len(nodes)} nodes, from {sum(large.values()):,} bytes: too many"
    arrays = {name: index.array(name) for name in large}
    small = [_whole(index, name) for name in leaves if name not in large]
    value = index.nodes[number].output[0]
    array = None
    if all(_in_numpy(one) for one in arrays.values()):
        array = computed([index.nodes[one] for one in sorted(nodes)], value, arrays, small, imports)
    if array is None or not (is_float(array.dtype) or array.dtype in CODE_DTYPES.values()):
        return main, f"{operators} computes a constant from it in a way that is not understood"
    if not is_float(array.dtype) and (opset := _opset(imports)) < _CODES_SINCE:
        return main, f"its codes are computed at opset {opset}: export it at opset {_CODES_SINCE} or later"
    if array.nbytes > sum(large[name] for name in alone):
        return main, f"{operators} computes {array.nbytes:,} bytes from its {large[main]:,}"
    return Fold(main, value, array, tuple(sorted(gone)))


def _opset(imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    return max((int(one.version) for one in imports if not one.domain), default=0)


def _behind(index: Index, number: int) -> tuple[set[int], list[str]]:
    """The nodes that compute a node's value, itself among them, and the constants that they read, in this order."""
    nodes, leaves, pending = set[int](), dict[str, None](), [index.nodes[number].output[0]]
    while pending and len(nodes) <= _MOST_NODES:
        name = pending.pop()
        if name in index.tensors:
            leaves[name] = None
        elif (one := index.producers[name]) not in nodes:
            nodes.add(one)
            pending.extend(filter(None, reversed(index.nodes[one].input)))
    return nodes, list(leaves)


def _decides(index: Index, node: onnx.NodeProto) -> bool:
    """Whether a node gives other values than a constant that it reads."""
    if node.op_type not in _PAIRS:
        return node.op_type in _DECIDES
    sizes = [_size(index, name) for name in filter(None, node.input)]
    return len(sizes) > 1 and len(set(sizes)) == 1 and sizes[0] > 1


def _size(index: Index, name: str) -> int:
    """The elements of a constant; of a computed one, those of the largest that it is computed from."""
    if name in index.tensors:
        return math.prod(index.tensors[name].dims)
    _, leaves = _behind(index, index.producers[name])
    return max((math.prod(index.tensors[leaf].dims) for leaf in leaves), default=0)


def _unneeded(index: Index, nodes: set[int], last: int) -> Iterator[int]:
    """Those of `nodes` whose value nothing else reads, and the last one."""
    gone = {last}
    for number in sorted(nodes - {last}, reverse=True):  # readers stand behind what they read
        value = index.nodes[number].output[0]
        if value not in index.outputs and gone.issuperset(index.readers[value]):
            gone.add(number)
    return iter(gone)


def _nbytes(index: Index, name: str) -> int:
    tensor = index.tensors[name]
    kind = DTYPES.get(tensor.data_type)
    return 0 if kind is None else packed_nbytes(math.prod(tensor.dims), 8 * kind.itemsize)


def _in_numpy(array: Array) -> bool:
    """Whether ONNX Runtime takes an array of that type."""
    return array.dtype.isbuiltin == 1


def _whole(index: Index, name: str) -> onnx.TensorProto:
    """A small constant with its data."""
    import onnx

    tensor = index.tensors[name]
    if tensor.data_location != EXTERNAL:
        return tensor
    return onnx.numpy_helper.from_array(np.asarray(reading.array(tensor, index.directory)), name)
