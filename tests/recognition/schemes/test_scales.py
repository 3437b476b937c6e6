"""Scales in the fewest bytes: a table, 16 bits, or as they are."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.arrays import NDArray, stored_type
from compressor.encodings import Dense, Quantized, decode, nbytes
from compressor.nodes import Palettized
from compressor.recognition.find import find
from compressor.recognition.findings import Settings
from compressor.recognition.schemes import linear_quantize, scales
from compressor.weight import Weight

RNG = np.random.default_rng(0)
FEW = np.exp2(RNG.integers(-6, 0, (64, 32))).astype(np.float32)
HALF = RNG.uniform(0.01, 1, (64, 32)).astype(np.float16).astype(np.float32)
ANY = RNG.uniform(0.01, 1, (64, 32)).astype(np.float32)


@pytest.mark.parametrize(("values", "bits"), [(FEW, 3), (HALF, 16), (ANY, 32)], ids=["few", "half", "any"])
def test_scales_take_the_fewest_bits(values: NDArray, bits: int) -> None:
    form = scales.spec(values, values.shape)
    made = scales.encode(values, form)
    assert np.asarray(made).tobytes() == values.tobytes()
    if isinstance(form, Palettized):
        assert isinstance(made, Palettized)
        assert (form.shape, form.lut.shape, made.lut.shape) == (values.shape, (1, 1, 6, 1), (1, 1, 6, 1))
        assert bits == 3
    else:
        assert bits == stored_type(form).itemsize * 8 == stored_type(made).itemsize * 8  # type: ignore[arg-type]


def test_a_few_scales_stay_as_they_are() -> None:
    assert scales.spec(FEW[:2], (2, 32)).dtype == np.float32
    assert not isinstance(scales.spec(FEW[:2], (2, 32)), Palettized)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_no_scales_take_fewer_bytes_than_the_fewest(dtype: type) -> None:
    for count in (1, 100, 256, 264, 265, 300, 500, 560, 2048):
        alike = scales.spec(np.ones(count, dtype), (count,))
        taken = nbytes(alike if isinstance(alike, Palettized) else Dense(alike))
        assert scales.least_nbytes(count, np.dtype(dtype)) == taken


@pytest.mark.parametrize(("values", "form"), [(ANY, FEW), (ANY, HALF)], ids=["a table", "16 bits"])
def test_other_scales_than_those_of_the_form_are_refused(values: NDArray, form: NDArray) -> None:
    with pytest.raises(ValueError, match=r"got (others|\d+)"):
        scales.encode(values, scales.spec(form, form.shape))


@pytest.mark.parametrize("scale", [FEW, HALF, ANY], ids=["few", "half", "any"])
def test_a_grid_in_groups_has_such_scales(scale: NDArray) -> None:
    codes = RNG.integers(-7, 8, (64, 32, 32)).astype(np.float32)
    codes[..., 0] = 7
    codes[..., 1] = 1
    values = (codes * scale[..., None]).reshape(64, 1024)
    (grid,) = (
        one for one in find(Weight("w", Dense(values)), Settings()).candidates if isinstance(one.spec, Quantized)
    )
    assert isinstance(grid.spec, Quantized)
    form = scales.spec(scale, scale.shape)
    taken = nbytes(form if isinstance(form, Palettized) else Dense(form))
    assert nbytes(grid.spec) == values.size // 2 + taken
    assert decode(linear_quantize.encode(values, grid.spec, None)).tobytes() == values.tobytes()
