"""The inputs and outputs of a program: names that MIL allows, sizes that vary."""

# ruff: noqa: TID253 - imported where an ONNX graph becomes a MIL program, and nowhere else

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
from coremltools.converters.mil.input_types import RangeDim, Shape, TensorType
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - the name that all its examples have
from coremltools.converters.mil.mil import Var, get_new_symbol, types

from compressor.errors import CompressorError
from compressor.formats.coreml.names import spelling, take
from compressor.targets.coreml.mil.node import Constant, Value
from compressor.targets.coreml.mil.values import Dim, UnsupportedError, narrowed
from compressor.targets.coreml.request import Input


def spelled(names: Iterable[str]) -> dict[str, str]:
    """Names that MIL allows, each one once."""
    taken: dict[str, int] = {}
    return {name: take(spelling(name), taken) for name in dict.fromkeys(names)}


def dims(inputs: Iterable[Input], declared: Mapping[str, Any]) -> dict[str, tuple[Dim, ...]]:
    """The sizes of each input; axes that vary are symbols, one for each name that the graph gives them."""
    symbols: dict[tuple[str, tuple[int, int]], Any] = {}

    def dim(each: Input, axis: int) -> Dim:
        size = each.shape[axis]
        if isinstance(size, int):
            return size
        name = declared[each.name].shape.dim[axis].dim_param or f"{each.name}.{axis}"
        return symbols.setdefault((name, size), get_new_symbol())

    return {each.name: tuple(dim(each, axis) for axis in range(len(each.shape))) for each in inputs}


def varies(declared: Input) -> bool:
    return any(isinstance(size, tuple) for size in declared.shape)


def flexible(declared: Input, name: str) -> TensorType:
    sizes = [size if isinstance(size, int) else RangeDim(*size, default=size[0]) for size in declared.shape]
    return TensorType(name=name, shape=Shape(sizes))


def named(graph: onnx.GraphProto, outputs: Sequence[Value], spelled: Mapping[str, str]) -> list[Var]:
    """The outputs as variables of their names: each one of its own, and no input or constant."""
    result: list[Var] = []
    for output, value in zip(graph.output, outputs, strict=True):
        name = spelled[output.name]
        try:
            found = mb.const(val=narrowed(value.array)) if isinstance(value, Constant) else value
        except UnsupportedError as error:
            raise CompressorError(
                f"the output {output.name} is a constant that Core ML cannot hold: {error}."
            ) from error
        if found.dtype in {types.int8, types.uint8}:  # which outputs cannot be
            found = mb.cast(x=found, dtype="int32", name=name)
        computed = found.op is not None and found.op.op_type != "const"
        if not computed or found.name != name or any(found is other for other in result):
            found = mb.identity(x=found, name=name)
        result.append(found)
    return result
