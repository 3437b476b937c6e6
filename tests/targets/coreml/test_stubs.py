"""Stubs, and whatever else rewrites a program: what is done for a layer does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Block, Operation, Program
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that

from compressor.formats.coreml.skeleton import STUB
from compressor.targets.coreml import batch_norm, slots
from compressor.targets.coreml.editing import operations
from compressor.targets.coreml.repairs import respell
from compressor.targets.coreml.sharing import share
from compressor.targets.coreml.slots import Slot
from compressor.targets.coreml.stubs import insert
from compressor.weight import Origin

RNG = np.random.default_rng(0)
KERNEL = RNG.standard_normal((4, 4, 1, 1)).astype(np.float32)
ONES = np.ones(4, np.float32)


def chain(layer: Callable[[Any, int], Any], shape: tuple[int, ...], count: int) -> tuple[Program, list[Slot]]:
    @mb.program(input_specs=[mb.TensorSpec(shape)], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        for number in range(count):
            x = layer(x, number)
        return x

    return program, slots.find(program, lambda var: Origin(var.name.split(".")[0]), np.asarray)


def linear(x: Any, number: int) -> Any:
    return mb.linear(x=x, weight=RNG.standard_normal((4, 4)).astype(np.float32), name=f"layer{number}")


def normalized(x: Any, _: int) -> Any:
    return mb.batch_norm(x=mb.conv(x=x, weight=KERNEL), mean=ONES, variance=ONES)


def shifted(x: Any, _: int) -> Any:
    return mb.sub(x=mb.conv(x=x, weight=KERNEL), y=np.float32(1))


def tied(x: Any, number: int) -> Any:
    weight = RNG.standard_normal((4, 4)).astype(np.float32)
    plain, turned = (mb.const(val=val, name=f"w{number}.{name}") for name, val in (("", weight), ("t", weight.T)))
    return mb.matmul(x=mb.linear(x=x, weight=plain), y=turned)


def count_of(program: Program, operator: str) -> int:
    return sum(operation.op_type == operator for operation in operations(program))


def test_stubs_visit_the_readers_of_their_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    inputs: Any = Operation.inputs

    def counted(operation: Operation) -> Any:
        nonlocal read
        read += 1
        return inputs.fget(operation)

    monkeypatch.setattr(Operation, "inputs", property(counted))
    counts = []
    for count in (10, 20, 40):
        program, found = chain(linear, (1, 4), count)
        read = 0
        insert(found)
        counts.append(read)
        assert count_of(program, STUB) == count
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0])


@pytest.mark.parametrize(
    ("layer", "rewrite", "left", "looks"),
    [
        (normalized, lambda program, found: batch_norm.fold(program, found, lambda *_: ""), ("batch_norm", 0), 1),
        (normalized, lambda program, found: batch_norm.fold(program, found, lambda *_: "no"), ("batch_norm", 20), 1),
        (shifted, lambda program, _: respell(program), ("sub", 0), 1),
        (tied, lambda _, found: share(found), ("linear", 20), 2),
        (linear, lambda _, found: insert(found), (STUB, 20), 1),
    ],
)
def test_how_often_a_block_is_looked_through(
    layer: Callable[[Any, int], Any],
    rewrite: Callable[[Program, list[Slot]], object],
    left: tuple[str, int],
    looks: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program, found = chain(layer, (1, 4, 2, 2) if layer in {normalized, shifted} else (1, 4), 20)
    looked = Mock()
    monkeypatch.setattr(Block, "_propagate_nonreplaceable_vars", looked)
    rewrite(program, found)
    assert looked.call_count == looks
    assert count_of(program, left[0]) == left[1]
