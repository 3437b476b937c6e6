"""The pack pass: codes and masks become the bytes that lie in a file, on the thread that made them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compressor import packing
from compressor.arrays import Array, PackedArray
from compressor.encodings import map_arrays
from compressor.weight import Weight


def pack(weight: Weight) -> Weight:
    """The pass that packs what a weight stores in less than a byte an element."""
    return replace(weight, encoding=map_arrays(packed, weight.encoding))


def packed(array: Array, width: int) -> Array:
    """An array in memory whose elements take `width` bits, packed if that is less than a byte."""
    if not isinstance(array, np.ndarray) or width >= 8:
        return array
    return PackedArray(packing.pack(array, width), array.shape, array.dtype, width)
