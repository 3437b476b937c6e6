"""The tensors of a layer: what compressed-tensors' own compressor makes of the same codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

from compressor.arrays import CODE_DTYPES, FLOAT_DTYPES, NDArray, PackedArray
from compressor.encodings import Dense, Palettized, Quantized, decode, map_arrays
from compressor.formats.compressed_tensors import layers
from compressor.formats.compressed_tensors import schemes as named
from compressor.packing import pack
from tests.formats.compressed_tensors.decompressed import array

RANDOM = np.random.default_rng(0)
SHAPES = ((32, 128), (5, 24), (7, 96), (64, 33))


def counted(shape: tuple[int, int], width: int, counts: tuple[int, int], *, asymmetric: bool) -> Quantized:
    """Codes of fewer bits than their type has, as places in the table of all of them."""
    kind = "int4" if width < 4 else "int8"
    code = CODE_DTYPES[f"u{kind}" if asymmetric else kind]
    least = 0 if asymmetric else -(1 << width - 1)
    table = np.arange(least, least + (1 << width)).astype(code).reshape(1, 1, -1, 1)
    data = Palettized(RANDOM.integers(0, 1 << width, shape).astype(np.uint8), table)
    zero_point = RANDOM.integers(0, 1 << width, counts).astype(code) if asymmetric else None
    return Quantized(data, scales(counts, "float32"), zero_point)


def scales(counts: tuple[int, ...], kind: str) -> NDArray:
    return (RANDOM.random(counts) + 0.5).astype(np.float32).astype(FLOAT_DTYPES[kind])


def quantized(shape: tuple[int, int], code: str, counts: tuple[int, int], kind: str, *, asymmetric: bool) -> Quantized:
    width = int(code.removeprefix("uint").removeprefix("int"))
    low = 0 if code.startswith("u") else -(1 << width - 1)
    codes = RANDOM.integers(low, low + (1 << width), shape).astype(CODE_DTYPES[code])
    zero_point = RANDOM.integers(low, low + (1 << width), counts).astype(CODE_DTYPES[code])
    return Quantized(Dense(codes), scales(counts, kind), zero_point if asymmetric else None)


def scheme(encoding: Quantized) -> QuantizationScheme:
    how = named.scheme(encoding)
    given = {
        "num_bits": how.bits,
        "type": how.type,
        "symmetric": how.symmetric,
        "strategy": how.strategy,
        "group_size": how.group,
        "block_structure": None if how.block is None else list(how.block),
    }
    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**given), format=how.format)


def compressor(encoding: Quantized) -> Any:
    return BaseCompressor.get_value_from_registry(named.scheme(encoding).format)


def reference(encoding: Quantized) -> dict[str, Any]:
    """The tensors of their compressor, from the values."""
    state = {"weight": tensor(decode(encoding)), "weight_scale": tensor(np.asarray(encoding.scale))}
    if encoding.zero_point is not None:
        state["weight_zero_point"] = torch.from_numpy(np.asarray(encoding.zero_point).astype(np.int8))
    return dict(compressor(encoding).compress(state, scheme(encoding)))


def tensor(values: NDArray) -> torch.Tensor:
    if values.dtype == FLOAT_DTYPES["bfloat16"]:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("code", CODE_DTYPES)
@pytest.mark.parametrize("asymmetric", [False, True])
def test_tensors_are_those_of_their_compressor(code, shape, kind, asymmetric) -> None:
    rows, columns = shape
    groups = next((columns // size for size in (32, 8, 3) if columns % size == 0), 1)
    for counts in ((1, 1), (rows, 1), (rows, groups), (1, columns), (1, groups)):
        encoding = layers.legal(quantized(shape, code, counts, kind, asymmetric=asymmetric))
        made, expected = layers.values("m.", encoding), reference(encoding)
        assert {name.removeprefix("m.") for name in made} == set(expected)
        planned = layers.tensors("m.", encoding)
        for name, values in expected.items():
            got = made[f"m.{name}"]
            assert (got.dtype, got.shape) == planned[f"m.{name}"]
            assert got.dtype.name == str(values.dtype).removeprefix("torch.")
            assert got.shape == tuple(values.shape)
            if kind == "bfloat16" and name in {"weight", "weight_packed"}:
                continue  # their quotient is rounded, and its code another one
            np.testing.assert_array_equal(got, array(values), f"{name} of {counts}")
        state = {name.removeprefix("m."): tensor(values) for name, values in made.items()}
        back = compressor(encoding).decompress(state, scheme(encoding))["weight"]
        np.testing.assert_array_equal(array(back), decode(encoding), f"back of {counts}")


@pytest.mark.parametrize("width", [3, 5, 6, 7])
@pytest.mark.parametrize("shape", [(32, 128), (5, 161), (40, 161)])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_codes_of_any_number_of_bits(width: int, shape: tuple[int, int], asymmetric) -> None:
    for counts in ((1, 1), (shape[0], 1), (shape[0], 4 if shape[1] == 128 else 7)):
        encoding = counted(shape, width, counts, asymmetric=asymmetric)
        assert isinstance(encoding.data, Palettized)
        assert layers.is_count(encoding.data)
        made = layers.legal(encoding)
        np.testing.assert_array_equal(decode(made), decode(encoding))
        assert named.scheme(made).bits == width
        expected = reference(made)
        packed = map_arrays(lambda a, w: PackedArray(pack(a, w), a.shape, a.dtype, w) if w < 8 else a, made)
        for stored in (made, packed):
            got = {name.removeprefix("m."): array for name, array in layers.values("m.", stored).items()}
            assert {name: (one.dtype, one.shape) for name, one in got.items()} == {
                name.removeprefix("m."): one for name, one in layers.tensors("m.", made).items()
            }
            for name, values in expected.items():
                np.testing.assert_array_equal(got[name], array(values), f"{name} of {counts}")
        state = {name: tensor(values) for name, values in got.items()}
        back = compressor(made).decompress(state, scheme(made))["weight"]
        np.testing.assert_array_equal(array(back), decode(encoding))


def test_a_table_that_is_no_count_is_none() -> None:
    data = counted((32, 128), 5, (32, 1), asymmetric=False).data
    assert isinstance(data, Palettized)
    assert not layers.is_count(replace(data, lut=np.asarray(data.lut)[:, :, ::-1]))
    assert not layers.is_count(replace(data, lut=np.asarray(data.lut)[:, :, :-1]))
    four = Palettized(np.zeros((32, 24), np.uint8), np.arange(-16, 16).astype(np.int8).reshape(1, 1, 32, 1))
    assert not layers.is_count(four)  # 4 words either way: nobody sees whether codes lie across them


def test_codes_that_are_packed_already_are_not_unpacked(monkeypatch) -> None:
    encoding = quantized((16, 64), "int4", (16, 2), "float32", asymmetric=False)
    plain = layers.values("", encoding)["weight_packed"]
    codes = decode(encoding.data)
    packed = Dense(PackedArray(pack(codes, 4), codes.shape, codes.dtype, 4))
    monkeypatch.setattr(PackedArray, "__array__", None)
    np.testing.assert_array_equal(layers.values("", Quantized(packed, encoding.scale))["weight_packed"], plain)


def test_bytes_fill_words_too() -> None:
    """VLLM and SGLang load bytes that are not packed with quantized activations alone."""
    ragged = layers.legal(quantized((5, 33), "int8", (5, 1), "float32", asymmetric=False))
    assert named.scheme(ragged).format == "pack-quantized"
    assert layers.values("", ragged)["weight_packed"].shape == (5, 9)


@pytest.mark.parametrize("counts", [(1, 1), (2, 1), (4, 3)])
def test_blocks_of_rows_are_groups_of_each_row(counts: tuple[int, int]) -> None:
    """VLLM has no kernel for integers in blocks."""
    encoding = quantized((8, 96), "uint4", counts, "bfloat16", asymmetric=True)
    made = layers.legal(encoding)
    assert named.scheme(made).strategy == ("channel" if counts[1] == 1 else "group")
    np.testing.assert_array_equal(decode(made), decode(encoding))
