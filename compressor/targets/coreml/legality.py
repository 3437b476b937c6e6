"""Which forms each version of the specification has, and how a form becomes one of the same value that it has.

| form | iOS 16, 17 | from iOS 18 on |
|---|---|---|
| palettized | one scalar table; 1, 2, 4, 6, 8 bits | tables by group, vectors; 3 bits too |
| quantized | 8 bits; by tensor or along one axis | 4 bits too; by block |
| sparse | of floats | also of palettized or quantized non-zeros |
| quantized tables | no | iOS 18: scales that tables share; iOS 26: any |

Masks have a bit for each element, tables 2^bits entries.

Source: Core ML Tools' docstrings of `constexpr_*`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np

from compressor.arrays import (
    INT2,
    INT4,
    INT8,
    UINT2,
    UINT4,
    UINT8,
    Array,
    ArraySpec,
    DType,
    MappedArray,
    NDArray,
    PackedArray,
    Shape,
    bits,
    spec_of,
)
from compressor.encodings import (
    Dense,
    Encoding,
    LinearQuantized,
    Palettized,
    Sparse,
    decode,
    dtype,
    full_mask,
    index_bits,
    is_places,
    nbytes,
    shape,
    spec,
)
from compressor.formats.coreml.opsets import IOS18, IOS26
from compressor.formats.coreml.types import WEIGHT_DTYPES
from compressor.kernels import dequantize, expand

Inner = Dense | LinearQuantized | Palettized

_INDEX_BITS = (1, 2, 4, 6, 8)
_INDEX_BITS_SINCE_IOS18 = (1, 2, 3, 4, 6, 8)

_WIDENED: dict[DType, DType] = {INT2: INT8, INT4: INT8, UINT2: UINT8, UINT4: UINT8}
_WIDENED_SINCE_IOS18: dict[DType, DType] = {INT2: INT4, UINT2: UINT4}
"""The types that codes get which have none of their own."""


def why_not(encoding: Encoding, version: int) -> str:
    """Why no legal form of the encoding's value is like it; empty if `legalize` gives one."""
    return _refusal(legalize(spec(encoding), version), version)


def legalize(encoding: Encoding, version: int) -> Encoding:
    """The encoding in the form that the version has, of the same value bit by bit; on specs and on data alike.

    Where several forms have that value, it is the smallest. What `why_not` refuses comes back in whatever form.
    """
    if not isinstance(encoding, Sparse):
        return _smallest(encoding, lambda inner: inner, shape(encoding), version, masked=False)
    if is_places(encoding.mask):  # there is no such form
        known = isinstance(encoding.mask, ArraySpec)
        mask: Array = ArraySpec(encoding.shape, np.dtype(np.bool_)) if known else full_mask(encoding)
    else:
        mask = _repeated(encoding.mask, encoding.shape)
    scattered = partial(_scattered, spec_of(mask), encoding.shape)
    inner = _smallest(encoding.values, scattered, encoding.shape, version, masked=True)
    return Sparse(mask, inner, encoding.shape)


def _scattered(mask: Array, whole: Shape, values: Inner) -> Sparse:
    return Sparse(mask, values, whole)


def _smallest(
    encoding: Inner, placed: Callable[[Inner], Encoding], whole: Shape, version: int, *, masked: bool
) -> Inner:
    """The smallest legal one of the forms, decided on specs; the first one if none is legal.

    placed: the form where it stands in the weight. whole: the weight's shape. masked: whether it stands under a mask.
    """
    specs = [form() for form in _forms(cast("Inner", spec(encoding)), whole, version, masked=masked)]
    legal = [place for place, form in enumerate(specs) if not _refusal(placed(form), version)]
    best = min(legal or [0], key=lambda place: nbytes(specs[place]))
    return _forms(encoding, whole, version, masked=masked)[best]()


Form = Callable[[], Inner]


def _forms(encoding: Inner, whole: Shape, version: int, *, masked: bool) -> list[Form]:
    """Encodings of the same value in the order of preference, each computed when it is called."""
    match encoding:
        case Dense():
            return [lambda: encoding]
        case Palettized():
            return [lambda: _padded(encoding, version)]
        case LinearQuantized(Palettized() as data):
            return _quantized_tables(encoding, data, whole, version, masked=masked)
        case LinearQuantized():
            return _quantized(encoding, version)


def _padded(encoding: Palettized, version: int) -> Palettized:
    """The table with the entries of the next index width that there is, new ones zero."""
    widths = _INDEX_BITS if version < IOS18 else _INDEX_BITS_SINCE_IOS18
    entries = 1 << next(width for width in widths if width >= index_bits(encoding.lut))
    *groups, had, vector = encoding.lut.shape
    if had == entries:
        return encoding
    to = (*groups, entries, vector)

    def padded(lut: NDArray) -> NDArray:
        made = np.zeros(to, lut.dtype)
        made[..., :had, :] = lut
        return made

    lut = _computed(padded, to, encoding.lut)
    return replace(encoding, lut=lut)


def _quantized(encoding: LinearQuantized, version: int) -> list[Form]:
    """Codes of a type that there is; where they are few, as indices into a table too, which is short."""
    few = dtype(encoding.data) in (_WIDENED if version < IOS18 else _WIDENED_SINCE_IOS18)
    return [lambda: _widened(encoding, version), *([lambda: _as_palette(encoding)] if few else [])]


def _widened(encoding: LinearQuantized, version: int) -> LinearQuantized:
    assert isinstance(encoding.data, Dense)
    codes = encoding.data.values
    wide = (_WIDENED if version < IOS18 else _WIDENED_SINCE_IOS18).get(codes.dtype, codes.dtype)
    scale, zero_point = encoding.scale, encoding.zero_point
    if version < IOS18:
        scale, zero_point = _by_channel(encoding)
        if zero_point is None and scale.size == 1:  # stored in any case, as a scalar beside several scales
            zero_point = _computed(lambda scale: np.zeros(scale.shape, wide), scale.shape, scale, of=wide)
    return LinearQuantized(Dense(_cast(codes, wide)), scale, None if zero_point is None else _cast(zero_point, wide))


def _by_channel(encoding: LinearQuantized) -> tuple[Array, Array | None]:
    """Scale and zero point by block along one axis only, repeated for each channel."""
    whole = shape(encoding)
    axes = [axis for axis, count in enumerate(encoding.scale.shape) if count > 1]
    if len(axes) != 1 or len(whole) != len(encoding.scale.shape):
        return encoding.scale, encoding.zero_point
    to = tuple(whole[axis] if axis in axes else 1 for axis in range(len(whole)))
    zero_point = encoding.zero_point
    return _repeated(encoding.scale, to), None if zero_point is None else _repeated(zero_point, to)


def _as_palette(encoding: LinearQuantized) -> Palettized:
    """Codes as indices, bit for bit, into what each of them stands for: a table for each scale."""
    assert isinstance(encoding.data, Dense)
    codes = encoding.data.values
    width = bits(codes.dtype)
    if isinstance(codes, MappedArray):
        indices: Array = replace(codes, dtype=UINT8, width=width)
    elif isinstance(codes, PackedArray):
        indices = replace(codes, dtype=UINT8)
    else:
        indices = _computed(
            lambda codes: codes.view(np.uint8) & np.uint8((1 << width) - 1), codes.shape, codes, of=UINT8
        )
    # ml_dtypes keeps a code in the low bits of a byte, so the bytes 0, 1, 2, ... are the codes of these patterns.
    every = np.arange(1 << width, dtype=np.uint8).view(codes.dtype).reshape(-1, 1)
    return Palettized(indices, _dequantized_table(every, encoding.scale, encoding.zero_point, encoding.scale.shape))


def _quantized_tables(
    encoding: LinearQuantized, data: Palettized, whole: Shape, version: int, *, masked: bool
) -> list[Form]:
    """Quantized tables, one for each scale before iOS 26; float tables; no tables."""
    scale, zero_point = encoding.scale, encoding.zero_point
    wide = INT8 if dtype(data).name.startswith("int") else UINT8
    data = _padded(replace(data, lut=_cast(data.lut, wide)), version)
    zero_point = None if zero_point is None else _cast(zero_point, wide)
    tables, entries = data.lut.shape[:-2], data.lut.shape[-2:]
    groups = tuple(math.lcm(*counts) for counts in zip(scale.shape, tables, strict=True))
    to = whole if masked else tuple(data.indices.shape)
    divide = all(dim % count == 0 for dim, count in zip(to, groups, strict=True))
    repeat = divide and version < IOS26

    def quantized() -> Inner:
        lut = _repeated(data.lut, (*groups, *entries)) if repeat else data.lut
        return LinearQuantized(replace(data, lut=lut), scale, zero_point)

    def codes() -> Inner:
        dense = _computed(lambda *_: decode(data), shape(data), data.indices, data.lut, of=wide)
        return _widened(LinearQuantized(Dense(dense), scale, zero_point), version)

    forms: list[Form] = [quantized]
    if divide:
        forms.append(lambda: replace(data, lut=_dequantized_table(data.lut, scale, zero_point, groups)))
    if not masked or math.prod(tables) == 1:
        forms.append(codes)
    return forms


def _dequantized_table(codes: Array, scale: Array, zero_point: Array | None, groups: Shape) -> Array:
    """Tables of codes, one for all groups or one for each of some blocks of them, as tables of floats."""
    entries = codes.shape[-2:]

    def table(codes: NDArray, *parameters: NDArray) -> NDArray:
        spread = [np.ascontiguousarray(expand(one, groups))[..., None, None] for one in parameters]
        whole = expand(codes, (*groups, *entries)) if codes.ndim > 2 else np.broadcast_to(codes, (*groups, *entries))
        return dequantize(whole, *spread)

    parameters = [scale] if zero_point is None else [scale, zero_point]
    return _computed(table, (*groups, *entries), codes, *parameters, of=scale.dtype)


def _cast(codes: Array, to: DType) -> Array:
    """Codes in a wider type of the same sign."""
    if codes.dtype == to:
        return codes
    return _computed(lambda codes: codes.astype(np.int16).astype(to), codes.shape, codes, of=to)


def _repeated(array: Array, to: Shape) -> Array:
    """A parameter by block, repeated to the shape `to`."""
    if tuple(array.shape) == to:
        return array
    return _computed(lambda array: np.ascontiguousarray(expand(array, to)), to, array)


def _computed(function: Callable[..., NDArray], to: Sequence[int], *arrays: Array, of: DType | None = None) -> Array:
    """`function(*arrays)`, or the spec of it if one of them is a spec."""
    if any(isinstance(array, ArraySpec) for array in arrays):
        return ArraySpec(tuple(to), arrays[0].dtype if of is None else of)
    return function(*(np.asarray(array) for array in arrays))


def _refusal(encoding: Encoding, version: int) -> str:
    """Why a form is none that the version has."""
    if dtype(encoding) not in WEIGHT_DTYPES:
        return f"Core ML has weights in float16 and float32, not in {dtype(encoding)}"
    if isinstance(encoding, Dense):
        return ""
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
    if version < IOS18 and not isinstance(inner, Dense):
        return "compressed non-zeros need iOS18"
    palette = inner.data if isinstance(inner, LinearQuantized) else inner
    if isinstance(palette, Palettized) and palette.vector_axis is not None:
        return "vectors of non-zeros span the zeros between them"
    return _inner_refusal(inner, version)


def _inner_refusal(encoding: Inner, version: int) -> str:
    match encoding:
        case Palettized(_, lut, axis) if version < IOS18:
            if math.prod(lut.shape[:-2]) > 1:
                return "tables by group of channels need iOS18"
            return "vector palettes need iOS18" if axis is not None else ""
        case LinearQuantized(Palettized() as data, scale) if version < IOS26:
            if version < IOS18:
                return "quantized tables need iOS18"
            tables = zip(data.lut.shape[:-2], scale.shape, strict=True)
            return "" if all(groups % scales == 0 for groups, scales in tables) else "scales within a table need iOS26"
        case LinearQuantized(Dense(codes), scale) if version < IOS18:
            along = [axis for axis, count in enumerate(scale.shape) if count > 1]
            if len(along) > 1 or any(scale.shape[axis] != codes.shape[axis] for axis in along):
                return "scales by block need iOS18"
    return ""
