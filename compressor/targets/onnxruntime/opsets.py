"""Opsets: the newest that ONNX Runtime opens here, and those that a model can be converted to."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING

from compressor.encodings import Encoding
from compressor.errors import CompressorError
from compressor.formats.onnx import assembly, decoding

if TYPE_CHECKING:
    import onnx

OF_ALL = 21
"""The newest opset that every version of onnxruntime has which this package works with."""


@functools.cache
def installed() -> int:
    """The newest opset of which the installed onnxruntime opens a model; the newest of onnx if none is installed."""
    import onnx

    newest = int(onnx.defs.onnx_opset_version())
    if importlib.util.find_spec("onnxruntime") is None:
        return newest
    return next(opset for opset in range(newest, 0, -1) if opens(opset))


def opens(opset: int) -> bool:
    """Whether the installed onnxruntime opens a model of that opset."""
    import onnx
    import onnxruntime

    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([], "nothing", [value], [value])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - whatever it raises says no
        return False
    return True


def unreachable(proto: onnx.ModelProto, opset: int) -> str:
    """Why a model does not have that opset, nor can be converted to it; empty if it can."""
    import onnx

    if opset <= assembly.opset(proto):
        return ""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    try:
        assembly.convert(copy, opset)
    except CompressorError as error:
        return str(error)
    return ""


def raised(model: onnx.ModelProto, specs: Iterable[Encoding], newest: int, target: str) -> onnx.ModelProto:
    """A copy of the model, converted to a later opset where an encoding needs that. newest: what `target` takes.

    Raises:
        CompressorError: the model is newer than the target, or cannot be converted.
    """
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    newer = assembly.restamp(proto, newest)
    if newer:
        raise CompressorError(
            f"the model has opset {assembly.opset(proto)}, {target} takes up to {newest}, which has other forms "
            f"of {', '.join(newer)}: export it with `export.opset: {newest}`, or choose another target."
        )
    oldest = max((decoding.needs_opset(one) for one in specs), default=0)
    if oldest > assembly.opset(proto):
        assembly.convert(proto, oldest)
    return proto
