"""What a weight becomes in an ML Program: a constant, or `constexpr_*` operations over what is stored.

Up to iOS 17 a `constexpr` operation has its parameters as attributes, packed codes are bytes with a shape beside them,
and nothing nests. From iOS 18 on parameters are inputs, codes have types of 1 to 8 bits, and one operation can read
another's output:

    Sparse(mask, Palettized)        lut_to_sparse -> sparse_to_dense
    Sparse(mask, Quantized)   sparse_blockwise_shift_scale -> sparse_to_dense
    Quantized(Palettized)     iOS 18: blockwise_shift_scale of the table -> lut_to_dense
                                    iOS 26: lut_to_dense -> blockwise_shift_scale

iOS 18 does not run the order of iOS 26. Tables are of codes or of floats.

Dequantizing rounds once, as `encodings.decode` does: differences of codes are exact in every float type that a scale
can have, floats under a scale are no wider than it is, and products with a scale are rounded to its type.

Source: Core ML Tools' docstrings of `constexpr_*`; its pass `canonicalize_quantized_lut_pattern` for the orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compressor.arrays import Array, DType, Shape, as_stored, stored_type
from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse, dtype, index_bits, plain, shape
from compressor.formats.coreml import values
from compressor.formats.coreml.blob import Store, packed_bytes, whole
from compressor.formats.coreml.importing import messages
from compressor.formats.coreml.opsets import IOS18, IOS26
from compressor.formats.coreml.types import TYPES
from compressor.formats.coreml.values import tensor_type


def lower(name: str, encoding: Encoding, version: int, store: Store, prefix: str = "") -> list[Any]:
    """The operations that compute the value `name` of a legal `encoding`, last the one that gives it.

    version: of the specification. store: takes what lies in weight.bin, in the order of the operations; for a spec,
    which has the same number of bytes, `Blobs`. prefix: what the names of other values begin with, or `name`.
    """
    made = _Lowered(version, store, prefix or name)
    match encoding:
        case Dense(array):
            made.const(name, array)
        case Quantized():
            (made.linear if version >= IOS18 else made.affine)(encoding, name)
        case Palettized():
            (made.palettized if version >= IOS18 else made.packed_palettized)(encoding, name)
        case Sparse():
            (made.sparse if version >= IOS18 else made.packed_sparse)(encoding, name)
    return made.operations


def renamed(operations: Sequence[Any], old: str, new: str) -> list[Any]:
    """Copies of what `lower` made for `old` with this as its prefix, giving `new`: they share what is stored."""
    made = []
    for operation in operations:
        copy = messages("MIL").Operation()
        copy.CopyFrom(operation)
        for output in copy.outputs:
            output.name = new + output.name.removeprefix(old)
        for argument in copy.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name":
                    binding.name = new + binding.name.removeprefix(old)
        copy.attributes["name"].CopyFrom(values.string(copy.outputs[0].name))
        made.append(copy)
    return made


_CAST_TO = {"float32": "fp32"}
"""What `constexpr_cast` gives, as it spells that."""

Output = tuple[str, str, Shape]  # name, element type, dimensions


@dataclass
class _Lowered:
    version: int
    store: Store
    prefix: str
    operations: list[Any] = field(default_factory=list)

    def const(self, name: str, array: Array) -> None:
        output, stored = (name, array.dtype.name, tuple(array.shape)), self._value(as_stored(array))
        if stored_type(array) == array.dtype:
            self._add("const", [output], {"val": stored}, inputs=False)
        else:
            parameters = {"source_val": stored, "output_dtype": values.string(_CAST_TO[array.dtype.name])}
            self._decode("cast", [output], parameters)

    # Up to iOS 17: attributes.

    def affine(self, encoding: Quantized, name: str) -> None:
        assert isinstance(encoding.data, Dense)
        codes, scale, zero_point = encoding.data.values, plain(encoding.scale), encoding.zero_point
        if zero_point is None:  # it is no option there
            zero_point = np.zeros(1, codes.dtype)
        axis = next((axis for axis, count in enumerate(scale.shape) if count > 1), 0)
        parameters = {
            "quantized_data": self._value(codes),
            "scale": self._value(scale, () if scale.size == 1 else (scale.size,)),
            "zero_point": self._value(zero_point, () if zero_point.size == 1 else (zero_point.size,)),
            "axis": values.integer(axis),
        }
        self._decode("affine_dequantize", [(name, scale.dtype.name, tuple(codes.shape))], parameters)

    def packed_palettized(self, encoding: Palettized, name: str) -> None:
        indices, lut, whole_ = encoding.indices, encoding.lut, shape(encoding)
        parameters = {
            "indices": values.value(packed_bytes(indices, index_bits(lut)), self.store),
            "lut": self._value(lut, (lut.size,)),
            "shape": values.integers(whole_),
        }
        self._decode("lut_to_dense", [(name, lut.dtype.name, whole_)], parameters)

    def packed_sparse(self, encoding: Sparse, name: str) -> None:
        assert isinstance(encoding.values, Dense)
        parameters = {
            "mask": values.value(packed_bytes(encoding.mask, 1), self.store),
            "nonzero_data": self._value(encoding.values.values),
            "shape": values.integers(encoding.shape),
        }
        self._decode("sparse_to_dense", [(name, dtype(encoding).name, encoding.shape)], parameters)

    # From iOS 18 on: inputs.

    def linear(self, encoding: Quantized, name: str) -> None:
        data, whole_ = encoding.data, shape(encoding)
        if isinstance(data, Palettized) and self.version < IOS26:
            self._look_up(data, self._scaled_table(encoding, data), encoding.scale.dtype, name)
            return
        codes: Any
        if isinstance(data, Palettized):
            codes = self._look_up(data, self._value(data.lut), data.lut.dtype, f"{self.prefix}__codes")
        else:
            codes = self._value(data.values)
        parameters = {"data": codes, **self._scale(encoding)}
        self._decode("blockwise_shift_scale", [(name, encoding.scale.dtype.name, whole_)], parameters)

    def palettized(self, encoding: Palettized, name: str) -> None:
        self._look_up(encoding, self._value(encoding.lut), encoding.lut.dtype, name)

    def sparse(self, encoding: Sparse, name: str) -> None:
        mask, inner, of = encoding.mask, encoding.values, dtype(encoding).name
        place: Any = values.value(whole("uint1", mask), self.store)
        data: Any
        match inner:
            case Dense(array):
                data = self._value(array)
            case Palettized():
                place, data = self._look_up_sparse(inner, self._value(inner.lut), inner.lut.dtype, mask, place)
            case Quantized(Palettized() as table) if self.version < IOS26:
                scaled = self._scaled_table(inner, table)
                place, data = self._look_up_sparse(table, scaled, inner.scale.dtype, mask, place)
            case Quantized():
                place, data = self._linear_sparse(inner, mask, place)
        self._decode("sparse_to_dense", [(name, of, encoding.shape)], {"mask": place, "nonzero_data": data})

    def _linear_sparse(self, encoding: Quantized, mask: Array, place: Any) -> tuple[str, str]:
        data = encoding.data
        codes: Any
        if isinstance(data, Palettized):
            place, codes = self._look_up_sparse(data, self._value(data.lut), data.lut.dtype, mask, place, "codes")
        else:
            codes = self._value(data.values)
        parameters = {"data_mask": place, "nonzero_data": codes, **self._scale(encoding)}
        outputs = self._non_zeros(mask, shape(data), encoding.scale.dtype, "values")
        self._decode("sparse_blockwise_shift_scale", outputs, parameters)
        return outputs[0][0], outputs[1][0]

    def _look_up(self, encoding: Palettized, table: Any, of: DType, name: str) -> str:
        parameters = {
            "indices": values.value(whole(f"uint{index_bits(encoding.lut)}", encoding.indices), self.store),
            "lut": table,
        }
        if encoding.vector_axis is not None:
            parameters["vector_axis"] = values.integer(encoding.vector_axis)
        self._decode("lut_to_dense", [(name, of.name, shape(encoding))], parameters)
        return name

    def _look_up_sparse(
        self, encoding: Palettized, table: Any, of: DType, mask: Array, place: Any, what: str = "values"
    ) -> tuple[str, str]:
        indices = whole(f"uint{index_bits(encoding.lut)}", encoding.indices)
        parameters = {"indices_mask": place, "indices_nonzero_data": values.value(indices, self.store), "lut": table}
        outputs = self._non_zeros(mask, tuple(encoding.indices.shape), of, what)
        self._decode("lut_to_sparse", outputs, parameters)
        return outputs[0][0], outputs[1][0]

    def _non_zeros(self, mask: Array, count: Shape, of: DType, what: str) -> list[Output]:
        suffix = "" if what == "values" else f"_{what}"
        return [
            (f"{self.prefix}__mask{suffix}", "uint1", tuple(mask.shape)),
            (f"{self.prefix}__{what}", of.name, count),
        ]

    def _scaled_table(self, encoding: Quantized, data: Palettized) -> str:
        """The table of a quantized one, as an operation: its scale gets the table's two last axes."""
        lut, to = data.lut, (*encoding.scale.shape, 1, 1)
        parameters = {"data": self._value(lut), **self._scale(encoding, to)}
        output = (f"{self.prefix}__table", encoding.scale.dtype.name, tuple(lut.shape))
        self._decode("blockwise_shift_scale", [output], parameters)
        return output[0]

    def _scale(self, encoding: Quantized, dims: Shape | None = None) -> dict[str, Any]:
        found = {"scale": self._value(plain(encoding.scale), dims)}
        if encoding.zero_point is not None:
            found["offset"] = self._value(encoding.zero_point, dims)
        return found

    def _value(self, array: Array, dims: Shape | None = None) -> Any:
        return values.value(whole(array.dtype.name, array, dims), self.store)

    def _decode(self, kind: str, outputs: Sequence[Output], parameters: dict[str, Any]) -> None:
        self._add(f"constexpr_{kind}", outputs, parameters, inputs=self.version >= IOS18)

    def _add(self, kind: str, outputs: Sequence[Output], parameters: dict[str, Any], *, inputs: bool) -> None:
        """parameters: values, or the names of other operations' outputs."""
        made = messages("MIL").Operation(type=kind)
        for name, of, dims in outputs:
            made.outputs.add(name=name, type=tensor_type(TYPES[of], dims))
        made.attributes["name"].CopyFrom(values.string(outputs[0][0]))
        for key, parameter in parameters.items():
            if not inputs:
                made.attributes[key].CopyFrom(parameter)
            elif isinstance(parameter, str):
                made.inputs[key].arguments.add(name=parameter)
            else:
                made.inputs[key].arguments.add(value=parameter)
        self.operations.append(made)
