"""Models as ONNX Runtime runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressor.arrays import NDArray
from compressor.errors import CompressorError, line
from compressor.targets.session import Port, checked

_NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "double", "bool")
_DTYPES = {"float": np.dtype(np.float32), "string": np.dtype(object)} | {name: np.dtype(name) for name in _NUMBERS}


@dataclass(frozen=True)
class OnnxSession:
    """A model in ONNX Runtime. replaced: values in place of the file's, which live as long as it."""

    session: Any
    label: str
    runtime: str = "onnxruntime"
    replaced: Sequence[Any] = ()

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
            ports.append(checked(Port(declared.name, axes, dtype), self.label))
        return ports

    @property
    def outputs(self) -> list[str]:
        return [output.name for output in self.session.get_outputs()]

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray]) -> Sequence[Any]:
        found: Sequence[Any] = self.session.run(list(names), dict(feeds))
        return found


def load(path: Path, label: str, values: Mapping[str, NDArray] = {}) -> OnnxSession:
    """The model in a file.

    values: of initializers that lie outside of the file, to take in their place, of the same shape and dtype. They are
        there before the graph is optimized (those of `add_initializer` come after what depends on them was folded).

    Raises:
        CompressorError: it cannot be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: its warnings are about graphs that nobody here wrote
    replaced = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(one)) for one in values.values()]
    try:
        if replaced:
            options.add_external_initializers([*values], replaced)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each kind of failure has a class of its own, without a common base
        raise CompressorError(f"{label}: ONNX Runtime cannot load it: {line(error)}") from error
    return OnnxSession(session, label, replaced=replaced)
