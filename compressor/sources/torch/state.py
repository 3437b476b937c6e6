"""The weights of a checkpoint as they lie there, without a model: the entries of its state dict."""

# ruff: noqa: TID253 - imported where a checkpoint is read, and nowhere else

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from compressor.arrays import BFLOAT16, FLOAT_DTYPES, ComputedArray, DType, NDArray
from compressor.encodings import Dense
from compressor.errors import CompressorError
from compressor.model import Model
from compressor.sources.huggingface import bitsandbytes
from compressor.sources.huggingface.layers import foreign
from compressor.sources.torch.archive import entries, is_script
from compressor.sources.torch.load import ALLOW, read_pickle
from compressor.sources.torch.sets import state_dict
from compressor.weight import Weight


def read(path: Path) -> Model:
    """The weights of a state dict, or of a pickled module, by the names that they have there.

    Quantized tensors are values: their codes are the business of the graph that is exported. Those of bitsandbytes are
    told by their names.

    Raises:
        CompressorError: the file cannot be read, would run code, or holds a program.
    """
    if path.suffix.lower() == ".pt2" or is_script(entries(path)):
        raise CompressorError(f"{path}: holds a program, not a state dict: run `compressor export {path} DIRECTORY`.")
    try:
        with warnings.catch_warnings():  # torch warns of its own classes, as it does where it exports
            warnings.simplefilter("ignore")
            content = read_pickle(path, allow_pickle=False)
    except CompressorError as error:
        if ALLOW in str(error):
            raise CompressorError(f"{error} Then name the graph that `compressor export` writes.") from error
        raise
    state = content.state_dict() if isinstance(content, Module) else state_dict(path, content)
    return Model(path, tuple(_weights(path, state)), None)


def _weights(path: Path, state: Mapping[str, object]) -> Iterator[Weight]:
    tensors = {name: one for name, one in state.items() if isinstance(one, Tensor) and not one.is_meta}
    if nested := [name for name, tensor in tensors.items() if tensor.is_nested]:
        raise CompressorError(f"{path}: {nested[0]} is a nested tensor, which has no shape. Save its parts one by one.")
    # What lies in a file that is mapped is read when it is asked for, tensor by tensor.
    arrays = {
        name: ComputedArray(tuple(tensor.shape), _dtype(tensor), partial(_values, tensor))
        for name, tensor in ((name, _real(one)) for name, one in tensors.items())
    }
    layers = {part: layer for layer in bitsandbytes.read(path, arrays) for part in layer.parts}
    for name, array in arrays.items():
        if name not in layers:
            yield Weight(name, Dense(array), note=foreign(name, arrays))
        elif layers[name].parts[0] == name:
            yield from layers[name].weights


def _real(tensor: Tensor) -> Tensor:
    """Complex numbers as their real and imaginary parts, along a last axis of two."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _dtype(tensor: Tensor) -> DType:
    """The type of its values here: float32 for codes, and for floats of 8 bits."""
    if tensor.dtype == torch.bfloat16:
        return FLOAT_DTYPES["bfloat16"]
    narrow = tensor.is_floating_point() and tensor.element_size() == 1
    if tensor.is_quantized or narrow:
        return np.dtype(np.float32)
    found: DType = np.dtype(str(tensor.dtype).removeprefix("torch."))
    return found


def _values(tensor: Tensor) -> NDArray:
    plain = tensor.detach()
    if plain.layout != torch.strided:
        plain = plain.to_dense()
    if plain.is_quantized or type(plain).__module__.startswith("torchao"):
        plain = plain.dequantize()
    if plain.dtype == torch.bfloat16:
        return plain.contiguous().view(torch.int16).numpy().view(BFLOAT16)
    return plain.to(getattr(torch, _dtype(plain).name)).numpy()
