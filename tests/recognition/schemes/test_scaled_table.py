"""Tables of floats with a scale for each channel or block: what is recognised, and that it is exact."""

from __future__ import annotations

import math

import numpy as np
import pytest

from compressor import encodings
from compressor.arrays import FLOAT_DTYPES, NDArray, Shape
from compressor.compilation.encode import encode
from compressor.encodings import Dense, Palettized, Quantized, decode
from compressor.kernels import expand
from compressor.recognition import lookup, scaled
from compressor.recognition.find import find
from compressor.recognition.findings import Finding, Settings
from compressor.recognition.schemes import Candidate, scaled_table
from compressor.weight import Weight

TABLES = dict(lookup.formats())
OWN = np.float32([-1, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1])
SHAPE = (128, 384)


def made(entries: NDArray, lengths: Shape, dtype: str, *, powers: bool = False, kept: float = 1) -> NDArray:
    """A normal weight, each block scaled by its largest magnitude and rounded to the entries: fake quantization."""
    random, kind = np.random.default_rng(0), FLOAT_DTYPES[dtype]
    values = random.normal(0, 0.05, SHAPE).astype(np.float32) * (random.random(SHAPE) < kept)
    counts = tuple(-(-dim // length) for dim, length in zip(SHAPE, lengths, strict=True))
    values *= expand(np.exp2(random.uniform(-3, 3, counts)).astype(np.float32), SHAPE, lengths)
    largest = np.zeros(counts, np.float32)
    for block in np.ndindex(*counts):
        part = tuple(slice(at * n, (at + 1) * n) for at, n in zip(block, lengths, strict=True))
        largest[block] = np.abs(values[part]).max()
    scale = (largest / np.abs(entries).max()).astype(kind).astype(np.float32)
    scale = np.exp2(np.ceil(np.log2(scale))) if powers else scale
    whole = expand(scale, SHAPE, lengths)
    return np.asarray(entries[np.abs((values / whole)[..., None] - entries).argmin(-1)] * whole).astype(kind)


def look(values: NDArray) -> Finding:
    """What a weight is; every exact form of it gives back its values."""
    weight = Weight("w", Dense(values))
    finding = find(weight, Settings(min_elements=0, threshold=0.0))
    for candidate in finding.candidates:
        again = encode(weight, candidate)
        assert encodings.spec(again) == candidate.spec
        assert np.array_equal(decode(again), values, equal_nan=True)
    return finding


def found(finding: Finding) -> Candidate | None:
    return next((one for one in finding.candidates if one.schemes == (scaled_table.NAME,)), None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("powers", [False, True])
@pytest.mark.parametrize(
    ("lengths", "cut"),
    [
        ((1, 384), "per channel along axis 0"),
        ((128, 1), "per channel along axis 1"),
        ((1, 64), "per block of 64 along axis 1"),
        ((32, 1), "per block of 32 along axis 0"),
    ],
)
@pytest.mark.parametrize("table", ["float4_e2m1fn", "nf4", "float8_e4m3fn"])
def test_tables_of_formats_are_named(table: str, lengths: Shape, cut: str, dtype: str, *, powers: bool) -> None:
    if table == "float8_e4m3fn" and powers:
        pytest.skip("few values in all, which are a palette")
    finding = look(made(TABLES[table], lengths, dtype, powers=powers))
    candidate = found(finding)
    assert candidate is not None
    told = table
    if table == "nf4" and dtype != "float32":  # powers of two change no rounding
        told = f"nf4 in {dtype}" if powers else f"nf4, rounded to {dtype} last"
    assert candidate.evidence == f"{told}, scaled {cut}"
    assert isinstance(candidate.spec, Quantized)
    assert isinstance(candidate.spec.data, Palettized)
    assert encodings.index_bits(candidate.spec.data.lut) == (8 if table.startswith("float8") else 4)
    assert min(map(encodings.nbytes, (one.spec for one in finding.candidates))) == encodings.nbytes(candidate.spec)


def dequantized(entries: NDArray, dtype: str) -> NDArray:
    """What libraries make of codes of 4 bits for a model in half precision: float32 products, rounded last.

    Scales are those of a scale in 8 bits: float32 that no type of 16 bits has.
    """
    random = np.random.default_rng(4)
    values = random.normal(0, 0.02, SHAPE).astype(np.float32).reshape(-1, 64)
    scale = np.abs(values).max(axis=1, keepdims=True) / entries.max()
    scale *= random.uniform(0.99, 1.01, scale.shape).astype(np.float32)
    codes = np.abs((values / scale)[..., None] - entries).argmin(axis=-1)
    return np.asarray((entries[codes] * scale).astype(FLOAT_DTYPES[dtype]).reshape(SHAPE))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("table", ["nf4", "bitsandbytes fp4", "float4_e2m1fn"])
@pytest.mark.parametrize("before", [False, True])
def test_products_that_are_rounded_last_have_a_scale_that_serves_all(table: str, dtype: str, *, before: bool) -> None:
    """before: the table itself is rounded, too, as some versions of libraries do."""
    own = TABLES[table].astype(FLOAT_DTYPES[dtype]).astype(np.float32)
    finding = look(dequantized(own if before else TABLES[table], dtype))
    candidate = found(finding)
    assert candidate is not None
    held = np.array_equal(own, TABLES[table])
    told = f"{table} in {dtype}, rounded to it last" if before and not held else f"{table}, rounded to {dtype} last"
    assert candidate.evidence == f"{told}, scaled per block of 64 along axis 1"
    assert isinstance(candidate.spec, Quantized)
    assert (candidate.spec.rounded, candidate.spec.scale.dtype) == (FLOAT_DTYPES[dtype], np.float32)
    assert encodings.nbytes(candidate.spec) * 8 / math.prod(SHAPE) < 4.6


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_codes_times_float32_that_were_rounded_last_are_a_table(dtype: str) -> None:
    values = dequantized(np.arange(-8, 8, dtype=np.float32), dtype)
    finding = look(values)
    assert finding.grid == ""
    candidate = found(finding)
    assert candidate is not None
    assert candidate.evidence == f"int4, rounded to {dtype} last, scaled per block of 64 along axis 1"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_value_beside_its_product_is_none_that_was_rounded_last(dtype: str) -> None:
    values = dequantized(TABLES["nf4"], dtype)
    values.view(np.uint16)[77, 301] ^= 1
    candidate = found(look(values))
    assert candidate is None or "block of 64" not in candidate.evidence


@pytest.mark.parametrize(
    ("lengths", "powers"), [((1, 384), False), ((128, 1), False), ((1, 64), False), ((32, 1), True), ((1, 256), True)]
)
def test_another_table_is_learned(lengths: Shape, *, powers: bool) -> None:
    candidate = found(look(made(OWN, lengths, "float32", powers=powers)))
    assert candidate is not None
    assert candidate.evidence.startswith("one table of 16 values, scaled per ")
    assert isinstance(candidate.spec, Quantized)
    assert candidate.spec.scale.shape == tuple(-(-dim // n) for dim, n in zip(SHAPE, lengths, strict=True))


def test_a_table_that_is_no_power_of_two_below_one_is_learned_where_scales_are() -> None:
    candidate = found(look(made(np.float32(0.013) * OWN, (1, 64), "float32", powers=True)))
    assert candidate is not None
    assert candidate.evidence == "one table of 16 values, scaled per block of 64 along axis 1"


def test_zeros_that_were_pruned_are_left_to_a_mask() -> None:
    finding = look(made(OWN, (1, 128), "float32", kept=0.2))
    smallest = min(finding.candidates, key=lambda one: encodings.nbytes(one.spec))
    assert encodings.name(smallest.spec) == "sparse(scaled(palettized4))"


@pytest.mark.parametrize("table", [OWN[OWN != 0], OWN[OWN < 0]])
def test_channels_of_zeros_have_a_scale_of_zero_where_the_table_has_none(table: NDArray) -> None:
    values = made(table, (1, 384), "float32")
    values[[3, 70]] = 0
    candidate = found(look(values))
    assert (candidate is None) == (table[-1] < 0)  # times zero, that is -0.0
    if candidate is not None:
        encoding = encode(Weight("w", Dense(values)), candidate)
        assert isinstance(encoding, Quantized)
        assert np.flatnonzero(np.asarray(encoding.scale) == 0).tolist() == [3, 70]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("change", ["one value", "a factor for each row and column", "noise"])
def test_values_beside_the_products_are_no_scaled_table(change: str, dtype: str) -> None:
    random, values = np.random.default_rng(2), made(TABLES["float4_e2m1fn"], (1, 64), dtype)
    if change == "one value":
        values.view(f"u{values.itemsize}")[77, 301] ^= 1
    elif change == "noise":
        values = (values * (1 + 2.0**-6 * random.normal(size=values.shape))).astype(values.dtype)
    else:
        factors = random.uniform(0.5, 2, (SHAPE[0], 1)) * random.uniform(0.5, 2, (1, SHAPE[1]))
        values = (values * factors).astype(values.dtype)
    assert found(look(values)) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_grid_is_smaller_than_a_table_of_its_codes(dtype: str) -> None:
    codes = np.arange(-7, 8, dtype=np.float32)
    finding = look(made(codes, (1, 64), dtype))
    assert finding.grid == "int4 grid per block of 64 along axis 1"
    assert found(finding) is None


@pytest.mark.parametrize("rare", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_no_product(rare: float) -> None:
    values = made(OWN, (1, 64), "float32")
    values[3, 3] = rare
    assert found(look(values)) is None


def test_values_that_are_not_what_was_planned_are_refused() -> None:
    weight = Weight("w", Dense(made(OWN, (1, 64), "float32")))
    candidate = found(find(weight, Settings()))
    assert candidate is not None
    assert isinstance(candidate.spec, Quantized)
    other = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
    with pytest.raises(ValueError, match="one table of 16 values times"):
        scaled_table.encode(other, candidate.spec, None)


def test_no_table_is_looked_for_in_all_blocks_whose_scales_take_as_much_as_a_grids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every grid of 4 bits is a table of 16 entries, with the same scales."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 2, (512, 32, 1)).astype(np.float32)
    values = (rng.integers(-8, 8, (512, 32, 128)) * scale).astype(np.float32).reshape(512, 4096)
    monkeypatch.setattr(scaled_table, "_scales", lambda *_: pytest.fail("all blocks"))
    found = find(Weight("w", Dense(values)), Settings(), sampled=True)
    assert ["linear_quantize"] in [[*one.schemes] for one in found.candidates]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("length", [16, 32])
def test_no_table_is_tried_beside_a_small_grid_in_blocks(
    monkeypatch: pytest.MonkeyPatch, length: int, dtype: str
) -> None:
    """A table as long as the codes has indices of as many bytes; blocks as short have no fewer scales."""
    rng, kind = np.random.default_rng(0), FLOAT_DTYPES[dtype]
    scale = rng.uniform(0.5, 2, (64, 64 // length, 1)).astype(kind)
    values = (rng.integers(-8, 8, (64, 64 // length, length)).astype(kind) * scale).reshape(64, 64)
    monkeypatch.setattr(scaled, "scales", lambda *_: pytest.fail("a table"))
    finding = find(Weight("w", Dense(values)), Settings())
    assert finding.grid == f"int4 grid per block of {length} along axis 1"


def test_blocks_of_48_have_a_table_that_blocks_of_16_would_not_be_worth() -> None:
    """It is found in blocks of 16, whose scales take three times as many bytes: more than codes of 4 bits would."""
    rng, entries = np.random.default_rng(0), np.float32([-8, -5, -3, -1, 1, 2, 4, 7])
    scale = np.repeat(np.exp2(rng.integers(-40, 40, (43, 2))).astype(np.float32), 48, axis=1)
    values = entries[rng.integers(0, 8, (43, 96))] * scale
    candidate = found(look(values))
    assert candidate is not None
    assert candidate.evidence.endswith("scaled per block of 48 along axis 1")
