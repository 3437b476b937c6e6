"""The element types of ML Programs: their numbers in a program and in weight.bin.

Source: Core ML Tools, MIL.proto (`DataType`) and MILBlob/Blob/BlobDataType.hpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from compressor.arrays import BFLOAT16, INT4, INT8, UINT2, UINT4, UINT8, DType


@dataclass(frozen=True)
class Type:
    """An element type.

    name: as ML Programs spell it. number: in `DataType`. blob: in the metadata of a blob; 0 if none can have it.
    bits: that an element takes when stored. dtype: of the elements in memory.
    """

    name: str
    number: int
    blob: int
    bits: int
    dtype: DType


TYPES: Mapping[str, Type] = {
    row.name: row
    for row in (
        Type("bool", 1, 0, 8, np.dtype(np.bool_)),
        Type("float16", 10, 1, 16, np.dtype(np.float16)),
        Type("float32", 11, 2, 32, np.dtype(np.float32)),
        Type("float64", 12, 0, 64, np.dtype(np.float64)),
        Type("bfloat16", 13, 5, 16, BFLOAT16),
        Type("int8", 21, 4, 8, INT8),
        Type("int16", 22, 6, 16, np.dtype(np.int16)),
        Type("int32", 23, 14, 32, np.dtype(np.int32)),
        Type("int64", 24, 0, 64, np.dtype(np.int64)),
        Type("int4", 25, 8, 4, INT4),
        Type("uint8", 31, 3, 8, UINT8),
        Type("uint16", 32, 7, 16, np.dtype(np.uint16)),
        Type("uint32", 33, 15, 32, np.dtype(np.uint32)),
        Type("uint64", 34, 0, 64, np.dtype(np.uint64)),
        Type("uint4", 35, 11, 4, UINT4),
        Type("uint2", 36, 10, 2, UINT2),
        Type("uint1", 37, 9, 1, UINT8),
        Type("uint6", 38, 13, 6, UINT8),
        Type("uint3", 39, 12, 3, UINT8),
        Type("float8e4m3fn", 40, 16, 8, np.dtype(ml_dtypes.float8_e4m3fn)),
        Type("float8e5m2", 41, 17, 8, np.dtype(ml_dtypes.float8_e5m2)),
    )
}

BY_NUMBER: Mapping[int, Type] = {row.number: row for row in TYPES.values()}

WEIGHT_DTYPES = (TYPES["float16"].dtype, TYPES["float32"].dtype)
"""What weights come in."""
