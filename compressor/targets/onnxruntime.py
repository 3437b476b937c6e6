"""ONNX Runtime: standard ONNX whose weights are decoded, and the decoding folded away, when a session is created."""

from __future__ import annotations

import functools
import importlib.metadata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.encodings import Dense, Encoding, LinearQuantized, Sparse, arrays, shape, spec
from compressor.errors import CompressorError
from compressor.formats.onnx import decoding, functions, writing
from compressor.formats.onnx.decoding import Form
from compressor.formats.onnx.lowered import Lowered, Part, shared
from compressor.model import Model, Weight
from compressor.targets import Illegal

if TYPE_CHECKING:
    import onnx

TARGETS: Mapping[str, int | None] = {"onnxruntime": None, "onnx-opset18": 18, "onnx-opset21": 21, "onnx-opset25": 25}
"""The newest opset that a model for the target may have; None: that of the installed onnxruntime."""

RUNS_OPSET: Mapping[tuple[int, int], int] = {
    (1, 14): 18,
    (1, 15): 19,
    (1, 17): 20,
    (1, 18): 21,
    (1, 21): 22,
    (1, 22): 23,
    (1, 24): 24,
    (1, 25): 25,
    (1, 27): 26,
}
"""The newest opset that ONNX Runtime of a version, and of later ones, runs."""

DTYPE_SINCE: Mapping[str, int] = {"uint4": 21, "int4": 21, "uint2": 25, "int2": 25}
"""The opset that brought a type that codes are stored in without decoding."""

FUNCTIONS_IR_VERSION = 8

_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL

FUNCTIONS_OPSET = 18
"""The opset for which the bytes of decoding are estimated: the form with the most functions."""

HEADER_NBYTES = 32
"""About what an initializer takes beside its name and its data."""

INTEGER_KERNELS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operators that compute with codes where weight and data both come from `DequantizeLinear`."""

FEWEST_IN_BLOCK = 16
"""`MatMulNBits` takes blocks of a power of two from here on. Source: ONNX Runtime, ContribOperators.md."""


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime with models of up to an opset. opset: None for the newest that the installed one runs."""

    name: str
    opset: int | None

    def legalize(self, encoding: Encoding) -> Encoding:
        newest = self.newest()
        for array in arrays(encoding) if not isinstance(encoding, Sparse | LinearQuantized) else ():
            since = DTYPE_SINCE.get(array.dtype.name, 0)
            if since > newest:
                raise Illegal(f"{array.dtype} needs opset {since}, {self.name} has {newest}")
        oldest = decoding.needs_opset(encoding)
        reason = decoding.why_not(encoding)
        if oldest > newest:
            reason = f"decoding needs opset {oldest}, {self.name} has {newest}"
        if reason:
            raise Illegal(reason)
        return encoding

    def overhead(self, name: str, encoding: Encoding) -> Mapping[str, int]:
        opset = max(FUNCTIONS_OPSET, decoding.needs_opset(encoding))
        lowered = decoding.lower(name, spec(encoding), opset)
        own = sum(node.ByteSize() for node in lowered.nodes) + sum(value.ByteSize() for value in lowered.values)
        own += sum(len(part.name) + HEADER_NBYTES for part in lowered.parts)
        return {name: own, **{function: _function_nbytes(function, opset) for function in lowered.functions}}

    def newest(self) -> int:
        """The newest opset that a model for this target may have."""
        return self.opset or installed_opset()

    def write(self, model: Model, specs: Mapping[str, Encoding], weights: Iterable[Weight], directory: Path) -> None:
        import onnx

        proto = onnx.ModelProto()
        proto.CopyFrom(model.graphs["onnx"])
        _inline(proto, specs, model.path.parent)
        opset = _raised(proto, self, specs)
        forms = _forms(proto.graph, specs, opset)
        taken = _values(proto.graph)
        prefixes = {name: _prefix(name, taken) for name in specs}
        lowered = [decoding.lower(name, one, opset, forms[name], prefixes[name]) for name, one in specs.items()]
        copied = [_copied(tensor, model.path.parent) for tensor in _elsewhere(proto.graph, specs)]
        _insert(proto, specs, lowered, opset)
        proto.metadata_props.add(key="compressor.target", value=self.name)
        planned = [*copied, *(part for one in lowered for part in one.parts)]
        writing.write(proto, planned, _stream(copied, specs, weights, opset, forms, prefixes), directory)

    def read(self, directory: Path) -> Model:
        from compressor.sources import onnx as source

        return source.read(directory / writing.MODEL)


def get(name: str) -> OnnxRuntime:
    """The target of that canonical name."""
    return OnnxRuntime(name, TARGETS[name])


@functools.cache
def _function_nbytes(name: str, opset: int) -> int:
    return int(functions.function(name, opset).ByteSize())


@functools.cache
def installed_opset() -> int:
    """The newest opset that the installed onnxruntime runs; of the newest known one if none is installed."""
    try:
        version = importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        return max(RUNS_OPSET.values())
    major, minor = (int(number) for number in version.split(".")[:2])
    return max((opset for since, opset in RUNS_OPSET.items() if since <= (major, minor)), default=13)


def _stream(
    copied: list[Part],
    specs: Mapping[str, Encoding],
    weights: Iterable[Weight],
    opset: int,
    forms: Mapping[str, Form],
    prefixes: Mapping[str, str],
) -> Iterator[Part]:
    """The tensors with data, in the order in which they were planned."""
    yield from copied
    for name, weight in zip(specs, weights, strict=True):
        if weight.name != name:
            raise CompressorError(f"weight {weight.name!r} came where {name!r} was planned.")
        yield from decoding.lower(name, weight.encoding, opset, forms[name], prefixes[name]).parts


def _raised(proto: onnx.ModelProto, target: OnnxRuntime, specs: Mapping[str, Encoding]) -> int:
    """The opset of the model, which is converted to a later one where an encoding needs that.

    Raises:
        CompressorError: the model is newer than the target, or cannot be converted.
    """
    entry = next(entry for entry in proto.opset_import if entry.domain in {"", "ai.onnx"})
    newest = target.newest()
    if entry.version > newest:
        raise CompressorError(
            f"the model has opset {entry.version}, {target.name} takes up to {newest}: "
            f"export it with `export.opset: {newest}`, or choose another target."
        )
    oldest = max((decoding.needs_opset(one) for one in specs.values()), default=entry.version)
    if oldest <= entry.version:
        return int(entry.version)
    _convert(proto, int(entry.version), oldest)
    return oldest


def _convert(proto: onnx.ModelProto, opset: int, to: int) -> None:
    """Bring the graph to opset `to`; its weights, of which it has the types only, become inputs meanwhile."""
    import onnx
    from onnx import inliner

    stubs = [tensor for tensor in proto.graph.initializer if not _has_data(tensor)]
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.initializer[:]
    bare.graph.initializer.extend(tensor for tensor in proto.graph.initializer if _has_data(tensor))
    bare.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in stubs)
    try:
        # The converter drops the model's own functions, so their bodies come first into the graph.
        converted = onnx.version_converter.convert_version(inliner.inline_local_functions(bare), to)
    except RuntimeError as error:
        raise CompressorError(
            f"the model has opset {opset}, its weights need {to}, and it cannot be converted: {error}. "
            f"Export it with `export.opset: {to}`."
        ) from error
    names = {tensor.name for tensor in stubs}
    kept = [value for value in converted.graph.input if value.name not in names]
    del converted.graph.input[:]
    converted.graph.input.extend(kept)
    converted.graph.initializer.extend(stubs)
    proto.CopyFrom(converted)


def _has_data(tensor: onnx.TensorProto) -> bool:
    fields = {descriptor.name for descriptor, _ in tensor.ListFields()}
    return bool(fields - {"name", "data_type", "dims", "doc_string", "metadata_props"}) or 0 in tensor.dims


def _forms(graph: onnx.GraphProto, specs: Mapping[str, Encoding], opset: int) -> dict[str, Form]:
    """`linear` for codes that ONNX Runtime can compute with, everything else is folded."""
    nodes = [node for inner in _graphs(graph) for node in inner.node]
    producers = {name: node.op_type for node in nodes for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            readers[name].append(node)
    return {
        name: "linear"
        if decoding.is_linear(one, opset)
        and readers[name]
        and all(_computes_with_codes(node, name, one, producers) for node in readers[name])
        else "folded"
        for name, one in specs.items()
    }


def _computes_with_codes(node: onnx.NodeProto, name: str, one: Encoding, producers: Mapping[str, str]) -> bool:
    if node.op_type not in INTEGER_KERNELS or len(node.input) < 2 or node.input[1] != name or node.input[0] == name:
        return False
    return producers.get(node.input[0]) == "DequantizeLinear" or (node.op_type == "MatMul" and _is_n_bits(one))


def _is_n_bits(one: Encoding) -> bool:
    """Whether a `MatMul` with the weight becomes `MatMulNBits`: 4-bit codes `[K, N]` in blocks along K."""
    if not isinstance(one, LinearQuantized) or len(shape(one)) != 2:
        return False
    (rows, columns), counts = shape(one), tuple(one.scale.shape)
    block = rows // counts[0] if counts[0] else 0
    four_bits = next(arrays(one.data)).dtype.name in {"int4", "uint4"} and isinstance(one.data, Dense)
    return four_bits and counts[1] == columns and block >= FEWEST_IN_BLOCK and block & (block - 1) == 0


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _graphs(inner)


def _values(graph: onnx.GraphProto) -> set[str]:
    """The names of everything in the graph and its subgraphs."""
    names: set[str] = set()
    for inner in _graphs(graph):
        names.update(value.name for value in (*inner.input, *inner.output, *inner.initializer))
        names.update(name for node in inner.node for name in node.output)
    return names


def _prefix(name: str, taken: set[str]) -> str:
    """What the names of a weight's parts begin with: its name, unless the graph has such names."""
    prefix = name
    while any(other.startswith(f"{prefix}.") for other in taken):
        prefix += "_"
    return prefix


def _inline(proto: onnx.ModelProto, specs: Mapping[str, Encoding], directory: Path) -> None:
    """Bring the data that lie in files into the constants inside of nodes and subgraphs; those are small."""
    from compressor.formats.onnx import reading

    nodes = [node for inner in _graphs(proto.graph) for node in inner.node]
    nodes.extend(node for function in proto.functions for node in function.node)
    attributes = [attribute for node in nodes for attribute in node.attribute]
    found = [tensor for attribute in attributes for tensor in (attribute.t, *attribute.tensors)]
    found.extend(tensor for inner in _graphs(proto.graph) if inner is not proto.graph for tensor in inner.initializer)
    sparse = [one for inner in _graphs(proto.graph) for one in inner.sparse_initializer]
    sparse.extend(one for attribute in attributes for one in (attribute.sparse_tensor, *attribute.sparse_tensors))
    found.extend(tensor for one in sparse for tensor in (one.values, one.indices))
    for tensor in found:
        if tensor.data_location == _EXTERNAL and tensor.name not in specs:
            data = bytes(reading.external(tensor, directory).raw())
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = data


def _elsewhere(graph: onnx.GraphProto, specs: Mapping[str, Encoding]) -> list[onnx.TensorProto]:
    """The constants of the main graph that lie in files and are no weights."""
    return [tensor for tensor in graph.initializer if tensor.data_location == _EXTERNAL and tensor.name not in specs]


def _copied(tensor: onnx.TensorProto, directory: Path) -> Part:
    from compressor.formats.onnx import reading

    return Part(tensor.name, tensor.data_type, tuple(tensor.dims), reading.external(tensor, directory))


def _insert(proto: onnx.ModelProto, specs: Mapping[str, Encoding], lowered: list[Lowered], opset: int) -> None:
    """Replace the stubs of the weights by what computes them; decoding comes first, in the main graph."""
    import onnx

    _return_copies(proto.graph, specs)
    for inner in _graphs(proto.graph):
        kept = [t for t in inner.initializer if t.name not in specs and t.data_location != _EXTERNAL]
        del inner.initializer[:]
        inner.initializer.extend(kept)
    every = [shared(lowered), *lowered]
    nodes = [node for one in every for node in one.nodes]
    nodes.extend(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.value_info.extend(value for one in every for value in one.values)
    called = sorted({name for one in every for name in one.functions})
    proto.functions.extend(functions.function(name, opset) for name in called)
    if called:
        proto.opset_import.add(domain=functions.DOMAIN, version=functions.VERSION)
        version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
        proto.ir_version = max(proto.ir_version, version, FUNCTIONS_IR_VERSION)


def _return_copies(graph: onnx.GraphProto, specs: Mapping[str, Encoding]) -> None:
    """Weights that a subgraph returns are computed outside of it, and it cannot return an outer value itself."""
    import onnx

    for inner in _graphs(graph):
        own = {tensor.name for tensor in inner.initializer} & specs.keys()
        for value in inner.output if inner is not graph else ():
            if value.name in own:
                inner.node.append(onnx.helper.make_node("Identity", [value.name], [f"{value.name}.returned"]))
                value.name = f"{value.name}.returned"
