"""A model and the forms of its weights, put together: the tensors that are written, and all beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.encodings import Encoding
from compressor.errors import CompressorError
from compressor.formats.onnx import assembly, decoding, n_bits
from compressor.formats.onnx.lowered import Part
from compressor.formats.onnx.quantized import Form
from compressor.model import Model
from compressor.targets.onnxruntime.computing import held
from compressor.weight import Weight

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, eq=False)
class Assembled:
    """A model to be written.

    proto: all of it but the tensors. copied: constants that are no weights. planned: the parts of the weights, by spec.
    opset, forms, prefixes: what each weight is lowered with, forms and prefixes by its name.
    """

    proto: onnx.ModelProto
    copied: list[Part]
    planned: list[Part]
    opset: int
    forms: Mapping[str, Form]
    prefixes: Mapping[str, str]

    def stream(self, weights: Iterable[Weight]) -> Iterator[Part]:
        """The tensors with data, in the order in which they were planned."""
        yield from self.copied
        for name, weight in zip(self.forms, weights, strict=True):
            if weight.name != name:
                raise CompressorError(f"weight {weight.name!r} came where {name!r} was planned.")
            yield from decoding.lower(name, weight.encoding, self.opset, self.forms[name], self.prefixes[name]).parts


def assemble(
    proto: onnx.ModelProto,
    model: Model,
    specs: Mapping[str, Encoding],
    wanted: Mapping[str, Form],
    metadata: Mapping[str, str],
) -> Assembled:
    """Put the weights of `model` into `proto`, its graph, at the opset that is written. wanted: see `computing`."""
    opset = assembly.opset(proto)
    forms = {name: held(wanted.get(name, "folded"), one, opset) for name, one in specs.items()}
    levels = {one.name: one.n_bits for one in model.weights if one.n_bits is not None and forms[one.name] == "n_bits"}
    taken = assembly.names(proto.graph)
    prefixes = {name: assembly.prefix(name, taken) for name in specs}
    lowered = [decoding.lower(name, one, opset, forms[name], prefixes[name]) for name, one in specs.items()]
    copied = assembly.elsewhere(proto.graph, specs, model.path.parent)
    n_bits.restore(proto, levels, specs, prefixes)
    assembly.insert(proto, lowered, specs, opset)
    for key in sorted(metadata):
        proto.metadata_props.add(key=key, value=metadata[key])
    return Assembled(proto, copied, [part for one in lowered for part in one.parts], opset, forms, prefixes)
