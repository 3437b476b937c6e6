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
    return find(program, origins, np.asarray)


def moved(slot: Slot) -> Any:
    """The numbers of the elements of `w` that a slot has."""
    assert slot.move is not None
    return slot.move(np.arange(32).reshape(SHAPE))


def lower_half(w: Any, _: Any) -> Any:
    return mb.transpose(x=mb.split(x=w, num_splits=2, axis=0)[1], perm=[1, 0])


def ring(w: Any, _: Any) -> Any:
    """Sixty times a value behind itself, cut three rows on: a way through each copy would be one of 2^60."""
    for _level in range(60):
        w = mb.slice_by_index(x=mb.concat(values=[w, w], axis=0), begin=[3, 0], end=[19, 2])
    return w


def mixed(w: Any, v: Any) -> Any:
    return mb.concat(values=[mb.slice_by_index(x=w, begin=[0, 0], end=[4, 2]), v], axis=0)


def with_computed(w: Any, v: Any) -> Any:
    return mb.concat(values=[w, mb.mul(x=v, y=np.float32(2))], axis=0)


def with_a_few_others(w: Any, _: Any) -> Any:
    return mb.concat(values=[w, np.ones((1, 2), np.float32)], axis=0)


def test_a_part_of_a_weight_that_was_turned() -> None:
    (slot,) = slots_of(lower_half)
    assert slot.origin is not None
    assert slot.origin.weight == "w"
    np.testing.assert_array_equal(moved(slot), [range(16, 32, 2), range(17, 32, 2)])


def test_a_value_that_is_read_twice_is_followed_once() -> None:
    (slot,) = slots_of(ring)
    assert slot.origin is not None
    assert slot.origin.weight == "w"
    expected = np.roll(np.arange(32).reshape(SHAPE), -180, axis=0)
    np.testing.assert_array_equal(moved(slot), expected)


def some(w: Any, _: Any) -> Any:
    return mb.gather(x=w, indices=np.array([15, 0, -3, 7, 1], np.int32), axis=0)


def in_batches(w: Any, _: Any) -> Any:
    indices = np.array([[3, 0, 1], [2, 2, 1]], np.int32)
    return mb.gather(x=mb.reshape(x=w, shape=[2, -1, 2]), indices=indices, axis=1, batch_dims=1)


def cut(w: Any, _: Any) -> Any:
    """Backwards in steps, one axis squeezed, the last ones of another by size."""
    cube = mb.expand_dims(x=mb.reshape(x=w, shape=[4, 4, 2]), axes=[0])
    options = {"stride": [1, 1, -1, 1], "begin_mask": [False, True, True, False], "end_mask": [True, True, True, False]}
    by_index = mb.slice_by_index(
        x=cube, begin=[0, 0, 0, 1], end=[1, 0, 0, 2], squeeze_mask=[True, False, False, False], **options
    )
    return mb.slice_by_size(x=by_index, begin=[-3, 0, 0], size=[3, -1, 1])


def piled(w: Any, _: Any) -> Any:
    parts = mb.split(x=mb.identity(x=w), split_sizes=[5, 5, 6], axis=0)
    turned = mb.reverse(x=mb.stack(values=[parts[0], parts[1]], axis=-1), axes=[0, 2])
    return mb.squeeze(x=mb.expand_dims(x=turned, axes=[1, -1]), axes=[1])


@pytest.mark.parametrize("move", [lower_half, some, in_batches, cut, piled, ring])
def test_moves_are_those_of_core_ml_tools(move: Callable[[Any, Any], Any]) -> None:
    (slot,) = slots_of(move)
    np.testing.assert_array_equal(moved(slot), slot.values)


@pytest.mark.parametrize("move", [mixed, with_computed, with_a_few_others])
def test_what_has_elements_of_others_too_is_of_no_weight(move: Callable[[Any, Any], Any]) -> None:
    (slot,) = slots_of(move)
    assert slot.origin is None
