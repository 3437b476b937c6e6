"""The tensors of a quantized linear layer.

    pack-quantized      weight_packed int32 [out, ceil(in * bits / 32)], weight_scale, weight_shape int64 [2]
    weight_scale        the weight's dtype: [out, 1] by channel, [out, groups] by group of inputs
    weight_zero_point   of what is not symmetric, packed along the outputs: int32 [ceil(out * bits / 32), groups]

Codes are signed, and have 2 ** (bits - 1) added. Every row begins with a word of its own. For codes that are floats see
`floats`.

int-quantized, whose bytes are not packed, is not written: vLLM and SGLang load it with quantized activations alone.

Source: the compressors of the compressed-tensors library, which are the reference of the layouts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from compressor import packing
from compressor.arrays import (
    CODE_DTYPES,
    Array,
    ArraySpec,
    DType,
    NDArray,
    Shape,
    bits,
    is_float,
    to_bytes,
    widened,
)
from compressor.encodings import Dense, Palettized, Quantized, dtype, index_bits, plain, shape
from compressor.formats.compressed_tensors import floats
from compressor.formats.compressed_tensors.schemes import scheme

INT32, INT64 = np.dtype(np.int32), np.dtype(np.int64)
_WORD = 32
_COUNTED = (3, 5, 6, 7)

Tensors = Mapping[str, tuple[DType, Shape]]


def tensors(prefix: str, encoding: Quantized) -> Tensors:
    """The tensors of a layer by full name: the dtype and shape of each."""
    made = floats.tensors(encoding) if is_float(dtype(encoding.data)) else _tensors(encoding)
    return {prefix + name: (kind, size) for name, kind, size in made}


def values(prefix: str, encoding: Quantized) -> Mapping[str, NDArray]:
    """The tensors of a layer with their elements, each C-contiguous."""
    planned = tensors(prefix, encoding)
    made = floats.values(encoding) if is_float(dtype(encoding.data)) else _values(encoding)
    return {prefix + name: np.ascontiguousarray(array).reshape(planned[prefix + name][1]) for name, array in made}


def _tensors(encoding: Quantized) -> Iterator[tuple[str, DType, Shape]]:
    how, (rows, columns), counts = scheme(encoding), shape(encoding.data), tuple(encoding.scale.shape)
    yield "weight_packed", INT32, (rows, _words(columns, how.bits))
    yield "weight_shape", INT64, (2,)
    yield "weight_scale", encoding.scale.dtype, counts
    if not how.symmetric:
        yield "weight_zero_point", INT32, (_words(rows, how.bits), counts[1])


def _values(encoding: Quantized) -> Iterator[tuple[str, NDArray]]:
    data, width = encoding.data, scheme(encoding).bits
    packed = _counts(data.indices, width) if isinstance(data, Palettized) else _packed(data.values, width)
    yield "weight_packed", packed
    yield "weight_shape", np.array(shape(data), INT64)
    yield "weight_scale", np.asarray(encoding.scale)
    if encoding.zero_point is not None:
        by_group = _unsigned(np.ascontiguousarray(np.asarray(encoding.zero_point).T), width)
        yield "weight_zero_point", _rows_of_words(by_group, width).T


def _words(count: int, width: int) -> int:
    return -(-count * width // _WORD)


def _packed(codes: Array, width: int) -> NDArray:
    """Signed codes in words: int32 `[out, ceil(in * bits / 32)]`."""
    rows, columns = codes.shape
    if columns * width % _WORD:
        return _rows_of_words(_unsigned(np.asarray(codes), width), width)
    # Adding half of the range turns the sign bit over, wherever it lies in a byte.
    flipped = to_bytes(codes) ^ np.uint8(sum(1 << place for place in range(width - 1, 8, width)))
    return flipped.view(INT32).reshape(rows, columns * width // _WORD)


def _counts(places: Array, width: int) -> NDArray:
    """Codes from 0 on in words: int32 `[out, ceil(in * bits / 32)]`."""
    rows, columns = places.shape
    if columns * width % _WORD:
        return _rows_of_words(np.asarray(places), width)
    return to_bytes(places, width).view(INT32).reshape(rows, columns * width // _WORD)


def _rows_of_words(codes: NDArray, width: int) -> NDArray:
    """Unsigned codes `[rows, n]`, one behind the other, each row in words of its own."""
    rows, count = codes.shape
    whole = np.pad(codes, ((0, 0), (0, -count % _WORD)))
    return packing.pack(whole, width).view(INT32).reshape(rows, -1)[:, : _words(count, width)].copy()


def _unsigned(codes: NDArray, width: int) -> NDArray:
    """Signed codes as they are packed: uint8 from 0 on. Bytes wrap around."""
    return (codes.view(np.uint8) + np.uint8(1 << width - 1)) & np.uint8((1 << width) - 1)


def is_count(data: Palettized) -> bool:
    """Whether a table is that of all codes of 3, 5, 6 or 7 bits, the least one first: it says how many bits they take.

    Rows of so few that no reader sees whether codes lie across words are none.
    """
    lut, width, columns = data.lut, index_bits(data.lut), shape(data)[-1]
    row, aligned = _words(columns, width), -(-columns // (_WORD // width))
    if lut.shape != (1, 1, 1 << width, 1) or width not in _COUNTED or (row == aligned and row > 1):
        return False
    least = 0 if lut.dtype.name.startswith("uint") else -(1 << width - 1)
    every = np.arange(least, least + (1 << width))
    return isinstance(lut, ArraySpec) or np.array_equal(np.asarray(lut).reshape(-1).astype(np.int16), every)


def legal(encoding: Quantized) -> Quantized:
    """The same value as a layer stores it: signed codes, and in words a scale for each row where all have one."""
    codes, scale, zero_point = encoding.data, widened(plain(encoding.scale)), encoding.zero_point
    if (unsigned := dtype(codes)).name.startswith("uint"):
        width = index_bits(codes.lut) if isinstance(codes, Palettized) else bits(unsigned)
        zero_point = _signed(_zeros(scale, unsigned) if zero_point is None else zero_point, width)
        if isinstance(codes, Palettized):
            codes = replace(codes, lut=_signed(codes.lut, width))
        else:
            codes = Dense(_signed(codes.values, width))
    # Loaders' kernels know scales by channel and by group.
    counts = (shape(codes)[0], scale.shape[1])
    if tuple(scale.shape) == counts:
        return Quantized(codes, scale, zero_point)
    return Quantized(codes, _repeated(scale, counts), None if zero_point is None else _repeated(zero_point, counts))


def why_not(encoding: Quantized) -> str:
    """Why a legal encoding cannot be read by the library of the format; empty where it can."""
    how, (rows, _) = scheme(encoding), shape(encoding.data)
    if how.bits == 4 and how.strategy == "group" and not how.symmetric and rows * how.bits <= _WORD:
        return "zero points of groups in one word, on which compressed-tensors fails"
    return ""


def _signed(codes: Array, width: int) -> Array:
    """Unsigned codes of so many bits, less half of their range. Bytes wrap around."""
    to = CODE_DTYPES[codes.dtype.name.removeprefix("u")]
    if isinstance(codes, ArraySpec):
        return ArraySpec(codes.shape, to)
    signed = np.asarray(codes).view(np.uint8) - np.uint8(1 << width - 1)
    if bits(to) < 8:  # the upper bits of an element of less than a byte are clear
        signed &= np.uint8((1 << bits(to)) - 1)
    return signed.view(to)


def _zeros(like: Array, code: DType) -> Array:
    return ArraySpec(tuple(like.shape), code) if isinstance(like, ArraySpec) else np.zeros(like.shape, code)


def _repeated(array: Array, to: Shape) -> Array:
    """A parameter of blocks of several rows, for each row."""
    if isinstance(array, ArraySpec):
        return ArraySpec(to, array.dtype)
    return np.repeat(np.asarray(array), to[0] // array.shape[0], axis=0)
