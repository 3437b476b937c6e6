"""MXFP4 of transformers (gpt-oss): floats of 4 bits in blocks of 32, with a power of two each.

    X_blocks    uint8 [..., out, in / 32, 16]: two codes each, the first in the low bits
    X_scales    uint8 [..., out, in / 32]: exponents of two, counted from -127

The parameter X is `[..., in, out]`, bfloat16. Source: transformers' integrations/mxfp4.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from compressor.arrays import BFLOAT16, UINT8, MappedArray, NarrowArray, NDArray, Shape
from compressor.formats.narrow_floats import E2M1, E8M0, table
from compressor.packing import unpack
from compressor.sources.huggingface import floats
from compressor.sources.huggingface.checkpoint import Checkpoint
from compressor.sources.huggingface.layers import Layer, report_unknown, unsupported
from compressor.sources.huggingface.layouts import computed, expect
from compressor.weight import Weight

_KNOWN = frozenset({"quant_method", "modules_to_not_convert", "dequantize"})
_BLOCKS, _SCALES, _BLOCK = "_blocks", "_scales", 32


def read(checkpoint: Checkpoint) -> Iterator[Layer]:
    """The layers that are stored in this format.

    Raises:
        CompressorError: blocks and scales contradict each other.
    """
    report_unknown(str(checkpoint.path), checkpoint.quantization, _KNOWN)
    for name, blocks in checkpoint.tensors.items():
        base = name.removesuffix(_BLOCKS)
        scales = checkpoint.tensors.get(base + _SCALES)
        if base == name or scales is None:
            continue
        if len(blocks.shape) < 3 or blocks.dtype != UINT8:
            yield unsupported(base, {_BLOCKS: blocks, _SCALES: scales}, f"blocks {blocks.dtype}{list(blocks.shape)}")
            continue
        expect(name, blocks, (*blocks.shape[:-1], _BLOCK // 2), UINT8)
        expect(base + _SCALES, scales, blocks.shape[:-1], UINT8, E8M0)
        yield Layer((name, base + _SCALES), (_weight(base, blocks, scales),))


def _weight(name: str, blocks: MappedArray, scales: MappedArray) -> Weight:
    *experts, out, groups, _ = blocks.shape
    codes = computed((*experts, groups * _BLOCK, out), UINT8, partial(_codes, (*experts, out, groups * _BLOCK)), blocks)
    exponents = computed((*experts, groups, out), E8M0, _exponents, scales)
    return Weight(name, floats.scaled(codes, table(E2M1), NarrowArray(exponents, BFLOAT16)))


def _codes(shape: Shape, blocks: NDArray) -> NDArray:
    return _turned(unpack(blocks, 4, blocks.size * 2).reshape(shape))


def _exponents(scales: NDArray) -> NDArray:
    return _turned(scales.view(E8M0))


def _turned(values: NDArray) -> NDArray:
    """The last two axes in the other order."""
    return np.ascontiguousarray(values.swapaxes(-1, -2))
