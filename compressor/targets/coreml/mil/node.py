"""What a lowering sees of an ONNX node: its operands as constants or MIL variables, its attributes, its names."""

# ruff: noqa: TID253 - imported where an ONNX graph becomes a MIL program, and nowhere else

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - the name that all its examples have
from coremltools.converters.mil.mil import Var
from coremltools.converters.mil.mil.types.symbolic import is_symbolic

from compressor.arrays import NDArray
from compressor.errors import CompressorError, line
from compressor.formats.onnx import reading
from compressor.formats.onnx.dtypes import DTYPES
from compressor.formats.onnx.graphs import attribute
from compressor.formats.onnx.wire import EXTERNAL
from compressor.targets.coreml.mil.values import UnsupportedError, inferred, narrowed

SHAPE_LIKE = 64
"""Known integers of at most this many elements are shapes, axes or indices: they stay out of the program."""


@dataclass(frozen=True, eq=False)
class Constant:
    """An array that is known while the program is built.

    weight: the name of the weight that it is; empty for what the graph holds itself, or computes.
    """

    array: NDArray
    weight: str = ""


Value: TypeAlias = Constant | Var


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


Operator = Callable[[Node], Any]
"""Emits MIL operators; returns the output, or a list of outputs (constants or variables)."""
Operators = Mapping[str, Operator]
