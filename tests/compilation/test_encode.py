"""Encoding: a weight becomes what the plan chose, or says why it cannot."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from compressor import cutting, encodings
from compressor.arrays import CODE_DTYPES, ArraySpec, NDArray, bits
from compressor.compilation import by_rows
from compressor.compilation.encode import encode, stored
from compressor.compilation.plan import Choice, as_values
from compressor.compilation.stream import InexactError
from compressor.compilation.verify import differences
from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse
from compressor.errors import CompressorError, DamageError
from compressor.kernels import dequantize
from compressor.recognition.find import find, unlooked
from compressor.recognition.findings import Settings
from compressor.recognition.schemes import Candidate, Loss
from compressor.targets import Illegal
from compressor.weight import Weight

F32 = np.dtype(np.float32)


def encoded(values: NDArray | Encoding, spec: Encoding, threshold: float = 0.0, scheme: str = "sparsify") -> Encoding:
    source = Dense(values) if isinstance(values, np.ndarray) else values
    return encode(Weight("w", source), Candidate((scheme,), spec, "", Loss(threshold)))


def halved(encoding: Encoding) -> Encoding:
    return encodings.map_arrays(lambda array, _: np.asarray(array) / 2, encoding)


def refused(_: Encoding) -> Encoding:
    raise Illegal("no such tables")


def chosen(weight: Weight) -> Choice:
    spec = encodings.spec(weight.encoding)
    return Choice(unlooked(weight), Candidate((), spec, ""), spec)


def test_the_encoding_is_the_targets_and_all_else_is_kept() -> None:
    weight = Weight("w", Dense(np.array([[2, 4]], np.float32)), ("MatMul",), "an input")
    legal = stored(halved, weight, chosen(weight))
    assert encodings.decode(legal.encoding).tolist() == [[1, 2]]
    assert (legal.name, legal.uses, legal.pinned) == ("w", ("MatMul",), "an input")


def test_data_that_the_target_refuses_is_a_form_that_fails() -> None:
    weight = Weight("w", Dense(np.ones((1, 1), np.float32)))
    with pytest.raises(InexactError, match=r"weight w float32\[1, 1\]: no such tables"):
        stored(refused, weight, chosen(weight))


def test_a_damaged_source_is_no_plan_that_fails() -> None:
    damaged = Palettized(np.array([[0, 2]], np.uint8), np.array([[[[3], [7]]]], np.float32))
    with pytest.raises(DamageError, match="indices into 2 entries, got 2"):
        encoded(damaged, Dense(ArraySpec((1, 2), F32)))


def test_a_weight_that_is_what_it_shall_be_is_not_touched() -> None:
    source = Dense(np.zeros((4, 4), np.float32))
    assert encoded(source, encodings.spec(source)) is source


def test_a_source_is_decoded_where_dense_is_smallest() -> None:
    source = Palettized(np.array([[0, 1]], np.uint8), np.array([[[[3], [7]]]], np.float32))
    result = encoded(source, Dense(ArraySpec((1, 2), F32)))
    assert isinstance(result, Dense)
    assert np.asarray(result.values).tolist() == [[3, 7]]


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, [1e-4, -1e-3, 2, -3]), (1e-3, [2, -3]), (2.0, [-3])])
def test_magnitudes_up_to_the_threshold_are_left_out(threshold: float, kept: list[float]) -> None:
    values = np.array([[0, 1e-4, -1e-3], [2, -3, -0.0]], np.float32)
    left = np.abs(values) > np.float32(threshold)
    spec = Sparse(ArraySpec((2, 3), np.dtype(bool)), Dense(ArraySpec((int(left.sum()),), F32)), (2, 3))
    result = encoded(values, spec, threshold)
    assert encodings.decode(result).tolist() == np.where(left, values, 0).tolist()
    assert np.asarray(result.values.values).tolist() == values[left].tolist()  # type: ignore[union-attr]
    assert len(kept) == int(left.sum())


PALETTE = Palettized(ArraySpec((2, 2), np.dtype(np.uint8)), ArraySpec((1, 1, 2, 1), F32))
GRID = Quantized(Dense(ArraySpec((2, 2), CODE_DTYPES["int8"])), ArraySpec((2, 1), F32))
BLOCKS = Sparse(ArraySpec((2, 1), np.dtype(bool)), Dense(ArraySpec((2,), F32)), (2, 2))


@pytest.mark.parametrize(
    ("values", "spec", "scheme", "message"),
    [
        ([[1, 2], [3, 4]], PALETTE, "palettize", "cannot be stored as palettized1: at most 2 distinct values, got 4"),
        (
            [[1, 1.2345], [3, 4]],
            GRID,
            "linear_quantize",
            r"cannot be stored as int8: values on a grid of \[2, 1\] scales for \[2, 2\]",
        ),
        ([[1, 0], [3, 4]], BLOCKS, "sparsify", r"cannot be stored as sparse: 2 values in blocks of \[1, 2\], got 4"),
        ([[1, 2], [1, 2]], PALETTE, "foil", "cannot be stored as palettized1: there is no scheme 'foil'"),
    ],
)
def test_a_plan_of_another_weight_is_refused(
    values: list[list[float]], spec: Encoding, scheme: str, message: str
) -> None:
    with pytest.raises(CompressorError, match=rf"^weight w float32\[2, 2\]: {message}$"):
        encoded(np.array(values, np.float32), spec, scheme=scheme)


@pytest.mark.parametrize("name", ["int2", "int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize("few_scales", [False, True])
def test_a_grid_that_is_encoded_row_by_row(name: str, *, few_scales: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_VALUES", 3 * 64)
    rng, code = np.random.default_rng(0), CODE_DTYPES[name]
    fewest, most = (0, 1 << bits(code)) if name.startswith("u") else (-1 << bits(code) - 1, 1 << bits(code) - 1)
    whole = rng.integers(fewest, most, (200, 64)).astype(np.int16)
    whole[:, ::16] = fewest
    whole[:, 1::16] = most - 1
    scale = rng.uniform(0.5, 2, (200, 4)).astype(np.float32)
    scale = np.ldexp(np.float32(0.375), (8 * scale).astype(int)) if few_scales else scale
    zero_point = rng.integers(0, 3, (200, 4)).astype(np.int16) if name.startswith("u") else np.zeros((200, 4), np.int16)
    values = dequantize((whole - np.repeat(zero_point, 16, 1)).reshape(200, 4, 16), scale[..., None]).reshape(200, 64)
    (form,) = [
        one for one in find(Weight("w", Dense(values)), Settings()).candidates if one.schemes == ("linear_quantize",)
    ]
    made = encode(Weight("w", Dense(values)), form)
    assert isinstance(made, Quantized)
    assert encodings.spec(made) == form.spec
    assert (encodings.dtype(made.data), made.scale.shape) == (code, (200, 4))
    assert isinstance(made.scale, Palettized) == few_scales
    assert np.array_equal(encodings.decode(made), values)


ROWS = {
    "palettized2": (3, 0.0),
    "palettized4": (16, 0.0),
    "palettized8": (256, 0.0),
    "palettized7 of a narrow table": (-100, 0.0),
    "sparse(palettized3)": (8, 0.6),
    "sparse": (0, 0.8),
    "sparse(narrow)": (-1, 0.8),
    "sparse by bits": (0, 0.5),
    "sparse(palettized4) far apart": (16, 0.99),
}
"""How many distinct values there are, 0 for all, -1 for those of float16, less for some; and the share of zeros."""


@pytest.mark.parametrize("name", ROWS)
def test_palettes_and_masks_are_the_same_some_rows_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, (entries, zeros) = np.random.default_rng(0), ROWS[name]
    values = rng.standard_normal((200, 64)).astype(np.float16 if entries < 0 else np.float32).astype(np.float32)
    if (count := abs(entries)) > 1:  # which the first rows do not have all of
        values = values.reshape(-1)[:count][np.minimum(rng.integers(0, count, (200, 64)), np.arange(200)[:, None])]
    values[rng.random(values.shape) < zeros] = 0
    values[199, values[199] == 0] = -0.0
    weight = Weight("w", Dense(values))
    found = find(weight, Settings(threshold=0.0)).candidates
    forms = [one for one in found if encodings.name(one.spec) == name.partition("(n")[0].partition(" ")[0]]
    form = min(forms, key=lambda one: encodings.nbytes(one.spec))
    whole = encode(weight, form)
    monkeypatch.setattr(cutting, "_VALUES", 3 * 64)
    made = encode(weight, form)
    for one, other in zip(encodings.arrays(made), encodings.arrays(whole), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    assert encodings.spec(made) == encodings.spec(whole) == form.spec
    assert np.array_equal(encodings.decode(made), values)
    for each in ("is_palette", "is_mask"):
        monkeypatch.setattr(by_rows, each, lambda _: False)
    for one, other in zip(encodings.arrays(encode(weight, form)), encodings.arrays(whole), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("zeros", [0, 1])
def test_rows_that_are_not_what_was_planned_are_refused(zeros: int) -> None:
    values = np.ones((4, 8), np.float32)
    values[0, :zeros] = 0
    mask = ArraySpec((4, 8), np.dtype(np.bool_))
    planned = 32 - 1 + zeros
    with pytest.raises(
        InexactError, match=rf"stored as sparse: {planned} values at 32 stored places, got {32 - zeros} "
    ):
        encoded(values, Sparse(mask, Dense(ArraySpec((planned,), F32)), (4, 8)))
    lut = ArraySpec((1, 1, 2, 1), F32)
    values[2:] = np.arange(16).reshape(2, 8)
    with pytest.raises(InexactError, match=r"at most 2 distinct values, got 1[67]"):
        encoded(values, Palettized(ArraySpec((4, 8), np.dtype(np.uint8)), lut), scheme="palettize")


def test_codes_that_the_type_has_not_are_refused() -> None:
    values = np.array([[-9, 1], [7, 1]], np.float32)
    spec = Quantized(Dense(ArraySpec((2, 2), CODE_DTYPES["int4"])), ArraySpec((2, 1), F32))
    with pytest.raises(InexactError, match=r"cannot be stored as int4: codes of int4"):
        encoded(values, spec, scheme="linear_quantize")
    assert encodings.decode(encoded(np.maximum(values, -8), spec, scheme="linear_quantize")).tolist() == [
        [-8, 1],
        [7, 1],
    ]


SIZE = (2048, 2048)


def table(entries: int) -> NDArray:
    return np.random.default_rng(0).normal(0, 1, entries).astype(np.float32)


def codes(low: int, high: int) -> NDArray:
    return np.random.default_rng(1).integers(low, high, SIZE).astype(np.int16)


def pruned(values: NDArray, rate: float) -> NDArray:
    return np.where(np.random.default_rng(2).random(SIZE, np.float32) < rate, 0, values).astype(values.dtype)


def grouped(axis: int) -> NDArray:
    tables = np.random.default_rng(3).normal(size=(256, 16)).astype(np.float32)
    groups = np.arange(2048) // 8
    return tables[groups[:, None] if axis == 0 else groups[None], codes(0, 16)]


def by_channel(shape: tuple[int, int]) -> NDArray:
    return np.random.default_rng(4).uniform(0.5, 2, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        pytest.param(lambda: table(16)[codes(0, 16)], "palettized4", id="palettized"),
        pytest.param(lambda: grouped(0), "palettized4", id="palettized by groups along axis 0"),
        pytest.param(lambda: grouped(1), "palettized4", id="palettized by groups along axis 1"),
        pytest.param(lambda: pruned(by_channel(SIZE), 0.75), "sparse", id="pruned"),
        pytest.param(lambda: pruned(by_channel(SIZE), 0.1), "sparse", id="hardly pruned"),
        pytest.param(lambda: pruned(table(16)[codes(0, 16)], 0.75), "sparse(palettized4)", id="pruned and palettized"),
        pytest.param(lambda: dequantize(codes(-127, 128), by_channel((2048, 1))), "int8", id="int8 along axis 0"),
        pytest.param(lambda: dequantize(codes(-127, 128), by_channel((1, 2048))), "int8", id="int8 along axis 1"),
        pytest.param(lambda: by_channel(SIZE), "dense", id="dense"),
    ],
)
def test_memory_stays_near_twice_the_weight(make: Callable[[], NDArray], name: str) -> None:
    values = make()
    tracemalloc.start()
    try:
        finding = find(Weight("w", Dense(values)), Settings(), sampled=True)
        form = min([*finding.candidates, as_values(finding)], key=lambda form: encodings.nbytes(form.spec))
        assert encodings.name(form.spec) == name
        assert tracemalloc.get_traced_memory()[1] < 2 * values.nbytes
        tracemalloc.reset_peak()
        result = encode(Weight("w", Dense(values)), form)
        assert tracemalloc.get_traced_memory()[1] < 2 * values.nbytes
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        assert differences(values, encodings.decode(result), 1e-3)[0] == 0
        assert tracemalloc.get_traced_memory()[1] - held < 2.1 * values.nbytes
    finally:
        tracemalloc.stop()
