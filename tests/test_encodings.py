"""The five nodes: what they stand for, what they take, what contradicts itself."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor import encodings
from compressor.arrays import CODE_DTYPES, STORED_DTYPES, UINT4, ArraySpec, NarrowArray, NDArray, to_bytes
from compressor.encodings import Concatenated, Dense, Encoding, Palettized, Quantized, Sparse, decode, is_gaps
from compressor.errors import DamageError
from compressor.packing import pack
from compressor.stages.reference.formats import forms
from tests import strategies
from tests.elementwise import elementwise
from tests.strategies import bits_of

BOOL = np.dtype(np.bool_)
F32 = np.dtype(np.float32)


def f32(*values: Any) -> NDArray:
    return np.array(values, np.float32)


def of_shape(dtype: Any, *shape: int) -> ArraySpec:
    return ArraySpec(shape, np.dtype(dtype))


@given(strategies.encodings())
def test_decode_means_what_the_nodes_say(encoding: Encoding) -> None:
    assert bits_of(decode(encoding)) == bits_of(elementwise(encoding))


def test_forms_that_share_a_name_are_told_apart_in_the_words_of_the_formats() -> None:
    told = {words: encodings.spelled_out(form) for _, words, form in forms() if isinstance(form, Sparse)}
    assert told == {
        "Sparse(mask, Dense)": "sparse by a mask",
        "Sparse(mask of blocks, Dense)": "sparse by a mask of blocks",
        "Sparse(distances, Dense)": "sparse by distances",
        "Sparse(places, Dense)": "sparse by places",
        "Sparse(mask, Palettized)": "sparse(palettized4) by a mask",
        "Sparse(mask, Quantized)": "sparse(int8) by a mask",
    }


@given(strategies.encodings())
def test_a_spec_knows_all_but_the_values(encoding: Encoding) -> None:
    spec, value = encodings.spec(encoding), decode(encoding)
    assert (encodings.shape(spec), encodings.dtype(spec)) == (value.shape, value.dtype)
    assert encodings.nbytes(spec) == encodings.nbytes(encoding)
    assert encodings.name(spec) == encodings.name(encoding)
    assert all(isinstance(array, ArraySpec) for array in encodings.arrays(spec))
    assert spec == encodings.spec(spec)
    assert hash(spec) == hash(encodings.spec(encoding))
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301 - our own


@given(strategies.encodings())
def test_the_bytes_counted_are_the_bytes_stored(encoding: Encoding) -> None:
    def stored(node: Encoding) -> int:
        match node:
            case Concatenated(parts):
                return sum(map(stored, parts))
            case Dense(NarrowArray() as narrow):
                return len(to_bytes(np.asarray(narrow.values)))
            case Dense(values):
                return len(to_bytes(np.asarray(values)))
            case Quantized(data, Palettized() as scales, zero_point):
                return (
                    stored(data) + stored(scales) + (0 if zero_point is None else len(to_bytes(np.asarray(zero_point))))
                )
            case Quantized(data, scale, zero_point):
                parameters = [each for each in (scale, zero_point) if each is not None]
                return stored(data) + sum(len(to_bytes(np.asarray(each))) for each in parameters)
            case Palettized(indices, lut):
                return len(pack(np.asarray(indices), encodings.index_bits(lut))) + len(to_bytes(np.asarray(lut)))
            case Sparse(mask, values):
                return len(to_bytes(np.asarray(mask)) if is_gaps(mask) else pack(np.asarray(mask), 1)) + stored(values)

    assert encodings.nbytes(encoding) == stored(encoding)


@given(strategies.encodings())
def test_map_arrays_keeps_the_tree(encoding: Encoding) -> None:
    seen: list[int] = []

    def copy(array: Any, _: int) -> NDArray:
        seen.append(id(array))
        return np.array(array)

    copied = encodings.map_arrays(copy, encoding)
    assert seen == [id(array) for array in encodings.arrays(encoding)]
    assert bits_of(decode(copied)) == bits_of(decode(encoding))


@pytest.mark.parametrize(
    ("encoding", "value"),
    [
        pytest.param(
            Sparse(np.array([[1], [1], [0], [1]], bool), Dense(f32(1, 2, 4)), (4, 1)), [[1], [2], [0], [4]], id="sparse"
        ),
        pytest.param(
            Sparse(np.array([0, 1, 0, 0, 0, 0, 0, 1], bool), Dense(f32(7, 56.3)), (8,)),
            [0, 7, 0, 0, 0, 0, 0, np.float32(56.3)],
            id="sparse of rank 1",
        ),
        pytest.param(
            Sparse(np.array([[1, 0]], bool), Dense(f32(1, 2, 3, 4)), (2, 4)), [[1, 2, 0, 0], [3, 4, 0, 0]], id="blocks"
        ),
        pytest.param(
            Quantized(Dense(np.array([[1, 2, 3], [1, 2, 3]], np.int8)), f32([2], [4]), np.array([[1], [2]], np.int8)),
            [[0, 2, 4], [-4, 0, 4]],
            id="affine",
        ),
        pytest.param(
            Quantized(Dense(np.array([[-128, 127]], np.int8)), f32([0.5]), np.array([[127]], np.int8)),
            [[-127.5, 0]],
            id="codes further apart than their type",
        ),
        pytest.param(
            Quantized(Dense(np.array([[0, 255]], np.uint8)), f32([0.5]), np.array([[255]], np.uint8)),
            [[-127.5, 0]],
            id="unsigned codes below their zero point",
        ),
        pytest.param(
            Quantized(Dense(np.array([[1, -2, 3, 4]], np.int8)), f32([0, np.inf])),
            [[0, 0, np.inf, np.inf]],
            id="scales that are no number to divide by",
        ),
        pytest.param(
            Quantized(Dense(np.array([[1, 2]], np.int8)), f32([3e38])),
            [[np.float32(3e38), np.inf]],
            id="a product beyond the type",
        ),
        pytest.param(
            Palettized(
                np.array([[2, 3], [3, 0], [1, 0], [3, 0], [2, 1], [0, 3]], np.uint8),
                f32([[[1], [5], [9], [13]]], [[[2], [10], [18], [26]]]),
            ),
            [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]],
            id="grouped palettes",
        ),
        pytest.param(
            Palettized(np.array([[1, 0]], np.uint8), f32([[[1, 2], [3, 4]]]), 1), [[3, 4, 1, 2]], id="vector palette"
        ),
        pytest.param(
            Palettized(np.array([[1, 0]], np.uint8), f32([[[1, 2], [3, 4]]]), 0), [[3, 1], [4, 2]], id="along axis 0"
        ),
        pytest.param(
            Sparse(
                np.array([[1, 0, 1], [0, 1, 1]], bool),
                Palettized(np.array([0, 1, 1, 0], np.uint8), f32([[[1], [2]]], [[[3], [4]]])),
                (2, 3),
            ),
            [[1, 0, 2], [0, 4, 3]],
            id="sparse grouped palettes",
        ),
        pytest.param(
            Quantized(Palettized(np.array([[1, 0, 1]], np.uint8), np.array([[[[-3], [5]]]], np.int8)), f32([2])),
            [[10, -6, 10]],
            id="palettized codes",
        ),
        pytest.param(Dense(f32()), [], id="empty"),
        pytest.param(Quantized(Dense(np.array(3, np.int8)), np.float32(2) * np.ones((), np.float32)), 6, id="scalar"),
        pytest.param(
            Sparse(np.zeros((1, 1), bool), Palettized(np.zeros(0, np.uint8), f32([[[1]]])), (2, 2)),
            [[0, 0], [0, 0]],
            id="nothing left",
        ),
    ],
)
def test_decoding_has_known_answers(encoding: Encoding, value: Any) -> None:
    decoded = decode(encoding)
    assert decoded.dtype == np.float32
    assert decoded.tolist() == value


def test_sparse_blockwise_has_known_answers() -> None:
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]], bool)
    codes = np.array([10, 11, 3, 4, 5, 6, 7, 8, 9], np.int8)
    scale, offset = f32([0.1], [0.2], [0.3], [0.4]), np.array([[1], [2], [3], [4]], np.int8)
    decoded = decode(Sparse(mask, Quantized(Dense(codes), scale, offset), (4, 4)))
    assert decoded[mask] == pytest.approx([0.9, 1, 0.2, 0.4, 0.6, 0.9, 1.2, 1.6, 2])
    assert not decoded[~mask].any()


@pytest.mark.parametrize(
    ("entries", "bits"),
    [
        *((1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (7, 3), (8, 3), (9, 4), (16, 4), (17, 5), (33, 6), (64, 6)),
        *((65, 7), (129, 8), (200, 8), (256, 8)),
    ],
)
def test_bits_follow_from_the_table(entries: int, bits: int) -> None:
    lut = of_shape(F32, 1, 1, entries, 1)
    assert encodings.index_bits(lut) == bits
    encoding = Palettized(of_shape(np.uint8, 21, 121), lut)
    assert encodings.name(encoding) == f"palettized{bits}"
    assert encodings.nbytes(encoding) == -(-2541 * bits // 8) + 4 * entries


INT8_DATA = Dense(of_shape(np.int8, 4, 6))
PALETTE = Palettized(of_shape(np.uint8, 4, 6), of_shape(F32, 1, 1, 16, 1))


@pytest.mark.parametrize(
    ("encoding", "name", "nbytes"),
    [
        (Dense(of_shape(F32, 4, 6)), "dense", 96),
        (Dense(of_shape(np.float16, 4, 6)), "dense", 48),
        (INT8_DATA, "int8", 24),
        (PALETTE, "palettized4", 12 + 64),
        (Quantized(INT8_DATA, of_shape(F32, 4, 1)), "int8", 24 + 16),
        (Quantized(INT8_DATA, of_shape(F32, 4, 1), of_shape(np.int8, 4, 1)), "int8", 24 + 16 + 4),
        (
            Quantized(Dense(of_shape(CODE_DTYPES["uint4"], 3, 3)), of_shape(np.float16, 1, 3)),
            "uint4",
            5 + 6,
        ),
        (
            Quantized(Palettized(of_shape(np.uint8, 4, 6), of_shape(np.int8, 1, 1, 4, 1)), of_shape(F32, 1, 1)),
            "int8(palettized2)",
            6 + 4 + 4,
        ),
        (Sparse(of_shape(BOOL, 4, 6), Dense(of_shape(F32, 5)), (4, 6)), "sparse", 3 + 20),
        (Sparse(of_shape(BOOL, 4, 1), Dense(of_shape(F32, 6)), (4, 6)), "sparse", 1 + 24),
        (
            Sparse(of_shape(BOOL, 21, 121), Palettized(of_shape(np.uint8, 762), of_shape(F32, 1, 1, 15, 1)), (21, 121)),
            "sparse(palettized4)",
            318 + 381 + 60,
        ),
        (
            Quantized(Palettized(of_shape(np.uint8, 4, 6), of_shape(F32, 1, 1, 16, 1)), of_shape(F32, 4, 1)),
            "scaled(palettized4)",
            12 + 64 + 16,
        ),
        (
            Quantized(
                Dense(ArraySpec((4, 6), F32, STORED_DTYPES["float8_e4m3fn"])),
                ArraySpec((4, 2), F32, STORED_DTYPES["float8_e8m0fnu"]),
                None,
                (1, 5),
            ),
            "scaled(float8_e4m3fn)",
            24 + 8,
        ),
        (
            Concatenated(
                (Quantized(Dense(of_shape(np.int8, 4, 6)), of_shape(F32, 1, 1)), Dense(of_shape(F32, 1, 6))), 0
            ),
            "concatenated(int8, dense)",
            24 + 4 + 24,
        ),
        (
            Sparse(of_shape(BOOL, 4, 6), Quantized(Dense(of_shape(np.int8, 5)), of_shape(F32, 4, 1)), (4, 6)),
            "sparse(int8)",
            3 + 5 + 16,
        ),
    ],
)
def test_names_and_bytes_follow_from_specs(encoding: Encoding, name: str, nbytes: int) -> None:
    assert (encodings.name(encoding), encodings.nbytes(encoding)) == (name, nbytes)


@pytest.mark.parametrize(
    ("node", "fields", "message"),
    [
        (
            Palettized,
            (of_shape(np.int8, 4, 6), of_shape(F32, 1, 1, 4, 1)),
            "uint8 indices into 1 to 256 entries, got int8",
        ),
        (Palettized, (of_shape(np.uint8, 4, 6), of_shape(F32, 1, 1, 257, 1)), "got uint8 into 257"),
        (Palettized, (of_shape(np.uint8, 4, 6), of_shape(F32, 1, 1, 0, 1)), "got uint8 into 0"),
        (Palettized, (of_shape(np.uint8, 4, 6), of_shape(F32, 1, 1, 4, 2)), "vectors of 2 values along axis None"),
        (Palettized, (of_shape(np.uint8, 4, 6), of_shape(F32, 1, 1, 4, 1), 0), "vectors of 1 values along axis 0"),
        (Palettized, (of_shape(np.uint8, 4, 6), of_shape(F32, 3, 1, 4, 1)), r"a lut whose shape divides \[4, 6\]"),
        (Palettized, (of_shape(np.uint8, 4, 6), of_shape(F32, 1, 4, 1)), "a lut of rank 2"),
        (
            Quantized,
            (Dense(of_shape(F32, 4, 6)), of_shape(np.float16, 4, 1)),
            "floats no wider than their float scale, got float32 and float16",
        ),
        (
            Quantized,
            (Dense(of_shape(F32, 4, 6)), of_shape(F32, 4, 1), of_shape(F32, 4, 1)),
            "as integer data and scale have them",
        ),
        (Quantized, (INT8_DATA, of_shape(np.int8, 4, 1)), "their float scale, got int8 and int8"),
        (Quantized, (INT8_DATA, of_shape(F32, 4, 2), None, (1, 4, 1)), r"a block of rank 2, got \[1, 4, 1\]"),
        (Quantized, (INT8_DATA, of_shape(F32, 4, 3), None, (1, 4)), r"blocks \[1, 4\] of \[4, 6\], got \[4, 3\]"),
        (Concatenated, ((INT8_DATA,), 0), "two parts or more along an axis of theirs, got 1 along 0"),
        (Concatenated, ((INT8_DATA, INT8_DATA), 2), "got 2 along 2"),
        (
            Concatenated,
            ((Dense(of_shape(F32, 4, 6)), Dense(of_shape(F32, 2, 5))), 0),
            r"alike but along axis 0, got float32\[4, 6\], float32\[2, 5\]",
        ),
        (Concatenated, ((Dense(of_shape(F32, 4, 6)), Dense(of_shape(np.float16, 4, 6))), 0), r"float16\[4, 6\]"),
        (Quantized, (INT8_DATA, of_shape(F32, 5, 1)), r"a scale whose shape divides \[4, 6\], got \[5, 1\]"),
        (Quantized, (INT8_DATA, of_shape(F32, 4)), "a scale of rank 2"),
        (Quantized, (INT8_DATA, of_shape(F32, 4, 1), of_shape(np.uint8, 4, 1)), r"a zero point int8\[4, 1\]"),
        (Quantized, (INT8_DATA, of_shape(F32, 4, 1), of_shape(np.int8, 1, 1)), r"got int8\[1, 1\]"),
        (Sparse, (of_shape(np.uint8, 4, 6), Dense(of_shape(F32, 5)), (4, 6)), r"gaps \[G\], got \[4, 6\]"),
        (
            Sparse,
            (of_shape(np.int8, 4, 6), Dense(of_shape(F32, 5)), (4, 6)),
            "gaps of 4 or 8 bits or int32 places, got",
        ),
        (Sparse, (of_shape(BOOL, 24), Dense(of_shape(F32, 5)), (4, 6)), r"a mask of rank 2, got \[24\]"),
        (Sparse, (of_shape(BOOL, 4, 5), Dense(of_shape(F32, 5)), (4, 6)), r"a mask whose shape divides \[4, 6\]"),
    ],
)
def test_contradictions_are_refused(node: Any, fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        node(*fields)


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (np.ones((1, 1), np.bool_), 1 << 80),
        (np.zeros((1, 1), np.bool_), 0),
        (np.array([5, 7], np.int32), 2),
        (np.array([5, 7, 3], UINT4), 3),
        (np.array([5, 255, 3], np.uint8), 2),
    ],
)
def test_a_mask_that_claims_more_than_there_is_costs_nothing(mask: NDArray, told: int) -> None:
    """A few bytes can say that a weight is as large as no memory is."""
    whole = (1 << 40, 1 << 40) if mask.dtype == np.bool_ else (1 << 15, 1 << 15)
    with pytest.raises(DamageError, match=f"a mask of {told} set bits for 1 values"):
        decode(Sparse(mask, Dense(np.ones(1, np.float32)), whole))


@pytest.mark.parametrize("values", [1, 3])
def test_a_mask_and_its_values_must_agree(values: int) -> None:
    with pytest.raises(ValueError, match=f"a mask of 2 set bits for {values} values"):
        decode(Sparse(np.array([[1, 0, 1]], bool), Dense(np.ones(values, np.float32)), (1, 3)))


def test_an_index_outside_its_table_is_refused() -> None:
    with pytest.raises(ValueError, match="indices into 3 entries, got 3"):
        decode(Palettized(np.array([[0, 3]], np.uint8), np.zeros((1, 1, 3, 1), np.float32)))


@given(st.data())
def test_a_huge_block_is_decoded_like_a_small_one(data: st.DataObject) -> None:
    """Blocks of the loops are longer than the arrays of the other tests."""
    generator = strategies.random(data.draw)
    shape = (3, 1 << 14, 2)
    indices = generator.integers(0, 5, shape).astype(np.uint8)
    lut = generator.normal(size=(3, 1, 2, 5, 1)).astype(np.float32)
    first, _, last = np.indices(shape)
    assert np.array_equal(decode(Palettized(indices, lut)), lut[first, 0, last, indices, 0])
    codes = generator.integers(-128, 128, shape).astype(np.int8)
    scale = generator.normal(size=(1, 4, 2)).astype(np.float16)
    wide = (codes * np.repeat(scale, 1 << 12, 1).astype(np.float32)).astype(np.float16)
    assert np.array_equal(decode(Quantized(Dense(codes), scale)), wide)
    mask = codes > 100
    assert np.array_equal(decode(Sparse(mask, Dense(codes[mask]), shape)), np.where(mask, codes, 0))
