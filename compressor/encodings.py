"""A compressed weight is an expression whose value is the dense weight.

Four nodes are enough, and joint compression is nesting. In canonical order, outermost first:

    Sparse > LinearQuantized > Palettized > Dense

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
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast

import numpy as np

from compressor.arrays import (
    ARRAYS,
    BLOCK,
    CODE_DTYPES,
    Array,
    DType,
    MappedArray,
    NDArray,
    PackedArray,
    Shape,
    bits,
    blocks,
    is_float,
    pack,
    packed_nbytes,
    spec_of,
    stored_nbytes,
    unpack,
)

PLACES = np.dtype(np.int32)
"""The type of places in a weight."""


class DamageError(ValueError):
    """What an encoding stores contradicts itself, which shows only when it is read."""


@dataclass(frozen=True)
class Dense:
    """The values themselves.

    values: any dtype, the weight's shape, or `[D]` under `Sparse`.
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
class LinearQuantized:
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
    values: Dense | LinearQuantized | Palettized
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


Encoding = Dense | LinearQuantized | Palettized | Sparse
E = TypeVar("E", Dense, LinearQuantized, Palettized, Sparse, Encoding)


def index_bits(lut: Array) -> int:
    """The bits of a code into `lut`, from its table's length."""
    return max(1, (lut.shape[-2] - 1).bit_length())


def shape(encoding: Encoding) -> Shape:
    """The shape of the value; `[D]` for what stands under `Sparse`."""
    match encoding:
        case Dense(values):
            return tuple(values.shape)
        case LinearQuantized(data):
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
        case LinearQuantized(_, scale):
            return scale.dtype
        case Palettized(_, lut):
            return lut.dtype
        case Sparse(_, values):
            return dtype(values)


def name(encoding: Encoding) -> str:
    """How reports spell an encoding: `dense`, `sparse(palettized4)`, `int8`, ...

    >>> from compressor.arrays import ArraySpec
    >>> name(Sparse(ArraySpec((4, 4), np.dtype(bool)), Dense(ArraySpec((3,), np.dtype(np.float32))), (4, 4)))
    'sparse'
    """
    match encoding:
        case Dense(values):
            return str(values.dtype) if values.dtype in CODE_DTYPES.values() else "dense"
        case LinearQuantized(data):
            inner = name(data)
            return inner if isinstance(data, Dense) else f"{dtype(data)}({inner})"
        case Palettized(_, lut):
            return f"palettized{index_bits(lut)}"
        case Sparse(_, values):
            inner = name(values)
            return "sparse" if inner == "dense" else f"sparse({inner})"


def nbytes(encoding: Encoding) -> int:
    """The bytes that the encoding takes when stored: codes and masks packed, tables and scales included."""
    match encoding:
        case Dense(values):
            return stored_nbytes(values)
        case LinearQuantized(data, scale, zero_point):
            return nbytes(data) + stored_nbytes(scale) + (0 if zero_point is None else stored_nbytes(zero_point))
        case Palettized(indices, lut):
            return packed_nbytes(indices.size, index_bits(lut)) + stored_nbytes(lut)
        case Sparse(mask, values):
            return (mask.size * PLACES.itemsize if is_places(mask) else packed_nbytes(mask.size, 1)) + nbytes(values)


def arrays(encoding: Encoding) -> Iterator[Array]:
    """The stored arrays, outermost first."""
    for field in fields(encoding):
        value = getattr(encoding, field.name)
        if isinstance(value, Encoding):
            yield from arrays(value)
        elif isinstance(value, ARRAYS):
            yield value


def map_arrays(function: Callable[[Array], Array], encoding: E) -> E:
    """The same tree with `function` applied to every stored array."""
    changes: dict[str, Any] = {}
    for field in fields(encoding):
        value = getattr(encoding, field.name)
        if isinstance(value, Encoding):
            changes[field.name] = map_arrays(function, value)
        elif isinstance(value, ARRAYS):
            changes[field.name] = function(value)
    return replace(encoding, **changes)


def spec(encoding: E) -> E:
    """The same tree with shapes and dtypes and no data."""
    return map_arrays(spec_of, encoding)


def packed(encoding: Encoding) -> Encoding:
    """The same tree with the arrays in memory whose elements take less than a byte, masks too, packed."""
    match encoding:
        case Dense(values):
            return Dense(_packed(values, bits(values.dtype)))
        case LinearQuantized(data, scale, zero_point):
            return LinearQuantized(cast("Dense | Palettized", packed(data)), scale, zero_point)
        case Palettized(indices, lut, axis):
            return Palettized(_packed(indices, index_bits(lut)), lut, axis)
        case Sparse(mask, values, shape):
            inner = cast("Dense | LinearQuantized | Palettized", packed(values))
            return Sparse(mask if is_places(mask) else _packed(mask, 1), inner, shape)


def _packed(array: Array, width: int) -> Array:
    if not isinstance(array, np.ndarray) or width >= 8:
        return array
    return PackedArray(pack(array, width), array.shape, array.dtype, width)


def decode(encoding: Encoding) -> NDArray:
    """The dense weight that the encoding stands for.

    Raises:
        DamageError: an index lies outside its table, or the mask's set bits are not as many as the values.
    """
    if not isinstance(encoding, Sparse):
        return _decode(encoding, None)
    mask = full_mask(encoding)
    values = _decode(encoding.values, mask)
    if values.size != np.count_nonzero(mask):
        raise DamageError(f"a mask of {np.count_nonzero(mask)} set bits for {values.size} values")
    return _scatter(mask, values)


def is_places(mask: Array) -> bool:
    """Whether a mask is the places of the values."""
    return bool(mask.dtype == PLACES)


def full_mask(encoding: Sparse) -> NDArray:
    """Where the values are: bool, the weight's shape.

    Raises:
        DamageError: places are not ascending, or lie outside of the weight.
    """
    stored = np.asarray(encoding.mask)
    if not is_places(stored):
        return expand(stored, encoding.shape)
    size = math.prod(encoding.shape)
    if stored.size and (stored[0] < 0 or stored[-1] >= size or (stored[1:] <= stored[:-1]).any()):
        raise DamageError(f"ascending places below {size:,}")
    mask = np.zeros(size, np.bool_)
    mask[stored] = True
    return mask.reshape(encoding.shape)


def _scatter(mask: NDArray, values: NDArray) -> NDArray:
    """`values` in row-major order where the mask is set, zero elsewhere.

    Indexing by a mask costs a mispredicted branch an element; by the places of its set bits, it does not.
    """
    flat, start = np.ascontiguousarray(mask).reshape(-1), 0
    dense = np.zeros(flat.size, values.dtype)
    for part in blocks(flat.size):
        places = np.flatnonzero(flat[part])
        dense[part][places] = values[start : start + places.size]
        start += places.size
    return dense.reshape(mask.shape)


def expand(parameter: NDArray, to: Shape) -> NDArray:
    """A parameter by block, repeated to the weight's shape `to`: a view where every block is 1 or the whole axis.

    >>> expand(np.array([[1, 2]]), (2, 4)).tolist()
    [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    for axis, (have, want) in enumerate(zip(parameter.shape, to, strict=True)):
        if 1 < have < want:
            parameter = np.repeat(parameter, want // have, axis)
    return np.broadcast_to(parameter, to)


def _decode(encoding: Dense | LinearQuantized | Palettized, where: NDArray | None) -> NDArray:
    """The values, or those at the set places of the full-size mask `where`."""
    match encoding:
        case Dense(values):
            return np.asarray(values)
        case LinearQuantized(data, scale, zero_point):
            codes = _decode(data, where)
            parameters = [np.asarray(each) for each in (scale, zero_point) if each is not None]
            if where is not None:
                return dequantize(codes, *(_at(each, where) for each in parameters))
            whole, narrow = _by_block(codes.shape, scale.shape)
            return dequantize(codes.reshape(whole), *(each.reshape(narrow) for each in parameters)).reshape(codes.shape)
        case Palettized(indices, lut, axis):
            if (
                isinstance(indices, MappedArray | PackedArray)
                and lut.size == lut.shape[-2]
                and indices.width in (1, 2, 4)
            ):
                return _look_up_packed(indices, np.asarray(lut))
            return _look_up(np.asarray(indices), np.asarray(lut), axis, where)


def dequantize(codes: NDArray, scale: NDArray, zero_point: NDArray | None = None) -> NDArray:
    """`(codes - zero_point) * scale` of arrays that broadcast to the codes' shape, rounded once to the scale's dtype.

    The difference of two codes is a small integer, exact in float32; its product with a 16-bit float is exact too.
    """
    exact = np.dtype(np.float64) if scale.dtype == np.float64 else np.dtype(np.float32)
    to = codes.shape
    codes = codes.reshape(to or (1,))
    values = np.empty(codes.shape, scale.dtype)
    scale = np.broadcast_to(scale.astype(exact), values.shape)
    moved = None if zero_point is None else np.broadcast_to(zero_point.astype(exact), values.shape)
    with np.errstate(over="ignore", invalid="ignore"):  # an infinite product is what the scale says
        for part in blocks(len(codes), max(1, BLOCK * len(codes) // max(1, codes.size))):
            exactly = codes[part].astype(exact)
            if moved is not None:
                np.subtract(exactly, moved[part], out=exactly)
            np.multiply(exactly, scale[part], out=values[part], casting="unsafe")
    return values.reshape(to)


def _by_block(whole: Shape, counts: Shape) -> tuple[Shape, Shape]:
    """The shapes of a weight and of its parameter by block in which the two broadcast: blocks are axes of their own."""
    wide: list[int] = []
    narrow: list[int] = []
    for dim, count in zip(whole, counts, strict=True):
        split = 1 < count < dim
        wide += [count, dim // count] if split else [dim]
        narrow += [count, 1] if split else [count]
    return tuple(wide), tuple(narrow)


def _at(parameter: NDArray, where: NDArray) -> NDArray:
    """A parameter by block at the places of the weight where `where` is set."""
    return parameter.reshape(()) if parameter.size == 1 else expand(parameter, where.shape)[where]


def _look_up(indices: NDArray, lut: NDArray, axis: int | None, where: NDArray | None) -> NDArray:
    groups, (entries, vector) = lut.shape[:-2], lut.shape[-2:]
    if indices.size and int(indices.max()) >= entries:
        raise DamageError(f"indices into {entries} entries, got {int(indices.max())}")
    rows = indices
    if (tables := math.prod(groups)) > 1:
        first = (np.arange(tables) * entries).astype(np.min_scalar_type(tables * entries)).reshape(groups)
        if where is not None:
            rows = _at(first, where) + indices
        else:
            whole, narrow = _by_block(indices.shape, groups)
            rows = (first.reshape(narrow) + indices.reshape(whole)).reshape(indices.shape)
    table = lut.reshape(-1) if vector == 1 else lut.reshape(-1, vector)
    values = take(table, rows)
    if vector == 1 or axis is None:
        return values
    return np.moveaxis(values, -1, axis + 1).reshape(
        [dim * vector if place == axis else dim for place, dim in enumerate(indices.shape)]
    )


def _look_up_packed(indices: MappedArray | PackedArray, lut: NDArray) -> NDArray:
    """The values behind packed codes, a byte of codes at a time: its values are neighbours in a table of 256 rows."""
    entries, width = lut.size, indices.width
    codes = unpack(np.arange(256, dtype=np.uint8), width, 256 * 8 // width).reshape(256, -1)
    raw, outside = indices.raw(), np.asarray((codes >= entries).any(axis=1))
    if outside.any() and outside[raw].any():
        return _look_up(np.asarray(indices), lut, None, None)
    rows = lut.reshape(-1)[np.minimum(codes, entries - 1)]
    return take(rows, raw).reshape(-1)[: indices.size].reshape(indices.shape)


def take(table: NDArray, rows: NDArray) -> NDArray:
    """`table[rows]`, block by block: numpy's own makes an eight-byte copy of every index first."""
    flat = np.ascontiguousarray(rows).reshape(-1)
    values = np.empty((flat.size, *table.shape[1:]), table.dtype)
    for part in blocks(flat.size):
        np.take(table, flat[part], axis=0, out=values[part], mode="clip")
    return values.reshape(*rows.shape, *table.shape[1:])


def _check_blocks(what: str, counts: Shape, whole: Shape) -> None:
    """A parameter's shape divides the weight's; a `[D]` leaf under `Sparse` takes a parameter of any rank."""
    if len(counts) != len(whole) and len(whole) != 1:
        raise ValueError(f"a {what} of rank {len(whole)}, got {list(counts)} for {list(whole)}")
    if len(counts) == len(whole) > 1 and any(
        count != dim and (count == 0 or dim % count) for count, dim in zip(counts, whole, strict=True)
    ):
        raise ValueError(f"a {what} whose shape divides {list(whole)}, got {list(counts)}")
