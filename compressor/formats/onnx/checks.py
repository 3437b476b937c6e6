"""What is asked of an encoding that was read from calls of the functions, before it is taken for a weight."""

from __future__ import annotations

import math
from operator import mod

from compressor.arrays import CODE_DTYPES, Shape, is_float
from compressor.encodings import Concatenated, Encoding, Palettized, Quantized, Sparse, Whole, dtype, shape
from compressor.formats.onnx.functions import MOST_FOLDED


def checked(found: Encoding) -> Encoding:
    """An encoding whose parameters are by blocks of the weight, which a leaf does not know that has one axis.

    Raises:
        ValueError: they are not, or no weight has its type.
    """
    for one in found.parts if isinstance(found, Concatenated) else (found,):
        _check(one)
    return found


def _check(found: Whole | Palettized) -> None:
    if math.prod(shape(found)) * max(4, dtype(found).itemsize) > MOST_FOLDED:
        raise ValueError(f"ONNX Runtime folds values of at most {MOST_FOLDED >> 30} GiB, got {list(shape(found))}")
    inner, whole, block = found.values if isinstance(found, Sparse) else found, shape(found), None
    if not is_float(dtype(found)) and dtype(found) not in CODE_DTYPES.values():
        raise ValueError(f"floats or codes, got {dtype(found)}")
    if isinstance(found, Sparse) and len(shape(inner)) != 1:
        raise ValueError(f"a list of non-zeros, got {list(shape(inner))}")
    by_block: list[Shape] = []
    if isinstance(inner, Quantized):
        by_block, block, scale, inner = [tuple(inner.scale.shape)], inner.block, inner.scale, inner.data
        if isinstance(scale, Palettized):
            _check(scale)
    if isinstance(inner, Palettized):
        by_block.append(tuple(inner.lut.shape[:-2]))
        if inner.vector_axis is not None and not 0 <= inner.vector_axis < len(inner.indices.shape):
            raise ValueError(f"vectors along axis {inner.vector_axis} of {list(inner.indices.shape)}")
    for counts in by_block:
        if len(counts) != len(whole) or 0 in counts or (block is None and any(map(mod, whole, counts))):
            raise ValueError(f"blocks of {list(whole)}, got {list(counts)}")
