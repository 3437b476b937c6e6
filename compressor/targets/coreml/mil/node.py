"""What a lowering sees of an ONNX node: its operands as constants or MIL variables, its attributes, its names."""

# ruff: noqa: TID253 - imported where an ONNX graph becomes a MIL program, and nowhere else

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - the name that all its examples have
from coremltools.converters.mil.mil import Var, types
from coremltools.converters.mil.mil.types.symbolic import any_symbolic, is_symbolic

from compressor.arrays import NDArray
from compressor.errors import CompressorError, line
from compressor.formats.onnx import reading
from compressor.formats.onnx.dtypes import DTYPES
from compressor.formats.onnx.graphs import attribute
from compressor.formats.onnx.wire import EXTERNAL

SHAPE_LIKE = 64
"""Known integers of at most this many elements are shapes, axes or indices: they stay out of the program."""


class UnsupportedError(Exception):
    """Core ML has no form for a node; the message is the reason."""


@dataclass(frozen=True, eq=False)
class Constant:
    """An array that is known while the program is built.

    weight: the name of the weight that it is; empty for what the graph holds itself, or computes.
    """

    array: NDArray
    weight: str = ""


Value: TypeAlias = Constant | Var
Dim = Any
"""An int, or the symbol of a size that is known when the model runs."""


_INT32 = np.iinfo(np.int32)


def narrowed(array: NDArray, *, clip: bool = False) -> NDArray:
    """The array in a type that Core ML computes in: 32-bit integers, float16, float32, bool.

    clip: take the nearest integer of 32 bits for a larger one, which is the same to comparisons and bounds.

    Raises: UnsupportedError for strings and complex numbers, and for integers that 32 bits do not hold.
    """
    kind = array.dtype
    if kind in {np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.int32), np.dtype(np.bool_)}:
        return array
    if kind.kind == "f" or kind == ml_dtypes.bfloat16:
        return array.astype(np.float32)
    if kind.kind not in "iu" and kind.name not in {"int4", "uint4", "int2", "uint2"}:
        raise UnsupportedError(f"values of type {kind}")
    if kind.itemsize >= 4:
        near = np.clip(array, max(np.iinfo(kind).min, _INT32.min), _INT32.max)
        if not clip and (near != array).any():
            raise UnsupportedError(f"the integer {array[near != array].flat[0]}, which 32 bits do not hold")
        array = near
    return array.astype(np.int32)


@dataclass(eq=False)
class Allowance:
    """The bytes that may still be computed while a program is built: a small file must not fill the memory."""

    left: int = 1 << 28

    def take(self, nbytes: int) -> None:
        """Count what a node makes of constants, before it is made.

        Raises: UnsupportedError.
        """
        self.left -= nbytes
        if self.left < 0:
            raise UnsupportedError(f"{nbytes:,} bytes computed of constants alone, more than may be stored")


@dataclass(eq=False)
class Scope:
    """The values of a graph while it is lowered.

    version: the deployment target, a member of `ct.target`. opset: of the ONNX graph.
    values: by ONNX name; those of enclosing graphs are seen too.
    consts: the MIL const of a weight, by its name, which it has too: operators that move it are MIL operators.
    read: by ONNX name, the operators that read it; "" for an output.
    spelled: the MIL name of an ONNX name that MIL does not allow.
    directory: that of the model, where the data of its tensors lie.
    notes: what differs from the graph, by what it is about.
    allowance: of all that is computed of constants, in the graphs inside of this one too.
    """

    version: Any
    opset: int
    values: MutableMapping[str, Value | None]
    spelled: Mapping[str, str]
    read: Mapping[str, frozenset[str]]
    directory: Path
    notes: dict[str, str] = field(default_factory=dict)
    consts: MutableMapping[str, Var] = field(default_factory=dict)
    allowance: Allowance = field(default_factory=Allowance)

    def inner(self) -> Scope:
        """The scope of a graph inside of this one: what it defines is not seen outside."""
        values, consts = ChainMap({}, self.values), ChainMap({}, self.consts)
        return replace(self, values=values, consts=consts)

    def tensor(self, tensor: onnx.TensorProto) -> NDArray:
        """The elements of a tensor of the graph, wherever they lie.

        Raises: CompressorError: no array has such dimensions, or the data are missing or of another length.
        """
        if tensor.data_type in DTYPES or tensor.data_location == EXTERNAL:
            return np.asarray(reading.array(tensor, self.directory))
        reading.size(tensor.name, tensor.dims)
        try:  # strings and the like, which `narrowed` refuses where one is read
            return onnx.numpy_helper.to_array(tensor)
        except Exception as error:
            raise CompressorError(f"tensor {tensor.name!r}: not what it declares: {line(error)}.") from error

    def const(self, value: Constant, name: str) -> Var:
        """The MIL const of a constant: one for a weight, however often it is read."""
        if not value.weight:
            # Its own copy: passes of Core ML Tools change values where they are.
            return mb.const(val=np.array(narrowed(value.array)), name=name)
        if value.weight not in self.consts:
            self.consts[value.weight] = mb.const(val=narrowed(value.array), name=value.weight)
        return self.consts[value.weight]


@dataclass(frozen=True, eq=False)
class Node:
    """A node and its operands: None for an optional one that is left out."""

    proto: onnx.NodeProto
    operands: tuple[Value | None, ...]
    scope: Scope
    lower: Callable[[onnx.GraphProto, Scope], list[Value]]

    @property
    def operator(self) -> str:
        return self.proto.op_type

    def output(self, number: int = 0) -> str:
        """The MIL name of an output."""
        name = self.proto.output[number]
        return self.scope.spelled.get(name, name)

    def reads(self, number: int) -> bool:
        """Whether anything reads an output."""
        return bool(self.readers(number))

    def readers(self, number: int) -> frozenset[str]:
        """The operators that read an output; "" where it is one of the graph."""
        name = self.proto.output[number] if number < len(self.proto.output) else ""
        return self.scope.read.get(name, frozenset()) if name else frozenset()

    def attribute(self, name: str, default: Any = None) -> Any:
        found = attribute(self.proto, name)
        if found is None:
            return default
        value = onnx.helper.get_attribute_value(found)
        return value.decode() if isinstance(value, bytes) else value

    def operand(self, number: int) -> Value | None:
        return self.operands[number] if number < len(self.operands) else None

    def known(self, number: int) -> NDArray | None:
        """The values of an operand that is a constant."""
        value = self.operand(number)
        if value is None:
            return None
        return value.array if isinstance(value, Constant) else inferred(value)

    def given(self, number: int, what: str) -> NDArray | None:
        """The values of an optional operand that must be a constant; None only where it is left out.

        Raises: UnsupportedError.
        """
        return None if self.operand(number) is None else self.constant(number, what)

    def constant(self, number: int, what: str) -> NDArray:
        """The values of an operand that must be a constant.

        Raises: UnsupportedError.
        """
        found = self.known(number)
        if found is None:
            raise UnsupportedError(f"{what} must be a constant")
        return found

    def integers(self, number: int, name: str) -> list[int] | None:
        """A list that is an attribute of this name in older opsets and an operand in newer ones."""
        value = self.attribute(name)
        if value is None and self.operand(number) is not None:
            value = self.constant(number, name).reshape(-1).tolist()
        return None if value is None else [int(one) for one in np.atleast_1d(np.array(value, np.int64))]

    def var(self, number: int, *, clip: bool = False) -> Var:
        """An operand as a MIL variable; a constant becomes a const (`clip`: as of `narrowed`)."""
        value = self.operand(number)
        if value is None:
            raise UnsupportedError(f"operand {number} is missing")
        sizes = value.shape if isinstance(value, Var) else value.array.shape
        if any(not is_symbolic(dim) and dim == 0 for dim in sizes):
            raise UnsupportedError(f"operand {number} has no elements")
        if isinstance(value, Var):
            return value
        if clip and not value.weight:
            value = Constant(narrowed(value.array, clip=True))
        return self.scope.const(value, self.proto.input[number])

    def is_weight(self, number: int) -> bool:
        """Whether an operand is a weight, or was made of weights by moving their elements alone."""
        value = self.operand(number)
        return bool(value.weight) if isinstance(value, Constant) else value is not None and value.val is not None

    def optional(self, number: int) -> Var | None:
        return None if self.operand(number) is None else self.var(number)


def inferred(x: Var) -> NDArray | None:
    """What MIL's own inference knows of the values of `x`; sizes among them are objects to it."""
    if x.val is None:
        return None
    found = np.asarray(x.val)
    return found.astype(np.int32) if found.dtype == np.object_ else found


def shape(x: Var) -> tuple[Dim, ...]:
    return tuple(dim if is_symbolic(dim) else int(dim) for dim in x.shape)


def static(dims: Sequence[Dim], what: str) -> list[int]:
    """The sizes, all of which must be known.

    Raises: UnsupportedError.
    """
    if any_symbolic(dims):
        raise UnsupportedError(f"{what} must not be dynamic, got {spell(dims)}")
    return [int(dim) for dim in dims]


def spell(dims: Sequence[Dim]) -> str:
    return f"[{', '.join('?' if is_symbolic(dim) else str(dim) for dim in dims)}]"


def is_float(x: Var) -> bool:
    return bool(types.is_float(x.dtype))


def is_bool(x: Var) -> bool:
    return bool(types.is_bool(x.dtype))


def like(x: Var, value: float) -> Any:
    """The number in the type of `x`."""
    return types.nptype_from_builtin(x.dtype)(value)


def spelled_dtype(x: Var) -> str:
    """The name of the type of `x` as `cast` takes it."""
    return str(types.builtin_to_string(x.dtype))


def integer(x: Var) -> Var:
    """`x`, or its int32 form if it is bool: few operators take bool."""
    return mb.cast(x=x, dtype="int32") if is_bool(x) else x


def size(x: Var, axis: int) -> Any:
    """One size of `x`, `[1]` int32: a constant where it is known."""
    dim = shape(x)[axis]
    if not is_symbolic(dim):
        return np.array([dim], np.int32)
    return mb.gather(x=mb.shape(x=x), indices=np.array([axis % x.rank], np.int32), axis=0)


def broadcast_shape(*shapes: Sequence[Dim]) -> tuple[Dim, ...]:
    """The shape that values of these shapes have together; a size that is known wins over one that is not."""
    rank = max(map(len, shapes))
    aligned = [(1,) * (rank - len(each)) + tuple(each) for each in shapes]
    return tuple(
        next((dim for dim in sorted(dims, key=is_symbolic) if is_symbolic(dim) or dim != 1), 1)
        for dims in zip(*aligned, strict=True)
    )


def reshape(x: Var, dims: Sequence[Dim], name: str | None = None) -> Var:
    """`x` in a shape whose symbols are those of axes that it has; one may be new, which follows from the others."""
    named = {} if name is None else {"name": name}
    if sum(map(is_symbolic, dims)) <= 1:
        return mb.reshape(x=x, shape=[-1 if is_symbolic(dim) else int(dim) for dim in dims], **named)
    own = list(x.shape)
    parts = [
        size(x, own.index(dim)) if dim in own else np.array([-1 if is_symbolic(dim) else dim], np.int32) for dim in dims
    ]
    return mb.reshape(x=x, shape=mb.concat(values=parts, axis=0), **named)


Operator = Callable[[Node], Any]
"""Emits MIL operators; returns the output, or a list of outputs (constants or variables)."""
Operators = Mapping[str, Operator]
