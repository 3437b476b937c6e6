"""The inverse of `decoding.lower`: calls of the functions, read as the encoding that they came from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from compressor.arrays import (
    CODE_DTYPES,
    FLOAT_DTYPES,
    STORED_DTYPES,
    UINT8,
    Array,
    NarrowArray,
    Shape,
    as_uint8,
    bits,
    is_float,
)
from compressor.encodings import (
    Concatenated,
    Dense,
    Encoding,
    Palettized,
    Quantized,
    Sparse,
    Whole,
    index_bits,
    shape,
)
from compressor.errors import CompressorError
from compressor.formats.onnx import stacking
from compressor.formats.onnx.checks import checked
from compressor.formats.onnx.dtypes import DTYPES
from compressor.formats.onnx.functions import DOMAIN
from compressor.formats.onnx.reading import packed
from compressor.formats.onnx.unsigned import signed
from compressor.reshaping import reshaped

if TYPE_CHECKING:
    import onnx


class Values(Protocol):
    """Where values come from: the node that computes one, or the elements of a constant."""

    def producer(self, name: str) -> onnx.NodeProto | None: ...
    def constant(self, name: str) -> Array | None: ...


def encoding(values: Values, name: str) -> Encoding | None:
    """The encoding that the value `name` was lowered from; None if no function of this project computes a weight of it.

    Raises:
        CompressorError: the stored parts contradict each other, or one is missing.
    """
    node = _weight(values, name)
    if node is None:
        return None
    try:
        return checked(_Calls(values).weight(node))
    except (ValueError, IndexError, KeyError) as error:
        raise CompressorError(f"weight {name!r}: its stored parts do not fit together: {error}") from error


def is_weight(values: Values, name: str) -> bool:
    """Whether a function that gives weights computes a value, and is still called as such."""
    return _weight(values, name) is not None


def _weight(values: Values, name: str) -> onnx.NodeProto | None:
    node = values.producer(name)
    is_own = node is not None and node.domain == DOMAIN and node.op_type.startswith(_WEIGHTS)
    return node if is_own else None


def side_by_side(values: Values, name: str, count: int) -> list[Encoding]:
    """The encodings of the `count` weights that the value `name` was lowered from, see `stacking`.

    Raises:
        CompressorError: the stored parts contradict each other, or one is missing.
    """
    reader = _Calls(values, stacked=True)
    try:
        whole = reader.part(name)
        ends = reader.ends(name) if isinstance(whole, Sparse) else ()
        return [checked(one) for one in stacking.cut(checked(whole), count, ends)]
    except (ValueError, IndexError, KeyError) as error:
        raise CompressorError(f"weights {name!r}: their stored parts do not fit together: {error}") from error


def by_gaps_of_weights(values: Values, name: str) -> bool:
    """Whether gaps that count from where each of several weights begins tell the non-zeros of a value."""
    node = values.producer(name)
    places = values.producer(node.input[0]) if node is not None and node.op_type == "sparse_to_dense" else None
    return places is not None and places.op_type.endswith("_of_weights")


_WEIGHTS = ("concatenated", "sparse_to_dense", "lut_to_dense", "gather_lut", "dequantize")


@dataclass(frozen=True)
class _Calls:
    values: Values
    stacked: bool = False

    def weight(self, node: onnx.NodeProto) -> Encoding:
        if node.op_type.startswith("concatenated"):
            return Concatenated(tuple(self.part(name) for name in node.input), _axis(node))
        return self.whole(node)

    def part(self, name: str) -> Whole:
        node = self.values.producer(name)
        return Dense(self.constant(name)) if node is None or node.domain != DOMAIN else self.whole(node)

    def whole(self, node: onnx.NodeProto) -> Whole:
        if node.op_type == "sparse_to_dense":
            return self.sparse(node)
        if node.op_type.startswith("dequantize_linear"):
            codes = self.values.producer(node.input[0])
            if codes is not None and codes.op_type == "sparse_to_dense":
                mask, whole = self.mask(codes.input[0], _ints(codes, "shape"))
                return Sparse(mask, self.linear(node, codes.input[1], whole), whole)
        return self.leaf(node, None)

    def sparse(self, node: onnx.NodeProto) -> Sparse:
        mask, whole = self.mask(node.input[0], _ints(node, "shape"))
        inner = self.values.producer(node.input[1])
        if inner is None or inner.domain != DOMAIN:
            return Sparse(mask, Dense(self.constant(node.input[1])), whole)
        return Sparse(mask, self.leaf(inner, whole), whole)

    def mask(self, places: str, whole: Shape) -> tuple[Array, Shape]:
        if self.values.producer(places) is None:
            return self.constant(places), whole
        node = self.call(places, "places")
        if node.op_type.startswith("places_by_gaps"):
            gaps = self.codes(node.input[0])
            if node.op_type != f"places_by_gaps{bits(gaps.dtype)}{'_of_weights' * self.stacked}":
                raise ValueError(f"{node.op_type} of {gaps.dtype}")
            return gaps, whole
        blocks = _ints(node, "mask_grid")[::2]
        return packed(self.constant(node.input[0]), blocks or whole, np.dtype(np.bool_), 1), whole

    def ends(self, name: str) -> Shape:
        """Where the gaps of weights end that lie side by side."""
        places = self.values.producer(self.call(name, "sparse_to_dense").input[0])
        return () if places is None else _ints(places, "ends")

    def leaf(self, node: onnx.NodeProto, whole: Shape | None) -> Quantized | Palettized:
        """A weight's node, or one of the non-zeros of a weight of shape `whole`."""
        if node.op_type.startswith("dequantize"):
            return self.linear(node, node.input[0], whole)
        return self.palettized(node)

    def palettized(self, node: onnx.NodeProto) -> Palettized:
        lut = self.codes(node.input[1])
        axis = None
        if lut.shape[-1] > 1:
            perm = _ints(node, "perm")
            axis = perm.index(len(perm) - 1) - 1
        indices = self.codes(node.input[0], index_bits(lut))
        if node.op_type == "lut_to_dense_by_row":
            indices = reshaped(indices, _ints(node, "shape"))
        return Palettized(indices, lut, axis)

    def linear(self, node: onnx.NodeProto, codes: str, whole: Shape | None) -> Quantized:
        inner = self.values.producer(codes)
        if inner is not None and inner.op_type == "reshaped":
            inner = self.values.producer(inner.input[0])
        data: Dense | Palettized
        if inner is not None and inner.op_type.startswith(("lut_", "gather_lut")):
            data = self.palettized(inner)
        else:
            data = Dense(self.codes(codes))
        to = whole or _ints(node, "shape") or shape(data)
        if isinstance(data, Dense) and whole is None:
            data = Dense(reshaped(data.values, to))
        scale = self.scale(node.input[1])
        counts = self.counts(node, tuple(scale.shape), to)
        block = self.short_block(node, counts, to)
        zero_point = self.codes(node.input[2]) if node.op_type.endswith("zero_point") else None
        zero_point = None if zero_point is None else reshaped(zero_point, counts)
        scale = scale if isinstance(scale, Palettized) else reshaped(scale, counts)
        rounded = FLOAT_DTYPES.get(node.op_type.split("_")[1], scale.dtype)
        found = Quantized(data, scale, zero_point, block, None if rounded == scale.dtype else rounded)
        return signed(found) if "_from_int8" in node.op_type else found

    def scale(self, name: str) -> Array | Palettized:
        node = self.values.producer(name)
        if node is not None and node.op_type == "by_block":
            return self.scale(node.input[0])
        return self.palettized(node) if node is not None and node.domain == DOMAIN else self.constant(name)

    def short_block(self, node: onnx.NodeProto, counts: Shape, whole: Shape) -> Shape | None:
        """The lengths of a block whose last one is shorter, as a node says them; None where all are of one length."""
        group, lengths = self.values.producer(node.input[-1]), dict[int, int]()
        if group is not None and group.op_type.endswith("short"):  # of the places of non-zeros
            for number, axis in enumerate(axis for axis, count in enumerate(counts) if count > 1):
                lengths[axis] = _ints(group, f"block{number}")[0]
        for found in node.attribute:
            if found.name == "block_size":
                lengths[_axis(node)] = found.i
        repeated = self.values.producer(node.input[1])
        while repeated is not None and repeated.op_type == "by_block":
            lengths[_axis(repeated)] = _ints(repeated, "block")[0]
            repeated = self.values.producer(repeated.input[0])
        block = tuple(
            lengths.get(axis, dim // max(count, 1)) for axis, (dim, count) in enumerate(zip(whole, counts, strict=True))
        )
        short = any(size * count != dim for size, count, dim in zip(block, counts, whole, strict=True))
        return block if short else None

    def counts(self, node: onnx.NodeProto, stored: Shape, whole: Shape) -> Shape:
        """The shape of a scale at the weight's rank.

        Raises:
            ValueError: it has another one.
        """
        if math.prod(stored) == 1:
            return (1,) * len(whole)
        axis = next((found.i for found in node.attribute if found.name == "axis"), None)
        if axis is None or len(stored) == len(whole) > 1:
            if len(stored) != len(whole):
                raise ValueError(f"blocks of {list(whole)}, got {list(stored)}")
            return stored
        return tuple(dim if place == axis else 1 for place, dim in enumerate(whole))

    def codes(self, name: str, width: int = 0) -> Array:
        """Stored codes as they are meant: through `unpack` and `widen`, and as uint8 of `width` bits for indices."""
        node = self.values.producer(name)
        if node is not None and node.op_type.startswith(("widen", "by_block")):
            return self.codes(node.input[0])
        if node is not None and node.domain == DOMAIN:
            node = self.call(name, "unpack")
            kind = node.op_type.split("_")[1]
            own = int(kind.removeprefix("u").removeprefix("int"))
            dtype = UINT8 if width else CODE_DTYPES[kind]
            return packed(self.constant(node.input[0]), _ints(node, "shape"), dtype, own)
        array = self.constant(name)
        return as_uint8(array) if width and bits(array.dtype) < 8 else array

    def call(self, name: str, function: str) -> onnx.NodeProto:
        node = self.values.producer(name)
        if node is None or node.domain != DOMAIN or not node.op_type.startswith(function):
            raise ValueError(f"{name!r} is not computed by {function}")
        return node

    def constant(self, name: str) -> Array:
        array = self.values.constant(name)
        if array is None and (array := narrow(self.values, name)) is None:
            raise ValueError(f"{name!r} is no constant")
        return array


def narrow(values: Values, name: str) -> NarrowArray | None:
    """The floats that a `Cast` widens; None if `name` is computed in any other way."""
    node = values.producer(name)
    if node is None or node.op_type != "Cast" or node.domain or len(node.input) != 1:
        return None
    array, to = values.constant(node.input[0]), DTYPES.get(next((a.i for a in node.attribute if a.name == "to"), 0))
    if array is None or to is None or not is_float(to) or bits(array.dtype) >= bits(to):
        return None
    if not is_float(array.dtype) and array.dtype not in STORED_DTYPES.values():
        return None
    return NarrowArray(array, to)


def _axis(node: onnx.NodeProto) -> int:
    axis = next((int(found.i) for found in node.attribute if found.name == "axis"), None)
    if axis is None:
        raise ValueError(f"{node.op_type} has no axis")
    return axis


def _ints(node: onnx.NodeProto, name: str) -> Shape:
    found = next((tuple(found.ints) for found in node.attribute if found.name == name), ())
    if min(found, default=0) < 0:
        raise ValueError(f"{name} {list(found)}")
    return found
