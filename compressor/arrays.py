"""Arrays as values: a specification, a slice of a file, packed codes, an array that is computed; and their bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import ml_dtypes
import numpy as np
import numpy.typing as npt

from compressor.packing import pack, packed_nbytes, unpack
from compressor.runs import Read, reading
from compressor.widening import widened_to

NDArray = npt.NDArray[Any]
DType = np.dtype[Any]
Shape = tuple[int, ...]

INT2, UINT2 = np.dtype(ml_dtypes.int2), np.dtype(ml_dtypes.uint2)
INT4, UINT4 = np.dtype(ml_dtypes.int4), np.dtype(ml_dtypes.uint4)
INT8, UINT8 = np.dtype(np.int8), np.dtype(np.uint8)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

CODE_DTYPES: dict[str, DType] = {dtype.name: dtype for dtype in (INT2, UINT2, INT4, UINT4, INT8, UINT8)}
"""The integer types that codes are stored in, by name."""

FLOAT_DTYPES: dict[str, DType] = {
    "bfloat16": BFLOAT16,
    **{name: np.dtype(name) for name in ("float16", "float32", "float64")},
}
"""The floating types that weights come in, by name."""

STORED_DTYPES: dict[str, DType] = {
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
}
"""The floating types that values are stored in and none are computed in, by name."""

_SUB_BYTE_BITS = {INT2: 2, UINT2: 2, INT4: 4, UINT4: 4}


def bits(dtype: DType) -> int:
    """The bits that one element of `dtype` takes when stored."""
    return _SUB_BYTE_BITS.get(dtype, dtype.itemsize * 8)


def is_float(dtype: DType) -> bool:
    """Whether `dtype` is a type that weights come in."""
    return dtype in FLOAT_DTYPES.values()


_MANTISSA_BITS = {dtype: int(ml_dtypes.finfo(dtype).nmant) for dtype in FLOAT_DTYPES.values()}  # type: ignore[no-untyped-call]


def mantissa_bits(dtype: DType) -> int:
    """The bits of a floating type's mantissa, which are other ones for each."""
    return _MANTISSA_BITS[dtype]


def of_mantissa(bits: int) -> DType:
    """The floating type whose mantissa has so many bits."""
    return next(dtype for dtype, count in _MANTISSA_BITS.items() if count == bits)


class _Described:
    """What follows from the shape and the dtype of elements that are not in memory as they are.

    stored: the narrower type that floats are stored in, of which each is a value; None for their own.
    """

    shape: Shape
    dtype: DType
    stored: DType | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes that the elements take when stored, 2- and 4-bit types packed."""
        return packed_nbytes(self.size, bits(self.stored or self.dtype))


class _Stored(_Described):
    """Elements that lie somewhere as bytes: `raw` gives them, `np.asarray` the elements."""

    width: int

    @property
    def nbytes(self) -> int:
        """The bytes that the elements take where they lie."""
        return packed_nbytes(self.size, self.width or bits(self.dtype))

    def raw(self) -> NDArray:
        """The bytes as they lie there: uint8 `[nbytes]`."""
        raise NotImplementedError

    def __array__(self, dtype: DType | None = None, copy: bool | None = None) -> NDArray:  # noqa: FBT001 - numpy's
        """The elements, read-only, or unpacked where they take less than 8 bits.

        Raises:
            CompressorError: they lie in a file that is missing or ends before they do.
        """
        values = from_bytes(self.raw(), self.shape, self.dtype, self.width)
        return values.astype(values.dtype if dtype is None else dtype, copy=bool(copy))


@dataclass(frozen=True)
class ArraySpec(_Described):
    """What an array is, without its data.

    shape: of its elements.
    dtype: of an element, numpy's or one of `ml_dtypes`.
    stored: the narrower type that floats are stored in, of which each is a value; None for their own.
    """

    shape: Shape
    dtype: DType
    stored: DType | None = None


@dataclass(frozen=True)
class MappedArray(_Stored):
    """A slice of a file, read when its elements are asked for: holding or pickling one costs a few bytes.

    path: the file.
    offset: where the elements begin, in bytes.
    shape, dtype: of the elements.
    width: the bits of a stored element; `bits(dtype)` if not given, 1 to 7 for packed codes, 1 for a packed mask.
    """

    path: Path
    offset: int
    shape: Shape
    dtype: DType
    width: int = 0

    def raw(self) -> NDArray:
        """The bytes as they lie in the file: read-only uint8 `[nbytes]`.

        They are read, not mapped: a file that is cut short meanwhile is an error then, and would end the process.

        Raises:
            CompressorError: the file is missing or ends before the slice does.
        """
        return next(self.runs(self.nbytes), np.empty(0, np.uint8))

    def runs(self, nbytes: int) -> Iterator[NDArray]:
        """The same, `nbytes` of them at a time: each run is gone once the next one is asked for."""
        if self.nbytes == 0:
            return
        with self.reading() as read:
            for start in range(0, self.nbytes, nbytes):
                yield read(min(nbytes, self.nbytes - start))

    def reading(self) -> AbstractContextManager[Read]:
        """What reads its bytes from the first one on. Raises `CompressorError` as `raw`."""
        return reading(self.path, self.offset, self.offset + self.nbytes)


@dataclass(frozen=True)
class PackedArray(_Stored):
    """Elements of less than a byte, packed in memory: what `MappedArray` is in a file.

    packed: uint8 `[nbytes]`.
    shape, dtype, width: as those of a `MappedArray`.
    """

    packed: NDArray
    shape: Shape
    dtype: DType
    width: int

    def raw(self) -> NDArray:
        return self.packed


@dataclass(frozen=True, eq=False)
class ComputedArray(_Described):
    """An array that is computed whenever it is read: a weight that is rounded, transposed or scaled on its way.

    shape, dtype: of what `compute` returns.
    rows: what computes the rows from one to another by themselves; None where that costs as much as all of them.
    """

    shape: Shape
    dtype: DType
    compute: Callable[[], NDArray]
    rows: Callable[[int, int], NDArray] | None = None

    def __array__(self, dtype: DType | None = None, copy: bool | None = None) -> NDArray:  # noqa: FBT001 - numpy's
        """The elements, computed now."""
        return self.compute().astype(self.dtype if dtype is None else dtype, copy=bool(copy))


@dataclass(frozen=True, eq=False)
class NarrowArray(_Described):
    """Floats that are stored in a narrower type, of which each is a value.

    values: as they are stored.
    dtype: of the elements.
    """

    values: Array
    dtype: DType

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return tuple(self.values.shape)

    @property
    def stored(self) -> DType:  # type: ignore[override]
        return self.values.dtype

    def __array__(self, dtype: DType | None = None, copy: bool | None = None) -> NDArray:  # noqa: FBT001 - numpy's
        """The elements, widened."""
        return widened_to(np.asarray(self.values), self.dtype).astype(dtype or self.dtype, copy=bool(copy))


Array = NDArray | MappedArray | PackedArray | ComputedArray | NarrowArray | ArraySpec
"""All have `shape`, `dtype`, `size` and `nbytes`; all but the spec give their elements to `np.asarray`."""


def stored_type(array: Array) -> DType:
    """The type that the elements are stored in: their own, or a narrower one."""
    return array.dtype if isinstance(array, np.ndarray) else array.stored or array.dtype


def spec_of(array: Array) -> ArraySpec:
    """What `array` is, without its data."""
    stored = stored_type(array)
    return ArraySpec(tuple(array.shape), array.dtype, None if stored == array.dtype else stored)


def as_stored(array: Array) -> Array:
    """The elements in the type that they are stored in."""
    if isinstance(array, NarrowArray):
        return array.values
    return ArraySpec(array.shape, stored_type(array)) if isinstance(array, ArraySpec) else array


def widened(array: Array) -> Array:
    """The elements, stored in their own type."""
    if isinstance(array, ArraySpec):
        return ArraySpec(array.shape, array.dtype)
    return np.asarray(array) if isinstance(array, NarrowArray) else array


def lies_so(array: Array, width: int = 0) -> TypeGuard[MappedArray | PackedArray]:
    """Whether the elements lie somewhere in `width` bits each, `bits(dtype)` if not given: as they are stored."""
    own = bits(array.dtype)
    return isinstance(array, MappedArray | PackedArray) and (array.width or own) == (width or own)


def as_uint8(array: Array) -> NDArray | MappedArray:
    """Unsigned codes as uint8; those of less than a byte that lie in a file stay packed there."""
    if isinstance(array, MappedArray):
        return replace(array, dtype=UINT8, width=array.width or bits(array.dtype))
    return np.asarray(array).view(UINT8)


def to_bytes(array: Array, width: int = 0) -> NDArray:
    """The elements as they are stored: uint8, little-endian, in `width` bits each, `bits(dtype)` if not given."""
    width = width or bits(array.dtype)
    if lies_so(array, width):
        return array.raw()
    values = np.ascontiguousarray(array)
    return pack(values, width) if width < 8 else values.reshape(-1).view(np.uint8)


def from_bytes(raw: NDArray, shape: Shape, dtype: DType, width: int = 0) -> NDArray:
    """The inverse of `to_bytes`; `width` bits an element, `bits(dtype)` if not given."""
    width = width or bits(dtype)
    if width >= 8:
        return raw.view(dtype).reshape(shape)
    # ml_dtypes keeps an element in the low bits of a byte, the others clear even where it is negative.
    return unpack(raw, width, math.prod(shape)).view(dtype).reshape(shape)
