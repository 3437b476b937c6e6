"""A model becomes a Core ML package: fitted, its weights legalized and laid out, read again and opened."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from compressor.arrays import ArraySpec
from compressor.encodings import Dense, Encoding, dtype, nbytes, shape, spec
from compressor.errors import CompressorError, UsageError, located
from compressor.formats.coreml import blob, layout, lowering, opening, opsets, package
from compressor.formats.coreml.importing import coremltools, messages
from compressor.formats.coreml.skeleton import Skeleton
from compressor.formats.layout import FileLayout
from compressor.model import Model
from compressor.targets import Asked, Fitted, Illegal, Together
from compressor.targets.coreml import PACKAGE, legality
from compressor.targets.coreml.request import Input, Options, Request, Size
from compressor.targets.coreml.upgrading import upgrade
from compressor.targets.session import Session


@dataclass(frozen=True)
class CoreML:
    """A deployment target. version: of Core ML's specification."""

    name: str
    version: int
    options: Options
    needs_graph: bool = True

    @property
    def summary(self) -> str:
        return f"Core ML, {opsets.first_system(self.version)} and its like, specification {self.version}"

    def fit(self, model: Model, asked: Asked) -> Fitted:
        return Fitted(self, self._fitted(model, asked))

    def _fitted(self, model: Model, asked: Asked) -> Model:
        if isinstance(model.graph, Skeleton):
            made = _upgraded(model, model.graph, self)
            return replace(model, graph=made, notes=(*model.notes, *_unused(self.options)))
        if model.graph is None:
            raise CompressorError(f"{model.path}: has weights and no graph: export it first, `compressor export`.")
        fitted = _module("fit").fit(model, self._request(model), asked)
        notes = (*_lacking(model, self.options), *fitted.notes)
        return replace(model, weights=fitted.weights, graph=fitted.skeleton, notes=notes, source=model)

    def legalize(self, encoding: Encoding) -> Encoding:
        reason = legality.why_not(encoding, self.version)
        if reason:
            raise Illegal(reason)
        return legality.legalize(encoding, self.version)

    def together(self, forms: Mapping[str, Encoding]) -> Together:  # noqa: ARG002 - each is decoded by itself
        return Together()

    def overhead(self, name: str, encoding: Encoding) -> Mapping[str, int]:
        dense = Dense(ArraySpec(shape(encoding), dtype(encoding)))
        return {name: self._beside(name, spec(encoding)) - self._beside(name, dense)}

    def layout(self, model: Model, specs: Mapping[str, Encoding], metadata: Mapping[str, str] = {}) -> FileLayout:
        return layout.layout(PACKAGE, _skeleton(model), specs, self.version, metadata)

    def read(self, path: Path) -> Model:
        from compressor.sources import coreml as source

        return source.read(path / PACKAGE)

    def copy(self, model: Model, directory: Path, untrue: str = "") -> bool:
        if not model.path.is_dir() or untrue:
            return False
        if int(package.read(model.path).model.specificationVersion) != self.version:
            return False
        package.copy(model.path, directory / PACKAGE)
        return True

    def refusal(self, path: Path) -> str:
        found = path if path.suffix.lower() == ".mlpackage" else path / PACKAGE
        return opening.refusal(found) if found.is_dir() else ""

    def session(self, path: Path, model: Model, label: str) -> Session:
        from compressor import sources
        from compressor.targets.coreml.session import session

        return session(sources.read(path), model, label)

    def _request(self, model: Model) -> Request:
        return Request(self.version, self.options.precision, _inputs(model, self.options), self.options.classes)

    def _beside(self, name: str, encoding: Encoding) -> int:
        """What a weight takes in a package beside its own bytes."""
        blobs = blob.Blobs()
        operations = lowering.lower(name, encoding, self.version, blobs)
        return sum(int(operation.ByteSize()) for operation in operations) + blobs.end - nbytes(encoding)


def _module(name: str) -> ModuleType:
    """A module that needs Core ML Tools as a whole. Raises `CompressorError` if it is not installed."""
    coremltools()
    return importlib.import_module(f"compressor.targets.coreml.{name}")


def _skeleton(model: Model) -> Skeleton:
    """The graph of a model that was fitted."""
    assert isinstance(model.graph, Skeleton)
    return model.graph


def _upgraded(model: Model, skeleton: Skeleton, target: CoreML) -> Skeleton:
    """The skeleton of a package in the operators of the target.

    Raises:
        CompressorError: the package is newer than the target, or there are no such operators.
    """
    version = int(skeleton.model.specificationVersion)
    if version > target.version:
        raise CompressorError(
            f"{model.path}: made for {opsets.first_system(version)} or later, the target is {target.name}: choose a "
            f"target of that version, or convert the model again for {target.name}."
        )
    made = messages("Model").Model()
    made.CopyFrom(skeleton.model)
    try:
        upgrade(made, target.version)
    except CompressorError as error:
        raise located(model.path, error) from error
    return replace(skeleton, model=made)


def _unused(options: Options) -> tuple[str, ...]:
    """What is asked of a conversion in vain, since a package is one already."""
    asked = [
        f"coreml.{each.name}"
        for each in fields(options)
        if getattr(options, each.name) != getattr(Options(), each.name)
    ]
    return (f"the model is a package already, so {', '.join(asked)} change nothing in it",) if asked else ()


def _given(model: Model) -> list[Any]:
    """The inputs of the graph, which are no weights."""
    assert model.onnx is not None
    proto = model.onnx.graph
    weights = {initializer.name for initializer in proto.initializer}
    return [value for value in proto.input if value.name not in weights]


def _keys(value: Any, place: int) -> tuple[str, ...]:
    """What an axis of an input is called in `coreml.axes`: by its place, and by its name if it has one."""
    name = value.type.tensor_type.shape.dim[place].dim_param
    return (f"{value.name}.{place}", name) if name else (f"{value.name}.{place}",)


def _lacking(model: Model, options: Options) -> tuple[str, ...]:
    """What is said of axes that this model lacks, and another one may have."""
    keys = [
        _keys(value, place)
        for value in _given(model)
        for place, dim in enumerate(value.type.tensor_type.shape.dim)
        if not dim.HasField("dim_value")
    ]
    lacking = sorted(options.sizes.keys() - {key for each in keys for key in each})
    known = ", ".join(dict.fromkeys(each[-1] for each in keys)) or "none"
    told = f"coreml.axes has {', '.join(lacking)}, which this model lacks; its dynamic axes are: {known}"
    return (told,) if lacking else ()


def _inputs(model: Model, options: Options) -> tuple[Input, ...]:
    """The inputs of the graph with the sizes that are asked for.

    Raises:
        UsageError: a dynamic axis has no size, or an input is named that there is not.
        CompressorError: an input is of a type that Core ML has not.
    """
    made = []
    for value in _given(model):
        tensor = value.type.tensor_type
        if tensor.elem_type not in _DTYPES:
            raise CompressorError(
                f"{model.path}: the input {value.name} is of ONNX's type {tensor.elem_type}, which Core ML has not: "
                "expected numbers or truth values. Choose the target onnxruntime."
            )
        sizes = tuple(
            int(dim.dim_value) if dim.HasField("dim_value") else _size(model, value, place, options)
            for place, dim in enumerate(tensor.shape.dim)
        )
        made.append(Input(value.name, sizes, _DTYPES[tensor.elem_type], options.images.get(value.name)))
    if unknown := sorted(options.images.keys() - {one.name for one in made}):
        inputs = ", ".join(one.name for one in made)
        raise UsageError(f"coreml.images names {', '.join(unknown)}: the inputs of {model.path} are: {inputs}.")
    return tuple(made)


def _size(model: Model, value: Any, place: int, options: Options) -> Size:
    """The size of an axis that has none in the graph, or its least and largest one; 1 for a first axis."""
    keys, given = _keys(value, place), options.sizes
    found = next((given[key] for key in keys if key in given), 1 if place == 0 else None)
    if found is None:
        called = keys[-1] if len(keys) > 1 else "unnamed"
        raise UsageError(
            f"{model.path}: axis {place} ({called}) of the input {value.name} has no fixed size, which Core ML needs: "
            f"set coreml.axes.{keys[-1]} to a size, or to the least and the largest one."
        )
    least, most = found if isinstance(found, tuple) else (found, found)
    if least < 1:
        raise UsageError(f"coreml.axes.{keys[-1]}: the least size is {least}: expected 1 or more.")
    if least > most:
        raise UsageError(f"coreml.axes.{keys[-1]}: the least size, {least}, is larger than the largest one, {most}.")
    return found


_DTYPES = {
    **dict.fromkeys((2, 3, 4, 5, 6, 7, 9, 12, 13), "int32"),
    **dict.fromkeys((1, 11, 16), "float32"),
    10: "float16",
}
"""The types of Core ML's inputs by ONNX's `TensorProto.DataType`: integers and truth values are int32."""
