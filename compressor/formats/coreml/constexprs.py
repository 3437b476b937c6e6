"""Operations that decode constants, read as encodings: from the value down to what is stored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.arrays import UINT8, Array, DType, MappedArray, NarrowArray, NDArray, Shape, bits, is_float
from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse, Values, dtype, plain, shape
from compressor.formats.coreml import values
from compressor.formats.coreml.programs import CONSTEXPR, Producer, Scope
from compressor.formats.coreml.types import BY_NUMBER, Type
from compressor.formats.coreml.values import Files
from compressor.reshaping import reshaped


class UnliftableError(Exception):
    """A constant is stored in a way that no encoding describes. The message says in which."""


_INDICES = {f"{CONSTEXPR}lut_to_dense": "indices", f"{CONSTEXPR}lut_to_sparse": "indices_nonzero_data"}
"""The parameter with the codes, by the operation that looks them up."""

_MASKS = {f"{CONSTEXPR}lut_to_sparse": "indices_mask", f"{CONSTEXPR}sparse_blockwise_shift_scale": "data_mask"}
"""The parameter with the mask, by the operation that passes it on as its first output."""


_OF_SHAPE = {"axis", "shape", "vector_axis"}
"""The parameters that say of a shape what it is, or which axis of it is meant."""


@dataclass(frozen=True)
class Tree:
    """What is stored for the values of a scope.

    Raises (all of it):
        UnliftableError: no encoding describes it.
        ValueError: the parts contradict each other.
        CompressorError: what is stored is missing, or is not what the program declares.
    """

    scope: Scope
    files: Files

    def in_file(self, operation: Any) -> bool:
        """Whether any of what an operation reads lies in a file."""
        parameters = [self.parameter(operation, key) for key in _parameters(operation)]
        return any(
            self.in_file(each.operation) if isinstance(each, Producer) else each.WhichOneof("value") == "blobFileValue"
            for each in parameters
        )

    def storage(self, operation: Any) -> bytes:
        """What constants in files have in common that are the same one, under whatever shapes.

        That is types, parameters and places of elements; what says where these are in the shape is left out.
        """
        types = (_without_shape(output.type) for output in operation.outputs)
        made = [operation.type.encode(), *(type_.SerializeToString() for type_ in types)]
        for key in _parameters(operation):
            if key in _OF_SHAPE:
                continue
            parameter = self.parameter(operation, key)
            inner = parameter if isinstance(parameter, Producer) else None
            stored = self.storage(inner.operation) if inner else _stored(parameter)
            made += [key.encode(), str(inner.output if inner else "").encode(), stored]
        return b"".join(len(one).to_bytes(8, "little") + one for one in made)

    def weight(self, operation: Any) -> Encoding:
        """What an operation gives, which must be what it declares."""
        encoding = self.encoding(operation)
        known = values.declared(operation.outputs[0].type)
        if known is None or (known[0].dtype, known[1]) != (dtype(encoding), shape(encoding)):
            expected = "no tensor" if known is None else f"{known[0].name}{list(known[1])}"
            raise ValueError(f"{operation.type} declares {expected}, gives {dtype(encoding)}{list(shape(encoding))}")
        return encoding

    def encoding(self, operation: Any) -> Encoding:
        match operation.type.removeprefix(CONSTEXPR):
            case "const":
                return Dense(self.array(operation, "val"))
            case "sparse_to_dense":
                return self.sparse(operation)
            case "affine_dequantize":
                return self.affine(operation)
            case "lut_to_dense" if self.has(operation, "shape"):
                return self.packed_palettized(operation)
            case "lut_to_dense":
                return self.with_table(operation, "indices")
            case "blockwise_shift_scale":
                return self.scaled(operation, "data")
            case "cast":
                return self.narrow(operation)
        raise UnliftableError(f"it is computed by {operation.type}")

    def narrow(self, operation: Any) -> Dense:
        array, known = self.array(operation, "source_val"), values.declared(operation.outputs[0].type)
        if known is None or not isinstance(array, np.ndarray | MappedArray):
            raise UnliftableError("it is cast to no tensor of a known type")
        if not (is_float(array.dtype) and is_float(known[0].dtype) and bits(array.dtype) < bits(known[0].dtype)):
            raise UnliftableError(f"it is cast from {array.dtype} to {known[0].dtype}")
        return Dense(NarrowArray(array, known[0].dtype))

    def sparse(self, operation: Any) -> Sparse:
        mask, whole = self.mask(operation, "mask")
        found = self.parameter(operation, "nonzero_data")
        if not isinstance(found, Producer):
            return Sparse(mask, Dense(self.array(operation, "nonzero_data")), whole)
        inner, output = found.operation, found.output
        kind = inner.type.removeprefix(CONSTEXPR)
        if output != 1 or kind not in {"lut_to_sparse", "sparse_blockwise_shift_scale"}:
            raise UnliftableError(f"its non-zeros are computed by {inner.type}")
        values_ = self.palettized_sparse(inner) if kind == "lut_to_sparse" else self.scaled(inner, "nonzero_data")
        return Sparse(mask, values_, whole)

    def mask(self, operation: Any, key: str) -> tuple[Array, Shape]:
        """A mask and the weight's shape: uint1 of that shape, or bytes with the shape beside them."""
        found = self.parameter(operation, key)
        if isinstance(found, Producer):
            inner, output = found.operation, found.output
            if output != 0 or inner.type not in _MASKS:
                raise UnliftableError(f"its mask is computed by {inner.type}")
            return self.mask(inner, _MASKS[inner.type])
        array = self.array(operation, key)
        if key == "mask" and self.has(operation, "shape"):
            whole = self.shape(operation)
            return values.unpacked(array, whole, 1, np.bool_), whole
        return values.as_mask(array), tuple(array.shape)

    def affine(self, operation: Any) -> Quantized:
        codes, scale = self.array(operation, "quantized_data"), self.array(operation, "scale")
        rank = len(codes.shape)
        axis = int(np.asarray(self.array(operation, "axis")))
        axis += rank if axis < 0 else 0
        if not 0 <= axis < rank or scale.size not in {1, codes.shape[axis]}:
            raise ValueError(f"{scale.size} scales along axis {axis} of {list(codes.shape)}")
        counts = tuple(scale.size if place == axis else 1 for place in range(rank))
        zero_point = np.asarray(self.array(operation, "zero_point")).reshape(-1)
        if zero_point.size not in {1, scale.size}:
            if scale.size != 1 or zero_point.size != codes.shape[axis]:
                raise ValueError(f"{zero_point.size} zero points for {scale.size} scales")
            counts = tuple(zero_point.size if place == axis else 1 for place in range(rank))
            scale = np.broadcast_to(np.asarray(scale).reshape(-1), zero_point.shape)
        if scale.size > 1 == zero_point.size and not zero_point.any():  # it is no option there
            return Quantized(Dense(codes), reshaped(scale, counts))
        point = self.codes_of(np.broadcast_to(zero_point, (math.prod(counts),)), codes.dtype)
        return Quantized(Dense(codes), reshaped(scale, counts), reshaped(point, counts))

    def packed_palettized(self, operation: Any) -> Palettized:
        lut, whole = self.array(operation, "lut"), self.shape(operation)
        bits = (lut.size - 1).bit_length()
        if lut.size not in {2, 4, 16, 64, 256}:
            raise ValueError(f"a table of {lut.size} entries")
        indices = values.unpacked(self.array(operation, "indices"), whole, bits, UINT8)
        return Palettized(indices, reshaped(lut, (*(1 for _ in whole), lut.size, 1)))

    def palettized_sparse(self, operation: Any) -> Quantized | Palettized:
        found = self.with_table(operation, "indices_nonzero_data")
        palette = found.data if isinstance(found, Quantized) else found
        if isinstance(palette, Palettized) and palette.vector_axis is not None:
            raise UnliftableError("its non-zeros are vectors")
        return found

    def with_table(self, operation: Any, key: str) -> Quantized | Palettized:
        """Indices into a table; into one of codes, if the table is scaled."""
        type_ = self.type_of(operation, key)
        indices = values.as_indices(self.array(operation, key), type_)
        axis = int(np.asarray(self.array(operation, "vector_axis"))) if self.has(operation, "vector_axis") else None
        scaled = self.parameter(operation, "lut")
        if not isinstance(scaled, Producer):
            return _palettized(indices, type_, self.array(operation, "lut"), axis)
        if scaled.operation.type != f"{CONSTEXPR}blockwise_shift_scale":
            raise UnliftableError(f"its table is computed by {scaled.operation.type}")
        table = self.scaled(scaled.operation, "data")
        if not isinstance(table.data, Dense):
            raise UnliftableError("its table is palettized itself")
        data = _palettized(indices, type_, table.data.values, axis)
        counts = tuple(table.scale.shape)
        if counts[-2:] != (1, 1):
            raise UnliftableError("the entries of its table have scales of their own")
        point = None if table.zero_point is None else reshaped(table.zero_point, counts[:-2])
        return Quantized(data, reshaped(plain(table.scale), counts[:-2]), point)

    def scaled(self, operation: Any, key: str) -> Quantized:
        """Codes, or what a table of codes gives, on a grid."""
        data: Values
        found = self.parameter(operation, key)
        if isinstance(found, Producer):
            indices = _INDICES.get(found.operation.type)
            if indices is None:
                raise UnliftableError(f"{found.operation.type} is scaled")
            data = self.with_table(found.operation, indices)
        else:
            data = Dense(self.array(operation, key))
        if isinstance(data, Quantized):
            raise UnliftableError("it is scaled twice")
        scale, codes = self.array(operation, "scale"), dtype(data)
        offset = np.asarray(self.array(operation, "offset")) if self.has(operation, "offset") else None
        if not is_float(codes):
            return Quantized(data, scale, None if offset is None else self.codes_of(offset, codes))
        if offset is not None and offset.astype(np.float64).any():
            raise UnliftableError("its floats are shifted")
        if codes.itemsize > scale.dtype.itemsize:
            raise UnliftableError(f"its floats, {codes}, are rounded to {scale.dtype} before they are scaled")
        return Quantized(data, scale)

    def codes_of(self, zero_point: NDArray, codes: DType) -> NDArray:
        """A zero point in the codes' type."""
        if zero_point.dtype == codes:
            return zero_point
        exact = zero_point.astype(np.float64)
        cast = exact.astype(np.int16).astype(codes)
        if not np.array_equal(cast.astype(np.float64), exact):
            raise UnliftableError(f"its zero points are {zero_point.dtype} beyond {codes}")
        return cast

    def shape(self, operation: Any) -> Shape:
        return tuple(int(dim) for dim in np.asarray(self.array(operation, "shape")))

    def type_of(self, operation: Any, key: str) -> Type:
        found = self.parameter(operation, key)
        value = self.parameter(found.operation, "val") if isinstance(found, Producer) else found
        return BY_NUMBER[value.type.tensorType.dataType]

    def has(self, operation: Any, key: str) -> bool:
        return key in operation.attributes or key in operation.inputs

    def array(self, operation: Any, key: str) -> Array:
        """The elements of a constant parameter."""
        found = self.parameter(operation, key)
        if isinstance(found, Producer):
            raise UnliftableError(f"its {key} is computed by {found.operation.type}")
        array = values.elements(found, self.files)
        if array is None:
            raise UnliftableError(f"its {key} is no tensor of a known type")
        return array

    def parameter(self, operation: Any, key: str) -> Any:
        """The `Value` of a parameter, or the operation that computes it and which of its outputs it is."""
        if key in operation.attributes:
            return operation.attributes[key]
        bindings: Any = operation.inputs[key].arguments if key in operation.inputs else ()
        if len(bindings) != 1:
            raise ValueError(f"{operation.type} has {len(bindings)} values for {key!r}")
        if bindings[0].WhichOneof("binding") == "value":
            return bindings[0].value
        producer = self.scope.producers.get(bindings[0].name)
        if producer is None:
            raise UnliftableError(f"its {key} is no constant")
        if producer.operation.type == "const":
            return self.parameter(producer.operation, "val")
        return producer


def _parameters(operation: Any) -> list[str]:
    return sorted({*operation.attributes, *operation.inputs} - {"name"})


def _stored(value: Any) -> bytes:
    """What a `Value` is but for its dimensions."""
    made = type(value)()
    made.CopyFrom(value)
    made.type.CopyFrom(_without_shape(value.type))
    return bytes(made.SerializeToString(deterministic=True))


def _without_shape(value_type: Any) -> Any:
    made = type(value_type)()
    made.CopyFrom(value_type)
    if made.WhichOneof("type") == "tensorType":
        made.tensorType.ClearField("dimensions")
        made.tensorType.ClearField("rank")
    return made


def _palettized(indices: Array, type_: Type, lut: Array, axis: int | None) -> Palettized:
    if len(lut.shape) < 3 or lut.shape[-2] != 1 << type_.bits:
        raise ValueError(f"{type_.name} indices into a table {list(lut.shape)}")
    if axis is not None:
        axis += len(indices.shape) if axis < 0 else 0
    return Palettized(indices, lut, axis if lut.shape[-1] > 1 else None)
