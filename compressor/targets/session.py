"""Running a model: an ONNX file in ONNX Runtime, a Core ML package in Core ML itself where that is there."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from compressor.arrays import DType, NDArray
from compressor.errors import CompressorError, line

_NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "double", "bool")
_DTYPES = {"float": np.dtype(np.float32), "string": np.dtype(object)} | {name: np.dtype(name) for name in _NUMBERS}
_MULTI_ARRAYS: Mapping[int, DType] = {
    65552: np.dtype(np.float16),
    65568: np.dtype(np.float32),
    65600: np.dtype(np.float64),
}
"""Core ML's `ArrayFeatureType.ArrayDataType`; what is none of these is int32."""

HAS_CORE_ML = sys.platform == "darwin"


@dataclass(frozen=True)
class Port:
    """An input of a model: its name, its axes (None: any size), its dtype."""

    name: str
    shape: tuple[int | None, ...]
    dtype: DType

    def __str__(self) -> str:
        axes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} [{axes}]"


class Session(Protocol):
    """A loaded model. label: what errors call it. runtime: what runs it, as the metrics name it."""

    @property
    def label(self) -> str: ...

    @property
    def runtime(self) -> str: ...

    @property
    def inputs(self) -> Sequence[Port]:
        """The inputs; each has samples along its first axis."""

    @property
    def outputs(self) -> Sequence[str]:
        """The names of the outputs."""

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray]) -> Sequence[Any]:
        """The outputs of these names. Raises whatever the runtime raises."""


def load(path: Path, label: str) -> Session:
    """The model in `path`, a file or a package.

    Raises:
        CompressorError: its runtime cannot load it.
    """
    return _core_ml(path, label) if path.suffix == ".mlpackage" else _onnx(path, label)


@dataclass(frozen=True)
class OnnxSession:
    """A model in ONNX Runtime."""

    session: Any
    label: str
    runtime: str = "onnxruntime"

    @property
    def inputs(self) -> list[Port]:
        ports = []
        for declared in self.session.get_inputs():
            dtype = _DTYPES.get(declared.type.removeprefix("tensor(").removesuffix(")"))
            if dtype is None:
                raise CompressorError(
                    f"{self.label}: input {declared.name} is {declared.type}, which no numpy array can be."
                )
            axes = tuple(size if isinstance(size, int) else None for size in declared.shape)
            ports.append(_checked(Port(declared.name, axes, dtype), self.label))
        return ports

    @property
    def outputs(self) -> list[str]:
        return [output.name for output in self.session.get_outputs()]

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray]) -> Sequence[Any]:
        found: Sequence[Any] = self.session.run(list(names), dict(feeds))
        return found


@dataclass(frozen=True)
class CoreMLSession:
    """A package in Core ML."""

    model: Any
    label: str
    runtime: str = "coreml"

    @property
    def inputs(self) -> list[Port]:
        ports = []
        for declared in self.model.get_spec().description.input:
            array = declared.type.multiArrayType
            dtype = _MULTI_ARRAYS.get(array.dataType, np.dtype(np.int32))
            flexible = array.WhichOneof("ShapeFlexibility") is not None
            axes = tuple(None if flexible and place == 0 else int(size) for place, size in enumerate(array.shape))
            ports.append(_checked(Port(declared.name, axes, dtype), self.label))
        return ports

    @property
    def outputs(self) -> list[str]:
        return [output.name for output in self.model.get_spec().description.output]

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray]) -> Sequence[Any]:
        found = self.model.predict(dict(feeds))
        return [found[name] for name in names]


def _checked(port: Port, label: str) -> Port:
    if not port.shape:
        raise CompressorError(f"{label}: input {port.name} is a scalar: expected samples along the first axis.")
    return port


def _onnx(path: Path, label: str) -> OnnxSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: its warnings are about graphs that nobody here wrote
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each kind of failure has a class of its own, without a common base
        raise CompressorError(f"{label}: ONNX Runtime cannot load it: {line(error)}") from error
    return OnnxSession(session, label)


def _core_ml(path: Path, label: str) -> CoreMLSession:
    from compressor.formats.coreml.importing import coremltools

    try:
        return CoreMLSession(coremltools().models.MLModel(str(path)), label)
    except CompressorError:
        raise
    except Exception as error:  # see _onnx
        raise CompressorError(f"{label}: Core ML cannot load it: {line(error)}") from error
