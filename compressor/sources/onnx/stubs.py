"""Initializers without data, which stand for weights in the normal form, and tensors that are no plain initializers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressor.arrays import is_float
from compressor.encodings import PLACES, Dense, Encoding, Sparse, dtype, shape
from compressor.errors import CompressorError
from compressor.formats.onnx import reading
from compressor.formats.onnx.dtypes import DATA_TYPES, DTYPES
from compressor.formats.onnx.graphs import attribute, is_standard, tensors
from compressor.formats.onnx.wire import EXTERNAL, KEPT_BELOW
from compressor.packing import packed_nbytes

if TYPE_CHECKING:
    import onnx


_MOST_DECLARED = 1 << 26
_MOST_PER_VALUE = 256
"""A mask takes memory by what is declared: a few bytes of a file must not declare terabytes."""


def stub(name: str, encoding: Encoding) -> onnx.TensorProto:
    """The initializer of a weight: its name, the shape and dtype of its value, no data."""
    import onnx

    return onnx.TensorProto(name=name, dims=shape(encoding), data_type=DATA_TYPES[dtype(encoding).name])


def densify(graphs: Iterable[onnx.GraphProto], directory: Path) -> Iterator[tuple[str, Encoding]]:
    """The encodings of the float sparse initializers and sparse constants, which become stubs of their names.

    Raises:
        CompressorError: the data are missing, or lie outside of the declared dimensions.
    """
    for inner in graphs:
        _hoist_constants(inner)
        kept = []
        for tensor in inner.sparse_initializer:
            kind = DTYPES.get(tensor.values.data_type)
            if kind is None or not is_float(kind):
                kept.append(tensor)
                continue
            encoding = _scattered(tensor, directory)
            yield tensor.values.name, encoding
            inner.initializer.append(stub(tensor.values.name, encoding))
        if len(kept) < len(inner.sparse_initializer):
            del inner.sparse_initializer[:]
            inner.sparse_initializer.extend(kept)


def _hoist_constants(graph: onnx.GraphProto) -> None:
    """`Constant` nodes with a sparse value become sparse initializers."""
    outputs = {output.name for output in graph.output}
    for place, node in reversed(list(enumerate(graph.node))):
        value = attribute(node, "sparse_value") if node.op_type == "Constant" and is_standard(node) else None
        if value is not None and node.output and node.output[0] not in outputs:
            graph.sparse_initializer.append(value.sparse_tensor)
            graph.sparse_initializer[-1].values.name = node.output[0]
            del graph.node[place]


def _scattered(tensor: onnx.SparseTensorProto, directory: Path) -> Sparse:
    """A COO tensor: values `[D]`; ascending indices int64, `[D]` linear or `[D, rank]`."""
    name, dims = tensor.values.name, tuple(tensor.dims)
    values = reading.array(tensor.values, directory)
    indices = np.asarray(reading.array(tensor.indices, directory))
    count, size = values.size, reading.size(name, dims)
    if indices.dtype != np.int64 or indices.shape not in {(count,), (count, len(dims))}:
        raise CompressorError(
            f"sparse tensor {name!r} {list(dims)}: expected int64 indices [{count}] or [{count}, {len(dims)}], "
            f"got {indices.dtype}{list(indices.shape)}."
        )
    if size > max(_MOST_DECLARED, count * _MOST_PER_VALUE):
        raise CompressorError(
            f"sparse tensor {name!r} {list(dims)}: {size:,} elements for {count:,} values, expected at most "
            f"{_MOST_DECLARED:,} or {_MOST_PER_VALUE} for each: store it as a plain tensor."
        )
    if indices.ndim == 2:
        if (indices < 0).any() or (indices >= np.array(dims)).any():
            raise CompressorError(f"sparse tensor {name!r} {list(dims)}: an index lies outside of it.")
        strides = [math.prod(dims[axis + 1 :]) for axis in range(len(dims))]
        indices = indices @ np.array(strides, np.int64)
    if count and (indices[0] < 0 or indices[-1] >= size or (np.diff(indices) <= 0).any()):
        raise CompressorError(f"sparse tensor {name!r} {list(dims)}: expected ascending indices inside of it.")
    if count * PLACES.itemsize < packed_nbytes(size, 1) and size <= 1 << 31:
        return Sparse(indices.astype(PLACES), Dense(values), dims)
    mask = np.zeros(size, np.bool_)
    mask[indices] = True
    return Sparse(mask.reshape(dims), Dense(values), dims)


def bring_back(model: onnx.ModelProto, directory: Path) -> None:
    """Put the data of all tensors but the main graph's large initializers back into `model`: no weight is among them.

    Small ones too, wherever they lay: what is written later must not depend on it.

    Raises:
        CompressorError: the data are missing.
    """
    small = [tensor for tensor in model.graph.initializer if _is_small(tensor, directory)]
    for tensor in (*small, *tensors([model.graph], model.functions)):
        if tensor.data_location == EXTERNAL:
            raw = reading.external(tensor, directory).raw().tobytes()
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = raw


def _is_small(tensor: onnx.TensorProto, directory: Path) -> bool:
    return bool(tensor.data_location == EXTERNAL and reading.external(tensor, directory).nbytes < KEPT_BELOW)
