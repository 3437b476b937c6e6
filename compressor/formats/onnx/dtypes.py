"""ONNX's element types: their numbers, and the opsets that brought them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compressor.arrays import BFLOAT16, INT2, INT4, INT8, STORED_DTYPES, UINT2, UINT4, UINT8, DType

DTYPES: Mapping[int, DType] = {
    1: np.dtype("<f4"),
    2: UINT8,
    3: INT8,
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype(np.bool_),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    12: np.dtype("<u4"),
    13: np.dtype("<u8"),
    16: BFLOAT16,
    17: STORED_DTYPES["float8_e4m3fn"],
    19: STORED_DTYPES["float8_e5m2"],
    21: UINT4,
    22: INT4,
    24: STORED_DTYPES["float8_e8m0fnu"],
    25: UINT2,
    26: INT2,
}
"""The numpy type of each `TensorProto.DataType` that has one here; strings, complex and 4-bit floats have none."""

DATA_TYPES: Mapping[str, int] = {dtype.name: data_type for data_type, dtype in DTYPES.items()}
"""`TensorProto.DataType` by the name of the numpy type."""

SINCE: Mapping[DType, int] = {
    STORED_DTYPES["float8_e4m3fn"]: 19,
    STORED_DTYPES["float8_e5m2"]: 19,
    UINT4: 21,
    INT4: 21,
    STORED_DTYPES["float8_e8m0fnu"]: 24,
    UINT2: 25,
    INT2: 25,
}
"""The opset that brought a type, where models of an older one occur."""
