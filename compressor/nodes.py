"""The nodes of which a compressed weight is an expression; `encodings` says what each is worth.

In canonical order, outermost first:

    Concatenated > Sparse > Quantized > Palettized > Dense

Nothing is stored twice: the bits of a palette follow from its table's length, a block from `shape // scale.shape`
unless the last one is shorter. Under `Sparse`, a leaf (`Dense.values`, `Palettized.indices`) holds the `[D]` non-zeros
in row-major order while scales and tables keep the weight's rank: the parameter of a non-zero is the one of its place.

Every array may be an `ArraySpec`: the same tree without data. Trees of specs compare and hash by value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from compressor.arrays import CODE_DTYPES, Array, DType, NDArray, Shape, is_float
from compressor.gaps import is_gaps
from compressor.kernels import look_up

_PRODUCTS = np.dtype(np.float32)
"""The type of products that are rounded to another one."""

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

    @property
    def shape(self) -> Shape:
        """Of the value."""
        return shape(self)

    @property
    def dtype(self) -> DType:
        """Of the value."""
        return self.lut.dtype

    @property
    def size(self) -> int:
        """How many values there are."""
        return math.prod(self.shape)

    def __array__(self, dtype: DType | None = None, copy: bool | None = None) -> NDArray:  # noqa: FBT001 - numpy's
        """The value of a table without non-zeros' places: what stands where an array of few distinct values may."""
        values = look_up(self.indices, np.asarray(self.lut), self.vector_axis)
        return values.astype(values.dtype if dtype is None else dtype, copy=bool(copy))

    def __post_init__(self) -> None:
        groups, (entries, vector) = self.lut.shape[:-2], self.lut.shape[-2:]
        if self.indices.dtype != np.uint8 or not 1 <= entries <= 256:
            raise ValueError(f"uint8 indices into 1 to 256 entries, got {self.indices.dtype} into {entries}")
        if (vector > 1) != (self.vector_axis is not None):
            raise ValueError(f"vectors of {vector} values along axis {self.vector_axis}")
        _check_blocks("lut", groups, tuple(self.indices.shape))


@dataclass(frozen=True)
class Quantized:
    """Codes times a scale: `(data - zero_point) * scale`, block by block, rounded once to the scale's dtype.

    data: an encoding of integer codes (`CODE_DTYPES`), or of floats no wider than the scale: a table of them (NF4, a
        palette with a scale for each channel), or values that are stored in fewer bits (FP8).
    scale: float, the weight's rank; one for each block. Those of few distinct values may be palettized, as the scales
        of 8 bits are that have a scale of their own (NVFP4).
    zero_point: the codes' dtype, the scale's shape; None for 0, as always for floats.
    block: the lengths of a block along each axis, where the last one of an axis is shorter than the others; None where
        each dimension of the scale divides the weight's, which gives the block.
    rounded: the narrower float dtype that float32 products are rounded to last: the value's. So libraries give NF4 to
        models in half precision: neither the table nor a scale need be of that type. None for the scale's own.

    Raises:
        ValueError: shapes or dtypes contradict each other.
    """

    data: Dense | Palettized
    scale: Array | Palettized
    zero_point: Array | None = None
    block: Shape | None = None
    rounded: DType | None = None

    def __post_init__(self) -> None:
        codes, scale, zero_point = dtype(self.data), self.scale, self.zero_point
        if not is_float(scale.dtype) or not (codes in CODE_DTYPES.values() or _is_no_wider(codes, scale.dtype)):
            raise ValueError(f"codes, or floats no wider than their float scale, got {codes} and {scale.dtype}")
        if self.rounded is not None and not (scale.dtype == _PRODUCTS and is_narrower(self.rounded)):
            raise ValueError(f"float32 products rounded to a narrower float, got {scale.dtype} to {self.rounded}")
        if zero_point is not None and (is_float(codes) or (zero_point.shape, zero_point.dtype) != (scale.shape, codes)):
            raise ValueError(
                f"a zero point {codes}{list(scale.shape)} as integer data and scale have them, "
                f"got {zero_point.dtype}{list(zero_point.shape)} and {codes}"
            )
        if self.block is None:
            _check_blocks("scale", scale.shape, shape(self.data))
        else:
            _check_short_blocks(scale.shape, shape(self.data), self.block)


Values = Dense | Quantized | Palettized
"""What may stand under `Sparse`."""


@dataclass(frozen=True)
class Sparse:
    """Non-zeros and where they are: values scattered where the mask is set, zero elsewhere, in row-major order.

    mask: bool; each dimension divides the weight's: one bit a block (`shape // mask.shape`), 1 for unstructured. Or
        the distances between the values in row-major order: uint4 or uint8 `[G]`, see `gaps`. Or, for very few values,
        their places: int32 `[D]`, ascending in row-major order.
    values: an encoding of the `[D]` values under the set mask bits.
    shape: the weight's.

    Raises:
        ValueError: shapes or dtypes contradict each other.
    """

    mask: Array
    values: Values
    shape: Shape

    def __post_init__(self) -> None:
        if self.mask.dtype == PLACES:
            if len(self.mask.shape) != 1 or math.prod(self.shape) > 1 << 31:
                raise ValueError(f"places int32 [D] below 2**31, got {list(self.mask.shape)} in {list(self.shape)}")
            return
        if is_gaps(self.mask):
            if len(self.mask.shape) != 1:
                raise ValueError(f"gaps [G], got {list(self.mask.shape)}")
            return
        if self.mask.dtype != np.bool_:
            raise ValueError(f"a bool mask, gaps of 4 or 8 bits or int32 places, got {self.mask.dtype}")
        if len(self.mask.shape) != len(self.shape):
            raise ValueError(f"a mask of rank {len(self.shape)}, got {list(self.mask.shape)}")
        _check_blocks("mask", self.mask.shape, self.shape)


Whole = Values | Sparse
"""An encoding of one kind throughout."""


@dataclass(frozen=True)
class Concatenated:
    """Parts of one weight that are stored in different ways, side by side along an axis: a fused projection.

    parts: at least two encodings of one dtype, their shapes equal but along `axis`.
    axis: along which they lie side by side.

    Raises:
        ValueError: shapes or dtypes contradict each other.
    """

    parts: tuple[Whole, ...]
    axis: int

    def __post_init__(self) -> None:
        shapes = [shape(part) for part in self.parts]
        if len(shapes) < 2 or not 0 <= self.axis < len(shapes[0]):
            raise ValueError(f"two parts or more along an axis of theirs, got {len(shapes)} along {self.axis}")
        others = {(one[: self.axis], one[self.axis + 1 :]) for one in shapes}
        if len(others) > 1 or len({dtype(part) for part in self.parts}) > 1:
            kinds = ", ".join(f"{dtype(part)}{list(one)}" for part, one in zip(self.parts, shapes, strict=True))
            raise ValueError(f"parts that are alike but along axis {self.axis}, got {kinds}")


Encoding = Whole | Concatenated


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
        case Concatenated(parts, axis):
            first, length = shape(parts[0]), sum(shape(part)[axis] for part in parts)
            return (*first[:axis], length, *first[axis + 1 :])


def dtype(encoding: Encoding) -> DType:
    """The dtype of the value."""
    match encoding:
        case Dense(values):
            return values.dtype
        case Quantized(_, scale, rounded=rounded):
            return rounded or scale.dtype
        case Palettized(_, lut):
            return lut.dtype
        case Sparse(_, values):
            return dtype(values)
        case Concatenated(parts):
            return dtype(parts[0])


def _check_blocks(what: str, counts: Shape, whole: Shape) -> None:
    """A parameter's shape divides the weight's; a `[D]` leaf under `Sparse` takes a parameter of any rank."""
    if len(counts) != len(whole) and len(whole) != 1:
        raise ValueError(f"a {what} of rank {len(whole)}, got {list(counts)} for {list(whole)}")
    if len(counts) == len(whole) > 1 and any(
        count != dim and (count == 0 or dim % count) for count, dim in zip(counts, whole, strict=True)
    ):
        raise ValueError(f"a {what} whose shape divides {list(whole)}, got {list(counts)}")


def _check_short_blocks(counts: Shape, whole: Shape, block: Shape) -> None:
    """As many scales along each axis as blocks begin there; under `Sparse` the weight's shape is not known here."""
    if len(counts) != len(block) or min(block, default=1) < 1:
        raise ValueError(f"a block of rank {len(counts)}, got {list(block)} for scales {list(counts)}")
    begun = tuple(-(-dim // size) for dim, size in zip(whole, block, strict=False))
    if len(counts) == len(whole) > 1 and counts != begun:
        raise ValueError(f"scales for blocks {list(block)} of {list(whole)}, got {list(counts)}")


def is_narrower(rounded: DType) -> bool:
    """Whether float32 products may be rounded to a type."""
    return is_float(rounded) and rounded.itemsize < _PRODUCTS.itemsize


def _is_no_wider(codes: DType, scale: DType) -> bool:
    """Whether a float is a value of the scale's type, or of the one that products are made in."""
    return is_float(codes) and codes.itemsize <= scale.itemsize
