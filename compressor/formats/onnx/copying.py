"""A model as it is, in the files that an artefact has."""

from __future__ import annotations

import shutil
from pathlib import Path

from compressor.formats.onnx import assembly, reading, writing
from compressor.formats.onnx.graphs import tensors
from compressor.formats.onnx.wire import EXTERNAL


def copy(path: Path, directory: Path, untrue: str = "") -> None:
    """Write the model in `path` to `directory`: its very bytes, but where data lie apart or something is left out.

    untrue: the key of what the model says about itself and would not hold of the copy.
    """
    model = reading.load(path)
    said = [entry for entry in model.metadata_props if entry.key != untrue]
    if reading.files(model, path) == (path,) and len(said) == len(model.metadata_props):
        shutil.copyfile(path, directory / writing.MODEL)
        return
    del model.metadata_props[:]
    model.metadata_props.extend(said)
    parts = assembly.elsewhere(model.graph, (), path.parent)
    inside = [tensor for tensor in model.graph.initializer if tensor.data_location != EXTERNAL]
    del model.graph.initializer[:]
    model.graph.initializer.extend(inside)
    for tensor in tensors([model.graph], model.functions):
        if tensor.data_location == EXTERNAL:
            tensor.raw_data = reading.external(tensor, path.parent).raw().tobytes()
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    writing.write(model, parts, parts, directory)
