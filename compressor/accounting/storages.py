"""Storages of torch, the tensors that view them, and which of these are the model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.accounting import pickles
from compressor.accounting.account import Claim, What
from compressor.accounting.pickles import DTYPES, ITEM_BYTES, Tensor
from compressor.arrays import FLOAT_DTYPES, MappedArray
from compressor.encodings import Dense
from compressor.sources.torch.sets import WRAPPERS
from compressor.weight import Weight

_TRAINING = ("optim", "scheduler", "lr_sched", "ema", "scaler", "amp", "loops", "callbacks")
_SILENT = {"_parameters", "_modules", "_buffers"}
_INDICES = {"int64", "int32", "int16", "bool"}


@dataclass(frozen=True)
class Named:
    """A tensor of a checkpoint, and what it is for. name: of a weight, or of the set of tensors that it is in."""

    what: What
    name: str
    tensor: Tensor


def sets(content: Any) -> list[Named]:
    """The tensors of a checkpoint: the weights by their names, the others by the key under which they lie."""
    chosen = ""
    if isinstance(content, Mapping):
        inner = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        chosen = next((key for key in inner if any(True for _ in pickles.tensors(content[key]))), "")
    return [_named(path, tensor, chosen) for path, tensor in pickles.tensors(content)]


def _named(path: tuple[str, ...], tensor: Tensor, chosen: str) -> Named:
    name = ".".join(key for key in (path[1:] if chosen else path) if key not in _SILENT) or "tensor"
    if (chosen and path[0] != chosen) or (len(path) > 1 and path[0].lower().startswith(_TRAINING)):
        return Named(What.TRAINING, path[0], tensor)
    counts = DTYPES.get(tensor.storage.kind, "") in _INDICES
    return Named(What.CONSTANTS if counts else What.WEIGHTS, name, tensor)


def stored(file: str, tensors: Sequence[Named], places: Mapping[str, tuple[int, int]]) -> Iterator[Claim]:
    """Claims on storages, by their keys from where to where each lies, and on what tensors view of them."""
    for one in tensors:
        storage = one.tensor.storage
        if storage.key not in places:
            continue
        start, end = places[storage.key]
        width = (end - start) // storage.size if storage.size else ITEM_BYTES.get(storage.kind, 1)
        first, behind = one.tensor.run
        run = (start, end) if storage.kind == "Untyped" else (start + first * width, start + behind * width)
        yield Claim(file, max(run[0], start), min(run[1], end), one.what, one.name, _form(storage.kind))
    viewed = {one.tensor.storage.key for one in tensors}
    for key, (start, end) in places.items():
        name = "storages larger than their tensors" if key in viewed else "storages that no tensor views"
        yield Claim(file, start, end, What.UNREFERENCED, name)


def rows(path: Path, tensors: Sequence[Named], places: Mapping[str, tuple[int, int]]) -> Iterator[Weight]:
    """The weights among the tensors that lie in their storage as they are read, row by row, each name once."""
    # A quantized tensor has its scales under its own name: it is no weight of floats.
    names = {one.name for one in tensors if DTYPES.get(one.tensor.storage.kind, "") not in FLOAT_DTYPES}
    for one in tensors:
        tensor, dtype = one.tensor, FLOAT_DTYPES.get(DTYPES.get(one.tensor.storage.kind, ""))
        if one.what is not What.WEIGHTS or dtype is None or tensor.storage.key not in places or one.name in names:
            continue
        start, end = places[tensor.storage.key]
        array = MappedArray(path, start + tensor.offset * dtype.itemsize, tensor.shape, dtype)
        if tensor.is_rows and start <= array.offset <= array.offset + array.nbytes <= end:
            names.add(one.name)
            yield Weight(one.name, Dense(array))


def _form(kind: str) -> str:
    """How elements of a storage's class are stored."""
    name = DTYPES.get(kind, kind.lower())
    return "dense" if name in FLOAT_DTYPES else name
