"""What nodes compute from constants alone, as an array: ONNX Runtime computes it whenever it is read.

So its bits are those of the constant into which ONNX Runtime folds the same nodes when it loads a model. Float16 is
the exception: its processor kernels compute in float32 and round nothing between two nodes, as a graph says and other
devices do. What would show that is no constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressor.arrays import INT8, UINT8, Array, ArraySpec, ComputedArray, DType, NDArray, bits
from compressor.errors import CompressorError, line
from compressor.formats.onnx.dtypes import DATA_TYPES, DTYPES
from compressor.formats.onnx.opening import session

if TYPE_CHECKING:
    import onnx

MOST_BYTES = 1 << 30
"""Of any one value: what a file declares must not take the memory of the machine."""

_MOVES = set("Concat Expand Flatten Gather Identity Reshape Slice Split Squeeze Tile Transpose Unsqueeze".split())
"""Operators whose results are elements of what they read."""

_RESULT = "compressor.result"


@dataclass(frozen=True)
class Program:
    """Nodes with one result, over constants.

    model: an `onnx.ModelProto`, serialized, whose inputs are the large constants.
    inputs: these, by name.
    dtype: of the result, which the model gives in 8 bits where a type has fewer.
    """

    model: bytes
    inputs: Mapping[str, Array]
    dtype: DType

    def __call__(self) -> NDArray:
        """The result.

        Raises:
            CompressorError: a constant cannot be read, or ONNX Runtime cannot compute with it.
        """
        feeds = {name: np.asarray(array) for name, array in self.inputs.items()}
        try:
            (result,) = session(self.model).run([_RESULT], feeds)
        except Exception as error:  # each kind of failure has a class of its own, without a common base
            raise CompressorError(f"constants {', '.join(feeds)} cannot be computed with: {line(error)}") from error
        return np.asarray(result).astype(self.dtype, copy=False)


def computed(
    nodes: Sequence[onnx.NodeProto],
    name: str,
    inputs: Mapping[str, Array],
    small: Iterable[onnx.TensorProto],
    imports: Iterable[onnx.OperatorSetIdProto],
) -> ComputedArray | None:
    """The value `name` of `nodes`, which stand behind what they read.

    None where ONNX Runtime does not know all shapes before it runs them, one takes more than `MOST_BYTES`, or float16
    values would not be rounded between two nodes.

    inputs: the large constants that they read. small: the others, data and all. imports: the operator sets.
    """
    import onnx

    declared = [
        onnx.helper.make_tensor_value_info(key, DATA_TYPES[one.dtype.name], tuple(one.shape))
        for key, one in inputs.items()
    ]
    graph = onnx.helper.make_graph(list(nodes), "constants", declared, [], list(small))
    version = int(onnx.helper.find_min_ir_version_for(list(imports), ignore_unknown=True))
    model = onnx.helper.make_model(graph, opset_imports=list(imports), ir_version=version)
    for node in nodes:
        model.graph.output.add(name=node.output[0])
    known = _described(model)
    if known is None or any(one.nbytes > MOST_BYTES for one in known.values()) or _is_rounded_between(nodes, known):
        return None
    result = known[name]
    wide = result.dtype if bits(result.dtype) >= 8 else UINT8 if result.dtype.name.startswith("u") else INT8
    model.graph.node.append(onnx.helper.make_node("Cast", [name], [_RESULT], to=DATA_TYPES[wide.name]))
    del model.graph.output[:]
    model.graph.output.add(name=_RESULT)
    program = Program(model.SerializeToString(), dict(inputs), result.dtype)
    return ComputedArray(result.shape, result.dtype, program)


def _is_rounded_between(nodes: Sequence[onnx.NodeProto], known: Mapping[str, ArraySpec]) -> bool:
    """Whether a node computes with a float16 value that another has computed."""
    halves = set[str]()
    for node in nodes:
        reads = not halves.isdisjoint(node.input)
        if reads and node.op_type not in _MOVES:
            return True
        if known[node.output[0]].dtype == np.float16 and (reads or node.op_type not in _MOVES):
            halves.add(node.output[0])
    return False


def _described(model: onnx.ModelProto) -> Mapping[str, ArraySpec] | None:
    """The shapes and the types of a model's outputs, where all are known before it runs."""
    try:
        outputs = session(model.SerializeToString()).get_outputs()
    except Exception:  # noqa: BLE001 - whatever it raises: it does not run the nodes
        return None
    known = {}
    for output in outputs:
        name = _NAMES.get(output.type, output.type.removeprefix("tensor(").removesuffix(")"))
        if name not in DATA_TYPES or not all(isinstance(size, int) for size in output.shape):
            return None
        known[output.name] = ArraySpec(tuple(output.shape), DTYPES[DATA_TYPES[name]])
    return known


_NAMES = {"tensor(float)": "float32", "tensor(double)": "float64"}
"""ONNX Runtime's names of types that are not numpy's."""
