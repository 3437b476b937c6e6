"""A model as it is, in the files that an artefact or an exported graph has."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressor.formats.onnx import reading, writing
from compressor.formats.onnx.graphs import tensors
from compressor.formats.onnx.lowered import Part
from compressor.formats.onnx.wire import EXTERNAL

if TYPE_CHECKING:
    import onnx


def copy(path: Path, directory: Path, untrue: str = "", *, apart: bool = False) -> None:
    """Write the model in `path` to `directory`: its very bytes, but where data lie apart or something is left out.

    untrue: the key of what the model says about itself and would not hold of the copy.
    apart: put the data beside the graph, as `writing.layout` does.
    """
    model = reading.load(path)
    said = [entry for entry in model.metadata_props if entry.key != untrue]
    as_it_is = reading.files(model, path) == (path,) and len(said) == len(model.metadata_props)
    if as_it_is and not apart:
        shutil.copyfile(path, directory / writing.MODEL)
        return
    del model.metadata_props[:]
    model.metadata_props.extend(said)
    parts = list(_parts(model.graph, path.parent))
    others = [tensor for tensor in model.graph.initializer if not _has_bytes(tensor)]
    del model.graph.initializer[:]
    model.graph.initializer.extend(others)
    for tensor in tensors([model.graph], model.functions):
        if tensor.data_location == EXTERNAL:
            tensor.raw_data = reading.external(tensor, path.parent).raw().tobytes()
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    writing.layout(model, parts, apart=apart).begin(directory)


def _parts(graph: onnx.GraphProto, directory: Path) -> Iterator[Part]:
    """The initializers of `graph` that are bytes, in its order: numbers in fields of their type stay in the graph."""
    for tensor in filter(_has_bytes, graph.initializer):
        inside = tensor.data_location != EXTERNAL
        data = np.frombuffer(tensor.raw_data, np.uint8) if inside else reading.external(tensor, directory)
        yield Part(tensor.name, tensor.data_type, tuple(tensor.dims), data)


def _has_bytes(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == EXTERNAL or tensor.HasField("raw_data"))
