"""Values of ML Programs: stored inside the program while they are small, else in weight.bin.

Source: MIL.proto, `Value`; Core ML Tools writes what has 10 or more elements to weight.bin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from compressor.arrays import UINT8, Array, ArraySpec, MappedArray, NDArray, Shape, bits, from_bytes
from compressor.errors import CompressorError
from compressor.formats.coreml.blob import Store, Stored, whole
from compressor.formats.coreml.importing import messages
from compressor.formats.coreml.types import BY_NUMBER, TYPES, Type
from compressor.packing import packed_nbytes

IN_FILE = 10
"""From so many elements on, a value lies in weight.bin."""

WEIGHT_FILE = "@model_path/weights/weight.bin"
"""How a program names weight.bin: the folder of the model file stands for `@model_path`."""

_FIELDS = {
    "bool": "bools",
    "float32": "floats",
    "float64": "doubles",
    "int16": "ints",
    "uint16": "ints",
    "int32": "ints",
    "int64": "longInts",
    "uint64": "longInts",
}
"""The field of an immediate tensor by type; all others lie in `bytes`, sub-byte elements packed."""

_PACKED_VALUES = 1 << 3 | 2  # field 1, length-delimited


class Files(Protocol):
    """Where blobs come from."""

    def read(self, file: str, offset: int, type_: Type, shape: Shape) -> Array:
        """The elements of the blob at `offset` of the file that a program calls `file`."""


@dataclass(frozen=True, eq=False)
class Held:
    """Blobs in memory, by what `read` is asked for: of a program whose files are gone."""

    blobs: Mapping[tuple[str, int, Type, Shape], NDArray]

    def read(self, file: str, offset: int, type_: Type, shape: Shape) -> Array:
        return self.blobs[file, offset, type_, shape]


def held(program: Any, files: Files) -> Held:
    """All that a program has in files, read now."""
    blobs: dict[tuple[str, int, Type, Shape], NDArray] = {}
    for constant in in_files(program):
        known, where = declared(constant.type), constant.blobFileValue
        if known is not None:
            asked = where.fileName, int(where.offset), *known
            blobs[asked] = np.asarray(files.read(*asked))
    return Held(blobs)


def tensor_type(type_: Type, dims: Sequence[int]) -> Any:
    """A `ValueType`: a tensor of fixed dimensions."""
    made = messages("MIL").ValueType()
    made.tensorType.dataType = type_.number
    made.tensorType.rank = len(dims)
    for dim in dims:
        made.tensorType.dimensions.add().constant.size = dim
    return made


def value(stored: Stored, store: Store) -> Any:
    """A `Value`: its elements go to `store`, unless they are few or of a type that only a program has."""
    made = messages("MIL").Value(type=tensor_type(stored.type, stored.dims))
    if math.prod(stored.dims) >= IN_FILE and stored.type.blob:
        made.blobFileValue.fileName = WEIGHT_FILE
        made.blobFileValue.offset = store.append(stored)
        return made
    array = stored.array
    if isinstance(array, ArraySpec):  # a plan needs the size alone
        array = np.zeros(array.shape, array.dtype)
    tensor = made.immediateValue.tensor
    field = _FIELDS.get(stored.type.name, "bytes")
    raw = Stored(stored.type, stored.dims, array, stored.width).payload().tobytes()
    if field == "bytes":
        tensor.bytes.values = raw
    elif field == "floats":  # as bytes of the packed field: a Python float loses the payload of a NaN
        tensor.floats.ParseFromString(bytes([_PACKED_VALUES, len(raw)]) + raw)
    else:
        getattr(tensor, field).values.extend(np.asarray(array).reshape(-1).tolist())
    return made


def integer(number: int) -> Any:
    """A `Value`: an int32 scalar."""
    return value(whole("int32", np.array(number, np.int32)), _NOWHERE)


def integers(numbers: Sequence[int]) -> Any:
    """A `Value`: uint32 `[len(numbers)]`."""
    return value(whole("uint32", np.array(numbers, np.uint32)), _NOWHERE)


def string(text: str) -> Any:
    """A `Value`: a string."""
    made = messages("MIL").Value()
    made.type.tensorType.dataType = messages("MIL").STRING
    made.immediateValue.tensor.strings.values.append(text)
    return made


class _Nowhere:
    def append(self, stored: Stored) -> int:
        raise AssertionError(f"{stored.type.name}{list(stored.dims)} is not small")


_NOWHERE = _Nowhere()


def declared(value_type: Any) -> tuple[Type, Shape] | None:
    """The element type and the shape of a `ValueType`; None if it is no tensor of fixed shape and a known type.

    Raises:
        CompressorError: its rank or its dimensions are impossible.
    """
    if value_type.WhichOneof("type") != "tensorType":
        return None
    tensor = value_type.tensorType
    type_ = BY_NUMBER.get(tensor.dataType)
    if type_ is None or any(dim.WhichOneof("dimension") != "constant" for dim in tensor.dimensions):
        return None
    dims = tuple(int(dim.constant.size) for dim in tensor.dimensions)
    if tensor.rank != len(dims) or math.prod(max(dim, 1) for dim in dims) >= 1 << 60:
        raise CompressorError(f"a tensor of rank {tensor.rank} with the dimensions {list(dims)[:64]} is impossible.")
    return type_, dims


def elements(found: Any, files: Files) -> Array | None:
    """The elements of a `Value`; None if it is no tensor of fixed shape and a known type.

    Raises:
        CompressorError: they are missing or are not what the value's type declares.
    """
    known = declared(found.type)
    if known is None:
        return None
    type_, dims = known
    if found.WhichOneof("value") == "blobFileValue":
        return files.read(found.blobFileValue.fileName, found.blobFileValue.offset, type_, dims)
    return _immediate(found.immediateValue.tensor, type_, dims)


def _immediate(tensor: Any, type_: Type, dims: Shape) -> NDArray:
    field, count = _FIELDS.get(type_.name, "bytes"), math.prod(dims)
    held = getattr(tensor, field).values
    size, expected = len(held), packed_nbytes(count, type_.bits) if field == "bytes" else count
    if size != expected or tensor.WhichOneof("value") not in {field, None}:
        raise CompressorError(
            f"a value {type_.name}{list(dims)} in the model has {size} {'bytes' if field == 'bytes' else 'elements'}, "
            f"expected {expected}."
        )
    if field == "bytes":
        return from_bytes(np.frombuffer(held, np.uint8), dims, type_.dtype, type_.bits)
    if field == "floats":
        raw = tensor.floats.SerializeToString()
        return np.frombuffer(raw, type_.dtype, count, len(raw) - 4 * count).reshape(dims)
    try:
        return np.array(held, type_.dtype).reshape(dims)
    except OverflowError as error:
        raise CompressorError(f"a value {type_.name}{list(dims)} in the model: {error}.") from error


def as_indices(array: Array, type_: Type) -> Array:
    """Codes of an unsigned type as the numbers that they are: uint8, packed as they were."""
    return _viewed(array, type_, UINT8)


def as_mask(array: Array) -> Array:
    """Elements of one bit as truth values."""
    return _viewed(array, TYPES["uint1"], np.dtype(np.bool_))


def _viewed(array: Array, type_: Type, dtype: Any) -> Array:
    if isinstance(array, MappedArray):
        return MappedArray(array.path, array.offset, array.shape, dtype, type_.bits if type_.bits < 8 else 0)
    viewed: NDArray = np.asarray(array).view(dtype)
    return viewed


def unpacked(array: Array, dims: Shape, width: int, dtype: Any) -> Array:
    """Codes of `width` bits out of the bytes `[M]` that they are packed in; a slice of a file stays one.

    Raises:
        ValueError: there are not as many bytes as the codes take.
    """
    nbytes = packed_nbytes(math.prod(dims), width)
    if array.dtype != UINT8 or array.size != nbytes:
        raise ValueError(f"{list(dims)} codes of {width} bits take {nbytes} bytes, got {array.dtype}[{array.size}]")
    if isinstance(array, MappedArray):
        return MappedArray(
            array.path, array.offset, dims, np.dtype(dtype), width if width < bits(np.dtype(dtype)) else 0
        )
    return from_bytes(np.asarray(array), dims, np.dtype(dtype), width)


def in_files(message: Any) -> Iterator[Any]:
    """Every `Value` inside a message whose elements lie in a file, in the order of the program."""
    if message.DESCRIPTOR.name == "Value" and message.WhichOneof("value") == "blobFileValue":
        yield message
        return
    for field, held in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key in sorted(held):
                    yield from in_files(held[key])
        elif hasattr(held, "ListFields"):
            yield from in_files(held)
        else:
            for one in held:
                yield from in_files(one)
