"""ONNX Runtime: standard ONNX whose weights are decoded, and the decoding folded away, when a session is created."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.arrays import Array, is_float
from compressor.encodings import Concatenated, Dense, Encoding, Palettized, Quantized, Sparse, codes_of, dtype, spec
from compressor.errors import CompressorError
from compressor.formats.layout import FileLayout
from compressor.formats.onnx import assembly, copying, decoding, dtypes, functions, opening, writing
from compressor.formats.onnx.lowered import shared
from compressor.formats.onnx.quantized import Form, is_linear
from compressor.model import Model
from compressor.targets import Asked, Fitted, Illegal, Together
from compressor.targets.onnxruntime import computing, opsets
from compressor.targets.onnxruntime.layout import layout
from compressor.targets.onnxruntime.session import load
from compressor.targets.session import Session

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


def _anywhere(_: int) -> str:
    return ""


@dataclass(frozen=True)
class Facts:
    """What a model's graph says of its weights.

    opset: the one that it has. unreachable: why it has no such opset; empty if it has, or can be converted.
    wanted: by weight, the form in which ONNX Runtime computes with it, see `computing.wanted`.
    """

    opset: int = FUNCTIONS_OPSET
    unreachable: Callable[[int], str] = _anywhere
    wanted: Mapping[str, Form] = field(default_factory=dict)


UNKNOWN = Facts()
"""Those of no model."""


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime with models of up to an opset.

    opset: None for the newest that the installed one runs. since: the version of ONNX Runtime that first ran it.
    facts: of the model that it is fitted to.
    apart: whether large tensors lie in a file of their own, where a session can be given others in their place.
    """

    name: str
    opset: int | None
    since: str = ""
    facts: Facts = field(default=UNKNOWN, compare=False)
    apart: bool = False
    needs_graph: bool = True

    @property
    def summary(self) -> str:
        if self.opset is None:
            return f"the ONNX Runtime that is installed here, opset {self.newest()}"
        return f"ONNX Runtime {self.since} and later, opset {self.opset}"

    def fit(self, model: Model, asked: Asked) -> Fitted:  # noqa: ARG002 - it folds nothing
        if model.onnx is None:
            raise CompressorError(f"{model.path}: has no ONNX graph: {self.name} needs one, export the model to ONNX.")
        return Fitted(replace(self, facts=_facts(model, model.onnx)), model)

    def legalize(self, encoding: Encoding) -> Encoding:
        for array in _typed(encoding):
            since = dtypes.SINCE.get(array.dtype, 0)
            if not self._has(since):
                raise Illegal(f"{array.dtype} needs opset {since}, {self.name} has {self.newest()}")
        if reason := decoding.why_not(encoding):
            raise Illegal(reason)
        if self._as_floats(encoding):
            raise Illegal("ONNX Runtime would quantize its floats anew, beside activations that are quantized")
        oldest, instead = decoding.needs_opset(encoding), decoding.aligned(encoding)
        reason = self.facts.unreachable(oldest)
        if not self._has(oldest):
            reason = f"decoding needs opset {oldest}, {self.name} has {self.newest()}"
        if reason:
            raise Illegal(reason, instead if decoding.needs_opset(instead) < oldest else None)
        return encoding

    def together(self, forms: Mapping[str, Encoding]) -> Together:  # noqa: ARG002 - each is decoded by itself
        return Together()

    def overhead(self, name: str, encoding: Encoding) -> Mapping[str, int]:
        wanted = self.facts.wanted.get(name, "folded")
        own, others = _overhead(len(name.encode()), spec(encoding), self.facts.opset, wanted)
        return {name: own, **others}

    def _as_floats(self, encoding: Encoding) -> bool:
        """Whether codes would be floats before a kernel that wants codes gets them."""
        if "linear" not in self.facts.wanted.values() or codes_of(encoding) is None:
            return False
        return not is_linear(encoding, self.facts.opset)

    def _has(self, opset: int) -> bool:
        """Whether a model for this target may have that opset; ONNX Runtime is asked only of late ones."""
        return opset <= (self.opset or opsets.OF_ALL) or opset <= self.newest()

    def newest(self) -> int:
        """The newest opset that a model for this target may have."""
        return self.opset or opsets.installed()

    def layout(self, model: Model, specs: Mapping[str, Encoding], metadata: Mapping[str, str] = {}) -> FileLayout:
        wanted = computing.wanted(model) if self.facts is UNKNOWN else self.facts.wanted
        assert model.onnx is not None
        latest = assembly.latest(model.onnx)
        proto = opsets.raised(model.onnx, specs.values(), latest if self._has(latest) else self.newest(), self.name)
        return layout(proto, model, specs, wanted, metadata, apart=self.apart)

    def read(self, path: Path) -> Model:
        from compressor.sources import onnx as source

        return source.read(path / writing.MODEL, as_written=True)

    def copy(self, model: Model, directory: Path, untrue: str = "") -> bool:
        copying.copy(model.path, directory, untrue)
        return True

    def refusal(self, path: Path) -> str:
        return opening.refusal(path / writing.MODEL if path.is_dir() else path)

    def session(self, path: Path, model: Model, label: str) -> Session:  # noqa: ARG002 - a graph has all it needs
        return load(path / writing.MODEL if path.is_dir() else path, label)


def get(name: str, options: Mapping[str, object] = {}) -> OnnxRuntime:  # noqa: ARG001 - it has none
    """The target of that canonical name."""
    return OnnxRuntime(name, *(TARGETS[name] or (None,)))


@dataclass(frozen=True, eq=False)
class _Reached:
    """Why a graph has no such opset, nor can be converted to it. known: what was asked before, for it takes long."""

    proto: onnx.ModelProto
    known: dict[int, str] = field(default_factory=dict)

    def __call__(self, opset: int) -> str:
        if opset not in self.known:
            self.known[opset] = opsets.unreachable(self.proto, opset)
        return self.known[opset]


def _typed(encoding: Encoding) -> Iterator[Array]:
    """The arrays that an opset must have the type of; codes of integers are bytes where it has none for them."""
    match encoding:
        case Dense(values):
            yield values
        case Palettized(_, lut):
            yield lut
        case Quantized(data, scale):
            yield from _typed(scale) if isinstance(scale, Palettized) else (scale,)
            yield from _typed(data) if is_float(dtype(data)) else ()
        case Sparse(_, values):
            yield from _typed(values)
        case Concatenated(parts):
            for part in parts:
                yield from _typed(part)


def _facts(model: Model, proto: onnx.ModelProto) -> Facts:
    return Facts(assembly.opset(proto), _Reached(proto), computing.wanted(model))


@functools.lru_cache(maxsize=1 << 14)
def _overhead(length: int, encoding: Encoding, oldest: int, wanted: Form) -> tuple[int, Mapping[str, int]]:
    """What decodes a weight by itself, and what several may share: bytes. Many weights have one form.

    length: the bytes of the weight's name. encoding: a spec. oldest: the opset of the model.
    """
    name, opset = "x" * length, max(oldest, decoding.needs_opset(encoding))
    lowered = decoding.lower(name, encoding, opset, computing.held(wanted, encoding, opset))
    own = sum(node.ByteSize() for node in lowered.nodes) + sum(value.ByteSize() for value in lowered.values)
    own += sum(len(part.name) + HEADER_NBYTES for part in lowered.parts) - length - HEADER_NBYTES
    common = shared([lowered])
    called = lowered.functions | common.functions
    parts = {function: _function_nbytes(function, opset) for function in sorted(called)}
    return own, parts | {node.output[0]: node.ByteSize() for node in common.nodes}


@functools.cache
def _function_nbytes(name: str, opset: int) -> int:
    return int(functions.function(name, opset).ByteSize())
