"""Where constants come from: the way of a weight's elements, however often operators move them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Function, Program

from compressor.targets.coreml.conversion import quiet
from compressor.targets.coreml.origins import traced
from compressor.targets.coreml.slots import Slot, find, fold

SHAPE = (16, 2)


def slots_of(move: Callable[[Any, Any], Any]) -> list[Slot]:
    """The slots of a program that reads what is made of the weights `w` and `v`, which have the elements 0 to 31."""
    with Function({"x": mb.placeholder((2, 1))}, opset_version=ct.target.iOS17) as function:
        values = np.arange(32, dtype=np.float32).reshape(SHAPE)
        w, v = (mb.const(val=values, name=name) for name in ("w", "v"))
        function.set_outputs([mb.gather(x=move(w, v), indices=mb.cast(x=function.inputs["x"], dtype="int32"), axis=0)])
    program = Program()
    program.add_function("main", function)
    origins = traced(program, {"w": SHAPE, "v": SHAPE})
    with quiet():
        fold(program)
    return find(program, origins)


def lower_half(w: Any, _: Any) -> Any:
    return mb.transpose(x=mb.split(x=w, num_splits=2, axis=0)[1], perm=[1, 0])


def ring(w: Any, _: Any) -> Any:
    """Sixty times a value behind itself, cut three rows on: a way through each copy would be one of 2^60."""
    for _level in range(60):
        w = mb.slice_by_index(x=mb.concat(values=[w, w], axis=0), begin=[3, 0], end=[19, 2])
    return w


def mixed(w: Any, v: Any) -> Any:
    return mb.concat(values=[mb.slice_by_index(x=w, begin=[0, 0], end=[4, 2]), v], axis=0)


def test_a_part_of_a_weight_that_was_turned() -> None:
    (slot,) = slots_of(lower_half)
    assert slot.origin is not None
    assert slot.origin.weight == "w"
    np.testing.assert_array_equal(slot.index(), [range(16, 32, 2), range(17, 32, 2)])


def test_a_value_that_is_read_twice_is_followed_once() -> None:
    (slot,) = slots_of(ring)
    assert slot.origin is not None
    assert slot.origin.weight == "w"
    expected = np.roll(np.arange(32).reshape(SHAPE), -180, axis=0)
    np.testing.assert_array_equal(slot.index(), expected)


@pytest.mark.parametrize("move", [mixed, lambda w, v: mb.concat(values=[v, w], axis=0)])
def test_values_of_two_weights_are_of_none(move: Callable[[Any, Any], Any]) -> None:
    (slot,) = slots_of(move)
    assert slot.origin is None
