"""Which weight is which, and what models have in common."""

import numpy as np
import pytest

from compressor.differences.models import differences
from compressor.differences.pairs import pairs
from compressor.encodings import Dense, Palettized, Quantized, Sparse
from compressor.errors import CompressorError
from compressor.model import Model
from compressor.weight import Weight

RANDOM = np.random.default_rng(0)
A, B, C = (RANDOM.normal(size=(4, 6)).astype(np.float32) for _ in range(3))
K = RANDOM.normal(size=(3, 3, 3, 4)).astype(np.float32)
ONES = np.ones(4, np.float32)


def weights(**values):
    return [Weight(name.replace("__", "."), Dense(array)) for name, array in values.items()]


def model(tmp_path, *found):
    file = tmp_path / "m"
    file.write_bytes(b"12345")
    return Model(file, found, None)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (weights(a=A, b=B), weights(b=A, a=B), [("b", "b"), ("a", "a")]),
        (weights(module__fc__bias=ONES), weights(fc_bias_to_fp16=2 * ONES), [("module.fc.bias", "fc_bias_to_fp16")]),
        (weights(fc__weight=A), weights(onnx__MatMul_3=A.T), [("fc.weight", "onnx.MatMul_3")]),
        (weights(conv__kernel=K), weights(w1=K.transpose(3, 2, 0, 1)), [("conv.kernel", "w1")]),
        (weights(fc__weight=A), weights(w=A.astype(np.float16)), [("fc.weight", "w")]),
        (weights(a=A, b=B), weights(b=B, c=C), [("b", "b"), (None, "c"), ("a", None)]),
        # The same values under several names: those whose names end alike.
        (weights(x__1=ONES, x__2=ONES), weights(y__2=ONES, y__1=ONES), [("x.2", "y.2"), ("x.1", "y.1")]),
        (weights(x=ONES), weights(y=ONES, z=ONES), [("x", "y"), (None, "z")]),
        (weights(), weights(), []),
    ],
)
def test_which_is_which(before, after, expected):
    assert [(one and one.name, other and other.name) for one, other in pairs(before, after)] == expected


def test_values_are_not_read_where_names_say_it():
    class Unread:
        shape, dtype, size = (4,), np.dtype(np.float32), 4

        def __array__(self, *_arguments, **_named):
            raise AssertionError

    unread = Weight("a", Dense(Unread()))
    assert pairs([unread, *weights(b=A)], [unread, *weights(c=B)])[0] == (unread, unread)


def test_very_many_equal_weights():
    before, after = ([Weight(f"{side}.{at}", Dense(ONES)) for at in range(2000)] for side in "ab")
    assert [(one.name, other.name) for one, other in pairs(before, after)] == [
        (f"a.{at}", f"b.{at}") for at in range(2000)
    ]


def test_two_models(tmp_path):
    table = np.linspace(0, 1, 4, dtype=np.float32).reshape(1, 1, 4, 1)
    codes = RANDOM.integers(0, 4, (4, 6)).astype(np.uint8)
    palettized = Palettized(codes, table)
    values = table.reshape(-1)[codes]
    found = differences(
        model(tmp_path, *weights(kept=A, gains=values, moved=B, old=C, gone=ONES), Weight("loses", palettized)),
        model(tmp_path, *weights(kept=A, moved=B + 1, new_=C, loses=values), Weight("gains", palettized)),
    )
    told = {one.name: (one.form, one.renamed, one.same, one.same_values) for one in found.weights}
    assert told == {
        "kept": ("", False, True, True),
        "moved": ("", False, False, False),
        "new_": ("", True, False, True),
        "loses": ("lost", False, False, True),
        "gains": ("gained", False, False, True),
        "gone": ("", False, False, False),
    }
    assert (found.forms("gained"), found.forms("lost")) == ({"palettized2": 1}, {"palettized2": 1})
    assert (found.same, found.same_values, found.before_nbytes) == (False, False, 5)


CODES = RANDOM.integers(-8, 8, (4, 6)).astype(np.int8)
SCALE = np.array([[0.1], [0.2], [0.3], [0.7]], np.float32)
ZEROS = np.zeros((4, 1), np.int8)
SET = RANDOM.random((4, 6)) < 0.5


def quantized(codes, scale, zero_point=None):
    return Quantized(Dense(codes), scale, zero_point)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (quantized(CODES, SCALE), quantized(CODES, SCALE.astype(np.float16)), "rounded"),
        (quantized(CODES, SCALE, ZEROS), quantized(CODES, SCALE.astype(np.float16)), "rounded"),
        (quantized(CODES, SCALE, ZEROS + 1), quantized(CODES, SCALE.astype(np.float16)), "apart"),
        (quantized(CODES, SCALE), quantized(CODES, SCALE * np.float32(1.01)), "apart"),
        (quantized(CODES, SCALE), quantized(CODES[::-1].copy(), SCALE.astype(np.float16)), "apart"),
        (
            Sparse(SET, quantized(CODES[SET], SCALE), (4, 6)),
            Sparse(SET, quantized(CODES[SET], SCALE.astype(np.float16)), (4, 6)),
            "rounded",
        ),
    ],
)
def test_scales_that_are_rounded(tmp_path, before, after, verdict):
    """Not the products are rounded then: the codes are what was trained."""
    (found,) = differences(model(tmp_path, Weight("a", before)), model(tmp_path, Weight("a", after))).weights
    assert found.values.verdict == verdict


@pytest.mark.parametrize(
    ("before", "after", "same", "same_values"),
    [
        (weights(a=A), weights(a=A), True, True),
        (weights(a=A), weights(b=A.T.astype(np.float16)), False, True),
        (weights(a=A), weights(a=A, where=B), False, True),  # a constant of the graph
        (weights(a=A, where=B), weights(a=A), False, False),
        (weights(a=A, batches=np.array(3)), weights(a=A, one=np.ones((), np.float32)), False, True),
    ],
)
def test_the_values_of_the_first_are_in_the_second(tmp_path, before, after, same, same_values):
    found = differences(model(tmp_path, *before), model(tmp_path, *after))
    assert (found.same, found.same_values) == (same, same_values)


def test_a_weight_that_lies_in_one_file_twice(tmp_path):
    found = differences(model(tmp_path, *weights(a=A, tied=A, gone=B)), model(tmp_path, *weights(a=A, new_=C)))
    told = {one.name: (one.copy, one.same_values, one.told(values=True)) for one in found.weights}
    assert told == {
        "a": ("", True, False),
        "new_": ("", False, False),
        "tied": ("a", True, False),
        "gone": ("", False, True),
    }
    assert not found.same


def test_a_damaged_weight_is_named(tmp_path):
    broken = Weight("a", Palettized(np.full((4, 6), 9, np.uint8), np.zeros((1, 1, 2, 1), np.float32)))
    with pytest.raises(CompressorError, match=r"m: a cannot be read"):
        differences(model(tmp_path, broken), model(tmp_path, *weights(a=A)))
    with pytest.raises(CompressorError, match=r"a cannot be read"):
        differences(model(tmp_path, broken), model(tmp_path, *weights(b=A)))
