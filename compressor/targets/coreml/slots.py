"""The weights of a MIL program: which constants are what the training named, and how they became what operators read.

A frontend reorders a weight before an operator reads it (a transposed matrix, the gates of an LSTM). Such chains of
constants are followed back to the weight, so that its codes can take the same way as its values.
"""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Function, Operation, Program, Var
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipeline, PassPipelineManager

from compressor.arrays import NDArray, Shape

MOVES = frozenset(
    "concat expand_dims gather identity reshape reverse slice_by_index slice_by_size split squeeze stack "
    "transpose".split()
)
"""Operators whose results are values of their arguments, moved."""

WEIGHTS: Mapping[str, frozenset[str]] = {
    "conv": frozenset({"weight"}),
    "conv_transpose": frozenset({"weight"}),
    "gather": frozenset({"x"}),
    "gather_along_axis": frozenset({"x"}),
    "gru": frozenset({"weight_ih", "weight_hh"}),
    "linear": frozenset({"weight"}),
    "lstm": frozenset({"weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back"}),
    "matmul": frozenset({"x", "y"}),
    "rnn": frozenset({"weight_ih", "weight_hh"}),
}
"""The arguments that are a layer's weights, by operator."""

FEWEST = 10
"""Core ML keeps smaller constants inside of the program."""

FEWEST_ELSEWHERE = 2048
"""Constants of other operators are weights from here on: smaller ones are what patterns are recognised by."""


@dataclass(frozen=True)
class Moved:
    """Values that an operator of `MOVES` took from constants.

    operator: its type. arguments: by name, a leaf's name (`Leaf`), `Moved`, a tuple of both, or a value.
    output: which of the operator's results.
    """

    operator: str
    arguments: Mapping[str, Any]
    output: int

    def leaves(self) -> set[str]:
        """The names of the constants."""
        parts = [
            part for value in self.arguments.values() for part in (value if isinstance(value, tuple) else (value,))
        ]
        found = {part.name for part in parts if isinstance(part, Leaf)}
        return found.union(*(part.leaves() for part in parts if isinstance(part, Moved)))


@dataclass(frozen=True)
class Leaf:
    """A constant of the program by name."""

    name: str


@dataclass(frozen=True, eq=False)
class Origin:
    """Where the values of a constant come from.

    weight: the name of the weight.
    index: computes where each value lies in the flat weight, integers of the constant's shape; None where the values
        are the weight as it is.
    """

    weight: str
    index: Callable[[], NDArray] | None = None


@dataclass(frozen=True, eq=False)
class Slot:
    """A constant that operators read as a weight.

    name: unique in the program: that of the weight, numbered where one weight became several constants.
    origin: the weight that it comes from; None for a constant that the frontend made.
    values: as the frontend gives them, before rounding.
    vars: the constants in the program that are this one.
    uses: the types of the operators that read it.
    factor: what a batch norm behind the layer multiplies them with, float64, of the values' rank; None for 1.
    """

    name: str
    origin: Origin | None
    values: NDArray
    vars: tuple[Var, ...]
    uses: tuple[str, ...]
    factor: NDArray | None = None

    def index(self) -> NDArray | None:
        """Where each value lies in the flat weight; None where it is the weight as it is."""
        return self.origin.index() if self.origin is not None and self.origin.index is not None else None


Origins = Callable[[Var], Origin | None]
"""Where a constant comes from, if it comes from a single weight."""


def traced(program: Program, weights: Mapping[str, Shape]) -> Origins:
    """The origins in a program whose constants are called like the weights, and which moves them by operators.

    To be called before the program is folded.
    """
    ways: dict[str, Moved] = {}
    version = program.functions["main"].opset_version
    for operation in operations(program):
        for output in operation.outputs if operation.op_type in MOVES else ():
            way = _way(output)
            if isinstance(way, Moved) and len(way.leaves()) == 1 and way.leaves() <= weights.keys():
                ways[output.name] = way

    def origin(var: Var) -> Origin | None:
        if var.name in ways:
            weight = next(iter(ways[var.name].leaves()))
            return Origin(weight, partial(_index, ways[var.name], weights[weight], version))
        return Origin(var.name) if weights.get(var.name) == var.val.shape else None

    return origin


def fold(program: Program) -> None:
    """Replace constant expressions by their values; nothing else."""
    passes = ["common::const_elimination", "common::dead_code_elimination"]
    PassPipelineManager.apply_pipeline(program, PassPipeline(passes, "fold"))


def find(program: Program, origins: Origins) -> list[Slot]:
    """The slots of a folded program, in the order in which they are read first."""
    by_base: dict[str, list[Slot]] = {}
    for var in _constants(program):
        uses = {use.op_type for use in var.child_ops if _is_weight(var, use)}
        if not uses and not (var.consuming_blocks and _is_large(var)):
            continue
        origin = origins(var)
        base = var.name if origin is None else origin.weight
        slots = by_base.setdefault(base, [])
        same = next((slot for slot in slots if origin is not None and np.array_equal(slot.values, var.val)), None)
        if same is None:
            name = f"{base}.{len(slots)}" if slots else base
            slots.append(Slot(name, origin, var.val, (var,), tuple(sorted(uses))))
        else:
            uses |= {*same.uses}
            slots[slots.index(same)] = replace(same, vars=(*same.vars, var), uses=tuple(sorted(uses)))
    return [slot for slots in by_base.values() for slot in slots]


def operations(program: Program) -> Iterator[Operation]:
    for function in program.functions.values():
        yield from _inside(function)


def _inside(block: Any) -> Iterator[Operation]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _inside(inner)


def _constants(program: Program) -> Iterator[Var]:
    seen: set[int] = set()
    read = [value for operation in operations(program) for value in operation.inputs.values()]
    for value in (*read, *(function.outputs for function in program.functions.values())):
        for var in value if isinstance(value, list | tuple) else (value,):
            if isinstance(var, Var) and var.op is not None and var.op.op_type == "const" and id(var) not in seen:
                seen.add(id(var))
                yield var


def _is_large(var: Var) -> bool:
    values = var.val
    return isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.size >= FEWEST_ELSEWHERE


def _is_weight(var: Var, use: Operation) -> bool:
    values = var.val
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or values.ndim < 1:
        return False
    arguments = {name for name, value in use.inputs.items() if value is var}
    if arguments & WEIGHTS.get(use.op_type, frozenset()):
        return values.size >= FEWEST and values.ndim >= 2
    return _is_large(var) and use.op_type not in {"batch_norm", "const"}


def _way(var: Var) -> Any:
    """How a constant came about: a leaf, a move of leaves, or a value."""
    if var.val is None:
        return None
    operation = var.op
    if operation is None or operation.op_type == "const":
        values = var.val
        is_weight = isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.size >= FEWEST
        return Leaf(var.name) if is_weight else values
    if operation.op_type not in MOVES:
        return var.val
    arguments = {
        name: tuple(_way(each) for each in value) if isinstance(value, list | tuple) else _way(value)
        for name, value in operation.inputs.items()
        if value is not None
    }
    return Moved(operation.op_type, arguments, operation.outputs.index(var))


def _index(way: Moved, shape: Shape, version: Any) -> NDArray:
    """The same moves, made with positions in place of values, by the operators themselves."""
    positions = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)

    def value(part: Any) -> Any:
        if isinstance(part, Moved):
            arguments = {name: value(each) for name, each in part.arguments.items()}
            result = getattr(mb, part.operator)(**arguments)
            return np.asarray((result[part.output] if isinstance(result, list | tuple) else result).val)
        if isinstance(part, tuple):
            return tuple(value(each) for each in part)
        return positions if isinstance(part, Leaf) else part

    with Function({}, opset_version=version):
        return np.asarray(value(way))
