"""A compressed weight is an expression whose value is the dense weight.

Five nodes are enough (`nodes`), and joint compression is nesting. Schemes produce these trees, `decode` evaluates them
in numpy, each target evaluates them in its own operators; the test of all three is that they agree. All but `decode`
works on trees of specs, which have no data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar, cast

import numpy as np

from compressor.arrays import (
    CODE_DTYPES,
    UINT8,
    Array,
    ArraySpec,
    NarrowArray,
    NDArray,
    as_uint8,
    bits,
    is_float,
    spec_of,
    stored_type,
)
from compressor.errors import DamageError
from compressor.gaps import is_gaps, to_mask, values_of
from compressor.kernels import dequantize, expand, facing, look_up, scatter
from compressor.nodes import (
    PLACES,
    Concatenated,
    Dense,
    Encoding,
    Palettized,
    Quantized,
    Sparse,
    Values,
    Whole,
    dtype,
    shape,
)
from compressor.packing import packed_nbytes

__all__ = [
    "PLACES",
    "Concatenated",
    "Dense",
    "Encoding",
    "Palettized",
    "Quantized",
    "Sparse",
    "Values",
    "Whole",
    "arrays",
    "codes_of",
    "counted",
    "decode",
    "dtype",
    "full_mask",
    "index_bits",
    "is_encoded",
    "is_gaps",
    "is_listed",
    "is_places",
    "kept",
    "map_arrays",
    "name",
    "nbytes",
    "plain",
    "shape",
    "spec",
    "spelled_out",
    "stands_alone",
    "stored",
    "tabled",
]

E = TypeVar("E", Dense, Quantized, Palettized, Sparse, Concatenated, Encoding)


def decode(encoding: Encoding) -> NDArray:
    """The dense weight that the encoding stands for.

    >>> decode(Sparse(np.array([[True, False, True]]), Dense(np.array([4, 5])), (1, 3))).tolist()
    [[4, 0, 5]]

    Raises:
        DamageError: an index lies outside its table, or the mask's set bits are not as many as the values.
    """
    if isinstance(encoding, Concatenated):
        return np.concatenate([decode(part) for part in encoding.parts], encoding.axis)
    if not isinstance(encoding, Sparse):
        return _decode(encoding, None)
    mask = full_mask(encoding)
    return scatter(_decode(encoding.values, mask), mask)


def _decode(encoding: Values, where: NDArray | None) -> NDArray:
    """The values, or those at the set places of the full-size mask `where`."""
    match encoding:
        case Dense(values):
            return np.asarray(values)
        case Quantized(data, scale, zero_point, block, rounded):
            codes = _decode(data, where)
            parameters = [np.asarray(each) for each in (scale, zero_point) if each is not None]
            by_block, parameters_by_block = facing(codes, parameters, where, block)
            products = dequantize(by_block, *parameters_by_block).reshape(codes.shape)
            with np.errstate(over="ignore"):  # an infinite value is what the scale says
                return products.astype(rounded or products.dtype, copy=False)
        case Palettized(indices, lut, axis):
            return look_up(indices, np.asarray(lut), axis, where)


def full_mask(encoding: Sparse) -> NDArray:
    """Where the values are: bool, the weight's shape.

    Raises:
        DamageError: places are not ascending, or lie outside of the weight, or are not as many as the values.
    """
    mask, size = np.asarray(encoding.mask), math.prod(encoding.shape)
    count, values = kept(mask, size), math.prod(shape(encoding.values))
    if count != values:  # before anything is as large as the weight claims to be
        raise DamageError(f"a mask of {count} set bits for {values} values")
    if is_gaps(mask):
        return to_mask(mask, encoding.shape)
    if not is_places(mask):
        return expand(mask, encoding.shape)
    places = mask
    if places.size and (places[0] < 0 or places[-1] >= size or (places[1:] <= places[:-1]).any()):
        raise DamageError(f"ascending places below {size:,}")
    mask = np.zeros(size, np.bool_)
    mask[places] = True
    return mask.reshape(encoding.shape)


def kept(mask: NDArray, size: int) -> int:
    """How many of `size` values a mask keeps, which is one of blocks, a list of places or one of gaps."""
    if is_gaps(mask):
        return values_of(mask)
    return mask.size if is_places(mask) else int(np.count_nonzero(mask)) * (size // max(mask.size, 1))


def index_bits(lut: Array) -> int:
    """The bits of a code into `lut`, from its table's length."""
    return max(1, (lut.shape[-2] - 1).bit_length())


def name(encoding: Encoding) -> str:
    """How reports spell an encoding: `dense`, `sparse(palettized4)`, `int8`, ...

    >>> name(Sparse(np.array([[True, False, True]]), Dense(np.array([4.0, 5.0])), (1, 3)))
    'sparse'
    """
    match encoding:
        case Dense(values):
            stored = stored_type(values)
            return str(stored) if stored != values.dtype or stored in CODE_DTYPES.values() else "dense"
        case Quantized(data):
            inner = name(data)
            if is_float(dtype(data)):
                return f"scaled({inner})"
            return inner if isinstance(data, Dense) else f"{dtype(data)}({inner})"
        case Palettized(_, lut):
            return f"palettized{index_bits(lut)}"
        case Sparse(_, values):
            inner = name(values)
            return "sparse" if inner == "dense" else f"sparse({inner})"
        case Concatenated(parts):
            return f"concatenated({', '.join(map(name, parts))})"


def spelled_out(encoding: Encoding) -> str:
    """Its name, and by what it tells where the non-zeros are, which forms side by side may differ in.

    >>> spelled_out(Sparse(np.array([[True, False, True]]), Dense(np.array([4.0, 5.0])), (1, 3)))
    'sparse by a mask'
    """
    return f"{name(encoding)} by {_way(encoding)}" if isinstance(encoding, Sparse) else name(encoding)


def _way(encoding: Sparse) -> str:
    if is_listed(encoding.mask):
        return "places" if is_places(encoding.mask) else "distances"
    return "a mask" if encoding.mask.shape == encoding.shape else "a mask of blocks"


def is_encoded(encoding: Encoding) -> bool:
    """Whether it is more than the values in their own type."""
    return not isinstance(encoding, Dense) or stored_type(encoding.values) != encoding.values.dtype


def codes_of(encoding: Encoding) -> Quantized | None:
    """The node that has integer codes: the encoding, or what stands under its mask; None where there are none."""
    inner = encoding.values if isinstance(encoding, Sparse) else encoding
    return inner if isinstance(inner, Quantized) and not is_float(dtype(inner.data)) else None


def stands_alone(values: Encoding) -> bool:
    """Whether each value is stored as such, or as a code into the one table of all."""
    match values:
        case Dense():
            return True
        case Palettized(_, lut, None):
            return lut.size == lut.shape[-2]
        case _:
            return False


def plain(scale: Array | Palettized) -> Array:
    """A scale as an array, or as the spec of one."""
    if not isinstance(scale, Palettized):
        return scale
    return ArraySpec(scale.shape, scale.dtype) if isinstance(scale.indices, ArraySpec) else np.asarray(scale)


def tabled(values: NarrowArray | ArraySpec, rank: int) -> Palettized:
    """Floats that are stored in 8 bits as codes into the table of all values that such bits have.

    rank: of the weight, or of the one whose non-zeros they are.
    """
    narrow, to = stored_type(values), (*(1,) * rank, 256, 1)
    if isinstance(values, ArraySpec):
        return Palettized(ArraySpec(values.shape, UINT8), ArraySpec(to, values.dtype))
    with np.errstate(invalid="ignore"):  # some of them are NaN
        lut = np.arange(256, dtype=np.uint8).view(narrow).astype(values.dtype)
    return Palettized(as_uint8(values.values), lut.reshape(to))


def counted(codes: Dense | Palettized, width: int, rank: int = 0) -> Palettized:
    """The spec of codes in fewer bits than their type has: of places in the table of all that so many bits are.

    rank: of the weight, where the codes are those of its non-zeros.
    """
    of = shape(codes)
    return Palettized(ArraySpec(of, UINT8), ArraySpec((*(1,) * (rank or len(of)), 1 << width, 1), dtype(codes)))


def is_places(mask: Array) -> bool:
    """Whether a mask is the places of the values."""
    return bool(mask.dtype == PLACES)


def is_listed(mask: Array) -> bool:
    """Whether a mask is a list of what there is of values, in any way, and no bit for each element or block."""
    return mask.dtype != np.bool_


def stored(encoding: Encoding) -> Iterator[tuple[Array, int]]:
    """The arrays that are stored, outermost first, each with the bits of an element: codes and masks are packed."""
    if isinstance(encoding, Concatenated):
        for part in encoding.parts:
            yield from stored(part)
        return
    for _, field, width in _fields(encoding):
        yield from stored(field) if isinstance(field, Encoding) else [(field, width)]


def arrays(encoding: Encoding) -> Iterator[Array]:
    """The stored arrays, outermost first."""
    return (array for array, _ in stored(encoding))


def nbytes(encoding: Encoding) -> int:
    """The bytes that the encoding takes when stored: codes and masks packed, tables and scales included."""
    if isinstance(encoding, Concatenated):
        return sum(map(nbytes, encoding.parts))
    return sum(
        nbytes(field) if isinstance(field, Encoding) else packed_nbytes(field.size, width)
        for _, field, width in _fields(encoding)
    )


def map_arrays(function: Callable[[Array, int], Array], encoding: E) -> E:
    """The same tree with `function` applied to every stored array and the bits of its elements."""
    if isinstance(encoding, Concatenated):
        parts = tuple(cast("Whole", map_arrays(function, part)) for part in encoding.parts)
        return cast("E", Concatenated(parts, encoding.axis))  # type: ignore[redundant-cast]
    changes: dict[str, Any] = {
        key: map_arrays(function, field) if isinstance(field, Encoding) else function(field, width)
        for key, field, width in _fields(encoding)
    }
    return replace(encoding, **changes)


def spec(encoding: E) -> E:
    """The same tree with shapes and dtypes and no data."""
    return map_arrays(lambda array, _: spec_of(array), encoding)


def _fields(node: Whole) -> Iterator[tuple[str, Array | Encoding, int]]:
    """The fields of a node that hold an array, with the bits of a stored element, or another node."""
    match node:
        case Dense(values):
            yield "values", values, bits(stored_type(values))
        case Quantized(data, scale, zero_point):
            yield "data", data, 0
            yield "scale", scale, 0 if isinstance(scale, Palettized) else bits(stored_type(scale))
            if zero_point is not None:
                yield "zero_point", zero_point, bits(zero_point.dtype)
        case Palettized(indices, lut):
            yield "indices", indices, index_bits(lut)
            yield "lut", lut, bits(stored_type(lut))
        case Sparse(mask, values):
            yield "mask", mask, bits(mask.dtype) if is_listed(mask) else 1
            yield "values", values, 0
