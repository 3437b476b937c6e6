"""Encodings under another shape: the same values, of the very same parts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from compressor.arrays import (
    UINT4,
    ArraySpec,
    ComputedArray,
    MappedArray,
    NarrowArray,
    NDArray,
    PackedArray,
    Shape,
    to_bytes,
)
from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse, arrays, decode, spec
from compressor.reshaping import with_shape
from tests.conformance import forms


def others(whole: Shape) -> Iterator[Shape]:
    """Shapes of as many elements: axes of one element, all axes in one, two in one, one in two, another order."""
    yield (*whole, 1, 1)
    yield (1, *whole)
    yield (math.prod(whole),)
    yield whole[::-1]
    if len(whole) > 1:
        yield (whole[0], math.prod(whole[1:]))
        yield (math.prod(whole[:-1]), whole[-1])
    for axis, dim in enumerate(whole):
        for part in (2, 3):
            if dim % part == 0:
                yield (*whole[:axis], part, dim // part, *whole[axis + 1 :])
                yield (*whole[:axis], dim // part, part, *whole[axis + 1 :])


def f32(*dims: int) -> ArraySpec:
    return ArraySpec(dims, np.dtype(np.float32))


def i8(*dims: int) -> ArraySpec:
    return ArraySpec(dims, np.dtype(np.int8))


def u8(*dims: int) -> ArraySpec:
    return ArraySpec(dims, np.dtype(np.uint8))


def test_every_form_under_other_shapes() -> None:
    held = 0
    for name, form in forms():
        value = decode(form)
        for to in others(value.shape):
            found = with_shape(form, to)
            known = with_shape(spec(form), to)
            assert (found is None) == (known is None), (name, to)
            if found is None:
                continue
            held += 1
            assert spec(found) == known
            assert to_bytes(decode(found)).tobytes() == to_bytes(value).tobytes(), (name, to)
            assert decode(found).shape == to
            stored = zip(arrays(form), arrays(found), strict=True)
            assert all(to_bytes(np.asarray(a)).tobytes() == to_bytes(np.asarray(b)).tobytes() for a, b in stored), name
    assert held > 9000


@pytest.mark.parametrize(
    ("form", "to", "counts"),
    [
        (Quantized(Dense(i8(8, 6)), f32(8, 1)), (8, 6, 1, 1), (8, 1, 1, 1)),
        (Quantized(Dense(i8(8, 6)), f32(8, 1)), (8, 2, 3), (8, 1, 1)),
        (Quantized(Dense(i8(8, 6, 3, 3)), f32(8, 1, 1, 1)), (8, 54), (8, 1)),
        (Quantized(Dense(i8(8, 6, 3, 3)), f32(1, 6, 1, 1)), (8, 54), (1, 6)),
        (Quantized(Dense(i8(8, 6, 3, 3)), f32(1, 6, 3, 1)), (8, 54), (1, 18)),
        (Quantized(Dense(i8(8, 54)), f32(8, 6)), (8, 6, 3, 3), (8, 6, 1, 1)),
        (Quantized(Dense(i8(8, 54)), f32(8, 3)), (8, 6, 3, 3), (8, 3, 1, 1)),
        (Quantized(Dense(i8(8, 6)), f32(4, 1)), (2, 4, 6), (2, 2, 1)),
        (Quantized(Dense(i8(8, 6)), f32(1, 1)), (48,), (1,)),
        # blocks that are none along the other axes
        (Quantized(Dense(i8(8, 6, 3, 3)), f32(1, 1, 3, 1)), (8, 54), None),
        (Quantized(Dense(i8(8, 54)), f32(8, 27)), (8, 6, 3, 3), None),
        (Quantized(Dense(i8(8, 6)), f32(1, 6)), (48,), None),
        (Quantized(Dense(i8(8, 6)), f32(8, 1)), (6, 8), None),
        # no such shape
        (Quantized(Dense(i8(8, 6)), f32(8, 1)), (8, 7), None),
        (Dense(f32(0, 6)), (6, 0), None),
    ],
)
def test_blocks_under_another_shape(form: Encoding, to: Shape, counts: Shape | None) -> None:
    found = with_shape(form, to)
    if counts is None:
        assert found is None
        return
    assert isinstance(found, Quantized)
    assert found.scale.shape == counts
    assert math.prod(counts) == found.scale.size


def test_vectors_stay_along_their_axis() -> None:
    form = Palettized(u8(4, 6), f32(1, 1, 16, 2), 0)
    assert with_shape(form, (8, 1, 6)) == Palettized(u8(4, 1, 6), f32(1, 1, 1, 16, 2), 0)
    assert with_shape(form, (1, 8, 2, 3)) == Palettized(u8(1, 4, 2, 3), f32(1, 1, 1, 1, 16, 2), 1)
    assert with_shape(form, (2, 4, 6)) is None


@pytest.mark.parametrize("places", [np.array([3, 5], np.int32), np.array([3, 2], UINT4)])
def test_places_are_the_same_in_every_shape(places: NDArray) -> None:
    form = Sparse(places, Dense(np.array([1.0, 2.0])), (2, 6))
    found = with_shape(form, (12,))
    assert found is not None
    assert decode(found).tolist() == decode(form).reshape(-1).tolist()


def test_what_lies_elsewhere_is_not_read(tmp_path: Path) -> None:
    """A computed array is computed when its elements are asked for, a slice of a file stays one."""
    (tmp_path / "w").write_bytes(bytes(range(24)))
    mapped = MappedArray(tmp_path / "w", 0, (4, 6), np.dtype(np.uint8))
    packed = PackedArray(np.zeros(12, np.uint8), (4, 6), np.dtype(np.uint8), 4)
    computed = ComputedArray((4, 6), np.dtype(np.uint8), lambda: np.asarray(mapped))
    narrow = NarrowArray(np.ones((4, 6), np.float16), np.dtype(np.float32))
    for array in (mapped, packed, computed, narrow):
        found = with_shape(Dense(array), (2, 12))
        assert isinstance(found, Dense)
        assert type(found.values) is type(array)
        assert np.array_equal(np.asarray(found.values), np.asarray(array).reshape(2, 12))
