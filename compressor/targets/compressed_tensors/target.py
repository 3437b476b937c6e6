"""A folder of Hugging Face becomes one of codes: fitted, its layers legalized, laid out in shards, read again."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from compressor.arrays import is_float, stored_type
from compressor.encodings import (
    Concatenated,
    Dense,
    Encoding,
    Palettized,
    Quantized,
    Sparse,
    dtype,
    nbytes,
    plain,
    shape,
)
from compressor.errors import CompressorError
from compressor.formats.compressed_tensors import layers
from compressor.model import Model
from compressor.sources import huggingface, safetensors
from compressor.sources.huggingface import checkpoint
from compressor.sources.huggingface import weights as stored
from compressor.sources.huggingface.beside import others
from compressor.targets import Asked, Fitted, Illegal, Together
from compressor.targets.compressed_tensors import NAME, fit, floats, fused
from compressor.targets.compressed_tensors.layout import METHOD, layout, method
from compressor.targets.compressed_tensors.parts import FolderLayout
from compressor.targets.session import Session

_KEPT = "dense in a folder of this format, which stays as it is, with what it says of activations"
HEADER_NBYTES = 70
"""About what a tensor takes in the header beside its name."""


@dataclass(frozen=True)
class CompressedTensors:
    """Folders for vLLM, SGLang and transformers.

    own: the weights of the folder that it is fitted to which are stored in this format already, by name.
    """

    name: str = NAME
    summary: str = "folders of Hugging Face for vLLM, SGLang and transformers"
    needs_graph: bool = False
    own: frozenset[str] = field(default=frozenset(), compare=False)

    def fit(self, model: Model, asked: Asked) -> Fitted:  # noqa: ARG002 - it asks nothing
        if model.graph is not None or not checkpoint.is_folder(model.path):
            raise CompressorError(
                f"{model.path}: is no folder of Hugging Face, which {self.name} is made of: name the folder that has "
                "config.json and *.safetensors files."
            )
        opened = checkpoint.open_folder(model.path)
        if not opened.config:
            raise CompressorError(
                f"{model.path}: has no {checkpoint.CONFIG}, where loaders read how weights are stored. Save the model "
                "with save_pretrained."
            )
        left = others(opened)
        weights = fit.fitted(tuple(model.weights), opened)
        notes = (*model.notes, *left.notes)
        own = frozenset(stored.read(opened).parts) if method(opened) == METHOD else frozenset()
        if own:
            weights = tuple(one if one.name in own else replace(one, pinned=one.pinned or _KEPT) for one in weights)
        return Fitted(replace(self, own=own), replace(model, weights=weights, notes=notes))

    def legalize(self, encoding: Encoding) -> Encoding:
        match encoding:
            case Sparse():
                raise Illegal("the format has no sparse weights that loaders still read")
            case Palettized():
                raise Illegal("the format has no tables", floats.by_tensor(encoding))
            case Concatenated():
                raise Illegal("a layer has one scheme in the format")
            case Dense(values) if stored_type(values) != values.dtype:
                raise Illegal("a tensor has the type that the model computes with")
            case Quantized():
                return _legal(encoding)
        return encoding

    def together(self, forms: Mapping[str, Encoding]) -> Together:
        return fused.together(forms, self.own)

    def overhead(self, name: str, encoding: Encoding) -> Mapping[str, int]:
        if not isinstance(encoding, Quantized):
            return {}
        made = layers.tensors("", encoding)
        stored = sum(math.prod(size) * kind.itemsize for kind, size in made.values())
        heads = sum(len(name) + len(tensor) + HEADER_NBYTES for tensor in made) - len(name) - HEADER_NBYTES
        return {name: stored - nbytes(encoding) + heads}

    def layout(self, model: Model, specs: Mapping[str, Encoding], metadata: Mapping[str, str] = {}) -> FolderLayout:
        return layout(checkpoint.open_folder(model.path), specs, metadata)

    def read(self, path: Path) -> Model:
        return huggingface.read(path) if path.is_dir() else safetensors.read(path)

    def copy(self, model: Model, directory: Path, untrue: str = "") -> bool:  # noqa: ARG002 - they say nothing
        if method(checkpoint.open_folder(model.path)) not in {"", METHOD}:
            return False
        for file in model.files:
            to = directory / file.relative_to(model.path)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)
        return True

    def refusal(self, path: Path) -> str:  # noqa: ARG002 - its loaders are no part of it
        return ""

    def session(self, path: Path, model: Model, label: str) -> Session:  # noqa: ARG002 - it has none
        raise CompressorError(
            f"{label}: nothing here runs a folder. Without evaluate.data its size is measured; `compressor diff` "
            "compares its weights; transformers and vLLM run it."
        )


def _legal(encoding: Quantized) -> Quantized:
    """The codes of a layer as they are stored. Raises `Illegal`."""
    data = encoding.data
    if len(shape(data)) != 2:
        raise Illegal("the format has matrices alone")
    if is_float(dtype(data)):
        return floats.legal(encoding)
    if encoding.rounded is not None:
        raise Illegal(floats.rounds_last(encoding.rounded))
    if encoding.block is not None:
        raise Illegal("the format has no groups of integers that end short")
    tables = isinstance(data, Palettized) and not layers.is_count(data)
    codes = Dense(plain(data)) if isinstance(data, Palettized) and tables else data
    legal = layers.legal(replace(encoding, data=codes))
    if reason := layers.why_not(legal):
        raise Illegal(reason)
    if tables:
        raise Illegal("the format has no tables", legal)
    return legal
