"""ONNX Runtime: standard ONNX whose weights are decoded, and the decoding folded away, when a session is created."""

from __future__ import annotations

import functools
import importlib.metadata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.arrays import NDArray
from compressor.encodings import Dense, Encoding, LinearQuantized, Sparse, arrays, shape, spec
from compressor.errors import CompressorError
from compressor.formats.onnx import assembly, decoding, dtypes, functions, opening, writing
from compressor.formats.onnx.graphs import walk
from compressor.formats.onnx.lowered import Part
from compressor.formats.onnx.quantized import Form, is_linear
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

DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-training",
    "onnxruntime-cann",
    "ort-nightly",
    "ort-nightly-gpu",
)
"""The packages that bring the module `onnxruntime`, each with the same version numbers."""

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
    precision: str = ""

    @property
    def summary(self) -> str:
        if self.opset is None:
            return f"the ONNX Runtime that is installed here, opset {self.newest()}"
        major, minor = min(version for version, opset in RUNS_OPSET.items() if opset >= self.opset)
        return f"ONNX Runtime {major}.{minor} and later, opset {self.opset}"

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

    def refusal(self, path: Path) -> str:
        return opening.refusal(path / writing.MODEL if path.is_dir() else path)


def get(name: str, options: Mapping[str, object] = {}) -> OnnxRuntime:  # noqa: ARG001 - it has none
    """The target of that canonical name."""
    return OnnxRuntime(name, TARGETS[name])


@functools.cache
def _function_nbytes(name: str, opset: int) -> int:
    return int(functions.function(name, opset).ByteSize())


@functools.cache
def installed_opset() -> int:
    """The newest opset that the installed onnxruntime runs; of the newest known one if none is installed."""
    for distribution in DISTRIBUTIONS:
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        major, minor = (int(number) for number in version.split(".")[:2])
        return max((opset for since, opset in RUNS_OPSET.items() if since <= (major, minor)), default=13)
    return max(RUNS_OPSET.values())


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
    forms = _forms(proto.graph, specs, opset)
    prefixes = assembly.prefixes(proto.graph, specs)
    lowered = [decoding.lower(name, one, opset, forms[name], prefixes[name]) for name, one in specs.items()]
    copied = assembly.elsewhere(proto.graph, specs, model.path.parent)
    assembly.insert(proto, lowered, specs, opset)
    for key in sorted(metadata):
        proto.metadata_props.add(key=key, value=metadata[key])
    return _Assembled(proto, copied, [part for one in lowered for part in one.parts], opset, forms, prefixes)


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
    assembly.convert(proto, int(entry.version), oldest)
    return oldest


def _forms(graph: onnx.GraphProto, specs: Mapping[str, Encoding], opset: int) -> dict[str, Form]:
    """`linear` for codes that ONNX Runtime can compute with, everything else is folded."""
    nodes = [node for inner in walk(graph) for node in inner.node]
    producers = {name: node.op_type for node in nodes for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            readers[name].append(node)
    return {
        name: "linear"
        if is_linear(one, opset)
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
