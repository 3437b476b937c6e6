"""The tensors of a layer whose codes are floats: what compressed-tensors' own compressors make of the same values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme

from compressor.arrays import BFLOAT16, NarrowArray, NDArray
from compressor.encodings import Dense, Palettized, Quantized, decode, spec
from compressor.formats import narrow_floats
from compressor.formats.compressed_tensors import layers, schemes
from compressor.formats.compressed_tensors.settings import settings
from compressor.formats.narrow_floats import E2M1, E2M3, E4M3, E8M0, quotients, table
from compressor.targets import Illegal
from compressor.targets.compressed_tensors import floats
from tests.formats.compressed_tensors.decompressed import array

RANDOM = np.random.default_rng(0)
F32 = np.dtype(np.float32)
ROWS, COLUMNS = 48, 192


def of_bytes(counts: tuple[int, int], dtype: Any, block: tuple[int, int] | None = None) -> Quantized:
    codes = RANDOM.integers(0, 0x7F, (ROWS, COLUMNS)).astype(np.uint8) | RANDOM.choice([0, 0x80], (ROWS, COLUMNS))
    codes[:, ::4] = 0x7E  # the largest one, by which the library finds the others
    scale = (RANDOM.random(counts) + 0.5).astype(np.float32).astype(dtype)
    return Quantized(Dense(NarrowArray(codes.astype(np.uint8).view(E4M3), np.dtype(dtype))), scale, None, block)


def of_table(kind: Any, scale: Any) -> Quantized:
    entries = table(kind)
    codes = RANDOM.integers(0, entries.size, (ROWS, COLUMNS)).astype(np.uint8)
    codes[codes == entries.size // 2] = 0  # the library writes no -0.0
    last = BFLOAT16 if scale.dtype == F32 else None
    return Quantized(Palettized(codes, entries.astype(scale.dtype).reshape(1, 1, -1, 1)), scale, rounded=last)


def powers(group: int) -> NarrowArray:
    exponents = RANDOM.integers(100, 140, (ROWS, COLUMNS // group)).astype(np.uint8)
    return NarrowArray(exponents.view(E8M0), BFLOAT16)


def divided(divisor: float) -> Palettized:
    codes = RANDOM.integers(1, 127, (ROWS, COLUMNS // 16)).astype(np.uint8)
    return Palettized(codes, quotients(np.float32(divisor)).reshape(1, 1, -1, 1))


FORMS: dict[str, tuple[Quantized, str, str]] = {
    "tensor": (of_bytes((1, 1), F32), "float-quantized", "tensor"),
    "channel": (of_bytes((ROWS, 1), F32), "float-quantized", "channel"),
    "group": (of_bytes((ROWS, 6), F32), "float-quantized", "group"),
    "block": (of_bytes((3, 2), F32), "float-quantized", "block"),
    "short blocks": (of_bytes((2, 2), F32, (32, 128)), "float-quantized", "block"),
    "short groups": (of_bytes((ROWS, 2), F32, (1, 128)), "float-quantized", "block"),
    "bfloat16": (of_bytes((ROWS, 1), BFLOAT16), "float-quantized", "channel"),
    "mxfp8": (replace(of_bytes((ROWS, 6), BFLOAT16), scale=powers(32)), "mxfp8-quantized", "group"),
    "mxfp6": (of_table(E2M3, powers(32)), "mxfp6-pack-quantized", "group"),
    "mxfp4": (of_table(E2M1, powers(32)), "mxfp4-pack-quantized", "group"),
    "nvfp4": (of_table(E2M1, divided(2688.5)), "nvfp4-pack-quantized", "tensor_group"),
    "nvfp4 by a power of two": (of_table(E2M1, divided(0.25)), "nvfp4-pack-quantized", "tensor_group"),
}
"""What is stored, and as what."""


def told(encoding: Quantized) -> QuantizationScheme:
    (group,) = settings({"m": schemes.scheme(encoding)}, ())["config_groups"].values()
    return QuantizationScheme.model_validate(group)


def tensor(values: NDArray) -> torch.Tensor:
    views = {BFLOAT16: (np.int16, torch.bfloat16), E4M3: (np.uint8, torch.float8_e4m3fn)}
    if values.dtype not in views:
        return torch.from_numpy(np.array(values))
    through, kind = views[values.dtype]
    return torch.from_numpy(values.view(through).copy()).view(kind)


def bits(values: Any) -> NDArray:
    flat = values.view(torch.uint8).numpy() if isinstance(values, torch.Tensor) else values.view(np.uint8)
    return np.asarray(flat)


@pytest.mark.parametrize("form", FORMS)
def test_tensors_are_those_of_their_compressor(form: str) -> None:
    encoding, kind, strategy = FORMS[form]
    legal = floats.legal(encoding)
    assert spec(legal) == floats.legal(spec(encoding))  # planned as it is made
    how = schemes.scheme(legal)
    assert (how.format, how.strategy) == (kind, strategy)
    made, planned = layers.values("m.", legal), layers.tensors("m.", legal)
    assert {name: (one.dtype, one.shape) for name, one in made.items()} == dict(planned)
    library = BaseCompressor.get_value_from_registry(kind)
    stored = {name.removeprefix("m."): tensor(values) for name, values in made.items()}
    back = library.decompress(dict(stored), told(legal))["weight"]
    np.testing.assert_array_equal(array(back), decode(legal))
    state = {"weight": back.float(), "weight_scale": torch.from_numpy(_scales(legal))}
    if kind == "nvfp4-pack-quantized":
        state["weight_global_scale"] = stored["weight_global_scale"]
        state["weight_scale"] = stored["weight_scale"].float()
    again = library.compress(state, told(legal))
    assert again.keys() == stored.keys()
    for name, values in again.items():
        assert tuple(values.shape) == tuple(stored[name].shape), name
        if name != "weight_scale" or values.dtype != torch.float32:  # else it is the model's type
            assert values.dtype == stored[name].dtype, name
            if form != "bfloat16":  # the quotient of rounded values is another code
                np.testing.assert_array_equal(bits(values.contiguous()), bits(stored[name]), name)


def _scales(encoding: Quantized) -> NDArray:
    scale: NDArray = np.asarray(encoding.scale).astype(np.float32)
    return scale.reshape(1) if scale.shape == (1, 1) else scale


@pytest.mark.parametrize("kind", [E2M1, E4M3])
def test_a_table_of_values_is_translated(kind: Any) -> None:
    """Ascending ones, each once, as they are found in values."""
    entries = np.unique(table(kind)[np.isfinite(table(kind))] + 0.0).astype(BFLOAT16)
    codes = RANDOM.integers(0, entries.size, (ROWS, COLUMNS)).astype(np.uint8)
    exponents = np.exp2(RANDOM.integers(-9, 9, (ROWS, COLUMNS // 32))).astype(BFLOAT16)
    encoding = Quantized(Palettized(codes, entries.reshape(1, 1, -1, 1)), exponents)
    legal = floats.legal(encoding)
    assert spec(legal) == floats.legal(spec(encoding))
    assert schemes.scheme(legal).format == ("mxfp4-pack-quantized" if kind == E2M1 else "float-quantized")
    np.testing.assert_array_equal(decode(legal), decode(encoding))


@pytest.mark.parametrize("kind", [BFLOAT16, F32])
@pytest.mark.parametrize("divisor", [2.0**11, 1 / 1.125, 2688.5])
def test_scales_of_16_are_split_in_two(divisor: float, kind: Any) -> None:
    if (divisor, kind) == (2688.5, BFLOAT16):
        return  # they are other scales, rounded
    scale = quotients(np.float32(divisor))[RANDOM.integers(1, 127, (ROWS, COLUMNS // 16))].astype(kind)
    encoding = of_table(E2M1, scale)
    legal = floats.legal(encoding)
    assert spec(legal) == floats.legal(spec(encoding))
    assert schemes.scheme(legal).format == "nvfp4-pack-quantized"
    np.testing.assert_array_equal(decode(legal), decode(encoding))


def test_a_palette_may_be_floats_of_8_bits_with_one_scale() -> None:
    entries = np.unique(table(E4M3)[np.isfinite(table(E4M3))] + 0.0) * np.float32(0.0173)
    palette = Palettized(
        RANDOM.integers(0, entries.size, (ROWS, COLUMNS)).astype(np.uint8), entries.reshape(1, 1, -1, 1)
    )
    made = floats.by_tensor(palette)
    assert made is not None
    assert spec(made) == floats.by_tensor(spec(palette))
    assert schemes.scheme(made).strategy == "tensor"
    np.testing.assert_array_equal(decode(made), decode(palette))
    with pytest.raises(Illegal, match="the format has no tables"):
        floats.by_tensor(replace(palette, lut=np.sort(RANDOM.standard_normal(200)).astype(F32).reshape(1, 1, -1, 1)))
    assert floats.by_tensor(replace(palette, lut=np.zeros((1, 1, 40, 1), F32))) is None


def nf4(kind: Any) -> Quantized:
    data = Palettized(np.zeros((ROWS, COLUMNS), np.uint8), np.linspace(-1, 1, 16).astype(kind).reshape(1, 1, 16, 1))
    return Quantized(data, np.ones((ROWS, COLUMNS // 32), kind))


@pytest.mark.parametrize(
    ("encoding", "says"),
    [
        (nf4(BFLOAT16), "its table is none of values of float4_e2m1fn"),
        (nf4(np.float16), "tables of 4 bits in groups of 16 and 32 alone, of bfloat16"),
        (of_table(E2M1, np.full((ROWS, COLUMNS // 32), 0.3, BFLOAT16)), "a scale is no power of two"),
        (
            of_table(E2M1, (RANDOM.random((ROWS, COLUMNS // 16)) + 0.1).astype(BFLOAT16)),
            "floats of 8 bits, divided by one",
        ),
        (of_table(E2M3, divided(3.5)), "round nothing to bfloat16 afterwards"),
        (
            Quantized(Dense(NarrowArray(np.zeros((4, 8), "float8_e5m2"), F32)), np.ones((4, 1), F32)),
            "as float8_e4m3fn alone, not as float8_e5m2",
        ),
    ],
)
def test_what_the_format_does_not_have(encoding: Quantized, says: str) -> None:
    with pytest.raises(Illegal, match=says):
        floats.legal(encoding)


def test_codes_of_values() -> None:
    for kind in (E2M1, E2M3, E4M3, E8M0):
        finite = np.isfinite(table(kind))
        codes = np.arange(finite.size)[finite]
        np.testing.assert_array_equal(narrow_floats.codes_of(kind, table(kind)[finite]), codes)
        assert narrow_floats.codes_of(kind, np.array([1, 1.0625 if kind != E8M0 else 3], np.float32)) is None


def test_a_divisor_is_found_again() -> None:
    for divisor in RANDOM.uniform(1e-3, 1e6, 200).astype(np.float32):
        every = quotients(divisor)
        found = narrow_floats.divisor(every)
        assert found is not None
        np.testing.assert_array_equal(quotients(found), every)
    assert narrow_floats.divisor(RANDOM.random(256).astype(np.float32)) is None
    assert narrow_floats.divisor(np.zeros(256, np.float32)) is None
