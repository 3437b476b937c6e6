"""What each version has, and what a form becomes that it has not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from compressor.arrays import CODE_DTYPES, FLOAT_DTYPES, STORED_DTYPES, ArraySpec, NarrowArray, Shape
from compressor.encodings import (
    Concatenated,
    Dense,
    Encoding,
    Palettized,
    Quantized,
    Sparse,
    decode,
    index_bits,
    name,
    nbytes,
    spec,
)
from compressor.gaps import of_mask
from compressor.targets.coreml.legality import legalize, why_not
from tests import strategies
from tests.conformance import codes, palette, quantized
from tests.strategies import bits_of

SHAPE = (24, 64)
F16, F32, BF16 = np.dtype(np.float16), np.dtype(np.float32), FLOAT_DTYPES["bfloat16"]
RNG = np.random.default_rng(0)


def table(entries: int = 16, groups: Shape = (1, 1), axis: int | None = None, of: Any = F16) -> Palettized:
    to = tuple(dim // 2 if place == axis else dim for place, dim in enumerate(SHAPE))
    return palette(RNG, to, of, entries, groups, axis)


def grid(code: str = "int8", counts: Shape = (24, 1), of: Any = F16, *, zero_point: bool = False) -> Quantized:
    return quantized(RNG, Dense(codes(RNG, SHAPE, CODE_DTYPES[code])), of, counts, zero_point=zero_point)


def tables(counts: Shape = (1, 1), groups: Shape = (1, 1), code: str = "int8", entries: int = 16) -> Quantized:
    return quantized(RNG, table(entries, groups, None, CODE_DTYPES[code]), F16, counts, zero_point=True)


def sparse(values: Any = None, mask: Shape = SHAPE) -> Sparse:
    """Half of the weight is left."""
    bits = np.zeros(mask, np.bool_)
    bits[: mask[0] // 2] = True
    inner = Dense(np.ones(24 * 32, F16)) if values is None else values
    flat = {"data": (24 * 32,), "indices": (24 * 32,)}

    def leaf(encoding: Any) -> Any:
        if isinstance(encoding, Dense):
            return Dense(np.asarray(encoding.values).reshape(-1)[: flat["data"][0]])
        if isinstance(encoding, Palettized):
            return Palettized(np.asarray(encoding.indices).reshape(-1)[: 24 * 32], encoding.lut, encoding.vector_axis)
        return Quantized(leaf(encoding.data), encoding.scale, encoding.zero_point)

    return Sparse(bits, leaf(inner), SHAPE)


def scaled(
    counts: Shape = (1, 1), groups: Shape = (1, 1), lut: Any = F16, of: Any = F16, axis: int | None = None
) -> Quantized:
    return Quantized(table(16, groups, axis, lut), np.abs(RNG.standard_normal(counts)).astype(of))


def stored_narrow() -> Quantized:
    """Two tables of float32 that are values of float16."""
    found = table(16, (2, 1))
    return Quantized(replace(found, lut=NarrowArray(found.lut, F32)), np.ones((2, 1), F32))


def float8(counts: Shape) -> Quantized:
    values = RNG.standard_normal(SHAPE).astype(np.float32).astype(STORED_DTYPES["float8_e4m3fn"])
    return Quantized(Dense(NarrowArray(values, F16)), np.ones(counts, F16))


NO_SCALES, NO_FLOATS = "scales over tables need iOS18", "scales over floats need iOS18"
NO_NON_ZEROS = "compressed non-zeros need iOS18"

LEGAL: list[tuple[str, Encoding, tuple[str, ...]]] = [
    ("dense", Dense(np.zeros(SHAPE, F16)), ("dense", "dense", "dense")),
    ("float32", Dense(np.zeros(SHAPE, F32)), ("dense", "dense", "dense")),
    ("a scalar", Dense(np.zeros((), F16)), ("dense", "dense", "dense")),
    *(
        (f"{entries} entries", table(entries), (f"palettized{old}", f"palettized{new}", f"palettized{new}"))
        for entries, old, new in (
            (1, 1, 1),
            (2, 1, 1),
            (3, 2, 2),
            (4, 2, 2),
            (5, 4, 3),
            (7, 4, 3),
            (8, 4, 3),
            (9, 4, 4),
            (16, 4, 4),
            (17, 6, 6),
            (33, 6, 6),
            (64, 6, 6),
            (65, 8, 8),
            (200, 8, 8),
            (256, 8, 8),
        )
    ),
    ("tables by group", table(16, (4, 1)), ("tables by group of channels need iOS18", "palettized4", "palettized4")),
    ("vectors", table(16, (1, 1), 1), ("vector palettes need iOS18", "palettized4", "palettized4")),
    ("int8 by channel", grid(), ("int8", "int8", "int8")),
    ("uint8 by column", grid("uint8", (1, 64), zero_point=True), ("uint8", "uint8", "uint8")),
    ("int8 by tensor", grid("int8", (1, 1)), ("int8", "int8", "int8")),
    ("int8 by groups of channels", grid("int8", (6, 1)), ("int8", "int8", "int8")),
    ("int8 by block", grid("int8", (24, 4)), ("scales by block need iOS18", "int8", "int8")),
    ("int4 by channel", grid("int4"), ("int8", "int4", "int4")),
    ("uint4 by channel", grid("uint4", zero_point=True), ("uint8", "uint4", "uint4")),
    ("int4 by tensor", grid("int4", (1, 1)), ("palettized4", "int4", "int4")),
    ("uint2 by tensor", grid("uint2", (1, 1)), ("palettized2", "palettized2", "palettized2")),
    ("int2 by channel", grid("int2"), ("int8", "palettized2", "palettized2")),
    ("int2 by short block", grid("int2", (24, 8)), ("scales by block need iOS18", "int4", "int4")),
    ("sparse", sparse(), ("sparse", "sparse", "sparse")),
    ("sparse by block", sparse(mask=(4, 8)), ("sparse", "sparse", "sparse")),
    ("sparse, palettized", sparse(table(5)), ("compressed non-zeros need iOS18", *["sparse(palettized3)"] * 2)),
    ("sparse, by group", sparse(table(5, (4, 1))), ("compressed non-zeros need iOS18", *["sparse(palettized3)"] * 2)),
    ("sparse int8", sparse(grid()), ("compressed non-zeros need iOS18", "sparse(int8)", "sparse(int8)")),
    ("sparse int2", sparse(grid("int2")), ("compressed non-zeros need iOS18", *["sparse(palettized2)"] * 2)),
    (
        "vectors of non-zeros",
        sparse(table(16, (1, 1), 0)),
        ("compressed non-zeros need iOS18", *["vectors of non-zeros span the zeros between them"] * 2),
    ),
    (
        "no non-zeros",
        Sparse(np.zeros(SHAPE, np.bool_), Dense(np.zeros(0, F16)), SHAPE),
        ("no value is left, and Core ML has no empty tensors",) * 3,
    ),
    ("no elements", palette(RNG, (0, 4), F16, 4), ("it has no elements",) * 3),
    ("quantized table", tables(entries=64), ("palettized6", "int8(palettized6)", "int8(palettized6)")),
    ("quantized full table", tables(entries=256), ("int8", "int8", "int8")),
    ("quantized short table", tables(entries=2), ("palettized1", "palettized1", "palettized1")),
    ("int4 table", tables(code="int4"), ("palettized4", "int8(palettized4)", "int8(palettized4)")),
    ("quantized tables", tables((4, 1), (4, 1), entries=64), ("int8", *["int8(palettized6)"] * 2)),
    ("a scale for two tables", tables((2, 1), (4, 1)), ("int8", *["int8(palettized4)"] * 2)),
    ("scales that share a table", tables((24, 1), (1, 1)), ("int8", "int8(palettized4)", "int8(palettized4)")),
    ("scales within a row", tables((24, 64), (1, 1)), ("scales over tables need iOS18", "int8", "int8(palettized4)")),
    ("a scale over a table", scaled(), ("palettized4", "palettized4", "palettized4")),
    ("a scale a channel", scaled((24, 1)), (NO_SCALES, "palettized4", "scaled(palettized4)")),
    ("a scale a channel, two tables", scaled((24, 1), (2, 1)), (NO_SCALES, "palettized4", "scaled(palettized4)")),
    ("a scale a block", scaled((24, 16)), (NO_SCALES, "scaled(dense)", "scaled(palettized4)")),
    ("a scale a value", scaled(SHAPE, of=F32), (NO_SCALES, "scaled(dense)", "scaled(palettized4)")),
    ("a scale for two tables", scaled((2, 1), (4, 1)), (NO_SCALES, "palettized4", "palettized4")),
    ("vectors", scaled((1, 16), (1, 1), axis=0), (NO_SCALES, "palettized4", "scaled(palettized4)")),
    ("narrow tables", scaled((2, 1), (2, 1), F16, F32), (NO_SCALES, *["scaled(palettized4)"] * 2)),
    ("tables of narrow values", stored_narrow(), (NO_SCALES, "scaled(palettized4)", "scaled(palettized4)")),
    (
        "bfloat16 tables",
        scaled((24, 1), (1, 1), BF16, F16),
        ("Core ML scales float16 and float32, not bfloat16", *["palettized4"] * 2),
    ),
    ("values", Quantized(Dense(np.ones(SHAPE, F16)), np.ones((24, 1), F32)), (NO_FLOATS, *["scaled(dense)"] * 2)),
    ("sparse, scaled", sparse(scaled((24, 1))), (NO_NON_ZEROS, "sparse(palettized4)", "sparse(scaled(palettized4))")),
    ("bytes", float8((24, 1)), (NO_SCALES, "scaled(dense)", "scaled(palettized8)")),
    ("bytes and one scale", float8((1, 1)), ("palettized8", "palettized8", "palettized8")),
    (
        "short blocks of codes",
        Quantized(grid("int4").data, np.ones((24, 2), F16), None, (1, 48)),
        ("scales by block need iOS18", "int4", "int4"),
    ),
    (
        "parts",
        Concatenated((Dense(np.ones(SHAPE, F16)), table()), 0),
        ("Core ML has no constant that is made of several, and what reads it is not split",) * 3,
    ),
    ("bfloat16", Dense(np.zeros(SHAPE, BF16)), ("Core ML has weights in float16 and float32, not in bfloat16",) * 3),
    (
        "float64 grid",
        grid("int8", (1, 1), np.float64),
        ("Core ML has weights in float16 and float32, not in float64",) * 3,
    ),
]


@pytest.mark.parametrize(("_", "encoding", "expected"), LEGAL, ids=[row[0] for row in LEGAL])
def test_forms(_: str, encoding: Encoding, expected: tuple[str, ...]) -> None:
    for versions, wanted in zip(((7, 8), (9,), (10,)), expected, strict=True):
        for version in versions:
            refusal = why_not(encoding, version)
            assert (refusal or name(legalize(encoding, version))) == wanted
            if not refusal:
                made = legalize(encoding, version)
                assert bits_of(decode(made)) == bits_of(decode(encoding))
                assert spec(made) == legalize(spec(encoding), version)
                assert legalize(made, version) is made or spec(legalize(made, version)) == spec(made)


def test_new_entries_are_zeros() -> None:
    made = legalize(table(5), 7)
    assert isinstance(made, Palettized)
    assert made.lut.shape == (1, 1, 16, 1)
    assert not np.asarray(made.lut)[..., 5:, :].any()
    assert index_bits(made.lut) == 4


def test_masks_have_a_bit_for_each_element() -> None:
    made = legalize(sparse(mask=(4, 8)), 7)
    assert isinstance(made, Sparse)
    assert made.mask.shape == SHAPE
    np.testing.assert_array_equal(np.asarray(made.mask), np.arange(24)[:, None].repeat(64, 1) < 12)


def test_distances_become_a_mask() -> None:
    mask = RNG.random(SHAPE) < 0.1
    form = Sparse(of_mask(mask, CODE_DTYPES["uint4"]), Dense(np.ones(np.count_nonzero(mask), F16)), SHAPE)
    made = legalize(form, 7)
    assert isinstance(made, Sparse)
    np.testing.assert_array_equal(np.asarray(made.mask), mask)
    assert legalize(spec(form), 7) == spec(made)


def test_ios16_has_no_single_scale_without_a_zero_point() -> None:
    """Beside several scales the zero point that the operator wants is one scalar, which is not worth a node."""
    made = legalize(grid("int8", (1, 1)), 7)
    assert isinstance(made, Quantized)
    assert made.zero_point is not None
    assert (made.zero_point.shape, made.zero_point.dtype) == ((1, 1), np.int8)
    assert not np.asarray(made.zero_point).any()
    assert legalize(grid("int8", (1, 1)), 9).zero_point is None  # type: ignore[union-attr]
    assert legalize(grid(), 7).zero_point is None  # type: ignore[union-attr]


def test_scales_of_two_channels_each_become_one_for_each() -> None:
    encoding = grid("int8", (12, 1), zero_point=True)
    made = legalize(encoding, 7)
    assert isinstance(made, Quantized)
    np.testing.assert_array_equal(np.asarray(made.scale), np.repeat(np.asarray(encoding.scale), 2, 0))


def test_the_smallest_of_the_legal_forms_is_taken() -> None:
    """Quantized tables that scales share: repeated, as tables of floats, or no tables at all."""
    few, many = tables((3, 1), (1, 1)), tables((24, 1), (1, 1), entries=64)
    assert name(legalize(few, 9)) == "int8(palettized4)"
    assert name(legalize(many, 9)) == "int8"
    assert nbytes(legalize(many, 9)) < 24 * 64 + 24 * 64 * 6 // 8
    assert name(legalize(many, 10)) == "int8(palettized6)"


@given(strategies.encodings())
def test_specs_and_data_agree(encoding: Encoding) -> None:
    for version in (7, 9, 10):
        assert why_not(spec(encoding), version) == why_not(encoding, version)
        if not why_not(encoding, version):
            made = legalize(encoding, version)
            assert spec(made) == legalize(spec(encoding), version)
            assert bits_of(decode(made)) == bits_of(decode(encoding))
            assert why_not(made, version) == ""


def test_specs_cost_nothing() -> None:
    """A plan looks at weights of any size."""
    huge = ArraySpec((1 << 20, 1 << 20), CODE_DTYPES["int4"])
    encoding = Quantized(Dense(huge), ArraySpec((1 << 20, 1), F16))
    assert name(legalize(encoding, 7)) == "int8"
    assert name(legalize(encoding, 9)) == "int4"
