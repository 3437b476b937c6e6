"""Values and a bit for each place: the bit masks of compressed-tensors.

bitmask     uint8 [..., ceil(last / 8)], the first place in the lowest bit
compressed  the values under the set bits, row by row
shape       int64, of the weight
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from compressor.arrays import UINT8, ComputedArray, MappedArray, NDArray, Shape
from compressor.encodings import Dense, Quantized, Sparse
from compressor.errors import CompressorError
from compressor.kernels import scatter
from compressor.sources.huggingface.layouts import computed

MAX_RANK = 8


@dataclass(frozen=True, eq=False)
class Masked:
    """mask: bool of `shape`. values: `[D]`, those under it. shape: of the weight."""

    mask: ComputedArray
    values: MappedArray
    shape: Shape

    def sparse(self, values: Dense | Quantized | None = None) -> Sparse:
        return Sparse(self.mask, values or Dense(self.values), self.shape)

    def dense(self) -> ComputedArray:
        """The values in their places, zero elsewhere."""
        return computed(self.shape, self.values.dtype, scatter, self.values, self.mask)


def read(prefix: str, mask: MappedArray, values: MappedArray, shape: MappedArray) -> Masked:
    """The parts of a weight.

    Raises:
        CompressorError: they contradict each other; of the number of values, once the mask is read.
    """
    whole = stored_shape(f"{prefix}shape", shape)
    expected = (*whole[:-1], -(-whole[-1] // 8))
    if mask.dtype != UINT8 or tuple(mask.shape) != expected or values.size > math.prod(whole):
        raise CompressorError(
            f"{mask.path}: {prefix}bitmask is {mask.dtype}{list(mask.shape)} with {values.size} values, expected "
            f"uint8{list(expected)} for the shape {list(whole)}. Save or download the folder again."
        )
    flat = MappedArray(values.path, values.offset, (values.size,), values.dtype, values.width)
    where = f"{mask.path}: {prefix}bitmask"
    return Masked(computed(whole, np.dtype(np.bool_), partial(_bits, where, whole, values.size), mask), flat, whole)


def stored_shape(name: str, array: MappedArray) -> Shape:
    """The shape that a tensor holds.

    Raises:
        CompressorError: it holds something else.
    """
    found = np.asarray(array).reshape(-1) if array.dtype.kind in "iu" and 0 < array.size <= MAX_RANK else None
    if found is None or int(found.min()) < 0 or math.prod(max(1, int(dim)) for dim in found) >= 1 << 56:
        raise CompressorError(f"{array.path}: {name} is {array.dtype}{list(array.shape)}, expected a shape.")
    return tuple(int(dim) for dim in found)


def _bits(where: str, shape: Shape, count: int, packed: NDArray) -> NDArray:
    mask = np.unpackbits(packed, axis=-1, count=shape[-1], bitorder="little").view(np.bool_).reshape(shape)
    if (found := int(np.count_nonzero(mask))) != count:
        raise CompressorError(f"{where} has {found} set bits for {count} values. Save or download the folder again.")
    return mask
