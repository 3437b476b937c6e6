"""Narrower floats: values that another type has too, what is none of them, and what is stored."""

from collections.abc import Callable

import numpy as np
import pytest

from compressor import encodings
from compressor.arrays import BFLOAT16, ArraySpec, NarrowArray, NDArray
from compressor.compilation.encode import encode
from compressor.encodings import Dense, Palettized, Sparse, decode
from compressor.recognition.find import find
from compressor.recognition.findings import Settings
from compressor.recognition.schemes import narrow
from compressor.weight import Weight

F16, F32, F64 = (np.dtype(name) for name in ("float16", "float32", "float64"))
RANDOM = np.random.default_rng(7)
NORMAL = RANDOM.standard_normal((64, 48)).astype(F32)


def one_of(values: NDArray, value: float) -> NDArray:
    changed = values.copy()
    changed[-1, -1] = value
    return changed


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        pytest.param(NORMAL.astype(F16).astype(F32), F16, id="half"),
        pytest.param(NORMAL.astype(BFLOAT16).astype(F32) * np.float32(2**40), BFLOAT16, id="brain"),
        pytest.param(NORMAL.astype(F64), F32, id="single in double"),
        pytest.param(NORMAL.astype(F16).astype(F64), F16, id="half in double"),
        pytest.param((NORMAL.astype(F16) * F16.type(2**-20)).astype(F32), F16, id="subnormal halves"),
        pytest.param(one_of(NORMAL.astype(F16).astype(F32), -0.0), F16, id="minus zero"),
        pytest.param(one_of(NORMAL.astype(F16).astype(F32), np.inf), F16, id="infinity"),
        pytest.param(one_of(NORMAL.astype(F16).astype(F32), 65504), F16, id="the greatest half"),
        pytest.param(one_of(NORMAL.astype(F16).astype(F32), 65520), None, id="beyond it"),
        pytest.param(one_of(NORMAL.astype(F16).astype(F32), 1 + 2**-11), None, id="one bit more"),
        pytest.param(one_of(NORMAL.astype(F16).astype(F32), 2**-25), None, id="below the least half"),
        pytest.param(one_of(NORMAL.astype(F16).astype(F32), np.nan), None, id="not a number"),
        pytest.param(NORMAL, None, id="single"),
        pytest.param(NORMAL.astype(F16), None, id="nothing is narrower"),
        pytest.param(np.zeros((64, 48), np.int8), None, id="codes"),
    ],
)
def test_the_narrowest_type_that_has_all_values(values: NDArray, stored: np.dtype | None) -> None:
    assert narrow.narrowest(values) == stored


def sparse(values: NDArray) -> NDArray:
    return np.where(np.random.default_rng(1).random(values.shape) < 0.25, values, 0).astype(values.dtype)


def by_channel(values: NDArray) -> NDArray:
    """A table of 16 values for each column."""
    random = np.random.default_rng(2)
    return np.stack([random.choice(column[:16], len(column)) for column in values.T], 1)


@pytest.mark.parametrize(
    ("make", "form", "nbytes"),
    [
        pytest.param(lambda values: values, "float16", 64 * 48 * 2, id="dense"),
        pytest.param(sparse, "sparse(float16)", 786 // 2 + 5 + 2 * 785, id="non-zeros"),
        pytest.param(by_channel, "palettized4", 64 * 48 // 2 + 48 * 16 * 2, id="tables"),
    ],
)
def test_what_is_stored_has_every_bit(make: Callable[[NDArray], NDArray], form: str, nbytes: int) -> None:
    values = make(NORMAL.astype(F16).astype(F32))
    weight = Weight("w", Dense(values))
    finding = find(weight, Settings(min_elements=1))
    chosen = min(finding.candidates, key=lambda one: encodings.nbytes(one.spec))
    assert (encodings.name(chosen.spec), encodings.nbytes(chosen.spec)) == (form, nbytes)
    encoded = encode(weight, chosen)
    assert encodings.spec(encoded) == chosen.spec
    assert decode(encoded).dtype == F32
    assert np.array_equal(decode(encoded).view("u4"), values.view("u4"))


def few(values: NDArray, entries: int) -> NDArray:
    return np.random.default_rng(3).choice(values[0, :entries], values.shape)


def test_it_is_said_of_what_is_nothing_else() -> None:
    half = NORMAL.astype(F16).astype(F32)
    assert find(Weight("w", Dense(half)), Settings(min_elements=1)).evidence == "every value is one of float16"
    palette = find(Weight("w", Dense(few(half, 4))), Settings(min_elements=1))
    assert palette.evidence == "4 distinct values"


def test_small_tables_are_not_worth_a_cast() -> None:
    finding = find(Weight("w", Dense(few(NORMAL.astype(F16).astype(F32), 16))), Settings())
    assert [one.spec.lut.stored for one in finding.candidates if isinstance(one.spec, Palettized)] == [None]  # type: ignore[union-attr]


def test_another_value_than_the_spec_says_is_an_error() -> None:
    spec = Dense(ArraySpec(NORMAL.shape, F32, F16))
    with pytest.raises(ValueError, match="every value is one of float16, got others"):
        narrow.encode(NORMAL, spec, None)


def test_a_narrow_array_is_what_it_holds() -> None:
    array = NarrowArray(NORMAL.astype(F16), F32)
    assert (array.shape, array.dtype, array.size, array.nbytes) == ((64, 48), F32, 3072, 6144)
    assert np.array_equal(np.asarray(array), NORMAL.astype(F16).astype(F32))
    mask = np.ones((64, 48), np.bool_)
    whole = Sparse(mask, Dense(NarrowArray(NORMAL.astype(F16).reshape(-1), F32)), mask.shape)
    assert encodings.name(whole) == "sparse(float16)"
