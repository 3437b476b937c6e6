"""What a weight becomes in a graph: stored tensors, and calls of functions that compute the weight from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compressor.arrays import (
    UINT8,
    Array,
    DType,
    MappedArray,
    NDArray,
    Shape,
    as_stored,
    bits,
    to_bytes,
)
from compressor.errors import CompressorError
from compressor.formats.layout import mapped
from compressor.formats.onnx.body import INT32
from compressor.formats.onnx.dtypes import DATA_TYPES
from compressor.formats.onnx.functions import DOMAIN
from compressor.packing import packed_nbytes

if TYPE_CHECKING:
    import onnx

_COUNTED_SINCE = 18
"""The opset since which `Split` says how many parts there are."""

COUNTER = "compressor.counter"
"""The value that all sparse weights share: 0, 1, 2, ..."""

BITS = "compressor.bits"
"""The bits of each byte, which all masks share."""


@dataclass(frozen=True, eq=False)
class Part:
    """A stored tensor.

    name, data_type, dims: of the initializer.
    array: its elements, in any shape, or their spec.
    width: the bits of a packed code in uint8 `dims`; 0 where the elements are stored as their type says.
    """

    name: str
    data_type: int
    dims: Shape
    array: Array
    width: int = 0

    @property
    def nbytes(self) -> int:
        """The bytes that the tensor takes in the file."""
        if self.width and self.data_type == DATA_TYPES["uint8"]:
            return math.prod(self.dims)
        return packed_nbytes(self.array.size, self.width or bits(self.array.dtype))

    def payload(self) -> NDArray:
        """The bytes: uint8, at most `nbytes`; a run that is not full ends in zeros that are not given.

        Raises:
            CompressorError: the elements take other bytes than the tensor.
        """
        data = to_bytes(self.array, self.width)
        if not 0 <= self.nbytes - data.size < 8:
            raise CompressorError(f"tensor {self.name!r}: expected {self.nbytes} bytes of data, got {data.size}.")
        return data

    @property
    def mapped(self) -> MappedArray | None:
        """What has these very bytes, where a file does."""
        return mapped(self.array, self.width, self.nbytes)


@dataclass(frozen=True)
class NonZeros:
    """Where the values of a sparse weight go. places: what their places are called. shape: that of the weight."""

    places: str
    shape: Shape


@dataclass(eq=False)
class Lowered:
    """What a weight is stored as and computed by.

    prefix: what the names of its parts begin with. opset: the model's.
    parts: the initializers, in the order of `encodings.arrays`. nodes: what computes the weight from them.
    values: types of values that ONNX Runtime cannot know before it has computed them, which it needs to fold them.
    functions: the names of the functions called. zeros: the (dtype, size) of shared zeros that are read.
    counter: how long the shared counter must be.
    """

    prefix: str = ""
    opset: int = 0
    parts: list[Part] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    values: list[onnx.ValueInfoProto] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)
    zeros: set[tuple[str, int]] = field(default_factory=set)
    counter: int = 0

    def store(self, name: str, array: Array, dims: Shape | None = None, width: int = 0) -> str:
        stored, to = as_stored(array), tuple(array.shape) if dims is None else dims
        if stored.dtype != array.dtype:
            narrow = f"{name if name.startswith(self.prefix) else self.prefix}.{stored.dtype.name}"
            return self.standard("Cast", [self.store(narrow, stored, to)], name, to=DATA_TYPES[array.dtype.name])
        self.parts.append(Part(name, DATA_TYPES[(UINT8 if width else array.dtype).name], to, array, width))
        return name

    def include(self, other: Lowered) -> None:
        """What a part of the weight is stored as and computed by."""
        self.parts += other.parts
        self.nodes += other.nodes
        self.values += other.values
        self.functions |= other.functions
        self.zeros |= other.zeros
        self.counter = max(self.counter, other.counter)

    def stores(self, *names: str) -> bool:
        """Whether these are parts, and not computed from them."""
        return {part.name for part in self.parts}.issuperset(names)

    def zero(self, dtype: DType, size: int) -> str:
        """Zeros `[size]`, which all weights share."""
        self.zeros.add((dtype.name, size))
        return f"compressor.zeros.{dtype.name}.{size}"

    def declare(self, name: str, dtype: DType, size: int) -> None:
        import onnx

        self.values.append(onnx.helper.make_tensor_value_info(name, DATA_TYPES[dtype.name], [size]))

    def call(self, function: str, inputs: list[str], output: str, **attributes: Any) -> str:
        import onnx

        made = onnx.helper.make_node(function, inputs, [output], domain=DOMAIN)
        self._append(made, attributes)
        self.functions.add(function)
        return output

    def standard(self, operator: str, inputs: list[str], output: str, **attributes: int) -> str:
        """An operator of ONNX itself."""
        import onnx

        self._append(onnx.helper.make_node(operator, inputs, [output]), attributes)
        return output

    def split(self, value: str, names: Sequence[str]) -> None:
        """Cut a value into parts of one length along the first axis."""
        import onnx

        made = onnx.helper.make_node("Split", [value], names)
        self._append(made, {"num_outputs": len(names)} if self.opset >= _COUNTED_SINCE else {})

    def _append(self, made: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            ints = [] if isinstance(value, int) else [int(dim) for dim in value]
            one = {"i": value, "type": 2} if isinstance(value, int) else {"ints": ints, "type": 7}
            made.attribute.add(name=key, **one)
        self.nodes.append(made)


def shared(lowered: Sequence[Lowered]) -> Lowered:
    """What weights have in common: zeros, bits, and one counter that is as long as the longest sparse weight."""
    made = Lowered()
    counter = max((one.counter for one in lowered), default=0)
    if counter:
        made.call("counter", [], COUNTER, size=[counter])
        made.declare(COUNTER, INT32, counter)
        made.call("bits", [], BITS)
    for name, size in sorted({zeros for one in lowered for zeros in one.zeros}):
        made.call(f"zeros_{name}", [], f"compressor.zeros.{name}.{size}", size=[size])
    return made
