"""A model and the forms of its weights, put together: where the tensors are written, and all beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from compressor.encodings import Encoding
from compressor.formats.layout import FileLayout
from compressor.formats.onnx import assembly, n_bits, writing
from compressor.formats.onnx.decoding import Lowering
from compressor.formats.onnx.quantized import Form
from compressor.model import Model
from compressor.targets.onnxruntime.computing import held

if TYPE_CHECKING:
    import onnx


def layout(
    proto: onnx.ModelProto,
    model: Model,
    specs: Mapping[str, Encoding],
    wanted: Mapping[str, Form],
    metadata: Mapping[str, str],
    *,
    apart: bool = False,
) -> FileLayout:
    """Put the weights of `model` into `proto`, its graph, at the opset that is written.

    wanted: see `computing`. apart: see `writing`.
    """
    opset, taken = assembly.opset(proto), assembly.names(proto.graph)
    forms = {name: held(wanted.get(name, "folded"), one, opset) for name, one in specs.items()}
    ways = [Lowering(name, opset, form, assembly.prefix(name, taken)) for name, form in forms.items()]
    lowered = [way(specs[way.name]) for way in ways]
    constants = assembly.elsewhere(proto.graph, specs, model.path.parent)
    levels = {one.name: one.n_bits for one in model.weights if one.n_bits is not None and forms[one.name] == "n_bits"}
    n_bits.restore(proto, levels, specs, {way.name: way.prefix for way in ways})
    assembly.insert(proto, lowered, specs, opset)
    for key in sorted(metadata):
        proto.metadata_props.add(key=key, value=metadata[key])
    return writing.layout(
        proto, constants, [(way, one.parts) for way, one in zip(ways, lowered, strict=True)], apart=apart
    )
