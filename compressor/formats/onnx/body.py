"""Model-local functions as they are written: nodes appended one by one, each named by its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.arrays import DType
from compressor.formats.onnx.dtypes import DATA_TYPES

if TYPE_CHECKING:
    import onnx

BOOL, INT32 = np.dtype(np.bool_), np.dtype(np.int32)


@dataclass
class Body:
    """A function while it is written: every method appends a node and gives the name of its output."""

    inputs: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    @property
    def output(self) -> str:
        return str(self.nodes[-1].output[0])

    def input(self, name: str) -> str:
        self.inputs.append(name)
        return name

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """An operator; an attribute given as `Caller(name)` is the attribute of that name of the calling node."""
        import onnx

        made = onnx.helper.make_node(
            op_type,
            inputs,
            [_letters(len(self.nodes))],
            **{key: value for key, value in attributes.items() if not isinstance(value, Caller)},
        )
        for key, value in attributes.items():
            if isinstance(value, Caller):
                made.attribute.add(name=key, ref_attr_name=value.name, type=value.type)
                self.attributes.extend([] if value.name in self.attributes else [value.name])
        self.nodes.append(made)
        return str(made.output[0])

    def constant(self, values: Any, dtype: DType) -> str:
        import onnx

        return self.node("Constant", value=onnx.numpy_helper.from_array(np.asarray(values, dtype)))

    def integer(self, value: int) -> str:
        """An int64 scalar."""
        return self.node("Constant", value_int=value)

    def integers(self, values: Sequence[int]) -> str:
        """An int64 vector."""
        return self.node("Constant", value_ints=values)

    def ints(self, name: str) -> str:
        """The attribute `name` of the calling node: int64 `[n]`."""
        return self.node("Constant", value_ints=Caller(name, 7))

    def int(self, name: str) -> str:
        """The attribute `name` of the calling node: an int64 scalar."""
        return self.node("Constant", value_int=Caller(name, 2))

    def cast(self, value: str, dtype: DType) -> str:
        return self.node("Cast", value, to=DATA_TYPES[dtype.name])

    def reshape(self, value: str, name: str) -> str:
        return self.node("Reshape", value, self.ints(name))

    def flat(self, value: str) -> str:
        return self.node("Reshape", value, self.integers([-1]))

    def spread(self, value: str, what: str) -> str:
        """A parameter by block, repeated: `grid` has a 1 after every axis, `spread` a block, `shape` both in one."""
        grid = self.reshape(value, f"{what}_grid")
        return self.reshape(self.node("Expand", grid, self.ints(f"{what}_spread")), f"{what}_shape")

    def first(self, value: str, size: str) -> str:
        """The elements of a flat value up to `size`, the product of an attribute."""
        count = self.node("ReduceProd", self.ints(size), keepdims=1)
        return self.node("Slice", value, self.integers([0]), count)


def _letters(place: int) -> str:
    """A name of as few letters as there are names: operands have longer ones.

    >>> [_letters(place) for place in (0, 25, 26, 701)]
    ['a', 'z', 'aa', 'zz']
    """
    before, last = divmod(place, 26)
    return f"{_letters(before - 1) if before else ''}{chr(ord('a') + last)}"


@dataclass(frozen=True)
class Caller:
    """An attribute of the calling node. type: its `AttributeProto.Type`."""

    name: str
    type: int
