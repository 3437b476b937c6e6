"""Models that hold weights and nothing else, and what Core ML Tools makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compressor.arrays import NDArray
from compressor.encodings import Encoding, dtype, shape
from compressor.formats.coreml import blob, lowering, package, skeleton
from compressor.formats.coreml.constants import Constants, lift
from compressor.formats.coreml.importing import coremltools, messages
from compressor.formats.coreml.opsets import OPSETS
from compressor.formats.coreml.types import TYPES
from compressor.formats.coreml.values import Held, tensor_type
from compressor.formats.layout import FileLayout, Piece


def model(version: int, operations: Sequence[Any], outputs: Sequence[str]) -> Any:
    """A model of one function without inputs."""
    made = messages("Model").Model(specificationVersion=version)
    made.mlProgram.version = 1
    function = made.mlProgram.functions["main"]
    function.opset = OPSETS[version]
    block = function.block_specializations[OPSETS[version]]
    block.operations.extend(operations)
    block.outputs.extend(outputs)
    return made


def stubbed(version: int, encodings: Mapping[str, Encoding]) -> skeleton.Skeleton:
    """The skeleton of a model that gives the values of the encodings."""
    stubs = [
        skeleton.stub(index, f"w{index}", tensor_type(TYPES[dtype(encoding).name], shape(encoding)))
        for index, encoding in enumerate(encodings.values())
    ]
    made = model(version, stubs, [f"w{index}" for index in range(len(stubs))])
    skeleton.rename(made, list(encodings))
    return skeleton.Skeleton(made, tuple(encodings), Held({}))


def outputs(made: skeleton.Skeleton) -> list[str]:
    """What the skeleton's program calls its weights, in their order."""
    (block,) = made.model.mlProgram.functions["main"].block_specializations.values()
    return list(block.outputs)


def save(path: Path, version: int, encodings: Mapping[str, Encoding]) -> Path:
    """A package that gives the values of legal encodings."""

    def build(store: blob.Store) -> Any:
        made = [lowering.lower(name, encoding, version, store) for name, encoding in encodings.items()]
        return model(version, [operation for each in made for operation in each], list(encodings))

    return in_package(path, build).path


def in_package(path: Path, build: Callable[[blob.Store], Any]) -> package.Package:
    """A package of the model that `build` makes."""
    blobs = blob.Blobs()
    write(path, build(blobs), blobs)
    return package.read(path)


def write(path: Path, model: Any, blobs: blob.Blobs) -> None:
    """A package whose program refers to these blobs."""
    content = model.SerializeToString(deterministic=True)
    manifest = package.manifest(weights=bool(blobs.stored)).encode()
    files = {package.MANIFEST: len(manifest), package.MODEL: len(content)}
    rest = [Piece(package.MANIFEST, 0, manifest), Piece(package.MODEL, 0, content)]
    if blobs.stored:
        files[package.WEIGHTS] = blobs.end
        rest += [*blobs.metadata(package.WEIGHTS), *blobs.data(package.WEIGHTS)]
    FileLayout(files, rest, {}).begin(path)


def read(path: Path) -> Constants:
    """The constants of a package."""
    found = package.read(path)
    return lift(found.model.mlProgram, found)


def materialized(path: Path) -> dict[str, NDArray]:
    """The outputs of a package as Core ML Tools computes them.

    It loads, and checks, every operation; its own recursion through nested ones does not reach all.
    """
    coremltools()
    from coremltools.converters.mil.frontend.milproto.load import load

    found = package.read(path)
    program = load(found.model, found.model.specificationVersion, str((path / package.WEIGHTS).parent))
    return {var.name: value(var) for var in program.functions["main"].outputs}


def value(var: Any) -> NDArray:
    """A constant of a program of Core ML Tools, each operation computed by its own `decompress`."""
    if var.val is not None:
        return np.asarray(var.val)
    if not hasattr(type(var.op), "decompress"):  # a cast
        return np.asarray(var.op.materialized_val_inference())
    inputs = {key: None if each is None else value(each) for key, each in var.op.inputs.items()}
    decompress = type(var.op).decompress
    names = decompress.__code__.co_varnames[: decompress.__code__.co_argcount]
    result = decompress(*(inputs.get(name) for name in names))
    return np.asarray(result[var.op.outputs.index(var)] if isinstance(result, tuple) else result)
