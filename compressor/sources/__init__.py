"""Where weights come from: a module of this folder with `SUFFIXES` and `read(path) -> Model` is a source.

The folder is the registry, and a module is imported when a file of its kind is read.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from compressor.errors import CompressorError, unknown
from compressor.model import Model

_EXPORTERS = {"torch": (".pt", ".pt2", ".pth", ".safetensors")}
"""Modules of this folder whose files have no graph until they are exported: importing one takes seconds."""


def read(path: Path) -> Model:
    """The model in `path`: a file, or an exported directory that holds `model.onnx` (`model` and a source's suffix).

    Raises:
        CompressorError: the model cannot be read, or has no graph before it is exported.
        UsageError: no source reads files of this suffix.
    """
    if not path.is_file() and not path.is_dir():
        raise CompressorError(f"{path}: no such file or directory; expected an exported directory or a model file.")
    exported = [suffix for suffixes in _EXPORTERS.values() for suffix in suffixes]
    if path.suffix.lower() in exported and not path.is_dir():
        raise CompressorError(f"{path}: has no ONNX graph yet; first run `compressor export {path} DIRECTORY`.")
    suffixes = []
    for source in _sources():
        suffixes.extend(source.SUFFIXES)
        for suffix in source.SUFFIXES:
            file = path / f"model{suffix}" if path.is_dir() else path
            if file.suffix.lower() == suffix and (file.exists() or not path.is_dir()):
                model: Model = source.read(file)
                return model
    if path.is_dir():
        names = " or ".join(f"model{suffix}" for suffix in suffixes)
        raise CompressorError(f"{path}: a directory without {names}; expected an exported directory or a model file.")
    raise unknown("kind of model file", path.suffix or path.name, (*suffixes, *exported))


def _sources() -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(__path__):
        if found.name not in _EXPORTERS:
            yield importlib.import_module(f"{__name__}.{found.name}")
