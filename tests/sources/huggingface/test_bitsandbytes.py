"""bitsandbytes: state dicts of 4 bits and of int8, with a configuration beside them or without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from compressor import sources
from compressor.arrays import NDArray
from compressor.encodings import Dense, Palettized, Quantized, decode, name, nbytes
from compressor.errors import CompressorError
from compressor.weight import Weight
from tests.sources.huggingface.folders import RANDOM, quantized, saved

SAID = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
QUANTILES = """
    -1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
    -0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
    0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0
"""
"""Of the normal distribution, as the format defines them."""
NF4 = np.array(QUANTILES.split(), np.float32)
Tensors = dict[str, NDArray]


def state(shape: tuple[int, ...], block: int = 64, dtype: str = "float32", **more: Any) -> Tensors:
    """A layer by the format's description."""
    count = int(np.prod(shape))
    said = {"quant_type": "nf4", "blocksize": block, "dtype": dtype, "shape": list(shape), **more}
    return {
        "l.weight": RANDOM.integers(0, 256, (-(-count // 2), 1)).astype(np.uint8),
        "l.weight.absmax": RANDOM.random(-(-count // block)).astype(np.float32),
        "l.weight.quant_map": NF4,
        "l.weight.quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(said).encode(), np.uint8),
    }


def read(path: Path, tensors: Tensors) -> Weight:
    (weight,) = sources.read(saved(path / "m.safetensors", tensors)).weights
    return weight


def by_hand(tensors: Tensors, shape: tuple[int, ...], block: int = 64) -> NDArray:
    """Code by code: the high bits of a byte come first."""
    packed, scale = tensors["l.weight"].reshape(-1), tensors["l.weight.absmax"]
    values = [
        NF4[packed[place // 2] >> (0 if place % 2 else 4) & 15] * scale[place // block]
        for place in range(int(np.prod(shape)))
    ]
    return np.array(values, np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((6, 128), (6, 2)),
        ((6, 32), (3, 1)),
        ((7, 32), (4, 1)),
        ((100,), (2,)),
        ((2, 3, 64), (2, 3, 1)),
        ((5, 48), None),
    ],
)
def test_blocks_of_the_flat_weight(shape: tuple[int, ...], grid: tuple[int, ...] | None, tmp_path: Path) -> None:
    tensors = state(shape)
    weight = read(tmp_path, tensors)
    assert decode(weight.encoding).tobytes() == by_hand(tensors, shape).tobytes()
    if grid is None:
        assert isinstance(weight.encoding, Dense)
        assert weight.note == "blocks that begin in the middle of a row: not supported as codes, kept as values"
    else:
        assert isinstance(weight.encoding, Quantized)
        assert weight.encoding.scale.shape == grid
        assert name(weight.encoding) == "scaled(palettized4)"


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_those_of_the_library(kind: str, nested: bool, dtype: torch.dtype, tmp_path: Path) -> None:  # noqa: FBT001 - a row
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.from_numpy(RANDOM.normal(size=(96, 256))).to(dtype)
    codes, said = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=nested)
    expected = functional.dequantize_4bit(codes, said)
    tensors = {"l.weight": codes.numpy()}
    tensors |= {f"l.weight.{part}": tensor.numpy() for part, tensor in said.as_dict(packed=True).items()}
    found = read(tmp_path, tensors)
    values = decode(found.encoding)
    assert values.dtype.name == str(dtype).removeprefix("torch.")
    assert torch.equal(torch.from_numpy(values.astype(np.float32)).to(dtype), expected)
    assert nbytes(found.encoding) * 8 / values.size < 4.6


@pytest.mark.parametrize("columns", [64, 512])
def test_int8_by_row_is_a_table_of_what_is_rounded_twice(columns: int, tmp_path: Path) -> None:
    codes, scale = RANDOM.integers(-127, 128, (16, columns)).astype(np.int8), RANDOM.random(16).astype(np.float32)
    tensors: Tensors = {"l.weight": codes, "l.SCB": scale, "l.weight_format": np.array(0, np.uint8)}
    weight = read(tmp_path, tensors)
    expected = torch.from_numpy(codes) * torch.from_numpy(scale).view(-1, 1) * 7.874015718698502e-3
    assert decode(weight.encoding).tobytes() == expected.numpy().tobytes()
    assert isinstance(weight.encoding, Palettized if columns > 341 else Dense)


def test_a_folder_with_its_configuration(tmp_path: Path) -> None:
    tensors = state((6, 128)) | {"norm.weight": np.ones(4, ml_dtypes.bfloat16)}
    told = {
        weight.name: name(weight.encoding) for weight in sources.read(quantized(tmp_path / "m", tensors, SAID)).weights
    }
    assert told == {"l.weight": "scaled(palettized4)", "norm.weight": "dense"}


def test_a_checkpoint_of_torch(tmp_path: Path) -> None:
    tensors = state((6, 128)) | {"norm.weight": np.ones(4, np.float32)}
    torch.save({part: torch.from_numpy(values.copy()) for part, values in tensors.items()}, tmp_path / "m.pt")
    weights = {weight.name: weight for weight in sources.weights(tmp_path / "m.pt").weights}
    assert weights.keys() == {"l.weight", "norm.weight"}
    assert decode(weights["l.weight"].encoding).tobytes() == by_hand(tensors, (6, 128)).tobytes()
    assert name(weights["l.weight"].encoding) == "scaled(palettized4)"


@pytest.mark.parametrize("scale", [0.0, np.nan, np.inf])
def test_scales_that_are_no_use(scale: float, tmp_path: Path) -> None:
    """What they make of the codes is no error, and no warning either."""
    for shape in ((6, 128), (5, 48)):
        tensors = state(shape)
        tensors["l.weight.absmax"][0] = scale
        values = decode(read(tmp_path, tensors).encoding)
        with np.errstate(invalid="ignore"):
            assert np.array_equal(values, by_hand(tensors, shape), equal_nan=True)


SHAPE = {"shape": [6, 128], "blocksize": 64, "dtype": "float32"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"l.weight.absmax": np.zeros(11, np.float32)}, r"l\.weight\.absmax is float32\[11\], expected float32\[12\]"),
        ({"l.weight.absmax": None}, r"l\.weight\.absmax is missing"),
        ({"l.weight.quant_map": np.zeros(15, np.float32)}, r"quant_map is float32\[15\], expected float32\[16\]"),
        ({"l.weight": np.zeros((1, 1), np.uint8)}, r"l\.weight is uint8\[1, 1\], expected uint8\[384, 1\]"),
        ({"l.weight.nested_absmax": np.zeros(1, np.float32)}, r"absmax is float32\[12\], expected uint8\[12\]"),
        (b"{", "expected JSON with shape, blocksize and dtype"),
        (b"[]", "expected JSON with shape, blocksize and dtype"),
        (b"[" * 3000, "expected JSON with shape, blocksize and dtype"),
        (json.dumps(SHAPE | {"blocksize": 0}).encode(), "expected JSON with shape, blocksize and dtype"),
        (json.dumps(SHAPE | {"dtype": "int8"}).encode(), "expected JSON with shape, blocksize and dtype"),
        (json.dumps(SHAPE | {"shape": [1 << 40, 1 << 40]}).encode(), "expected JSON with shape, blocksize and dtype"),
        (json.dumps(SHAPE | {"shape": [6, -128]}).encode(), "expected JSON with shape, blocksize and dtype"),
        (json.dumps(SHAPE | {"nested_offset": "x"}).encode(), "expected JSON with shape, blocksize and dtype"),
    ],
)
def test_parts_that_contradict_each_other(changes: Any, says: str, tmp_path: Path) -> None:
    tensors: dict[str, Any] = dict(state((6, 128)))
    if isinstance(changes, bytes):
        changes = {"l.weight.quant_state.bitsandbytes__nf4": np.frombuffer(changes, np.uint8)}
    tensors = {part: values for part, values in (tensors | changes).items() if values is not None}
    with pytest.raises(CompressorError, match=says) as caught:
        read(tmp_path, tensors)
    assert "\n" not in str(caught.value)
