"""Weights that their source has compressed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given

from compressor import encodings
from compressor.compilation.encode import encode
from compressor.compilation.verify import differences
from compressor.encodings import Dense, Encoding, Quantized
from compressor.recognition.find import find
from compressor.weight import Weight
from tests import strategies
from tests.recognition.weights_made import (
    EVERY,
    quantized,
    rng,
)


@given(strategies.encodings())
def test_every_candidate_of_any_source_is_exact(encoding: Encoding) -> None:
    source = Weight("w", encoding)
    finding = find(source, EVERY)
    if encodings.shape(encoding) and not isinstance(encoding, Dense):
        assert finding.candidates[0].spec == encodings.spec(encoding)
    for candidate in finding.candidates:
        encoded, loss = encode(source, candidate), candidate.loss
        assert encodings.spec(encoded) == candidate.spec
        assert differences(encodings.decode(encoding), encodings.decode(encoded), loss.threshold) == (0, loss.changed)


def pruned_codes() -> Quantized:
    codes = np.where(rng(1).random((64, 64)) < 0.75, 100, rng(2).integers(0, 256, (64, 64)))
    return quantized(codes.astype(np.uint8), 0.1, 100)


@pytest.mark.parametrize(
    ("make", "names", "sparsity"),
    [
        pytest.param(
            lambda: quantized(rng(1).integers(-128, 128, (64, 64)).astype(np.int8), 0.1),
            ["int8", "int8(palettized8)", "sparse(int8)", "sparse(int8(palettized8))"], 0.004, id="plain",
        ),
        pytest.param(
            lambda: quantized(rng(1).integers(-2, 2, (64, 64)).astype(np.int8), 0.1),
            ["int8", "int8(palettized2)", "sparse(int8)", "sparse(int8(palettized2))"], 0.25, id="few codes",
        ),
        pytest.param(
            pruned_codes,
            ["uint8", "uint8(palettized8)", "sparse(uint8)", "sparse(uint8(palettized8))"], 0.75, id="pruned codes",
        ),
        pytest.param(
            lambda: quantized(rng(1).integers(1, 128, (64, 64)).astype(np.int8), 0.1),
            ["int8", "int8(palettized7)"], 0.0, id="no zeros",
        ),
    ],
)  # fmt: skip
def test_a_quantized_source_keeps_its_codes(make: Callable[[], Quantized], names: list[str], sparsity: float) -> None:
    source = make()
    finding = find(Weight("w", source), EVERY)
    assert [encodings.name(candidate.spec) for candidate in finding.candidates] == names
    assert finding.sparsity == pytest.approx(sparsity, abs=0.02)
    for candidate in finding.candidates:
        assert encodings.dtype(candidate.spec) == np.float32
        encoded = encode(Weight("w", source), candidate)
        assert encodings.spec(encoded) == candidate.spec
        assert np.array_equal(encodings.decode(encoded), encodings.decode(source))


@pytest.mark.parametrize("scale", [0.0, 1e-45, np.inf, np.nan], ids=str)
def test_codes_survive_a_scale_that_loses_them(scale: float) -> None:
    codes = np.where(rng(1).random((64, 64)) < 0.75, 0, rng(2).integers(-128, 128, (64, 64))).astype(np.int8)
    source = quantized(codes, scale)
    for candidate in find(Weight("w", source), EVERY).candidates:
        encoded = encode(Weight("w", source), candidate)
        assert encodings.spec(encoded) == candidate.spec
        assert differences(encodings.decode(source), encodings.decode(encoded), 0.0) == (0, 0)
