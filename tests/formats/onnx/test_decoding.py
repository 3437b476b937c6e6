"""What a weight is stored as: as many bytes as the encoding takes, in slices that can be mapped again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compressor.arrays import CODE_DTYPES, ArraySpec, MappedArray
from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse, nbytes
from compressor.formats.onnx.bodies import straddling
from compressor.formats.onnx.decoding import lower, needs_opset, why_not
from compressor.formats.onnx.functions import BODIES, function
from compressor.formats.onnx.quantized import is_linear
from compressor.packing import pack

F32, U8, BOOL = np.dtype(np.float32), np.dtype(np.uint8), np.dtype(np.bool_)


def palettized(shape: tuple[int, ...], entries: int) -> Palettized:
    return Palettized(ArraySpec(shape, U8), ArraySpec((*(1,) * len(shape), entries, 1), F32))


def quantized(code: str, shape: tuple[int, ...], scale: tuple[int, ...]) -> Quantized:
    return Quantized(Dense(ArraySpec(shape, CODE_DTYPES[code])), ArraySpec(scale, F32))


@pytest.mark.parametrize(
    ("encoding", "opset", "stored"),
    [
        (Dense(ArraySpec((6, 8), F32)), 18, {"w": (1, (6, 8))}),
        (palettized((6, 8), 2), 25, {"w.indices": (2, (6,)), "w.lut": (1, (1, 1, 2, 1))}),
        (palettized((6, 8), 4), 25, {"w.indices": (25, (1, 48)), "w.lut": (1, (1, 1, 4, 1))}),
        (palettized((6, 8), 4), 21, {"w.indices": (2, (12,)), "w.lut": (1, (1, 1, 4, 1))}),
        (palettized((6, 8), 16), 21, {"w.indices": (21, (1, 48)), "w.lut": (1, (1, 1, 16, 1))}),
        (palettized((6, 8), 16), 18, {"w.indices": (2, (24,)), "w.lut": (1, (1, 1, 16, 1))}),
        (palettized((6, 8), 64), 18, {"w.indices": (2, (12, 3)), "w.lut": (1, (1, 1, 64, 1))}),
        (palettized((6, 80), 16), 21, {"w.indices": (21, (6, 80)), "w.lut": (1, (1, 1, 16, 1))}),
        (palettized((6, 8), 256), 18, {"w.indices": (2, (1, 48)), "w.lut": (1, (1, 1, 256, 1))}),
        (quantized("int4", (6, 8), (1, 8)), 21, {"w.codes": (22, (6, 8)), "w.scale": (1, (1, 8))}),
        (quantized("int4", (6, 8), (2, 8)), 18, {"w.codes": (2, (24,)), "w.scale": (1, (2, 8))}),
        (
            Sparse(ArraySpec((6, 8), BOOL), Dense(ArraySpec((11,), F32)), (6, 8)),
            18,
            {"w.mask": (2, (6,)), "w.values": (1, (11,))},
        ),
    ],
)
def test_stored_tensors_take_the_bytes_of_the_encoding(
    encoding: Encoding, opset: int, stored: dict[str, tuple[int, tuple[int, ...]]]
) -> None:
    parts = lower("w", encoding, opset).parts
    assert {part.name: (part.data_type, part.dims) for part in parts} == stored
    assert sum(part.nbytes for part in parts) == nbytes(encoding)


def test_a_run_that_is_not_full_is_stored_whole() -> None:
    (codes, _) = lower("w", palettized((7,), 64), 18).parts
    assert codes.dims == (2, 3)
    assert codes.nbytes == 6


@pytest.mark.parametrize("width", [3, 5, 6, 7])
def test_a_code_lies_in_the_bytes_in_which_it_begins_and_ends(width: int) -> None:
    (first, last), (right, left) = straddling(width)
    codes = np.random.default_rng(width).integers(0, 1 << width, len(first)).astype(np.uint8)
    run = pack(codes, width)
    found = (run[first] >> np.array(right, np.uint8) | run[last] << np.array(left, np.uint8)) & ((1 << width) - 1)
    np.testing.assert_array_equal(found, codes)
    assert all(0 <= shift < 8 for shift in (*right, *left))


def test_what_decodes_is_small() -> None:
    sizes = {name: function(name, 18).ByteSize() for name in BODIES if not name.startswith(("group", "concatenated"))}
    assert {name: size for name, size in sizes.items() if size > 830} == {"places_of_blocks": 947}


def test_a_weight_adds_few_constants() -> None:
    """ONNX Runtime opens a model in a time that grows with the square of the constants that are folded."""
    constants = {
        name: sum(node.op_type == "Constant" for node in function(name, 18).node)
        for name in (
            "places_by_bits",
            "sparse_to_dense",
            "lut_to_dense_along",
            "lut_to_dense_by_row",
            "dequantize_float32",
        )
    }
    assert sum(constants.values()) <= 6, constants


class Packed(MappedArray):
    """Codes that nobody unpacks."""

    def __array__(self, *_: object) -> np.ndarray:
        raise AssertionError("unpacked")


def test_packed_codes_of_a_file_are_copied_as_they_are(tmp_path: Path) -> None:
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    (tmp_path / "codes").write_bytes(b"12" + pack(indices, 4).tobytes())
    mapped = Packed(tmp_path / "codes", 2, (3, 4), U8, 4)
    lut = np.zeros((1, 1, 16, 1), np.float32)
    for opset in (18, 21):
        assert lower("w", Palettized(mapped, lut), opset).parts[0].payload().tobytes() == pack(indices, 4).tobytes()


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [
        (Dense(ArraySpec((0,), F32)), ""),
        (palettized((1 << 14, 1 << 14), 4), ""),
        (palettized(((1 << 14) + 1, 1 << 14), 4), "ONNX Runtime folds values of at most 1 GiB, decoding takes more"),
        (palettized((0, 3), 4), "it has no elements"),
        (palettized((1,) * 9, 4), "decoding takes at most 8 axes"),
    ],
)
def test_what_cannot_be_lowered_says_why(encoding: Encoding, reason: str) -> None:
    assert why_not(encoding) == reason


@pytest.mark.parametrize(("entries", "opset"), [(2, 13), (8, 18), (16, 13), (32, 18), (64, 18), (128, 18), (256, 13)])
def test_codes_that_straddle_bytes_need_bitwise_operators(entries: int, opset: int) -> None:
    assert needs_opset(palettized((5, 5), entries)) == opset


@pytest.mark.parametrize(
    ("scale", "opset", "linear"),
    [((1, 1), 13, True), ((1, 8), 13, True), ((2, 8), 20, False), ((2, 8), 21, True), ((2, 4), 21, False)],
)
def test_scales_that_dequantize_linear_has(scale: tuple[int, int], opset: int, *, linear: bool) -> None:
    assert is_linear(quantized("int8", (6, 8), scale), opset) is linear


def test_a_table_of_codes_needs_no_type_of_floats() -> None:
    table = Palettized(ArraySpec((5, 5), U8), ArraySpec((1, 1, 16, 1), np.dtype(np.int8)))
    assert needs_opset(table) == needs_opset(palettized((5, 5), 16))
