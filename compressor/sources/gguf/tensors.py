"""The tensors of a file as weights: codes stay codes, and nothing is read before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from compressor.arrays import (
    BFLOAT16,
    INT2,
    INT4,
    INT8,
    UINT8,
    ComputedArray,
    DType,
    MappedArray,
    NarrowArray,
    NDArray,
    Shape,
)
from compressor.encodings import Dense, Palettized, Quantized
from compressor.formats.gguf import Tensor
from compressor.sources.gguf.blocks import BLOCKS, FLOAT32, Blocks
from compressor.sources.huggingface.layouts import computed
from compressor.weight import Weight

_FLOATS: Mapping[str, DType] = {
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
_RANGES: Mapping[tuple[int, int], DType] = {(-2, 4): INT2, (-8, 16): INT4, (-128, 256): INT8}
"""Types of codes by the least of them and their number."""
_WIDEST = 32
"""Bits of a value: tables that take more, with their codes, are not smaller than the values."""


def weight(path: Path, tensor: Tensor) -> Weight:
    """What a tensor is."""
    kind, shape = tensor.kind, tensor.shape
    if kind.name in _FLOATS:
        return Weight(tensor.name, Dense(MappedArray(path, tensor.offset, shape, _FLOATS[kind.name])))
    rows = (*shape[:-1], (shape[-1] if shape else 1) // kind.elements)
    if kind.name not in BLOCKS:
        kept = MappedArray(path, tensor.offset, (*rows[:-1], rows[-1] * kind.nbytes), UINT8)
        why = "integers" if kind.elements == 1 else "codes of a codebook"
        return Weight(tensor.name, Dense(kept), pinned=f"{kind.name}, {why}: not supported, kept as its bytes")
    blocks, raw = BLOCKS[kind.name], MappedArray(path, tensor.offset, (tensor.nbytes,), UINT8)
    groups = (*rows[:-1], rows[-1] * blocks.groups)
    if blocks.minima is None:
        scale = _made(groups, blocks.stored, _scales, kind.name, raw)
        wide = scale if blocks.stored == FLOAT32 else NarrowArray(scale, FLOAT32)
        return Weight(tensor.name, Quantized(_counts(shape, kind.name, raw), wide))
    size, entries = kind.elements // blocks.groups, len(blocks.table)
    if (entries - 1).bit_length() + entries * _WIDEST // size < _WIDEST:
        tables = _made((*groups, entries, 1), FLOAT32, _tables, kind.name, raw)
        note = f"{kind.name}: scales and minima, which are a table for each {size} codes here"
        return Weight(tensor.name, Palettized(_made(shape, UINT8, _codes, kind.name, raw), tables), note=note)
    note = f"{kind.name}: scales and minima, which codes cannot have here: kept as values"
    return Weight(tensor.name, Dense(_made(shape, FLOAT32, _values, kind.name, raw)), note=note)


def _counts(shape: Shape, kind: str, raw: MappedArray) -> Dense | Palettized:
    """Codes as the numbers that they stand for: of a type that has no others, else by a table of them."""
    table = BLOCKS[kind].table
    if isinstance(table, range) and (table.start, len(table)) in _RANGES:
        return Dense(_made(shape, _RANGES[table.start, len(table)], _counted, kind, raw))
    lut = np.array(table, np.int8 if isinstance(table[0], int) else FLOAT32).reshape(*(1,) * len(shape), len(table), 1)
    return Palettized(_made(shape, UINT8, _codes, kind, raw), lut)


def _made(
    shape: Shape, dtype: DType, function: Callable[[Blocks, NDArray], NDArray], kind: str, raw: MappedArray
) -> ComputedArray:
    """What `function` makes of the blocks."""
    return computed(shape, dtype, partial(_of_blocks, shape, function, kind), raw)


def _of_blocks(shape: Shape, function: Callable[[Blocks, NDArray], NDArray], kind: str, raw: NDArray) -> NDArray:
    blocks = BLOCKS[kind]
    return function(blocks, raw.view(blocks.record)).reshape(shape)


def _codes(blocks: Blocks, data: NDArray) -> NDArray:
    return blocks.codes(data)


def _counted(blocks: Blocks, data: NDArray) -> NDArray:
    """Codes from the least integer of their type on."""
    table = blocks.table
    assert isinstance(table, range), "all that a type can be"
    return (blocks.codes(data).view(np.int8) + np.int8(table.start)).astype(_RANGES[table.start, len(table)])


def _scales(blocks: Blocks, data: NDArray) -> NDArray:
    return blocks.scales(data)


def _values(blocks: Blocks, data: NDArray) -> NDArray:
    return _of_codes(blocks, data, blocks.codes(data).reshape(len(data), blocks.groups, -1))


def _tables(blocks: Blocks, data: NDArray) -> NDArray:
    """The values of all codes in each group: float32 `[n, groups, K]`."""
    return _of_codes(blocks, data, np.arange(len(blocks.table), dtype=np.uint8))


def _of_codes(blocks: Blocks, data: NDArray, codes: NDArray) -> NDArray:
    assert blocks.minima is not None, "of a type without minima, codes are integers"
    values: NDArray = blocks.scales(data)[..., None] * codes.astype(FLOAT32)
    values += blocks.minima(data)[..., None]
    return values
