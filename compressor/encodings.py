"""A compressed weight is an expression whose value is the dense weight.

Four nodes are enough, and joint compression is nesting. In canonical order, outermost first:

    Sparse > Quantized > Palettized > Dense

Schemes produce these trees, `decode` evaluates them in numpy, each target evaluates them in its own operators; the test
of all three is that they agree. Nothing is stored twice: the bits of a palette follow from its table's length, a block
from `shape // scale.shape`. Under `Sparse`, a leaf (`Dense.values`, `Palettized.indices`) holds the `[D]` non-zeros in
row-major order while scales and tables keep the weight's rank: the parameter of a non-zero is the one of its place.

Every array may be an `ArraySpec`: the same tree without data, on which all but `decode` works. Trees of specs compare
and hash by value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from compressor.arrays import CODE_DTYPES, Array, DType, NDArray, Shape, bits, is_float, spec_of, stored_type
from compressor.errors import DamageError
from compressor.kernels import dequantize, expand, facing, look_up, scatter
from compressor.packing import packed_nbytes

PLACES = np.dtype(np.int32)
"""The type of places in a weight."""


@dataclass(frozen=True)
class Dense:
    """The values themselves.

    values: any dtype, the weight's shape, or `[D]` under `Sparse`; stored in a narrower float type where each is one.
    """

    values: Array


@dataclass(frozen=True)
class Palettized:
    """Codes into a table: `lut[group, indices]`.

    indices: uint8, the weight's shape, its `vector_axis` divided by V; or `[D]` under `Sparse`.
    lut: the weight's dtype `[*groups, K, V]`: one table of K entries (1 to 256) for each group of channels, each entry
        a scalar (V = 1) or V neighbours along `vector_axis`; each group count divides its axis.
    vector_axis: where an entry's V values lie; None if V = 1.

    Codes take `index_bits(lut)` bits: the fewest that count to K - 1, at least 1.

    Raises:
        ValueError: shapes or dtypes contradict each other.
    """

    indices: Array
    lut: Array
    vector_axis: int | None = None

    def __post_init__(self) -> None:
        groups, (entries, vector) = self.lut.shape[:-2], self.lut.shape[-2:]
        if self.indices.dtype != np.uint8 or not 1 <= entries <= 256:
            raise ValueError(f"uint8 indices into 1 to 256 entries, got {self.indices.dtype} into {entries}")
        if (vector > 1) != (self.vector_axis is not None):
            raise ValueError(f"vectors of {vector} values along axis {self.vector_axis}")
        _check_blocks("lut", groups, tuple(self.indices.shape))


@dataclass(frozen=True)
class Quantized:
    """Codes on a grid: `(data - zero_point) * scale`, block by block, rounded once to the scale's dtype.

    data: an encoding of integer codes (`CODE_DTYPES`).
    scale: float, the weight's rank; each dimension divides the weight's, which gives the block.
    zero_point: the codes' dtype, the scale's shape; None for 0.

    Raises:
        ValueError: shapes or dtypes contradict each other.
    """

    data: Dense | Palettized
    scale: Array
    zero_point: Array | None = None

    def __post_init__(self) -> None:
        if dtype(self.data) not in CODE_DTYPES.values() or not is_float(self.scale.dtype):
            raise ValueError(f"integer codes and a float scale, got {dtype(self.data)} and {self.scale.dtype}")
        zero_point = self.zero_point
        if zero_point is not None and (zero_point.shape, zero_point.dtype) != (self.scale.shape, dtype(self.data)):
            raise ValueError(
                f"a zero point {dtype(self.data)}{list(self.scale.shape)} as data and scale have them, "
                f"got {zero_point.dtype}{list(zero_point.shape)}"
            )
        _check_blocks("scale", self.scale.shape, shape(self.data))


@dataclass(frozen=True)
class Sparse:
    """Non-zeros and where they are: values scattered where the mask is set, zero elsewhere, in row-major order.

    mask: bool; each dimension divides the weight's: one bit a block (`shape // mask.shape`), 1 for unstructured. Or,
        for few values, their places: int32 `[D]`, ascending in row-major order.
    values: an encoding of the `[D]` values under the set mask bits.
    shape: the weight's.

    Raises:
        ValueError: shapes or dtypes contradict each other.
    """

    mask: Array
    values: Dense | Quantized | Palettized
    shape: Shape

    def __post_init__(self) -> None:
        if self.mask.dtype == PLACES:
            if len(self.mask.shape) != 1 or math.prod(self.shape) > 1 << 31:
                raise ValueError(f"places int32 [D] below 2**31, got {list(self.mask.shape)} in {list(self.shape)}")
            return
        if self.mask.dtype != np.bool_:
            raise ValueError(f"a bool mask or int32 places, got {self.mask.dtype}")
        if len(self.mask.shape) != len(self.shape):
            raise ValueError(f"a mask of rank {len(self.shape)}, got {list(self.mask.shape)}")
        _check_blocks("mask", self.mask.shape, self.shape)


Encoding = Dense | Quantized | Palettized | Sparse
E = TypeVar("E", Dense, Quantized, Palettized, Sparse, Encoding)


def decode(encoding: Encoding) -> NDArray:
    """The dense weight that the encoding stands for.

    >>> decode(Sparse(np.array([[True, False, True]]), Dense(np.array([4, 5])), (1, 3))).tolist()
    [[4, 0, 5]]

    Raises:
        DamageError: an index lies outside its table, or the mask's set bits are not as many as the values.
    """
    if not isinstance(encoding, Sparse):
        return _decode(encoding, None)
    mask = full_mask(encoding)
    values = _decode(encoding.values, mask)
    if values.size != np.count_nonzero(mask):
        raise DamageError(f"a mask of {np.count_nonzero(mask)} set bits for {values.size} values")
    return scatter(values, mask)


def _decode(encoding: Dense | Quantized | Palettized, where: NDArray | None) -> NDArray:
    """The values, or those at the set places of the full-size mask `where`."""
    match encoding:
        case Dense(values):
            return np.asarray(values)
        case Quantized(data, scale, zero_point):
            codes = _decode(data, where)
            parameters = [np.asarray(each) for each in (scale, zero_point) if each is not None]
            by_block, parameters_by_block = facing(codes, parameters, where)
            return dequantize(by_block, *parameters_by_block).reshape(codes.shape)
        case Palettized(indices, lut, axis):
            return look_up(indices, np.asarray(lut), axis, where)


def full_mask(encoding: Sparse) -> NDArray:
    """Where the values are: bool, the weight's shape.

    Raises:
        DamageError: places are not ascending, or lie outside of the weight.
    """
    mask = np.asarray(encoding.mask)
    if not is_places(mask):
        return expand(mask, encoding.shape)
    places, size = mask, math.prod(encoding.shape)
    if places.size and (places[0] < 0 or places[-1] >= size or (places[1:] <= places[:-1]).any()):
        raise DamageError(f"ascending places below {size:,}")
    mask = np.zeros(size, np.bool_)
    mask[places] = True
    return mask.reshape(encoding.shape)


def index_bits(lut: Array) -> int:
    """The bits of a code into `lut`, from its table's length."""
    return max(1, (lut.shape[-2] - 1).bit_length())


def shape(encoding: Encoding) -> Shape:
    """The shape of the value; `[D]` for what stands under `Sparse`."""
    match encoding:
        case Dense(values):
            return tuple(values.shape)
        case Quantized(data):
            return shape(data)
        case Palettized(indices, lut, axis):
            vector = lut.shape[-1]
            return tuple(dim * vector if place == axis else dim for place, dim in enumerate(indices.shape))
        case Sparse():
            return encoding.shape


def dtype(encoding: Encoding) -> DType:
    """The dtype of the value."""
    match encoding:
        case Dense(values):
            return values.dtype
        case Quantized(_, scale):
            return scale.dtype
        case Palettized(_, lut):
            return lut.dtype
        case Sparse(_, values):
            return dtype(values)


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
            return inner if isinstance(data, Dense) else f"{dtype(data)}({inner})"
        case Palettized(_, lut):
            return f"palettized{index_bits(lut)}"
        case Sparse(_, values):
            inner = name(values)
            return "sparse" if inner == "dense" else f"sparse({inner})"


def is_encoded(encoding: Encoding) -> bool:
    """Whether it is more than the values in their own type."""
    return not isinstance(encoding, Dense) or stored_type(encoding.values) != encoding.values.dtype


def is_places(mask: Array) -> bool:
    """Whether a mask is the places of the values."""
    return bool(mask.dtype == PLACES)


def stored(encoding: Encoding) -> Iterator[tuple[Array, int]]:
    """The arrays that are stored, outermost first, each with the bits of an element: codes and masks are packed."""
    for _, part, width in _parts(encoding):
        yield from stored(part) if isinstance(part, Encoding) else [(part, width)]


def arrays(encoding: Encoding) -> Iterator[Array]:
    """The stored arrays, outermost first."""
    return (array for array, _ in stored(encoding))


def nbytes(encoding: Encoding) -> int:
    """The bytes that the encoding takes when stored: codes and masks packed, tables and scales included."""
    return sum(packed_nbytes(array.size, width) for array, width in stored(encoding))


def map_arrays(function: Callable[[Array, int], Array], encoding: E) -> E:
    """The same tree with `function` applied to every stored array and the bits of its elements."""
    changes: dict[str, Any] = {
        field: map_arrays(function, part) if isinstance(part, Encoding) else function(part, width)
        for field, part, width in _parts(encoding)
    }
    return replace(encoding, **changes)


def spec(encoding: E) -> E:
    """The same tree with shapes and dtypes and no data."""
    return map_arrays(lambda array, _: spec_of(array), encoding)


def _parts(node: Encoding) -> Iterator[tuple[str, Array | Encoding, int]]:
    """The fields of a node that hold an array, with the bits of a stored element, or another node."""
    match node:
        case Dense(values):
            yield "values", values, bits(stored_type(values))
        case Quantized(data, scale, zero_point):
            yield "data", data, 0
            yield "scale", scale, bits(scale.dtype)
            if zero_point is not None:
                yield "zero_point", zero_point, bits(zero_point.dtype)
        case Palettized(indices, lut):
            yield "indices", indices, index_bits(lut)
            yield "lut", lut, bits(stored_type(lut))
        case Sparse(mask, values):
            yield "mask", mask, bits(mask.dtype) if is_places(mask) else 1
            yield "values", values, 0


def _check_blocks(what: str, counts: Shape, whole: Shape) -> None:
    """A parameter's shape divides the weight's; a `[D]` leaf under `Sparse` takes a parameter of any rank."""
    if len(counts) != len(whole) and len(whole) != 1:
        raise ValueError(f"a {what} of rank {len(whole)}, got {list(counts)} for {list(whole)}")
    if len(counts) == len(whole) > 1 and any(
        count != dim and (count == 0 or dim % count) for count, dim in zip(counts, whole, strict=True)
    ):
        raise ValueError(f"a {what} whose shape divides {list(whole)}, got {list(counts)}")
