"""`.mlpackage`: a manifest, a model, and the files of its weights.

    Manifest.json                                      what lies where
    Data/com.apple.CoreML/model.mlmodel                a protobuf `Model`
    Data/com.apple.CoreML/weights/weight.bin           the large constants

What is written depends on nothing but the model: the manifest's identifiers are constants.

Source: packages that Core ML Tools writes.
"""

from __future__ import annotations

import json
import shutil
import stat
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor.arrays import MappedArray, Shape
from compressor.errors import CompressorError
from compressor.formats import places
from compressor.formats.coreml import blob
from compressor.formats.coreml.importing import messages
from compressor.formats.coreml.types import Type

MANIFEST = "Manifest.json"
DATA = "Data"
AUTHOR = "com.apple.CoreML"
MODEL = f"{DATA}/{AUTHOR}/model.mlmodel"
WEIGHTS = f"{DATA}/{AUTHOR}/weights/weight.bin"

_FORMAT_VERSION = "1.0.0"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, AUTHOR)
_MODEL_PATH = "@model_path/"


@dataclass(frozen=True, eq=False)
class Package:
    """A package that was read.

    path: its directory. model: the protobuf `Model`. model_file: where it lies.
    """

    path: Path
    model: Any
    model_file: Path
    _files: dict[str, blob.BlobFile] = field(default_factory=dict)

    def read(self, file: str, offset: int, type_: Type, shape: Shape) -> MappedArray:
        """The elements of the blob at `offset` of the file that the program calls `file`.

        Raises:
            CompressorError: the file is missing, not inside the package, or has no such blob.
        """
        if file not in self._files:
            if not file.startswith(_MODEL_PATH):
                raise CompressorError(f"{self.path}: the weights' file {file!r} does not begin with {_MODEL_PATH!r}.")
            found = _inside(self.path, self.model_file.parent, file.removeprefix(_MODEL_PATH))
            self._files[file] = blob.open_file(found)
        return self._files[file].read(offset, type_, shape)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the package consists of, those of the weights as far as they were read."""
        weights = sorted(file.path for file in self._files.values())
        return (self.path / MANIFEST, self.model_file, *weights)


def read(path: Path) -> Package:
    """The package in the directory `path`.

    Raises:
        CompressorError: it is none, or not a whole one.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    file = model_file(path)
    model = messages("Model").Model()
    try:
        model.ParseFromString(_content(file, "the package's model"))
    except DecodeError as error:
        raise CompressorError(f"{file}: not a Core ML model, or truncated: {error}.") from error
    if not model.specificationVersion or model.WhichOneof("Type") is None:
        raise CompressorError(f"{file}: not a Core ML model: it has no version or no content.")
    return Package(path, model, file)


def model_file(path: Path) -> Path:
    """Where the model of the package in the directory `path` lies, by its manifest.

    Raises:
        CompressorError: it is no package, or its model would lie outside of it.
    """
    return _inside(path, path / DATA, _root(path))


def copy(path: Path, to: Path) -> None:
    """Copy the files of the package `path`, but for links that lead out of it.

    Raises:
        OSError: they cannot be copied.
    """
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        if file.is_file() and not places.why_not(name.as_posix(), path, path, "the package"):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to / name)


def manifest(*, weights: bool) -> str:
    """The content of the manifest."""
    items = {"model.mlmodel": ("CoreML Model Specification", "model.mlmodel")}
    if weights:
        items["weights"] = ("CoreML Model Weights", "weights")
    entries = {
        _identifier(name): {
            "author": AUTHOR,
            "description": description,
            "name": name,
            "path": f"{AUTHOR}/{item}",
        }
        for name, (description, item) in items.items()
    }
    content = {
        "fileFormatVersion": _FORMAT_VERSION,
        "itemInfoEntries": entries,
        "rootModelIdentifier": _identifier("model.mlmodel"),
    }
    return json.dumps(content, indent=4, sort_keys=True) + "\n"


def _identifier(name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, name))


def _root(path: Path) -> str:
    """Where the manifest says that the model lies, relative to the package's data."""
    file = path / MANIFEST
    try:
        content = json.loads(_content(file, "the package's manifest"))
        root = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
    except (ValueError, RecursionError) as error:
        raise CompressorError(f"{file}: not a manifest: {error}.") from error
    except (LookupError, TypeError) as error:
        raise CompressorError(f"{file}: it names no model: {error!r} is missing or of the wrong kind.") from error
    if not isinstance(root, str):
        raise CompressorError(f"{file}: the path of the model is {root!r}, expected a text.")
    return root


def _inside(package: Path, folder: Path, name: str) -> Path:
    """The file `name` of `folder`, which must lie in the package: a package must not read anything else."""
    if reason := places.why_not(name, folder, package, "the package"):
        raise CompressorError(f"{package}: the path {name!r} {reason}; expected a file inside the package.")
    return folder / name


def _content(file: Path, what: str) -> bytes:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise CompressorError(f"{file}: {what} is not a file.")
        return file.read_bytes()
    except OSError as error:
        raise CompressorError(f"{file}: {what} cannot be read: {error.strerror}.") from error
