"""ONNX Runtime: standard ONNX whose weights are decoded, and the decoding folded away, when a session is created."""

from __future__ import annotations

import functools
import importlib.util
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.arrays import NDArray, bits
from compressor.encodings import Encoding, LinearQuantized, Sparse, arrays, dtype, shape, spec
from compressor.errors import CompressorError
from compressor.formats.onnx import assembly, copying, decoding, dtypes, functions, n_bits, opening, writing
from compressor.formats.onnx.graphs import walk
from compressor.formats.onnx.lowered import Part, shared
from compressor.formats.onnx.quantized import Form, is_linear
from compressor.model import Model, Weight
from compressor.targets import Illegal

if TYPE_CHECKING:
    import onnx

TARGETS: Mapping[str, tuple[int, str] | None] = {
    "onnxruntime": None,
    "onnx-opset18": (18, "1.14"),
    "onnx-opset21": (21, "1.18"),
    "onnx-opset25": (25, "1.25"),
}
"""The newest opset that a model for the target may have, and the ONNX Runtime that first ran it; None: what is here."""

FILES = (writing.MODEL, writing.DATA)
PACKAGES = ("onnx", "onnxruntime")

FUNCTIONS_OPSET = 18
"""The opset for which the bytes of decoding are estimated where there is no model: the one with the most functions."""

HEADER_NBYTES = 32
"""About what an initializer takes beside its name and its data."""

QUANTIZERS = {"QuantizeLinear", "DynamicQuantizeLinear"}
"""Operators that quantize activations."""

PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Transpose"}
"""Operators that lead to an integer kernel whose products can saturate."""

FEWEST_IN_BLOCK = 16
"""`MatMulNBits` takes blocks of a power of two from here on. Source: ONNX Runtime, ContribOperators.md."""


def _anywhere(_: int) -> str:
    return ""


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime with models of up to an opset.

    opset: None for the newest that the installed one runs. since: the version of ONNX Runtime that first ran it.
    unreachable: why a model has no such opset; empty if it has, or can be converted.
    model_opset: the one that it has.
    wanted: the form of weights that it multiplies by codes, see `_wanted`.
    """

    name: str
    opset: int | None
    since: str = ""
    unreachable: Callable[[int], str] = _anywhere
    model_opset: int = FUNCTIONS_OPSET
    wanted: Mapping[str, Form] = field(default_factory=dict, compare=False)
    precision: str = ""

    @property
    def summary(self) -> str:
        if self.opset is None:
            return f"the ONNX Runtime that is installed here, opset {self.newest()}"
        return f"ONNX Runtime {self.since} and later, opset {self.opset}"

    def fitted(self, model: Model) -> OnnxRuntime:
        proto = model.graphs.get("onnx")
        if proto is None:
            return self
        reached = functools.cache(partial(_unreachable, proto))
        return replace(self, unreachable=reached, model_opset=assembly.opset(proto), wanted=_wanted(model))

    def prepare(self, model: Model, smallest: Callable[[Weight], int]) -> Model:  # noqa: ARG002 - it folds nothing
        if "onnx" not in model.graphs:
            raise CompressorError(f"{model.path}: has no ONNX graph: {self.name} needs one, export the model to ONNX.")
        return model

    def restored(self, model: Model, artefact: Model) -> Iterator[tuple[str, NDArray]]:  # noqa: ARG002 - its own
        return iter(())

    def legalize(self, encoding: Encoding) -> Encoding:
        newest = self.newest()
        for array in arrays(encoding) if not isinstance(encoding, Sparse | LinearQuantized) else ():
            since = dtypes.SINCE.get(array.dtype.name, 0)
            if since > newest:
                raise Illegal(f"{array.dtype} needs opset {since}, {self.name} has {newest}")
        if reason := decoding.why_not(encoding):
            raise Illegal(reason)
        if self._as_floats(encoding):
            raise Illegal("ONNX Runtime would quantize its floats anew, beside activations that are quantized")
        oldest, instead = decoding.needs_opset(encoding), decoding.aligned(encoding)
        reason = self.unreachable(oldest)
        if oldest > newest:
            reason = f"decoding needs opset {oldest}, {self.name} has {newest}"
        if reason:
            raise Illegal(reason, instead if decoding.needs_opset(instead) < oldest else None)
        return encoding

    def overhead(self, name: str, encoding: Encoding) -> Mapping[str, int]:
        opset = max(self.model_opset, decoding.needs_opset(encoding))
        form = _form(self.wanted.get(name, "folded"), encoding, opset)
        lowered = decoding.lower(name, spec(encoding), opset, form)
        own = sum(node.ByteSize() for node in lowered.nodes) + sum(value.ByteSize() for value in lowered.values)
        own += sum(len(part.name) + HEADER_NBYTES for part in lowered.parts) - len(name) - HEADER_NBYTES
        common = shared([lowered])
        called = lowered.functions | common.functions
        parts = {function: _function_nbytes(function, opset) for function in sorted(called)}
        return {name: own, **parts, **{node.output[0]: node.ByteSize() for node in common.nodes}}

    def _as_floats(self, encoding: Encoding) -> bool:
        """Whether codes would be floats before a kernel that wants codes gets them."""
        quantized = encoding.values if isinstance(encoding, Sparse) else encoding
        if "linear" not in self.wanted.values() or not isinstance(quantized, LinearQuantized):
            return False
        return not is_linear(encoding, self.model_opset)

    def newest(self) -> int:
        """The newest opset that a model for this target may have."""
        return self.opset or installed_opset()

    def size(self, model: Model, specs: Mapping[str, Encoding], metadata: Mapping[str, str] = {}) -> int:
        made = _assembled(self, model, specs, metadata)
        return writing.size(made.proto, [*made.copied, *made.planned])

    def write(
        self,
        model: Model,
        specs: Mapping[str, Encoding],
        weights: Iterable[Weight],
        directory: Path,
        metadata: Mapping[str, str] = {},
    ) -> None:
        made = _assembled(self, model, specs, metadata)
        writing.write(made.proto, [*made.copied, *made.planned], made.stream(weights), directory)

    def read(self, directory: Path) -> Model:
        from compressor.sources import onnx as source

        return source.read(directory / writing.MODEL, as_written=True)

    def copy(self, model: Model, directory: Path, untrue: str = "") -> bool:
        copying.copy(model.path, directory, untrue)
        return True

    def refusal(self, path: Path) -> str:
        return opening.refusal(path / writing.MODEL if path.is_dir() else path)


def get(name: str, options: Mapping[str, object] = {}) -> OnnxRuntime:  # noqa: ARG001 - it has none
    """The target of that canonical name."""
    return OnnxRuntime(name, *(TARGETS[name] or (None,)))


@functools.cache
def _function_nbytes(name: str, opset: int) -> int:
    return int(functions.function(name, opset).ByteSize())


@functools.cache
def installed_opset() -> int:
    """The newest opset of which the installed onnxruntime opens a model; the newest of onnx if none is installed."""
    import onnx

    newest = int(onnx.defs.onnx_opset_version())
    if importlib.util.find_spec("onnxruntime") is None:
        return newest
    return next(opset for opset in range(newest, 0, -1) if _opens(opset))


def _opens(opset: int) -> bool:
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


@dataclass(frozen=True, eq=False)
class _Assembled:
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


def _assembled(
    target: OnnxRuntime, model: Model, specs: Mapping[str, Encoding], metadata: Mapping[str, str]
) -> _Assembled:
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(model.graphs["onnx"])
    opset = _raised(proto, target, specs)
    wanted = _wanted(model)
    forms = {name: _form(wanted.get(name, "folded"), one, opset) for name, one in specs.items()}
    levels = {one.name: one.n_bits for one in model.weights if one.n_bits is not None and forms[one.name] == "n_bits"}
    taken = assembly.names(proto.graph)
    prefixes = {name: assembly.prefix(name, taken) for name in specs}
    lowered = [decoding.lower(name, one, opset, forms[name], prefixes[name]) for name, one in specs.items()]
    copied = assembly.elsewhere(proto.graph, specs, model.path.parent)
    n_bits.restore(proto, levels, specs, prefixes)
    assembly.insert(proto, lowered, specs, opset)
    for key in sorted(metadata):
        proto.metadata_props.add(key=key, value=metadata[key])
    return _Assembled(proto, copied, [part for one in lowered for part in one.parts], opset, forms, prefixes)


def _unreachable(proto: onnx.ModelProto, opset: int) -> str:
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


def _raised(proto: onnx.ModelProto, target: OnnxRuntime, specs: Mapping[str, Encoding]) -> int:
    """The opset of the model, which is converted to a later one where an encoding needs that.

    Raises:
        CompressorError: the model is newer than the target, or cannot be converted.
    """
    newest = target.newest()
    newer = assembly.restamp(proto, newest)
    if newer:
        raise CompressorError(
            f"the model has opset {assembly.opset(proto)}, {target.name} takes up to {newest}, which has other forms "
            f"of {', '.join(newer)}: export it with `export.opset: {newest}`, or choose another target."
        )
    oldest = max((decoding.needs_opset(one) for one in specs.values()), default=0)
    if oldest > assembly.opset(proto):
        assembly.convert(proto, oldest)
    return assembly.opset(proto)


def _wanted(model: Model) -> dict[str, Form]:
    """By weight, the form in which ONNX Runtime computes what it does for the source, where that is not `folded`.

    Only where the source decodes a weight by an operator that runs with its codes: whatever else lies on a grid was
    trained to be multiplied as floats. In a model that quantizes activations that is every `DequantizeLinear`:
    quantization moves through what stands between a product and its inputs, and floats would be quantized anew, one
    scale for all. Elsewhere it is a product, which becomes `MatMulNBits`.

    Source: ONNX Runtime, qdq_propagation.cc, weight_bias_quantization.cc, qdq_selectors.cc.
    """
    nodes = [node for inner in walk(model.graphs["onnx"].graph) for node in inner.node]
    in_codes = any(node.op_type in QUANTIZERS for node in nodes)
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            readers[name].append(node)
    wanted: dict[str, Form] = {one.name: "n_bits" for one in model.weights if one.n_bits is not None}
    for one in model.weights:
        reading = readers[one.name] if one.linear else []
        if in_codes and any(node.op_type in PRODUCTS for node in reading):
            wanted[one.name] = "linear"
        elif reading and (in_codes or (_by_column(one.encoding) and all(_multiplies_by(n, one.name) for n in reading))):
            wanted[one.name] = "stored"
    return wanted


def _form(wanted: Form, one: Encoding, opset: int) -> Form:
    """The form that is wanted, where it can hold the encoding."""
    held = {
        "folded": True,
        "linear": is_linear(one, opset),
        "stored": is_linear(one, opset),
        "n_bits": n_bits.fits(one),
    }
    return wanted if held[wanted] else "folded"


def _multiplies_by(node: onnx.NodeProto, name: str) -> bool:
    if node.op_type not in {"MatMul", "Gemm"} or name in node.input[:1] or name not in node.input[1:2]:
        return False
    return not any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _by_column(one: Encoding) -> bool:
    """Whether `MatMulNBits` can have the weight `[K, N]`: a scale by column, or in blocks along K."""
    quantized = one.values if isinstance(one, Sparse) else one
    if not isinstance(quantized, LinearQuantized) or len(shape(one)) != 2:
        return False
    (rows, columns), counts = shape(one), tuple(quantized.scale.shape)
    block = rows // counts[0] if counts[0] else 0
    # ONNX Runtime 1.31 multiplies something else where rows of 2-bit codes do not fill bytes.
    if bits(dtype(quantized.data)) == 2 and columns % 4:
        return False
    in_blocks = counts[0] == 1 or (block >= FEWEST_IN_BLOCK and block & (block - 1) == 0)
    return counts[1] == columns and in_blocks
