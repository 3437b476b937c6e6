"""An encoding of the same value in another scheme: with codes of more bits, a scale of fewer values, a zero point."""

from __future__ import annotations

import numpy as np

from compressor.arrays import Array, ArraySpec, DType, NDArray, Shape, is_float
from compressor.encodings import Dense, Palettized, Quantized, counted, decode, dtype, index_bits, plain


def levelled(encoding: Quantized, spec: Quantized) -> Quantized:
    """The same value as `spec` says: signed codes of at least as many bits, and a scale of each part of a block.

    >>> codes = Dense(np.array([[1, -1, 1, 0]], np.int8))
    >>> spec = Quantized(Dense(ArraySpec((1, 4), np.dtype(np.int8))), ArraySpec((1, 2), np.dtype(np.float32)))
    >>> levelled(Quantized(codes, np.float32([[0.5]])), spec).scale.tolist()
    [[0.5, 0.5]]
    """
    counts = tuple(spec.scale.shape)
    data = encoding.data if is_float(dtype(spec.data)) else _codes(encoding.data, spec.data)
    scale = _repeated(np.asarray(plain(encoding.scale)), counts)
    return Quantized(data, scale, _zero_points(encoding.zero_point, spec.zero_point, counts))


def count(width: int, code: DType, shape: Shape = (1, 1)) -> NDArray:
    """The table of all signed codes of so many bits, the least one first, for weights of the rank of `shape`."""
    least = -(1 << width - 1)
    return np.arange(least, least + (1 << width)).astype(code).reshape(*(1,) * len(shape), -1, 1)


def _codes(data: Dense | Palettized, spec: Dense | Palettized) -> Dense | Palettized:
    codes = decode(data).astype(np.int8)
    if isinstance(spec, Dense):
        return Dense(codes.astype(spec.values.dtype))
    width = index_bits(spec.lut)
    return Palettized((codes + np.int8(1 << width - 1)).view(np.uint8), count(width, spec.lut.dtype, codes.shape))


def _zero_points(have: Array | None, want: Array | None, counts: Shape) -> Array | None:
    if want is None:
        return None
    if have is None:
        return np.zeros(counts, want.dtype)
    return _repeated(np.asarray(have).astype(np.int8).astype(want.dtype), counts)


def _repeated(parameter: NDArray, counts: Shape) -> NDArray:
    """A parameter of blocks, for the parts of each."""
    for axis, (have, want) in enumerate(zip(parameter.shape, counts, strict=True)):
        parameter = np.repeat(parameter, want // have, axis) if have != want else parameter
    return np.ascontiguousarray(parameter)


def spec_of_codes(width: int, shape: Shape, kinds: dict[int, DType]) -> Dense | Palettized:
    """The spec of signed codes of so many bits: of their type, or of places in the table of all of them."""
    if width in kinds:
        return Dense(ArraySpec(shape, kinds[width]))
    code = next(kind for limit, kind in kinds.items() if width < limit)
    return counted(Dense(ArraySpec(shape, code)), width)
