"""The weights of a MIL program: which constants operators read as a layer's weights, each one once."""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from coremltools.converters.mil.mil import Operation, Program, Var
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipeline, PassPipelineManager

from compressor.arrays import NDArray
from compressor.targets.coreml.editing import operations
from compressor.targets.coreml.maps import read
from compressor.targets.coreml.origins import Origins
from compressor.weight import Origin

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


@dataclass(frozen=True, eq=False)
class Slot:
    """A constant that operators read as a weight.

    name: unique in the program: that of the weight, numbered where one weight became several constants.
    origin: the weight that it comes from; None for a constant that the frontend made.
    values: as the frontend gives them, before rounding; to be read by `maps.read`.
    vars: the constants in the program that are this one, each under its own shape.
    uses: the types of the operators that read it.
    factor: what a batch norm behind the layer multiplies them with, float64, of the values' rank; None for 1.
    """

    name: str
    origin: Origin | None
    values: NDArray
    vars: tuple[Var, ...]
    uses: tuple[str, ...]
    factor: NDArray | None = None

    @property
    def move(self) -> Callable[[NDArray], NDArray] | None:
        """Takes an array of the weight's shape the way of its values; None where they are the weight as it is."""
        return None if self.origin is None else self.origin.move


def fold(program: Program) -> None:
    """Replace constant expressions by their values; nothing else."""
    passes = ["common::const_elimination", "common::dead_code_elimination"]
    PassPipelineManager.apply_pipeline(program, PassPipeline(passes, "fold"))


def find(program: Program, origins: Origins, kept: Callable[[NDArray], NDArray]) -> list[Slot]:
    """The slots of a folded program, in the order in which they are read first. kept: their values in no memory."""
    by_base: dict[str, list[Slot]] = {}
    for var in _constants(program):
        uses = {use.op_type for use in var.child_ops if _is_weight(var, use)}
        if not uses and not (var.consuming_blocks and _is_large(var)):
            continue
        origin = origins(var)
        base = var.name if origin is None else origin.weight
        slots = by_base.setdefault(base, [])
        values = kept(var.val)
        same = next((slot for slot in slots if origin is not None and is_same(slot.values, values)), None)
        if same is None:
            name = f"{base}.{len(slots)}" if slots else base
            slots.append(Slot(name, origin, values, (var,), tuple(sorted(uses))))
        else:
            uses |= {*same.uses}
            slots[slots.index(same)] = replace(same, vars=(*same.vars, var), uses=tuple(sorted(uses)))
    return [slot for slots in by_base.values() for slot in slots]


def is_same(values: NDArray, others: NDArray) -> bool:
    """Whether two constants have the same elements in the same order, under whatever shapes."""
    return values.size == others.size and np.array_equal(read(values).reshape(-1), read(others).reshape(-1))


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
