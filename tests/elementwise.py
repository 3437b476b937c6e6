"""What an encoding stands for, said once more: element by element, as the docstrings say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from compressor import encodings
from compressor.arrays import NDArray, is_float
from compressor.encodings import Concatenated, Dense, Encoding, Palettized, Quantized, Sparse, is_gaps


def elementwise(encoding: Encoding) -> NDArray:
    """The value of an encoding."""
    if isinstance(encoding, Concatenated):
        return np.concatenate([elementwise(part) for part in encoding.parts], encoding.axis)
    value = np.zeros(encodings.shape(encoding), encodings.dtype(encoding))
    rank = 0
    left = {*places_of_gaps(encoding.mask)} if isinstance(encoding, Sparse) and is_gaps(encoding.mask) else None
    for number, place in enumerate(np.ndindex(value.shape)):
        if isinstance(encoding, Sparse):
            is_left = left is not None and number in left
            if left is None:
                is_left = encoding.mask[block(place, value.shape, encoding.mask.shape)]  # type: ignore[index]
            if not is_left:
                continue
            value[place] = leaf(encoding.values, place, value.shape, rank)
            rank += 1
        else:
            value[place] = leaf(encoding, place, value.shape, None)
    return value


def places_of_gaps(codes: Any) -> Iterator[int]:
    place, most = 0, {"uint4": 15, "uint8": 255}[codes.dtype.name]
    for code in np.asarray(codes).astype(int):
        place += code
        if code < most:
            yield place


def block(place: tuple[int, ...], whole: tuple[int, ...], counts: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(at // (dim // count) for at, dim, count in zip(place, whole, counts, strict=True))


def leaf(encoding: Any, place: tuple[int, ...], whole: tuple[int, ...], rank: int | None) -> Any:
    at = place if rank is None else (rank,)
    match encoding:
        case Dense(values):
            return np.asarray(values)[at]
        case Quantized(data, scale, zero_point, lengths):
            where = block(place, whole, scale.shape)
            if lengths is not None:
                where = tuple(at // size for at, size in zip(place, lengths, strict=True))
            wide = np.float64 if scale.dtype == np.float64 else np.float32
            code = leaf(data, place, whole, rank)
            code = code.astype(wide) if is_float(code.dtype) else wide(int(code))
            if zero_point is not None:
                code = wide(int(code) - int(np.asarray(zero_point)[where]))
            return (code * np.asarray(scale)[where].astype(wide)).astype(scale.dtype)
        case Palettized(indices, lut, axis):
            entry = 0
            if axis is not None:
                vector = lut.shape[-1]
                entry = at[axis] % vector
                at = (*at[:axis], at[axis] // vector, *at[axis + 1 :])
                whole = indices.shape
                place = at
            return np.asarray(lut)[(*block(place, whole, lut.shape[:-2]), np.asarray(indices)[at], entry)]
