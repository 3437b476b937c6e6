"""Encodings as nodes that compute them: each node of an encoding becomes a call of a function in `functions`.

    Dense                              an initializer; Cast(values) of what is stored in a narrower type
    Palettized                         lut_to_dense(indices, lut)
    Quantized                    dequantize(codes, scale, zero_point), or dequantize_linear: see `Form`
    Sparse                             sparse_to_dense(places(mask), values, zeros); the places of gaps, or themselves
    Concatenated                       concatenated_2(part, part), ...

`calls.encoding` is the inverse. Packed codes are stored as ONNX's 2- and 4-bit types where the opset has them, as bytes
otherwise, low bits first, so that either is a slice of the file that `arrays` can read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from compressor.arrays import (
    BFLOAT16,
    STORED_DTYPES,
    Array,
    ArraySpec,
    NarrowArray,
    Shape,
    as_stored,
    bits,
    is_float,
    stored_type,
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
    arrays,
    dtype,
    index_bits,
    is_encoded,
    is_gaps,
    is_places,
    shape,
    tabled,
)
from compressor.formats.onnx import n_bits, quantized
from compressor.formats.onnx.body import INT32
from compressor.formats.onnx.codes import spread, store_codes
from compressor.formats.onnx.dtypes import SINCE
from compressor.formats.onnx.functions import MOST_FOLDED, MOST_GROUPED_AXES, MOST_PARTS
from compressor.formats.onnx.lowered import BITS, COUNTER, Lowered, NonZeros
from compressor.formats.onnx.palettes import palettized
from compressor.formats.onnx.quantized import BY_NODE, Form
from compressor.packing import packed_nbytes

_BITWISE_SINCE = 18
_STRADDLING = {3, 5, 6, 7}


def why_not(encoding: Encoding) -> str:
    """Why the encoding cannot be lowered at any opset; empty if it can."""
    if isinstance(encoding, Concatenated):
        if len(encoding.parts) > MOST_PARTS:
            return f"a weight has at most {MOST_PARTS} parts"
        return next(filter(None, map(why_not, encoding.parts)), "")
    size = math.prod(shape(encoding))
    if not is_encoded(encoding):
        return ""
    if size == 0:
        return "it has no elements"
    if size * max(4, dtype(encoding).itemsize) > MOST_FOLDED:
        return f"ONNX Runtime folds values of at most {MOST_FOLDED >> 30} GiB, decoding takes more"
    palette = _palette(encoding)
    if isinstance(encoding, Sparse) and palette is not None:
        groups, vector = palette.lut.shape[:-2], palette.lut.shape[-1]
        if vector > 1 and math.prod(groups) > 1:
            return "vectors of non-zeros have no group"
    if len(shape(encoding)) > MOST_GROUPED_AXES:
        return f"decoding takes at most {MOST_GROUPED_AXES} axes"
    return ""


def lower(
    name: str, encoding: Encoding, opset: int, form: Form = "folded", prefix: str = "", ends: Sequence[int] = ()
) -> Lowered:
    """What computes the value `name` of `encoding`, stored under names that begin with `prefix`, or with `name`.

    ends: of the gaps of weights that lie side by side, see `stacking`.
    """
    made = Lowered(prefix or name, opset)
    match encoding:
        case Dense(values):
            made.store(name, values)
        case Quantized() if form == "n_bits":
            n_bits.store(made, encoding, name)
        case Quantized() if form in BY_NODE:
            quantized.dequantize_linear(made, encoding, name, form)
        case Quantized():
            quantized.folded(made, encoding, name)
        case Palettized():
            palettized(made, encoding, name)
        case Sparse():
            _sparse(made, encoding, name, form, ends)
        case Concatenated(parts, axis):
            _concatenated(made, parts, axis, name)
    return made


@dataclass(frozen=True)
class Lowering:
    """How a weight is lowered: the arguments of `lower` but for its encoding."""

    name: str
    opset: int
    form: Form = "folded"
    prefix: str = ""

    def __call__(self, encoding: Encoding) -> Lowered:
        return lower(self.name, encoding, self.opset, self.form, self.prefix)


def needs_opset(encoding: Encoding) -> int:
    """The oldest opset that `lower` works with, 13 for most; any for what is not decoded."""
    if isinstance(encoding, Concatenated):
        return max(13, *map(needs_opset, encoding.parts))
    if not is_encoded(encoding):
        return 1
    oldest = max((13, *(SINCE.get(stored_type(one), 0) for one in arrays(encoding) if is_float(one.dtype))))
    palette = _palette(encoding)
    if palette is not None and index_bits(palette.lut) in _STRADDLING:
        oldest = max(oldest, _BITWISE_SINCE)
    return oldest


def in_opset(encoding: Encoding, opset: int) -> Encoding:
    """The encoding, or what says the same in an opset that has fewer types and operators."""
    return encoding if needs_opset(encoding) <= opset else aligned(encoding)


def aligned(encoding: Encoding) -> Encoding:
    """The encoding for any opset: indices of 4 and 8 bits instead of 3, 5, 6 and 7, tables filled up with zeros, and a
    table instead of floats of 8 bits.

    On specs and on data alike.
    """
    match encoding:
        case Concatenated(parts):
            return replace(encoding, parts=tuple(cast("Whole", aligned(part)) for part in parts))
        case Sparse(_, values):
            return replace(encoding, values=cast("Values", aligned(values)))
        case Quantized(Dense(values), scale) if stored_type(values) in STORED_DTYPES.values():
            data = tabled(cast("NarrowArray | ArraySpec", values), len(scale.shape))
            return cast("Quantized", aligned(replace(encoding, data=data)))
        case Quantized(data, scale):
            if not isinstance(scale, Palettized) and stored_type(scale) in STORED_DTYPES.values():
                scale = _in_16_bits(scale)
            return replace(encoding, data=cast("Dense | Palettized", aligned(data)), scale=scale)
        case Palettized(_, lut) if index_bits(lut) in _STRADDLING:
            *groups, had, vector = lut.shape
            entries = (1 << 3 if index_bits(lut) < 4 else 1 << 7) + 1  # the fewest that make the indices so wide
            if isinstance(lut, ArraySpec):
                return replace(encoding, lut=replace(lut, shape=(*groups, entries, vector)))
            stored = np.asarray(as_stored(lut))
            filled = np.zeros((*groups, entries, vector), stored.dtype)
            filled[..., :had, :] = stored
            return replace(encoding, lut=filled if stored.dtype == lut.dtype else NarrowArray(filled, lut.dtype))
        case _:
            return encoding


def _in_16_bits(scale: Array) -> Array:
    """Scales that are stored in 8 bits, stored in the type of 16 bits that has all of their values."""
    if isinstance(scale, ArraySpec):
        return replace(scale, stored=BFLOAT16)
    return NarrowArray(np.asarray(as_stored(scale)).astype(BFLOAT16), scale.dtype)


def _palette(encoding: Encoding) -> Palettized | None:
    match encoding:
        case Palettized():
            return encoding
        case Quantized(data):
            return data if isinstance(data, Palettized) else None
        case Sparse(_, values):
            return _palette(values)
        case _:
            return None


def _concatenated(made: Lowered, parts: Sequence[Whole], axis: int, name: str) -> str:
    """The parts, each lowered by itself, and what puts them side by side."""
    names = []
    for number, part in enumerate(parts):
        names.append(f"{made.prefix}.{number}")
        made.include(lower(names[-1], part, made.opset))
    return made.call(f"concatenated_{len(parts)}", names, name, axis=axis)


def _sparse(made: Lowered, encoding: Sparse, name: str, form: Form, ends: Sequence[int]) -> str:
    whole, values = encoding.shape, encoding.values
    at = NonZeros(_places(made, encoding.mask, whole, math.prod(shape(values)), ends), whole)
    if form in BY_NODE and isinstance(values, Quantized):
        return quantized.dequantize_linear(made, values, name, form, at)
    inner = f"{made.prefix}.values"
    match values:
        case Dense(array):
            made.store(inner, array)
        case Quantized():
            quantized.folded(made, values, inner, at)
        case Palettized():
            palettized(made, values, inner, at)
    zeros = made.zero(dtype(encoding), math.prod(whole))
    return made.call("sparse_to_dense", [at.places, inner, zeros], name, shape=whole)


def _places(made: Lowered, mask: Array, whole: Shape, count: int, ends: Sequence[int]) -> str:
    """The places of the `count` non-zeros."""
    name = f"{made.prefix}.places"
    if is_places(mask):
        return made.store(name, mask)
    if is_gaps(mask):
        made.declare(name, INT32, count)
        codes = store_codes(made, f"{made.prefix}.gaps", mask)
        function = f"places_by_gaps{bits(mask.dtype)}"
        if not ends:
            return made.call(function, [codes], name)
        return made.call(f"{function}_of_weights", [codes], name, ends=ends, size=[math.prod(whole) // (len(ends) + 1)])
    packed = made.store(f"{made.prefix}.mask", mask, (packed_nbytes(mask.size, 1),), 1)
    made.counter = max(made.counter, -(-math.prod(whole) // 8) * 8)
    made.declare(name, INT32, count)
    if tuple(mask.shape) == whole:
        return made.call("places_by_bits", [packed, COUNTER, BITS], name)
    return made.call(
        "places_of_blocks_by_bits", [packed, COUNTER, BITS], name, **spread("mask", tuple(mask.shape), whole)
    )
