"""Packages as Core ML runs them; where it is not, the graph that they were made of with the values that they have."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from compressor import targets
from compressor.arrays import ComputedArray, DType, NDArray
from compressor.encodings import Dense, Encoding, decode, dtype, shape
from compressor.errors import CompressorError, line
from compressor.formats.coreml.importing import coremltools
from compressor.model import FOLDED, Model, joined
from compressor.targets.session import Port, Session, checked
from compressor.weight import Origin

_MULTI_ARRAYS: Mapping[int, DType] = {
    65552: np.dtype(np.float16),
    65568: np.dtype(np.float32),
    65600: np.dtype(np.float64),
}
"""Core ML's `ArrayFeatureType.ArrayDataType`; what is none of these is int32."""


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
            ports.append(checked(Port(declared.name, axes, dtype), self.label))
        return ports

    @property
    def outputs(self) -> list[str]:
        return [output.name for output in self.model.get_spec().description.output]

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray]) -> Sequence[Any]:
        found = self.model.predict(dict(feeds))
        return [found[name] for name in names]


def session(artefact: Model, model: Model, label: str) -> Session:
    """What computes as a package does. model: fitted, as one that the package could have been written of.

    Raises:
        CompressorError: it cannot be loaded.
    """
    if sys.platform == "darwin":
        return load(artefact.path, label)
    if model.source is None:
        raise CompressorError(f"{label}: was made of a package, which runs in Core ML alone: evaluate it on a Mac.")
    source, plain = _restored(model, model.source, artefact), targets.get("onnxruntime")
    with TemporaryDirectory(prefix="compressor-") as name:
        targets.write(plain, source, Path(name))
        return plain.session(Path(name), source, label)


def load(path: Path, label: str) -> CoreMLSession:
    """A package in Core ML.

    Raises:
        CompressorError: it cannot be loaded.
    """
    try:
        return CoreMLSession(coremltools().models.MLModel(str(path)), label)
    except CompressorError:
        raise
    except Exception as error:  # of whatever class Core ML's errors are
        raise CompressorError(f"{label}: Core ML cannot load it: {line(error)}") from error


def _restored(model: Model, source: Model, artefact: Model) -> Model:
    """The source of a fitted model, its weights with the values that an artefact has where it has them."""
    folded = set(json.loads(artefact.metadata.get(FOLDED, "[]")))
    stored = {weight.name: weight.encoding for weight in (*artefact.weights, *joined(artefact))}
    parts: dict[str, list[tuple[Origin, Encoding]]] = defaultdict(list)
    for weight in model.weights:
        if weight.origin is not None and weight.name in stored:
            origin = weight.origin if weight.name in folded else replace(weight.origin, factor=None)
            parts[origin.weight].append((origin, stored[weight.name]))
    weights = [
        replace(weight, encoding=_filled(weight.encoding, parts[weight.name])) if weight.name in parts else weight
        for weight in source.weights
    ]
    return replace(source, weights=weights)


def _filled(encoding: Encoding, parts: Sequence[tuple[Origin, Encoding]]) -> Dense:
    """The values of a weight, computed whenever they are read, with those of its parts in their places.

    What a batch norm has multiplied the parts with is divided out.
    """

    def values() -> NDArray:
        made = np.array(decode(encoding), np.float32)
        places = np.arange(made.size).reshape(made.shape)
        for origin, part in parts:
            found = decode(part).astype(np.float32)
            found = found if origin.factor is None else (found / origin.factor).astype(np.float32)
            where = slice(None) if origin.move is None else origin.move(places).reshape(-1)
            made.reshape(-1)[where] = found.reshape(-1)
        return made.astype(dtype(encoding))

    return Dense(ComputedArray(shape(encoding), dtype(encoding), values))
