"""Layers of compressed-tensors: codes, scales, zero points and masks come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from compressor import sources
from compressor.arrays import NDArray
from compressor.encodings import Dense, Quantized, Sparse, decode, name
from compressor.errors import CompressorError
from tests.sources.huggingface.folders import (
    RANDOM,
    masked,
    product,
    quantized,
    read,
    scaled,
    scheme,
    words,
)

CODES = RANDOM.integers(-8, 8, (6, 40)).astype(np.int8)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize(
    ("said", "shape"),
    [
        ({"strategy": "tensor"}, (1,)),
        ({"strategy": "channel"}, (6, 1)),
        ({"strategy": "channel"}, (6,)),
        ({"strategy": "group", "group_size": 8}, (6, 5)),
        ({"strategy": "block", "block_structure": [2, 10]}, (3, 4)),
    ],
)
def test_int_quantized_keeps_its_codes(tmp_path: Path, said: dict[str, Any], shape: tuple[int, ...], kind: Any) -> None:
    scale, zeros = scaled(*shape, kind=kind), RANDOM.integers(-8, 8, shape).astype(np.int8)
    tensors: dict[str, NDArray] = {"l.weight": CODES, "l.weight_scale": scale, "l.weight_zero_point": zeros}
    encoding = read(tmp_path, tensors, scheme(symmetric=False, **said)).encoding
    assert isinstance(encoding, Quantized)
    full = (*shape, 1)[:2]
    blocks = [np.arange(dim) // (dim // count) for dim, count in zip(CODES.shape, full, strict=True)]
    spread = scale.reshape(full)[np.ix_(*blocks)], zeros.reshape(full)[np.ix_(*blocks)]
    assert np.array_equal(decode(encoding), product(CODES, spread[1], spread[0], kind))
    assert decode(encoding).dtype == np.dtype(kind)


def test_blocks_that_are_cut_off_keep_their_codes(tmp_path: Path) -> None:
    """6 rows in blocks of 4: the counts alone would be taken for blocks of 3."""
    scale = np.array([[1], [2]], np.float16)
    tensors: dict[str, NDArray] = {"l.weight": CODES, "l.weight_scale": scale}
    weight = read(tmp_path, tensors, scheme(strategy="block", block_structure=[4, 40]))
    assert np.array_equal(decode(weight.encoding), CODES * np.array([1, 1, 1, 1, 2, 2])[:, None])
    assert isinstance(weight.encoding, Quantized)
    assert weight.encoding.block == (4, 40)


@pytest.mark.parametrize("width", [2, 3, 4, 5, 8])
def test_pack_quantized_keeps_its_codes(tmp_path: Path, width: int) -> None:
    half = 1 << width - 1
    codes, zeros = RANDOM.integers(-half, half, (6, 96)), RANDOM.integers(-half, half, (6, 3))
    scale = scaled(6, 3)
    tensors = {
        "l.weight_packed": words(codes + half, width),
        "l.weight_scale": scale,
        "l.weight_zero_point": words((zeros + half).T, width).T,
        "l.weight_shape": np.array([6, 96]),
    }
    said = scheme(num_bits=width, strategy="group", group_size=32, symmetric=False)
    weight = read(tmp_path, tensors, said)
    encoding = weight.encoding
    expected = product(codes, np.repeat(zeros, 32, 1), np.repeat(scale, 32, 1), np.float16)
    assert isinstance(encoding, Quantized)
    assert np.array_equal(decode(encoding), expected)
    assert name(encoding) == {2: "int2", 3: "int4", 4: "int4", 5: "int8", 8: "int8"}[width]
    assert name(weight.as_stored) == {3: "int4(palettized3)", 5: "int8(palettized5)"}.get(width, name(encoding))


def test_codes_of_the_first_versions_leave_bits_of_a_word_unused(tmp_path: Path) -> None:
    codes = RANDOM.integers(-4, 4, (2, 60))
    packed = np.hstack([words(part + 4, 3) for part in np.split(codes, 6, axis=1)])
    tensors = {"l.weight_packed": packed, "l.weight_scale": scaled(1), "l.weight_shape": np.array([2, 60])}
    said = scheme(num_bits=3, strategy="tensor")
    kept = sources.read(quantized(tmp_path, tensors, said)).weights  # both layouts take six words
    assert kept[0].pinned.startswith("packed weights of this layout (weight_packed int32")
    longer = np.hstack([codes] * 4)
    tensors |= {"l.weight_packed": np.hstack([packed] * 4), "l.weight_shape": np.array([2, 240])}
    weight = read(tmp_path, tensors, said)
    expected = product(longer, 0, tensors["l.weight_scale"], np.float16)
    assert not weight.pinned
    assert np.array_equal(decode(weight.encoding), expected)


@pytest.mark.parametrize("unset", [True, False])
def test_pack_quantized_in_the_order_of_activations(tmp_path: Path, unset: bool) -> None:  # noqa: FBT001 - a row
    codes, scale = RANDOM.integers(-8, 8, (4, 64)), scaled(4, 2)
    order = np.full(64, -1) if unset else RANDOM.permutation(64) // 32
    tensors = {
        "l.weight_packed": words(codes + 8, 4),
        "l.weight_scale": scale,
        "l.weight_shape": np.array([4, 64]),
        "l.weight_g_idx": order.astype(np.int32),
    }
    weight = read(tmp_path, tensors, scheme(num_bits=4, strategy="group", group_size=32, actorder="group"))
    group = np.arange(64) // 32 if unset else order
    assert np.array_equal(decode(weight.encoding), product(codes, 0, scale[:, group], np.float16))
    assert isinstance(weight.encoding, Quantized if unset else Dense)
    assert ("g_idx" in weight.note) is not unset


@pytest.mark.parametrize("columns", [40, 43])
@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_a_bit_mask_keeps_the_values_under_it(tmp_path: Path, columns: int, kind: Any) -> None:
    values = (RANDOM.normal(size=(6, columns)) * (RANDOM.random((6, columns)) > 0.7)).astype(kind)
    said = {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}}
    encoding = read(tmp_path, masked(values), said).encoding
    assert isinstance(encoding, Sparse)
    assert name(encoding) == "sparse"
    assert np.array_equal(decode(encoding), values)


def test_two_of_four_keep_zeros_among_their_values(tmp_path: Path) -> None:
    values = np.array([[0, 5, 0, 7, 0, 0, 3, 0]], np.float32)
    tensors: dict[str, NDArray] = {
        "l.bitmask": np.array([[0b1100_1010]], np.uint8),
        "l.compressed": np.array([[5, 7, 3, 0]], np.float32),
        "l.shape": np.array([[1], [8]]),
    }
    said = {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}
    assert np.array_equal(decode(read(tmp_path, tensors, said).encoding), values)


@pytest.mark.parametrize("zero", [0, 3])
def test_codes_under_a_bit_mask(tmp_path: Path, zero: int) -> None:
    """Where a zero point moves them, the codes outside of the mask are no zeros."""
    codes, scale = (CODES * (CODES % 3 == 0)).astype(np.int8), scaled(6, 1)
    tensors = {**masked(codes), "l.weight_scale": scale, "l.weight_zero_point": np.full((6, 1), zero, np.int8)}
    encoding = read(tmp_path, tensors, scheme(strategy="channel", symmetric=not zero)).encoding
    assert name(encoding) == ("int8" if zero else "sparse(int8)")
    assert np.array_equal(decode(encoding), product(codes, zero, scale, np.float16))


def test_codes_are_kept_in_the_bits_that_the_settings_promise(tmp_path: Path) -> None:
    tensors = {"l.weight": CODES, "l.weight_scale": scaled(1)}
    assert name(read(tmp_path, tensors, scheme(num_bits=4, strategy="tensor")).encoding) == "int4"
    assert name(read(tmp_path, tensors, scheme(num_bits=8, strategy="tensor")).encoding) == "int8"
    weight = read(tmp_path, tensors, scheme(num_bits=3, strategy="tensor"))
    with pytest.raises(CompressorError, match=r"l\.weight: expected codes of 3 bits, as num_bits says"):
        decode(weight.encoding)


def test_the_scheme_that_names_a_layer_comes_before_that_of_its_type(tmp_path: Path) -> None:
    said = scheme(strategy="channel")
    named = {"targets": ["re:.*[.]l$"], "weights": {"num_bits": 4, "strategy": "tensor"}}
    said["config_groups"]["named"] = named
    tensors = {"m.l.weight": CODES, "m.l.weight_scale": scaled(1)}
    assert name(read(tmp_path, tensors, said).encoding) == "int4"
    with pytest.raises(CompressorError, match=r"m\.k\.weight \[6, 40\] with scales float16\[1\].*8 bits per channel"):
        read(tmp_path, {key.replace(".l.", ".k."): value for key, value in tensors.items()}, said)


def test_weights_that_are_still_float_keep_their_values(tmp_path: Path) -> None:
    tensors = {"l.weight": scaled(6, 40), "l.weight_scale": scaled(1), "l.input_scale": scaled(1)}
    assert np.array_equal(decode(read(tmp_path, tensors, scheme(strategy="tensor")).encoding), tensors["l.weight"])
