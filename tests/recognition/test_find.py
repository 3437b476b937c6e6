"""What every kind of weight is taken for: hundreds of generated ones whose making is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given

from compressor import targets
from compressor.arrays import FLOAT_DTYPES, NDArray, Shape
from compressor.compilation.pipelines import get
from compressor.compilation.plan import choose
from compressor.encodings import Dense, Quantized, Sparse
from compressor.recognition.find import find
from compressor.recognition.findings import Settings
from compressor.weight import Weight
from tests import strategies
from tests.recognition.weights_made import (
    EVERY,
    SHAPES,
    Anything,
    ambiguous,
    blocked,
    check_every_candidate,
    check_every_candidate_quietly,
    chosen,
    grouped,
    n_of_m,
    normal,
    on_grid,
    rng,
    weight,
)

DENSE: dict[str, Callable[[np.random.Generator, Shape], NDArray]] = {
    "normal": lambda random, shape: random.normal(0, 0.05, shape),
    "uniform": lambda random, shape: random.uniform(-0.2, 0.2, shape),
    "heavy tails": lambda random, shape: random.standard_t(3, shape) * 0.02,
    "scales by channel": lambda random, shape: (
        random.normal(size=shape) * random.uniform(0.01, 1, (shape[0], *[1] * (len(shape) - 1)))
    ),
    "low rank": lambda random, shape: (
        random.normal(size=(shape[0], 2)) @ random.normal(size=(2, math.prod(shape[1:])))
    ).reshape(shape),
    "large": lambda random, shape: random.normal(0, 1e4, shape),
    "tiny": lambda random, shape: random.normal(0, 1, shape) * 1e-2 + 0.02,
    "some zeros": lambda random, shape: random.normal(0, 0.05, shape) * (random.random(shape) > 0.004),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", DENSE)
def test_a_dense_weight_stays_dense(kind: str, shape: Shape, dtype: str) -> None:
    values = DENSE[kind](rng(kind, shape, dtype), shape).astype(dtype)
    finding = find(weight(values), EVERY)
    assert (finding.palette, finding.grid, finding.distinct) == ("", "", None)
    assert chosen(finding) == "dense"
    check_every_candidate(values, finding)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", DENSE)
def test_a_dense_weight_of_16_bits_is_on_no_grid(kind: str, shape: Shape, dtype: str) -> None:
    values = DENSE[kind](rng(kind, shape, dtype), shape).astype(FLOAT_DTYPES[dtype])
    finding = find(weight(values), EVERY)
    assert finding.grid == ""
    assert chosen(finding) == "dense"
    check_every_candidate(values, finding)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("rate", "form"), [(0.02, "dense"), (0.1, "sparse"), (0.5, "sparse"), (0.75, "sparse"), (0.99, "sparse")]
)
def test_pruned_weights_are_sparse_where_that_is_smaller(rate: float, form: str, shape: Shape, dtype: str) -> None:
    values = normal(shape, dtype, rate)
    values[rng(rate, shape).random(shape) < rate] = 0
    finding = find(weight(values), EVERY)
    assert finding.structure == "unstructured"
    assert finding.sparsity == pytest.approx(float((values == 0).mean()))
    one_bit_in = {"float64": 64, "float32": 32}.get(dtype, 16)
    expected = form if finding.sparsity > 1 / one_bit_in or form == "dense" else "dense"
    if rate < 0.99:  # few values are left of a small weight then: a palette
        assert chosen(finding) == ("sparse" if rate == 0.02 and finding.sparsity > 1.1 / one_bit_in else expected)
    check_every_candidate(values, finding)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("n", "m"), [(1, 2), (1, 4), (2, 4), (3, 4), (1, 8), (2, 8), (4, 8), (6, 8), (7, 8), (8, 16), (4, 32), (30, 32)]
)
@pytest.mark.parametrize(
    ("shape", "axis"), [((64, 96), 0), ((64, 96), 1), ((64, 64, 3, 3), 0), ((32, 64, 3, 3), 1), ((8, 4, 64, 5), 2)]
)
def test_n_of_m_is_named_with_its_axis(shape: Shape, axis: int, n: int, m: int, dtype: str) -> None:
    values = normal(shape, dtype) * n_of_m(shape, axis, n, m)
    finding = find(weight(values), EVERY)
    assert finding.structure == f"{n}:{m} along axis {axis}"
    assert finding.sparsity == pytest.approx(1 - n / m)
    assert chosen(finding) == ("sparse" if dtype == "float32" or n / m < 15 / 16 else "dense")


@pytest.mark.parametrize(
    ("shape", "lengths", "structure"),
    [
        ((96, 64), (2, 1), "blocks of 2 along axis 0"),
        ((96, 64), (3, 1), "blocks of 3 along axis 0"),
        ((96, 64), (4, 1), "blocks of 4 along axis 0"),
        ((96, 64), (1, 2), "blocks of 2 along axis 1"),
        ((96, 64), (1, 8), "blocks of 8 along axis 1"),
        ((96, 64), (16, 1), "blocks of 16 along axis 0"),
        ((96, 96), (1, 32), "blocks of 32 along axis 1"),
        ((128, 96), (32, 1), "blocks of 32 along axis 0"),
        ((960, 96), (6, 1), "blocks of 6 along axis 0"),
        ((2400, 96), (48, 1), "blocks of 48 along axis 0"),
        ((4800, 96), (5, 1), "blocks of 5 along axis 0"),
        ((64, 64), (4, 4), "blocks of 4x4 along axis 0 and 1"),
        ((64, 64), (1, 64), "channels along axis 0"),
        ((64, 48), (64, 1), "channels along axis 1"),
        ((64, 32, 3, 3), (1, 32, 3, 3), "channels along axis 0"),
        ((64, 32, 3, 3), (64, 1, 3, 3), "channels along axis 1"),
        ((64, 32, 3, 3), (1, 1, 3, 3), "blocks of 3x3 along axis 2 and 3"),
        ((64, 32, 3, 3), (1, 4, 1, 1), "blocks of 4 along axis 1"),
    ],
)
def test_blocks_and_channels_are_named_with_their_axes(shape: Shape, lengths: Shape, structure: str) -> None:
    values = normal(shape) * blocked(shape, lengths)
    finding = find(weight(values), EVERY)
    assert finding.structure == structure
    spec = choose(finding, Anything(), get("auto")).form.spec
    assert isinstance(spec, Sparse)
    assert spec.mask.shape == tuple(dim // length for dim, length in zip(shape, lengths, strict=True))
    check_every_candidate(values, finding)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("shape", [(96, 64), (64, 32, 3, 3)], ids=str)
@pytest.mark.parametrize(
    ("entries", "name"),
    [
        *((2, "palettized1"), (3, "palettized2"), (4, "palettized2"), (5, "palettized3"), (7, "palettized3")),
        *((8, "palettized3"), (9, "palettized4"), (16, "palettized4"), (17, "palettized5"), (33, "palettized6")),
        *((64, "palettized6"), (65, "palettized7"), (200, "palettized8"), (256, "palettized8")),
    ],
)
def test_palettes_for_the_whole_weight(entries: int, name: str, shape: Shape, dtype: str) -> None:
    table = np.unique(normal((4 * entries,), dtype))[:entries]
    values = table[rng(entries, shape).permutation(np.arange(math.prod(shape)) % entries)].reshape(shape)
    finding = find(weight(values), EVERY)
    assert (finding.distinct, finding.palette) == (entries, f"{entries} distinct values")
    assert chosen(finding) == name
    check_every_candidate(values, finding)


@pytest.mark.parametrize(
    ("shape", "axis", "group", "entries", "palette", "name"),
    [
        ((64, 512), 0, 1, 16, "16 distinct values per channel along axis 0", "palettized4"),
        ((64, 512), 0, 4, 16, "16 distinct values per 4 channels along axis 0", "palettized4"),
        ((64, 512), 0, 32, 64, "64 distinct values per 32 channels along axis 0", "palettized6"),
        ((512, 64), 1, 1, 4, "4 distinct values per channel along axis 1", "palettized2"),
        ((512, 64), 1, 8, 16, "16 distinct values per 8 channels along axis 1", "palettized4"),
        ((64, 64, 3, 3), 0, 8, 16, "16 distinct values per 8 channels along axis 0", "palettized4"),
        ((64, 64, 3, 3), 1, 8, 16, "16 distinct values per 8 channels along axis 1", "palettized4"),
    ],
)
def test_palettes_by_groups_of_channels(
    shape: Shape, axis: int, group: int, entries: int, palette: str, name: str
) -> None:
    values = grouped(shape, axis, group, entries)
    finding = find(weight(values), EVERY)
    assert finding.palette == palette
    assert chosen(finding) == name
    check_every_candidate(values, finding)


SCALES: dict[str, Callable[[Shape], Shape]] = {
    "per tensor": lambda shape: (1,) * len(shape),
    "per channel along axis 0": lambda shape: (shape[0], *[1] * (len(shape) - 1)),
    "per channel along axis 1": lambda shape: (1, shape[1], *[1] * (len(shape) - 2)),
    "per block of 32 along axis 1": lambda shape: (shape[0], shape[1] // 32),
    "per block of 64 along axis 1": lambda shape: (shape[0], shape[1] // 64),
    "per block of 32 along axis 0": lambda shape: (shape[0] // 32, shape[1]),
}


CODES = [
    (-128, 127, "int8", False),
    (-127, 127, "int8", False),
    (-100, 100, "int8", False),
    (-8, 7, "int4", False),
    (-7, 7, "int4", False),
    (0, 15, "uint4", False),
    (-3, 12, "uint4", True),
    (-2, 1, "int2", False),
    (0, 3, "uint2", False),
    (-1, 2, "uint2", True),
    (0, 255, "uint8", False),
    (-55, 200, "uint8", True),
]


@pytest.mark.parametrize(
    ("low", "high", "code", "zero_point", "granularity", "dtype"),
    [
        (*codes, granularity, dtype)
        for codes, granularity, dtype in itertools.product(CODES, SCALES, FLOAT_DTYPES)
        if not ambiguous(codes[1], granularity, dtype)
    ],
)
def test_quantization_grids(low: int, high: int, code: str, *, zero_point: bool, granularity: str, dtype: str) -> None:
    shape = (64, 128)
    values = on_grid(low, high, shape, SCALES[granularity](shape), dtype)
    finding = find(weight(values), EVERY)
    assert finding.grid == f"{code} grid {granularity}"
    spec = next(candidate.spec for candidate in finding.candidates if candidate.schemes == ("linear_quantize",))
    assert isinstance(spec, Quantized)
    assert (spec.scale.shape, spec.zero_point is not None) == (SCALES[granularity](shape), zero_point)
    check_every_candidate(values, finding)


def test_a_grid_for_the_channels_of_a_convolution() -> None:
    values = on_grid(-127, 127, (32, 16, 3, 3), (32, 1, 1, 1), "float32")
    finding = find(weight(values), EVERY)
    assert finding.grid == "int8 grid per channel along axis 0"
    assert chosen(finding) == "int8"


@pytest.mark.parametrize(
    ("make", "structure", "evidence", "name"),
    [
        pytest.param(
            lambda: normal((16,))[rng(1).integers(0, 16, (96, 64))] * (rng(2).random((96, 64)) > 0.75),
            "unstructured", "16 distinct non-zero values", "sparse(palettized4)", id="pruned and palettized",
        ),
        pytest.param(
            lambda: normal((4,))[rng(1).integers(0, 4, (96, 64))] * n_of_m((96, 64), 1, 2, 4),
            "2:4 along axis 1", "4 distinct non-zero values", "sparse(palettized2)", id="2:4 and palettized",
        ),
        pytest.param(
            lambda: np.unique(normal((999,)))[rng(3).integers(0, 256, (96, 128))] * n_of_m((96, 128), 0, 1, 4),
            "1:4 along axis 0", "256 distinct non-zero values", "sparse(palettized8)", id="256 values and zero",
        ),
        pytest.param(
            lambda: on_grid(1, 127, (64, 128), (64, 1), "float32") * blocked((64, 128), (1, 4)),
            "blocks of 4 along axis 1", "int8 grid per channel along axis 0", "sparse(int8)", id="pruned and quantized",
        ),
        pytest.param(
            lambda: grouped((64, 512), 0, 8, 16) * (rng(4).random((64, 512)) > 0.8),
            "unstructured", "non-zeros of 17 distinct values per 8 channels along axis 0", "sparse(palettized4)",
            id="pruned and palettized by groups",
        ),
    ],
)  # fmt: skip
def test_joint_compression(make: Callable[[], NDArray], structure: str, evidence: str, name: str) -> None:
    values = make().astype(np.float32)
    finding = find(weight(values), EVERY)
    assert finding.structure == structure
    assert any(evidence in candidate.evidence for candidate in finding.candidates)
    assert chosen(finding) == name
    check_every_candidate(values, finding)


@given(strategies.weights())
def test_every_candidate_of_any_weight_is_exact(values: NDArray) -> None:
    check_every_candidate_quietly(values, find(weight(values), EVERY))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: np.zeros((64, 64), np.float32), "sparse"),
        (lambda: np.full((64, 64), 0.37, np.float32), "palettized1"),
        (lambda: np.full((64, 64), np.nan, np.float32), "palettized1"),
        (lambda: np.where(np.eye(64) > 0, np.inf, 0).astype(np.float32), "sparse(palettized1)"),
        (lambda: np.full((1, 4096), -0.0, np.float32), "sparse"),
    ],
)
def test_degenerate_weights_take_next_to_nothing(make: Callable[[], NDArray], name: str) -> None:
    values = make()
    finding = find(weight(values), EVERY)
    assert chosen(finding) == name
    assert choose(finding, Anything(), get("auto")).legal is not None
    check_every_candidate_quietly(values, finding)


def test_codes_of_many_zero_points_have_no_table_of_their_own() -> None:
    """Of 256 codes under two zero points there are 257 differences, one of them zero: one too many for a table."""
    codes = np.tile(np.arange(256, dtype=np.uint8), (32, 1))
    zero_point = np.array([[10], [11]] * 16, np.uint8)
    weight = Quantized(Dense(codes), np.full((32, 1), 0.5, np.float32), zero_point)
    finding = find(Weight("w", weight), Settings(min_elements=0))
    assert finding.distinct is None or finding.distinct <= 257
    assert {"Palettized" in repr(candidate.spec) for candidate in finding.candidates} == {False}
    assert choose(finding, targets.get("onnxruntime"), get("auto")).legal == finding.candidates[0].spec
