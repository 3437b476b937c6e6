"""Encodings as nodes that compute them: each node of an encoding becomes a call of a function in `functions`.

    Dense                              an initializer
    Palettized                         lut_to_dense(indices, lut)
    LinearQuantized                    dequantize(codes, scale, zero_point), or dequantize_linear: see `Form`
    Sparse                             sparse_to_dense(places(mask), values, zeros)

`lifting.lift` is the inverse. Packed codes are stored as ONNX's 2- and 4-bit types where the opset has them, as bytes
otherwise, low bits first, so that either is a slice of the file that `arrays` can read.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import numpy as np

from compressor.arrays import Array, ArraySpec, DType, Shape, bits, packed_nbytes
from compressor.encodings import (
    Dense,
    Encoding,
    LinearQuantized,
    Palettized,
    Sparse,
    dtype,
    index_bits,
    is_places,
    shape,
)
from compressor.formats.onnx import n_bits
from compressor.formats.onnx.body import INT32
from compressor.formats.onnx.codes import spread
from compressor.formats.onnx.functions import MOST_GROUPED_AXES
from compressor.formats.onnx.lowered import COUNTER, Lowered
from compressor.formats.onnx.palettes import palettized
from compressor.formats.onnx.quantized import (
    BLOCKED_SINCE,
    BY_NODE,
    Form,
    for_kernels,
    linear,
    linear_axis,
    linear_node,
    store_data,
    wide,
    widened,
)

_BITWISE_SINCE = 18
_STRADDLING = {3, 5, 6, 7}
# Source: ONNX Runtime, onnxruntime_session_options_config_keys.h, "constant_folding_max_output_size_in_bytes".
_FOLDED_BYTES = 1 << 30


def why_not(encoding: Encoding) -> str:
    """Why the encoding cannot be lowered at any opset; empty if it can."""
    size = math.prod(shape(encoding))
    if isinstance(encoding, Dense):
        return ""
    if size == 0:
        return "it has no elements"
    if size * max(4, dtype(encoding).itemsize) > _FOLDED_BYTES:
        return f"ONNX Runtime folds values of at most {_FOLDED_BYTES >> 30} GiB, decoding takes more"
    palette = _palette(encoding)
    if isinstance(encoding, Sparse) and palette is not None:
        groups, vector = palette.lut.shape[:-2], palette.lut.shape[-1]
        if vector > 1 and math.prod(groups) > 1:
            return "vectors of non-zeros have no group"
    if len(shape(encoding)) > MOST_GROUPED_AXES:
        return f"decoding takes at most {MOST_GROUPED_AXES} axes"
    return ""


def lower(name: str, encoding: Encoding, opset: int, form: Form = "folded", prefix: str = "") -> Lowered:
    """What computes the value `name` of `encoding`, stored under names that begin with `prefix`, or with `name`."""
    made = Lowered()
    prefix = prefix or name
    match encoding:
        case Dense(values):
            made.store(name, values)
        case LinearQuantized() if form == "n_bits":
            n_bits.store(made, encoding, name, prefix)
        case LinearQuantized():
            linear(made, encoding, name, prefix, opset, form)
        case Palettized():
            palettized(made, encoding, name, prefix, opset)
        case Sparse():
            _sparse(made, encoding, name, prefix, opset, form)
    return made


def needs_opset(encoding: Encoding, form: Form = "folded") -> int:
    """The oldest opset that `lower` works with, 13 for most; any for what is not decoded."""
    if isinstance(encoding, Dense):
        return 1
    oldest = 13
    palette = _palette(encoding)
    if palette is not None and index_bits(palette.lut) in _STRADDLING:
        oldest = _BITWISE_SINCE
    if form in BY_NODE and isinstance(encoding, LinearQuantized) and linear_axis(encoding) == "blocks":
        oldest = BLOCKED_SINCE
    return oldest


def aligned(encoding: Encoding) -> Encoding:
    """The encoding with indices of 4 and 8 bits instead of 3, 5, 6 and 7, tables filled up with zeros: of any opset.

    On specs and on data alike.
    """
    match encoding:
        case Sparse(_, values):
            return replace(encoding, values=cast("Dense | LinearQuantized | Palettized", aligned(values)))
        case LinearQuantized(data):
            return replace(encoding, data=cast("Dense | Palettized", aligned(data)))
        case Palettized(_, lut) if index_bits(lut) in _STRADDLING:
            *groups, had, vector = lut.shape
            entries = (1 << 3 if index_bits(lut) < 4 else 1 << 7) + 1  # the fewest that make the indices so wide
            if isinstance(lut, ArraySpec):
                return replace(encoding, lut=ArraySpec((*groups, entries, vector), lut.dtype))
            filled = np.zeros((*groups, entries, vector), lut.dtype)
            filled[..., :had, :] = np.asarray(lut)
            return replace(encoding, lut=filled)
        case _:
            return encoding


def _palette(encoding: Encoding) -> Palettized | None:
    match encoding:
        case Palettized():
            return encoding
        case LinearQuantized(data):
            return data if isinstance(data, Palettized) else None
        case Sparse(_, values):
            return _palette(values)
        case _:
            return None


def _sparse(made: Lowered, encoding: Sparse, name: str, prefix: str, opset: int, form: Form) -> str:
    whole, mask, values = encoding.shape, encoding.mask, encoding.values
    size, count = math.prod(whole), math.prod(shape(values))
    places = _places(made, prefix, mask, whole, count)
    if form in BY_NODE and isinstance(values, LinearQuantized):
        values, origin = for_kernels(values, whole) if form == "linear" else (values, "")
        codes = store_data(made, values.data, prefix, opset, places, whole)
        narrow = dtype(values.data)
        if bits(narrow) < 8 and codes in {part.name for part in made.parts}:
            codes = widened(made, codes, narrow)
        return _sparse_linear(made, values, codes, places, whole, name, prefix, opset, origin)
    inner = f"{prefix}.values"
    match values:
        case Dense(array):
            made.store(inner, array)
        case LinearQuantized():
            linear(made, values, inner, prefix, opset, form, places, whole)
        case Palettized():
            palettized(made, values, inner, prefix, opset, places, whole)
    return made.call("sparse_to_dense", [places, inner, _zeros(made, dtype(encoding), size)], name, shape=whole)


def _sparse_linear(
    made: Lowered,
    values: LinearQuantized,
    codes: str,
    places: str,
    whole: Shape,
    name: str,
    prefix: str,
    opset: int,
    origin: str,
) -> str:
    """Codes scattered into zero points, then dequantized: the integer kernels want codes."""
    kind = wide(dtype(values.data))
    linear_node(made, values, f"{prefix}.scattered", whole, name, prefix, opset, origin)
    last = made.nodes.pop()
    if values.zero_point is None:
        fill = _zeros(made, kind, math.prod(whole))
    else:
        zero = last.input[2]
        fill = made.call(
            f"spread_{kind.name}", [zero], f"{prefix}.fill", **spread("fill", tuple(values.scale.shape), whole)
        )
    made.call("sparse_to_dense", [places, codes, fill], f"{prefix}.scattered", shape=whole)
    made.nodes.append(last)
    return name


def _places(made: Lowered, prefix: str, mask: Array, whole: Shape, count: int) -> str:
    if is_places(mask):
        return made.store(f"{prefix}.places", mask)
    packed = made.store(f"{prefix}.mask", mask, (packed_nbytes(mask.size, 1),), 1)
    made.counter = max(made.counter, -(-math.prod(whole) // 8) * 8)
    name = f"{prefix}.places"
    made.declare(name, INT32, count)
    if tuple(mask.shape) == whole:
        return made.call("places", [packed, COUNTER], name)
    return made.call("places_of_blocks", [packed, COUNTER], name, **spread("mask", tuple(mask.shape), whole))


def _zeros(made: Lowered, dtype: DType, size: int) -> str:
    made.zeros.add((dtype.name, size))
    return f"compressor.zeros.{dtype.name}.{size}"
