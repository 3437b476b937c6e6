"""What every kind of weight is taken for: hundreds of generated ones whose making is known."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor import encodings
from compressor.arrays import FLOAT_DTYPES, NDArray, Shape
from compressor.compilation.encode import encode
from compressor.compilation.pipelines import get
from compressor.compilation.plan import choose
from compressor.compilation.verify import differences
from compressor.encodings import Dense, Encoding, LinearQuantized, Sparse
from compressor.errors import CompressorError
from compressor.kernels import dequantize, expand
from compressor.recognition.findings import Detection, Finding, Settings, find
from compressor.weight import Weight
from tests import strategies

EVERY = Settings(min_elements=0)
PLACES_64 = np.arange(64 * 64).reshape(64, 64)
SHAPES: tuple[Shape, ...] = ((96, 64), (64, 32, 3, 3), (48, 128), (32, 16, 5), (7, 350))


@dataclass(frozen=True)
class Anything:
    """A target that holds every encoding as it is."""

    name: str = "anything"

    def legalize(self, encoding: Encoding) -> Encoding:
        return encoding

    def write(self, *_: Any) -> None:
        raise AssertionError("no plan writes")

    def read(self, *_: Any) -> Any:
        raise AssertionError("no plan reads")


def weight(values: NDArray, **fields: Any) -> Weight:
    return Weight("w", Dense(values), **fields)


def chosen(finding: Finding) -> str:
    return encodings.name(choose(finding, Anything(), get("auto")).form.spec)


def rng(*seed: Any) -> np.random.Generator:
    """A generator of its own for every case, the same in every run."""
    return np.random.default_rng([ord(letter) for letter in repr(seed)])


def normal(shape: Shape, dtype: str = "float32", *seed: Any) -> NDArray:
    """Values as training leaves them; of a magnitude that no threshold reaches."""
    values = rng(shape, dtype, *seed).normal(0, 0.05, shape)
    return np.where(np.abs(values) < 2e-3, 0.01, values).astype(FLOAT_DTYPES[dtype])


def check_every_candidate(values: NDArray, finding: Finding) -> None:
    for candidate in finding.candidates:
        encoded, loss = encode(weight(values), candidate), candidate.loss
        assert encodings.spec(encoded) == candidate.spec
        decoded = encodings.decode(encoded)
        assert (decoded.shape, decoded.dtype) == (values.shape, values.dtype)
        assert differences(values, decoded, loss.threshold) == (0, loss.changed)
        assert int(np.count_nonzero((decoded == 0) & (values != 0))) == loss.changed


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


def n_of_m(shape: Shape, axis: int, n: int, m: int) -> NDArray:
    """A mask with n of every m neighbours along an axis set."""
    moved = (*shape[:axis], *shape[axis + 1 :], shape[axis] // m, m)
    ranks = rng(shape, axis, n, m).random(moved).argsort(axis=-1).argsort(axis=-1)
    return np.moveaxis((ranks < n).reshape(*moved[:-2], shape[axis]), -1, axis)


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


def blocked(shape: Shape, lengths: Shape, rate: float = 0.6) -> NDArray:
    """A mask that is constant over blocks."""
    counts = tuple(dim // length for dim, length in zip(shape, lengths, strict=True))
    mask = rng(shape, lengths).random(counts) >= rate
    return expand(mask, shape)


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


@pytest.mark.parametrize("entries", [257, 300, 320])
def test_a_palette_that_is_just_missed_is_named(entries: int) -> None:
    table = np.unique(normal((4 * entries,)))[:entries]
    values = table[rng(entries).permutation(np.arange(2 * 8192) % entries)].reshape(2, 8192)
    finding = find(weight(values), EVERY)
    assert finding.near_misses == (f"{entries} distinct values: a palette has at most 256",)
    assert finding.distinct is None
    assert "distinct values per" in finding.palette  # groups of channels do not have all of them


def grouped(shape: Shape, axis: int, group: int, entries: int) -> NDArray:
    """A table of its own for every `group` channels along an axis."""
    random = rng(shape, axis, group, entries)
    tables = random.normal(size=(shape[axis] // group, entries)).astype(np.float32)
    channels = random.integers(0, entries, (shape[axis], math.prod(shape) // shape[axis]))
    values = tables[np.arange(shape[axis])[:, None] // group, channels]
    others = tuple(dim for place, dim in enumerate(shape) if place != axis)
    return np.ascontiguousarray(np.moveaxis(values.reshape(shape[axis], *others), 0, axis))


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


def on_grid(low: int, high: int, shape: Shape, scales: Shape, dtype: str) -> NDArray:
    """Values on a grid: each block has the least and the greatest code and 1, so that no coarser grid fits."""
    random = rng(low, high, shape, scales)
    codes = random.integers(low, high + 1, shape).astype(np.int16)
    blocks = [dim // count for dim, count in zip(shape, scales, strict=True)]
    for place in np.ndindex(*scales):
        part = codes[tuple(slice(at * length, (at + 1) * length) for at, length in zip(place, blocks, strict=True))]
        part[np.unravel_index([0, 1, 2], part.shape)] = (low, high, 1)
    scale = (random.uniform(0.5, 2, scales) * 0.01).astype(FLOAT_DTYPES[dtype])
    return dequantize(codes, expand(scale, shape))


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


def ambiguous(high: int, granularity: str, dtype: str) -> bool:
    """bfloat16 has fewer values between 128 and 256 than there are codes, and scales that have common multiples."""
    return dtype == "bfloat16" and (high > 127 or (high < 4 and "block" in granularity))


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
    assert isinstance(spec, LinearQuantized)
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


@pytest.mark.parametrize(
    ("make", "near_miss"),
    [
        (lambda: normal((17,))[PLACES_64 % 17], "17 distinct values; 16 would save 20%"),
        (lambda: normal((6,))[PLACES_64 % 6], "6 distinct values; 4 would save 33%"),
        (lambda: np.where(PLACES_64 % 50 == 0, 0, normal((64, 64))), "2.0% zeros: a mask costs more than it saves"),
        (
            lambda: small_between_zeros(7),
            "7 values up to 0.001 are not zero; `detect.threshold: 0.001` would make them so and save 28 bytes",
        ),
    ],
)
def test_near_misses_are_named(make: Callable[[], NDArray], near_miss: str) -> None:
    assert near_miss in find(weight(make().astype(np.float32)), EVERY).near_misses


def small_between_zeros(count: int) -> NDArray:
    """75 % zeros, and some values that are almost."""
    values = np.where(rng(count).random((64, 64)) < 0.75, 0, normal((64, 64)))
    values.reshape(-1)[np.flatnonzero(values)[:count]] = 5e-4
    return values


@pytest.mark.parametrize(
    ("threshold", "small", "said"),
    [
        (None, 200, ""),
        (1e-3, 200, "200 values up to 0.001 are not zero: too many to be taken for noise"),
        (0.0, 200, ""),
        (0.0, 7, ""),
        (1e-3, 7, ""),
    ],
)
def test_small_values_are_mentioned_where_that_helps(threshold: float | None, small: int, said: str) -> None:
    finding = find(weight(small_between_zeros(small).astype(np.float32)), Settings(0, threshold))
    assert finding.near_misses == ((said,) if said else ())


@pytest.mark.parametrize("scale", [1, 0.05, 1e-3])
def test_small_values_of_a_weight_without_zeros_are_no_near_miss(scale: float) -> None:
    values = rng(scale).normal(0, scale, (64, 64)).astype(np.float32)
    for threshold in (None, 1e-3):
        finding = find(weight(values), Settings(0, threshold))
        assert (finding.near_misses, finding.candidates) == ((), ())


@pytest.mark.parametrize(
    ("values", "fields", "settings", "skipped"),
    [
        (np.zeros((), np.float32), {}, Settings(), "a scalar"),
        (np.zeros(5000, np.float32), {}, Settings(), "one dimension: a bias or a scale"),
        (np.zeros((23, 89), np.float32), {}, Settings(), "2,047 elements: fewer than min_elements (2,048)"),
        (np.zeros((3, 683), np.float32), {}, Settings(), ""),
        (np.zeros((3, 0), np.float32), {}, Settings(min_elements=0), "0 elements: fewer than min_elements (0)"),
        (np.zeros((64, 64), np.int64), {}, Settings(), "int64 is no type that is compressed"),
        (np.zeros((64, 64), np.float32), {"pinned": "its shape is read"}, Settings(), "its shape is read"),
        (np.zeros((64, 64), np.int8), {}, Settings(), ""),
    ],
)
def test_what_is_not_looked_at_says_why(values: NDArray, fields: Any, settings: Settings, skipped: str) -> None:
    finding = find(weight(values, **fields), settings)
    assert finding.skipped == skipped
    assert bool(finding.candidates) == (not skipped)
    if skipped:
        assert finding.evidence == skipped


@pytest.mark.parametrize(
    ("small", "survivors", "changed"),
    [(10, 1000, 10), (11, 1000, 0), (1, 99, 0), (1, 100, 1), (0, 100, 0)],
)
@pytest.mark.parametrize("structure", ["unstructured", "blocks"])
def test_the_threshold_applies_to_a_vanishing_share(small: int, survivors: int, changed: int, structure: str) -> None:
    shape = (64, 64)
    values = np.zeros(64 * 64, np.float32)
    if structure == "blocks":
        counts = np.zeros(64 * 64)
        counts[:survivors] = 1
        small = changed = 0
        values = np.where(counts.reshape(64, 64) > 0, normal(shape), 0).reshape(-1)[: 64 * 64]
        survivors = int(np.count_nonzero(values))
    else:
        values[: survivors + small] = normal((survivors + small,))
        values[:small] = 1e-3 * np.where(np.arange(small) % 2, -0.99, 0.5)
        values = rng(small).permutation(values)
    finding = find(weight(values.reshape(shape)), EVERY)
    *_, sparse = (candidate for candidate in finding.candidates if candidate.schemes == ("sparsify",))
    assert (sparse.loss.changed, sparse.loss.threshold) == (changed, 1e-3 if changed else 0.0)
    assert encodings.spec(sparse.spec).values.values.shape == (survivors + small - changed,)  # type: ignore[union-attr]
    check_every_candidate(values.reshape(shape), finding)


def test_blocks_of_exact_zeros_keep_their_small_survivors() -> None:
    mask = blocked((64, 64), (4, 1))
    values = normal((64, 64)) * mask
    values.reshape(-1)[np.flatnonzero(mask)[0]] = 1e-4
    finding = find(weight(values), EVERY)
    assert finding.structure == "blocks of 4 along axis 0"
    assert [(candidate.loss.threshold, candidate.loss.changed) for candidate in finding.candidates] == [(0.0, 0)]
    assert finding.near_misses == ()


@pytest.mark.parametrize(("threshold", "max_thresholded", "changed"), [(0.0, 0.01, 0), (1e-3, 0.0, 0), (1e-3, 0.01, 3)])
def test_thresholding_can_be_turned_off(threshold: float, max_thresholded: float, changed: int) -> None:
    values = normal((64, 64)) * (rng(5).random((64, 64)) > 0.5)
    values.reshape(-1)[:3] = 1e-5
    finding = find(weight(values.astype(np.float32)), Settings(0, threshold, max_thresholded))
    assert [candidate.loss.changed for candidate in finding.candidates] == ([0, changed] if changed else [0])


@given(strategies.weights())
def test_every_candidate_of_any_weight_is_exact(values: NDArray) -> None:
    check_every_candidate_quietly(values, find(weight(values), EVERY))


def check_every_candidate_quietly(values: NDArray, finding: Finding) -> None:
    with np.errstate(invalid="ignore"):  # the check itself compares signalling NaNs
        check_every_candidate(values, finding)


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


def test_what_can_be_stored_smaller_is_smaller_than_the_source_stores_it() -> None:
    codes = np.random.default_rng(0).integers(-128, 128, (64, 64)).astype(np.int8)
    kinds = {
        "dense": Dense(normal((64, 64))),
        "a value would change": Dense(np.where(np.arange(4096).reshape(64, 64) == 7, 5e-4, normal((64, 64)))),
        "int8": quantized(codes, 0.01),
        "int8 of 16 values": quantized((codes // 16).astype(np.int8), 0.01),
        "pruned": Dense(np.where(codes % 4, np.float32(0), normal((64, 64)))),
    }
    findings = {name: find(Weight(name, source), EVERY) for name, source in kinds.items()}
    sizes = {"dense": 16384, "a value would change": 16384, "int8": 4100, "int8 of 16 values": 4100, "pruned": 16384}
    assert {name: finding.source_nbytes for name, finding in findings.items()} == sizes
    one_by_one = {name: Detection(EVERY, (finding,)).compressible for name, finding in findings.items()}
    assert [name for name, count in one_by_one.items() if count] == ["int8 of 16 values", "pruned"]
    assert Detection(EVERY, tuple(findings.values())).compressible == 2


def quantized(codes: NDArray, scale: Any, zero_point: int | None = None) -> LinearQuantized:
    scales = np.full((1, 1), scale, np.float32)
    return LinearQuantized(
        Dense(codes), scales, None if zero_point is None else np.full((1, 1), zero_point, codes.dtype)
    )


def pruned_codes() -> LinearQuantized:
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
def test_a_quantized_source_keeps_its_codes(
    make: Callable[[], LinearQuantized], names: list[str], sparsity: float
) -> None:
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


def detection() -> Detection:
    makes = [normal((64, 64)), grouped((64, 512), 0, 8, 16), on_grid(-3, 12, (64, 64), (64, 1), "float32")]
    makes.append(makes[1] * blocked((64, 512), (1, 4)))
    findings = [replace(find(weight(values), EVERY), name=f"w{place}") for place, values in enumerate(makes)]
    findings.append(
        find(Weight("codes", quantized(np.ones((64, 64), np.int8), 0.1, 3), uses=("Conv", "MatMul")), EVERY)
    )
    findings.append(find(Weight("bias ü", Dense(np.zeros(4, np.float16))), EVERY))
    return Detection(EVERY, tuple(findings))


@pytest.mark.parametrize("settings", [{"threshold": -1e-3}, {"tolerance": float("nan")}, {"min_elements": -1}])
def test_settings_below_zero_are_none(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected a number from 0 on"):
        Settings(**settings)


def test_a_detection_is_read_back_as_it_was_written() -> None:
    written = detection()
    text = written.to_json()
    assert Detection.from_json(text) == written
    assert Detection.from_json(text).to_json() == text
    assert "bias ü" in text


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "7", '"x"', "{}", '{"findings": []}', '{"findings": [{}], "settings": [{}]}'),
        *(
            '{"findings": [], "settings": [{"unknown": 1}]}',
            '{"findings": [], "settings": []}',
            "[" * 100_000,
            "\ufeff{}",
        ),
    ],
    ids=lambda text: text[:30] or "empty",
)
def test_what_is_no_detection_is_refused(text: str) -> None:
    with pytest.raises(CompressorError, match=r"not a detection: .*Write it again with `compressor detect`"):
        Detection.from_json(text)


GARBAGE: tuple[Any, ...] = (None, 1, -1, 1.5, "x", [], ["x"], {}, {"node": "Nothing"}, True)


def places(plain: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


@given(st.data())
def test_a_detection_with_garbage_inside_is_refused_or_whole(data: st.DataObject) -> None:
    document = json.loads(DETECTION_TEXT)
    *path, last = data.draw(st.sampled_from(PLACES))
    at = document
    for key in path:
        at = at[key]
    at[last] = data.draw(st.sampled_from(GARBAGE))
    try:
        read = Detection.from_json(json.dumps(document))
    except CompressorError:
        return
    for finding in read.findings:
        choose(finding, Anything(), get("auto"))


DETECTION_TEXT = detection().to_json()
PLACES = [place for place in places(json.loads(DETECTION_TEXT)) if place]
