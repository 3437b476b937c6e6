"""Core ML packages: an ML Program's constants, however they are stored, become encodings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compressor.errors import CompressorError, located
from compressor.model import Model
from compressor.weight import Weight

SUFFIXES: tuple[str, ...] = (".mlpackage",)

_INSTEAD = (
    "Give what it was converted from, ONNX or torch, or convert that again with Core ML Tools "
    "(convert_to='mlprogram') into an .mlpackage."
)

UNREADABLE = {
    ".mlmodel": f"a Core ML model without a package, expected an .mlpackage of an ML Program. {_INSTEAD}",
    ".mlmodelc": "a Core ML model that was compiled for a device: give the .mlpackage that it was compiled from.",
    ".aimodel": f"a model of Core AI, whose format is not read here, expected an .mlpackage. {_INSTEAD}",
}
"""What to do with other files of Apple's, by their suffix."""


def is_folder(path: Path) -> bool:
    """Whether `path` is a package, which is a folder."""
    return path.suffix.lower() in SUFFIXES and path.is_dir()


def files(path: Path) -> tuple[Path, ...]:
    """All that lies in the package."""
    return tuple(sorted(file for file in path.rglob("*") if file.is_file()))


def read(path: Path) -> Model:
    """The model in the package `path`; its weights are called as its training did, where this package wrote it.

    Raises:
        CompressorError: it is no package of an ML Program, or what is stored contradicts the program.
    """
    from compressor.formats.coreml import package, skeleton
    from compressor.formats.coreml.constants import lift

    found = package.read(path)
    if found.model.WhichOneof("Type") != "mlProgram":
        raise CompressorError(f"{path}: a {found.model.WhichOneof('Type')}, expected an mlProgram. {_INSTEAD}")
    try:
        lifted = lift(found.model.mlProgram, found)
    except CompressorError as error:
        raise located(path, error) from error
    said = {key: text for key, text in found.model.description.metadata.userDefined.items() if _is_ours(key)}
    names = _names(said.pop(skeleton.NAMES, "[]"), path)
    weights = tuple(
        replace(weight, name=names.get(weight.name, weight.name), note=_shapes(weight)) for weight in lifted.weights
    )
    sites = [lifted.sites[weight.name] for weight in lifted.weights]
    bones = skeleton.of_package(found, [weight.name for weight in weights], sites)
    notes = tuple(f"{name}: stays stored as it is: {reason}" for name, reason in lifted.opaque.items())
    return Model(path, weights, bones, said, found.files, notes=notes)


def _shapes(weight: Weight) -> str:
    """Under which other shapes operators read a weight."""
    return f"read as {' and '.join(str([*dims]) for dims in weight.shapes)} too" if weight.shapes else ""


def _is_ours(key: str) -> bool:
    return key.startswith("compressor.")


def _names(text: str, path: Path) -> dict[str, str]:
    """The names of the weights by what the program calls them."""
    from compressor.formats.coreml import skeleton

    try:
        return skeleton.names_of(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise CompressorError(f"{path}: its {skeleton.NAMES} are no names: {error}.") from error
