"""Which forms each version of the specification has, and how a form becomes one of the same value that it has.

| form | iOS 16, 17 | from iOS 18 on |
|---|---|---|
| palettized | one scalar table; 1, 2, 4, 6, 8 bits | tables by group, vectors; 3 bits too |
| quantized | 8 bits; by tensor or along one axis | 4 bits too; by block |
| float16 for float32 | a whole constant | the same |
| sparse | of floats | also of palettized or quantized non-zeros |
| scales over tables, of codes or of floats | no | iOS 18: scales that tables share; iOS 26: any |
| scales over floats | no | yes, of one that is wider than they are too |

Masks have a bit for each element, tables 2^bits entries.

Source: Core ML Tools' docstrings of `constexpr_*`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import numpy as np

from compressor.arrays import (
    STORED_DTYPES,
    Array,
    ArraySpec,
    NarrowArray,
    Shape,
    as_stored,
    is_float,
    spec_of,
    stored_type,
    widened,
)
from compressor.encodings import (
    Concatenated,
    Dense,
    Encoding,
    Palettized,
    Quantized,
    Sparse,
    Values,
    Whole,
    dtype,
    full_mask,
    is_encoded,
    is_listed,
    nbytes,
    plain,
    shape,
    spec,
    tabled,
)
from compressor.formats.coreml.opsets import IOS18, IOS26
from compressor.formats.coreml.types import WEIGHT_DTYPES
from compressor.targets.coreml.rewriting import even, repeated, rewritings


def why_not(encoding: Encoding, version: int) -> str:
    """Why no legal form of the encoding's value is like it; empty if `legalize` gives one."""
    return _refusal(legalize(spec(encoding), version), version)


def legalize(encoding: Encoding, version: int) -> Encoding:
    """The encoding in the form that the version has, of the same value bit by bit; on specs and on data alike.

    Where several forms have that value, it is the smallest. What `why_not` refuses comes back in whatever form.
    """
    if isinstance(encoding, Concatenated) or _rounds(encoding):
        return encoding
    encoding = _evenly(_with_wide_tables(encoding))
    if not isinstance(encoding, Sparse):
        return _smallest(encoding, shape(encoding), version, None)
    if is_listed(encoding.mask):  # there is no such form
        known = isinstance(encoding.mask, ArraySpec)
        mask: Array = ArraySpec(encoding.shape, np.dtype(np.bool_)) if known else full_mask(encoding)
    else:
        mask = repeated(encoding.mask, encoding.shape)
    return Sparse(mask, _smallest(encoding.values, encoding.shape, version, spec_of(mask)), encoding.shape)


def _rounds(encoding: Whole) -> bool:
    """Whether products are rounded to another type last."""
    inner = encoding.values if isinstance(encoding, Sparse) else encoding
    return isinstance(inner, Quantized) and inner.rounded is not None


def _with_wide_tables(encoding: Whole) -> Whole:
    """The encoding with tables and scales in their own type: Core ML casts no others than whole constants."""
    match encoding:
        case Palettized(_, lut):
            return replace(encoding, lut=widened(lut))
        case Quantized(Palettized(_, lut) as data, scale):
            return replace(encoding, data=replace(data, lut=_scaled_floats(lut)), scale=widened(plain(scale)))
        case Quantized(Dense(values), scale) if stored_type(values) in STORED_DTYPES.values():
            table = tabled(cast("NarrowArray | ArraySpec", values), len(scale.shape))
            return replace(encoding, data=table, scale=widened(plain(scale)))
        case Quantized(Dense(values), scale):
            return replace(encoding, data=Dense(_scaled_floats(values)), scale=widened(plain(scale)))
        case Sparse(_, Palettized() | Quantized() as values):
            return replace(encoding, values=cast("Values", _with_wide_tables(values)))
        case _:
            return encoding


def _scaled_floats(array: Array) -> Array:
    """Floats under a scale in the type that they are stored in, where Core ML has it: that may be another one."""
    return as_stored(array) if stored_type(array) in WEIGHT_DTYPES else widened(array)


def _evenly(encoding: Whole) -> Whole:
    """The encoding in blocks that divide their axes: Core ML has no others."""
    match encoding:
        case Quantized():
            return even(encoding, shape(encoding))
        case Sparse(_, Quantized() as values, whole):
            return replace(encoding, values=even(values, whole))
        case _:
            return encoding


def _smallest(encoding: Values, whole: Shape, version: int, mask: ArraySpec | None) -> Values:
    """The encoding in the smallest legal way to write it, the first one if none is legal; decided on specs.

    whole: the weight's shape. mask: that it stands under, if it does.
    """

    def is_legal(inner: Values) -> bool:
        return not _refusal(inner if mask is None else Sparse(mask, inner, whole), version)

    known = cast("Values", spec(encoding))
    ways = {way: way(known) for way in rewritings(known, whole, version, masked=mask is not None)}
    legal = [way for way, made in ways.items() if is_legal(made)]
    return min(legal or [*ways][:1], key=lambda way: nbytes(ways[way]))(encoding)


def _refusal(encoding: Encoding, version: int) -> str:
    """Why a form is none that the version has."""
    if dtype(encoding) not in WEIGHT_DTYPES:
        return f"Core ML has weights in float16 and float32, not in {dtype(encoding)}"
    if isinstance(encoding, Concatenated):
        return "Core ML has no constant that is made of several, and what reads it is not split"
    if _rounds(encoding):
        return f"Core ML rounds no constant to {dtype(encoding)} after it was multiplied"
    if isinstance(encoding, Dense):
        stored = stored_type(encoding.values)
        return "" if stored in WEIGHT_DTYPES else f"Core ML casts float16 to float32, not {stored} to {dtype(encoding)}"
    if math.prod(shape(encoding)) == 0:
        return "it has no elements"
    if not shape(encoding):
        return "a scalar is stored as it is"
    if isinstance(encoding, Sparse):
        return _sparse_refusal(encoding, version)
    return _inner_refusal(encoding, version)


def _sparse_refusal(encoding: Sparse, version: int) -> str:
    inner = encoding.values
    if math.prod(shape(inner)) == 0:
        return "no value is left, and Core ML has no empty tensors"
    if isinstance(inner, Dense) and is_encoded(inner):
        return "Core ML casts whole constants alone, no non-zeros"
    if version < IOS18 and not isinstance(inner, Dense):
        return "compressed non-zeros need iOS18"
    palette = inner.data if isinstance(inner, Quantized) else inner
    if isinstance(palette, Palettized) and palette.vector_axis is not None:
        return "vectors of non-zeros span the zeros between them"
    return _inner_refusal(inner, version)


def _inner_refusal(encoding: Values, version: int) -> str:
    match encoding:
        case Quantized(data) if is_float(dtype(data)) and dtype(data) not in WEIGHT_DTYPES:
            return f"Core ML scales float16 and float32, not {dtype(data)}"
        case Palettized(_, lut, axis) if version < IOS18:
            if math.prod(lut.shape[:-2]) > 1:
                return "tables by group of channels need iOS18"
            return "vector palettes need iOS18" if axis is not None else ""
        case Quantized(Palettized() as data, scale) if version < IOS26:
            if version < IOS18:
                return "scales over tables need iOS18"
            tables = zip(data.lut.shape[:-2], scale.shape, strict=True)
            return "" if all(groups % scales == 0 for groups, scales in tables) else "scales within a table need iOS26"
        case Quantized(Dense(codes), scale) if version < IOS18:
            if is_float(codes.dtype):
                return "scales over floats need iOS18"
            along = [axis for axis, count in enumerate(scale.shape) if count > 1]
            if len(along) > 1 or any(scale.shape[axis] != codes.shape[axis] for axis in along):
                return "scales by block need iOS18"
    return ""
