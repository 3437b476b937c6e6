"""bitsandbytes: codes of 4 bits into a table, times the largest magnitude of their block; int8 times that of their row.

    X                 uint8 [n / 2, 1]: two codes each, the first in the high bits, of the flat weight
    X.quant_map       float32 [16]
    X.absmax          float32 [n / blocksize], or uint8: codes into X.nested_quant_map float32 [256], times
                      X.nested_absmax float32 [n / blocksize / nested_blocksize], plus nested_offset
    X.quant_state.bitsandbytes__nf4, or __fp4      uint8: JSON with blocksize, shape, dtype, nested_*

    L.weight int8 [out, in], L.SCB float32 [out]: code * SCB * (1 / 127), rounded twice

What a file holds is told by these names alone, whatever is beside it. Source: bitsandbytes 0.50, functional.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from compressor.arrays import FLOAT_DTYPES, INT8, UINT8, Array, DType, NDArray, Shape
from compressor.encodings import Dense, Encoding, Palettized
from compressor.errors import CompressorError
from compressor.kernels import take
from compressor.sources.huggingface import floats
from compressor.sources.huggingface.layers import Layer
from compressor.sources.huggingface.layouts import computed
from compressor.weight import Weight

STATE = ".quant_state.bitsandbytes__"
FLOAT32 = np.dtype(np.float32)
_MAX_JSON = 1 << 16
_BY_127 = np.float32(7.874015718698502e-3)
_ENTRIES = 16
_AS_TABLES = "int8 codes times two factors, rounded after each: a table for each row"
Tensors = Mapping[str, Array]


@dataclass(frozen=True)
class _State:
    """What is said of a weight: its shape and dtype, how many codes have a scale, and scales a scale of their own."""

    shape: Shape
    dtype: DType
    block: int
    nested_block: int
    nested_offset: float


def read(path: Path, tensors: Tensors) -> Iterator[Layer]:
    """The weights that are stored so.

    Raises:
        CompressorError: tensors contradict each other.
    """
    for name in tensors:
        base, state, _ = name.partition(STATE)
        if state:
            yield _four_bits(path, base, name, tensors)
        elif name.endswith(".SCB") and _is_matrix(tensors.get(f"{name.removesuffix('SCB')}weight")):
            yield _by_row(path, name.removesuffix("SCB"), tensors)


def _is_matrix(codes: Array | None) -> bool:
    return codes is not None and codes.dtype == INT8 and len(codes.shape) == 2


def _four_bits(path: Path, base: str, state: str, tensors: Tensors) -> Layer:
    said = _said(path, state, tensors[state])
    count = math.prod(said.shape)
    packed = _part(path, base, tensors, (-(-count // 2), 1), UINT8)
    values = np.asarray(_part(path, f"{base}.quant_map", tensors, (_ENTRIES,), FLOAT32))
    scale, parts = _scales(path, base, said, -(-count // said.block), tensors)
    codes = computed(said.shape, UINT8, partial(floats.high_first, said.shape), packed)
    names = (base, f"{base}.quant_map", state, *parts)
    found = floats.flat_blocks(said.shape, said.block)
    if found is None:
        made = computed(said.shape, said.dtype, partial(_values, said, values), codes, scale)
        note = "blocks that begin in the middle of a row: not supported as codes, kept as values"
        return Layer(names, (Weight(base, Dense(made), note=note),))
    grid, block = found
    by_block = computed(grid, FLOAT32, partial(np.reshape, shape=grid), scale)
    rounded = None if said.dtype == FLOAT32 else said.dtype
    return Layer(names, (Weight(base, floats.scaled(codes, values, by_block, block, rounded)),))


def _values(said: _State, table: NDArray, codes: NDArray, scale: NDArray) -> NDArray:
    products: NDArray = take(table, codes)
    products *= np.repeat(scale, said.block)[: codes.size].reshape(codes.shape)
    return products.astype(said.dtype)


def _scales(path: Path, base: str, said: _State, count: int, tensors: Tensors) -> tuple[Array, tuple[str, ...]]:
    """The scales of the flat weight's blocks, and the tensors that they are made of."""
    name, nested = f"{base}.absmax", f"{base}.nested_absmax"
    if nested not in tensors:
        return _part(path, name, tensors, (count,), FLOAT32), (name,)
    table = f"{base}.nested_quant_map"
    stored = _part(path, name, tensors, (count,), UINT8)
    values = np.asarray(_part(path, table, tensors, (256,), FLOAT32))
    whole = _part(path, nested, tensors, (-(-count // said.nested_block),), FLOAT32)
    made = computed((count,), FLOAT32, partial(_nested, said, values), stored, whole)
    return made, (name, nested, table)


def _nested(said: _State, table: NDArray, codes: NDArray, scale: NDArray) -> NDArray:
    products: NDArray = take(table, codes) * np.repeat(scale, said.nested_block)[: codes.size]
    return products + np.float32(said.nested_offset)


def _by_row(path: Path, prefix: str, tensors: Tensors) -> Layer:
    """int8 codes: rounded twice they lie on no grid, so each row has a table, where that is smaller than values."""
    name, parts = f"{prefix}weight", [f"{prefix}SCB"]
    codes = tensors[name]
    if (layout := tensors.get(f"{prefix}weight_format")) is not None:
        parts.append(f"{prefix}weight_format")
        if np.asarray(layout).any():
            raise CompressorError(f"{path}: {prefix}weight_format: expected 0, rows as they are. Save it anew.")
    rows, columns = codes.shape
    scale = _part(path, f"{prefix}SCB", tensors, (rows,), FLOAT32)
    encoding: Encoding
    if 8 * columns + 32 * 256 < 32 * columns:
        places = computed((rows, columns), UINT8, _as_places, codes)
        encoding = Palettized(places, computed((rows, 1, 256, 1), FLOAT32, _tables, scale))
    else:
        encoding = Dense(computed((rows, columns), FLOAT32, _rounded_twice, codes, scale))
    return Layer((name, *parts), (Weight(name, encoding, note=_AS_TABLES),))


def _as_places(codes: NDArray) -> NDArray:
    return codes.view(np.uint8)


def _tables(scale: NDArray) -> NDArray:
    codes = np.arange(256, dtype=np.uint8).view(np.int8)
    return _rounded_twice(codes[None], scale)[:, None, :, None]


def _rounded_twice(codes: NDArray, scale: NDArray) -> NDArray:
    products: NDArray = codes.astype(FLOAT32) * scale[:, None]
    products *= _BY_127
    return products


def _part(path: Path, name: str, tensors: Tensors, shape: Shape, kind: DType) -> Array:
    array = tensors.get(name)
    if array is None or tuple(array.shape) not in (shape, shape[:1]) or array.dtype != kind:
        told = "missing" if array is None else f"{array.dtype}{list(array.shape)}"
        raise CompressorError(
            f"{path}: {name} is {told}, expected {kind}{list(shape)} as its other parts say. Save or download it again."
        )
    return array


def _said(path: Path, name: str, state: Array) -> _State:
    """What the JSON in a tensor says.

    Raises:
        CompressorError: it is none, or says what cannot be.
    """
    try:
        if state.dtype != UINT8 or state.size > _MAX_JSON:
            raise ValueError(f"{state.dtype}{list(state.shape)}")
        said = json.loads(np.asarray(state).tobytes())
        shape, block, nested = said["shape"], said["blocksize"], said.get("nested_blocksize", 1)
        dtype, offset = FLOAT_DTYPES[said["dtype"]], float(said.get("nested_offset", 0.0))
        if dtype.itemsize > FLOAT32.itemsize:
            raise ValueError(f"products are float32, not {dtype}")
        if any(type(each) is not int or each < 1 for each in (*shape, block, nested)) or math.prod(shape) >= 1 << 56:
            raise ValueError(str(said)[:200])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CompressorError(
            f"{path}: {name}: expected JSON with shape, blocksize and dtype ({error}). Save or download it again."
        ) from error
    return _State(tuple(shape), dtype, block, nested, offset)
