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
    opset = assembly.opset(proto)
    forms = {name: held(wanted.get(name, "folded"), one, opset) for name, one in specs.items()}
    together = [*stacking.alike({name: one for name, one in specs.items() if forms[name] == "folded"})]
    within = {name for names in together for name in names}
    stacks = {f"{stacking.NAME}{number}": names for number, names in enumerate(together)}
    alone = [name for name in forms if name not in within]
    prefixes = assembly.prefixes([*alone, *stacks], assembly.names(proto.graph))
    ways = [Lowering(name, opset, forms[name], prefixes[name]) for name in alone]
    stored = [Stored(one := way(specs[way.name]), [(way, one.parts)]) for way in ways]
    stored += [_stacked(names, prefixes[called], specs, opset) for called, names in stacks.items()]
    constants = assembly.elsewhere(proto.graph, specs, model.path.parent)
    levels = {one.name: one.n_bits for one in model.weights if one.n_bits is not None and forms[one.name] == "n_bits"}
    n_bits.restore(proto, levels, specs, {way.name: way.prefix for way in ways})
    assembly.insert(proto, [one.whole for one in stored], specs, opset)
    for key in sorted(metadata):
        proto.metadata_props.add(key=key, value=metadata[key])
    return writing.layout(proto, constants, stored, apart=apart)


def _stacked(names: Sequence[str], prefix: str, specs: Mapping[str, Encoding], opset: int) -> Stored:
    """Weights side by side, whose parts' names begin with `prefix`."""
    some, value = [specs[name] for name in names], stacking.value_of(prefix)
    whole = decoding.lower(value, stacking.stacked(some), opset, prefix=prefix, ends=stacking.ends(some))
    whole.split(value, names)
    ways = [Lowering(name, opset, prefix=prefix) for name in names]
    parts = {one: ways[0](one).parts for one in set(some)}
    return Stored(whole, [(way, parts[one]) for way, one in zip(ways, some, strict=True)])
