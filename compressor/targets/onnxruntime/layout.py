"""A model and the forms of its weights, put together: where the tensors are written, and all beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from compressor.encodings import Encoding
from compressor.formats.layout import FileLayout
from compressor.formats.onnx import assembly, decoding, n_bits, stacking, writing
from compressor.formats.onnx.decoding import Lowering
from compressor.formats.onnx.quantized import Form
from compressor.formats.onnx.writing import Stored
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
    together = [*stacking.alike({name: one for name, one in specs.items() if forms[name] == "folded"})]
    within = {name for names in together for name in names}
    ways = [
        Lowering(name, opset, form, assembly.prefix(name, taken)) for name, form in forms.items() if name not in within
    ]
    stored = [Stored(one := way(specs[way.name]), [(way, one.parts)]) for way in ways]
    stored += [_stacked(names, f"{stacking.NAME}{n}", specs, opset, taken) for n, names in enumerate(together)]
    constants = assembly.elsewhere(proto.graph, specs, model.path.parent)
    levels = {one.name: one.n_bits for one in model.weights if one.n_bits is not None and forms[one.name] == "n_bits"}
    n_bits.restore(proto, levels, specs, {way.name: way.prefix for way in ways})
    assembly.insert(proto, [one.whole for one in stored], specs, opset)
    for key in sorted(metadata):
        proto.metadata_props.add(key=key, value=metadata[key])
    return writing.layout(proto, constants, stored, apart=apart)


def _stacked(
    names: Sequence[str], called: str, specs: Mapping[str, Encoding], opset: int, taken: Sequence[str]
) -> Stored:
    """Weights side by side, whose parts are called after `called`."""
    some, prefix = [specs[name] for name in names], assembly.prefix(called, taken)
    whole = decoding.lower(prefix, stacking.stacked(some), opset, ends=stacking.ends(some))
    whole.split(prefix, names)
    ways = [Lowering(name, opset, prefix=prefix) for name in names]
    parts = {one: ways[0](one).parts for one in set(some)}
    return Stored(whole, [(way, parts[one]) for way, one in zip(ways, some, strict=True)])
