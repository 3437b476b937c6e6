"""Codes that are floats: kept as tables and 8-bit floats, bit for bit as the libraries that wrote them compute them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

from compressor import sources
from compressor.arrays import BFLOAT16, NDArray
from compressor.encodings import Quantized, Sparse, decode, name, nbytes
from compressor.errors import CompressorError
from compressor.formats.onnx import decoding
from compressor.sources import InputSpec, huggingface
from tests.sources.huggingface.folders import RANDOM, masked, product, quantized, read, scaled, scheme
from tests.sources.onnx.models import run

E4M3 = ml_dtypes.float8_e4m3fn
Tensors = dict[str, NDArray]


def numpy(tensor: torch.Tensor) -> NDArray:
    views: dict[torch.dtype, tuple[torch.dtype, Any]] = {
        torch.bfloat16: (torch.int16, BFLOAT16),
        torch.float8_e4m3fn: (torch.uint8, E4M3),
    }
    if tensor.dtype not in views:
        return tensor.detach().numpy()
    through, kind = views[tensor.dtype]
    return tensor.detach().view(through).numpy().view(kind)


def same(one: NDArray, other: NDArray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


FORMATS: dict[str, tuple[dict[str, Any], str, float]] = {
    "float-quantized": ({"num_bits": 8, "strategy": "channel"}, "scaled(float8_e4m3fn)", 8.25),
    "mxfp8-quantized": (
        {"num_bits": 8, "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
        "scaled(float8_e4m3fn)",
        8.25,
    ),
    "mxfp4-pack-quantized": (
        {"num_bits": 4, "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
        "scaled(palettized4)",
        4.25,
    ),
    "mxfp6-pack-quantized": (
        {"num_bits": 6, "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
        "scaled(palettized6)",
        6.25,
    ),
    "nvfp4-pack-quantized": ({"num_bits": 4, "strategy": "tensor_group", "group_size": 16}, "scaled(palettized4)", 4.5),
}
"""By format: what the library is asked for, how it is told here, and the bits of a weight."""


SHAPE = (256, 512)


def compressed(form: str, asked: dict[str, Any], dtype: torch.dtype) -> tuple[Tensors, torch.Tensor]:
    """The tensors of a layer as compressed-tensors writes them, and the values that it makes of them again."""
    library = BaseCompressor.get_value_from_registry(form)
    own = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(type="float", symmetric=True, **asked))
    weight = torch.from_numpy(RANDOM.normal(size=SHAPE)).to(dtype)
    size = asked.get("group_size", SHAPE[1])
    scale = weight.reshape(SHAPE[0], -1, size).abs().amax(-1) / 6
    state = {"weight": weight, "weight_scale": scale.to(dtype)}
    if form == "nvfp4-pack-quantized":
        whole = torch.tensor([448 * 6 / float(weight.abs().max())])
        state |= {
            "weight_global_scale": whole,
            "weight_scale": (scale.float() * whole).to(torch.float8_e4m3fn).to(dtype),
        }
    stored = library.compress(state, own)
    return {f"l.{part}": numpy(tensor) for part, tensor in stored.items()}, library.decompress(stored, own)["weight"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("form", FORMATS)
def test_compressed_tensors(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    asked, told, bits = FORMATS[form]
    tensors, expected = compressed(form, asked, dtype)
    said = {key: value for key, value in asked.items() if key != "scale_dtype"}
    weight = read(tmp_path, tensors, scheme(type="float", **said))
    encoding = weight.encoding
    assert isinstance(encoding, Quantized)
    assert name(encoding) == told
    if form != "float-quantized":  # its scales are as wide as the model's dtype
        assert nbytes(encoding) * 8 / np.prod(SHAPE) == pytest.approx(bits, abs=0.2)
    values = decode(encoding)
    if form == "nvfp4-pack-quantized":  # two scales, whose quotient is float32
        assert (encoding.scale.dtype, encoding.rounded) == (np.float32, BFLOAT16)
    assert weight.note == ""
    assert same(values, numpy(expected))
    assert decoding.needs_opset(encoding) <= 24


def test_every_code_and_every_scale(tmp_path: Path) -> None:
    """All powers of two, the smallest of which are not normal, times all codes, -0.0 among them."""
    codes = np.tile(np.arange(256, dtype=np.uint8), (255, 1))
    scale = np.repeat(np.arange(255, dtype=np.uint8)[:, None], 16, 1)
    tensors = {"l.weight_packed": codes, "l.weight_scale": scale}
    found = decode(read(tmp_path, tensors, scheme(num_bits=4, type="float", strategy="group", group_size=32)).encoding)
    library = BaseCompressor.get_value_from_registry("mxfp4-pack-quantized")
    args = QuantizationArgs(type="float", symmetric=True, num_bits=4, strategy="group", group_size=32)
    state = {"weight_packed": torch.from_numpy(codes), "weight_scale": torch.from_numpy(scale)}
    expected = library.decompress(state, QuantizationScheme(targets=["Linear"], weights=args))["weight"]
    assert same(found, numpy(expected))


@pytest.mark.parametrize("kind", [E4M3, ml_dtypes.float8_e5m2])
def test_8_bit_floats_keep_every_code(kind: Any, tmp_path: Path) -> None:
    codes = np.tile(np.arange(256, dtype=np.uint8), (3, 1)).view(kind)
    numbers = np.isfinite(codes.astype(np.float32))
    codes = np.where(numbers, codes, kind(0))
    scale = scaled(3, 1, kind=BFLOAT16)
    encoding = read(
        tmp_path, {"l.weight": codes, "l.weight_scale": scale}, scheme(type="float", strategy="channel")
    ).encoding
    assert name(encoding) == f"scaled({np.dtype(kind)})"
    assert same(decode(encoding), product(codes.astype(np.float32), 0, scale, BFLOAT16))


def test_8_bit_floats_in_blocks_that_are_cut_off(tmp_path: Path) -> None:
    codes, scale = RANDOM.normal(size=(200, 300)).astype(E4M3), scaled(2, 3, kind=BFLOAT16)
    said = scheme(type="float", strategy="block", block_structure=[128, 128])
    encoding = read(tmp_path, {"l.weight": codes, "l.weight_scale": scale}, said).encoding
    assert isinstance(encoding, Quantized)
    assert encoding.block == (128, 128)
    wide = scale.repeat(128, 0)[:200].repeat(128, 1)[:, :300]
    assert same(decode(encoding), product(codes.astype(np.float32), 0, wide, BFLOAT16))


def test_8_bit_floats_under_a_mask(tmp_path: Path) -> None:
    codes = np.where(RANDOM.random((8, 64)) < 0.25, RANDOM.normal(size=(8, 64)), 0).astype(E4M3)
    scale = scaled(8, 1, kind=BFLOAT16)
    said = scheme(type="float", strategy="channel") | {"sparsity_config": {"format": "sparse-bitmask"}}
    encoding = read(tmp_path, {**masked(codes), "l.weight_scale": scale}, said).encoding
    assert isinstance(encoding, Sparse)
    assert name(encoding) == "sparse(scaled(float8_e4m3fn))"
    assert np.array_equal(decode(encoding), product(codes.astype(np.float32), 0, scale, BFLOAT16))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"l.weight_scale": np.zeros((48, 5), np.uint8)}, "expected codes of 4 or 6 bits, and a scale for 32 of them"),
        ({"l.weight_scale": np.zeros((24, 4), np.uint8)}, "expected codes of 4 or 6 bits, and a scale for 32 of them"),
        ({"l.weight_packed": np.zeros((48, 96), np.uint8)}, "holds codes of 6 bits: config_groups says 4 bits"),
        ({"l.weight_packed": np.zeros(48, np.uint8)}, None),
        ({"l.weight_scale": scaled(48, 4)}, None),
        ({"l.weight_global_scale": np.zeros(2, np.float32)}, None),
    ],
)
def test_parts_that_do_not_fit(changes: Tensors, says: str | None, tmp_path: Path) -> None:
    tensors = {"l.weight_packed": np.zeros((48, 64), np.uint8), "l.weight_scale": np.zeros((48, 4), np.uint8)} | changes
    said = scheme(num_bits=4, type="float", strategy="group", group_size=32)
    if says is not None:
        with pytest.raises(CompressorError, match=says):
            read(tmp_path, tensors, said)
    else:
        kept = sources.read(quantized(tmp_path, tensors, said)).weights
        assert all(weight.pinned.startswith("packed weights of this layout (") for weight in kept)


MX = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}


def test_experts_of_transformers_in_mxfp4(tmp_path: Path) -> None:
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    blocks = RANDOM.integers(0, 256, (3, 10, 4, 16)).astype(np.uint8)
    scales = np.resize(np.arange(255), (3, 10, 4)).astype(np.uint8)
    expected = mxfp4.convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales))
    tensors = {"l.experts.up_blocks": blocks, "l.experts.up_scales": scales, "l.experts.up_bias": scaled(3, 10)}
    weights = {each.name: each.encoding for each in sources.read(quantized(tmp_path, tensors, MX)).weights}
    assert weights.keys() == {"l.experts.up", "l.experts.up_bias"}
    assert same(decode(weights["l.experts.up"]), numpy(expected.contiguous()))
    assert name(weights["l.experts.up"]) == "scaled(palettized4)"
    assert nbytes(weights["l.experts.up"]) == 3 * 10 * 4 * 17 + 32


@pytest.mark.parametrize("shape", [(256, 384), (200, 300), (2, 128, 256)])
@pytest.mark.parametrize("kind", [np.float32, BFLOAT16, np.uint8])
def test_blocks_of_8_bit_floats(shape: tuple[int, ...], kind: Any, tmp_path: Path) -> None:
    grid = (*shape[:-2], *(-(-dim // 128) for dim in shape[-2:]))
    powers = RANDOM.integers(100, 140, grid).astype(np.uint8)
    scale = powers if kind == np.uint8 else scaled(*grid, kind=kind)
    codes = RANDOM.normal(size=shape).astype(E4M3)
    tensors = {"l.weight": codes, "l.weight_scale_inv": scale, "l.input_scale": np.ones(1, np.float32)}
    encoding = read(tmp_path, tensors, FP8).encoding
    wide = (np.exp2(powers.astype(np.float32) - 127) if kind == np.uint8 else scale).repeat(128, -2).repeat(128, -1)
    dtype = BFLOAT16 if kind == np.uint8 else kind
    expected = product(codes.astype(np.float32), 0, wide[..., : shape[-2], : shape[-1]], dtype)
    assert same(decode(encoding), expected)
    assert name(encoding) == "scaled(float8_e4m3fn)"


def test_blocks_of_8_bit_floats_are_those_of_transformers(tmp_path: Path) -> None:
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
    codes, scale = RANDOM.normal(size=(256, 384)).astype(E4M3), scaled(2, 3, kind=np.float32)
    stored = torch.from_numpy(codes.view(np.uint8)).view(torch.float8_e4m3fn)
    expected = fp8.Fp8Dequantize(None)._dequantize_one(stored, torch.from_numpy(scale))
    found = read(tmp_path, {"l.weight": codes, "l.weight_scale_inv": scale}, FP8)
    assert same(decode(found.encoding), expected.numpy())


@pytest.mark.parametrize(
    ("tensors", "said", "says"),
    [
        ({"up_blocks": np.zeros((3, 10, 4, 15), np.uint8)}, MX, r"up_blocks is uint8\[3, 10, 4, 15\], expected uint8"),
        (
            {"up_scales": np.zeros((3, 10, 5), np.uint8)},
            MX,
            r"up_scales is uint8\[3, 10, 5\], expected uint8 or float8",
        ),
        ({"l.weight_scale_inv": np.ones((3, 3), np.float32)}, FP8, r"with a scale \[3, 3\]: expected one"),
        ({}, FP8 | {"weight_block_size": "x"}, "weight_block_size is x, expected sizes"),
    ],
)
def test_blocks_and_scales_that_do_not_fit(tensors: Tensors, said: dict[str, Any], says: str, tmp_path: Path) -> None:
    own: Tensors = {"up_blocks": np.zeros((3, 10, 4, 16), np.uint8), "up_scales": np.zeros((3, 10, 4), np.uint8)}
    own |= {"l.weight": np.zeros((256, 256), E4M3), "l.weight_scale_inv": np.ones((2, 2), np.float32)}
    with pytest.raises(CompressorError, match=says):
        sources.read(quantized(tmp_path, own | tensors, said))


def test_a_language_model_of_experts_in_mxfp4(tmp_path: Path) -> None:
    """gpt-oss, exported: its codes are kept, and it computes what transformers computes with their values."""
    transformers = pytest.importorskip("transformers")
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "head_dim": 16, "sliding_window": 8}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = transformers.GptOssConfig(**sizes, **layers, **experts, rope_parameters=rope)
    torch.manual_seed(0)
    model = transformers.GptOssForCausalLM(config).eval()
    tensors: Tensors = {}
    for part, tensor in model.state_dict().items():
        if part.endswith(("gate_up_proj", "down_proj")):
            count, columns, rows = tensor.shape
            blocks = RANDOM.integers(0, 256, (count, rows, columns // 32, 16)).astype(np.uint8)
            scales = RANDOM.integers(118, 122, blocks.shape[:-1]).astype(np.uint8)
            tensors |= {f"{part}_blocks": blocks, f"{part}_scales": scales}
            tensor.copy_(convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales)))
        else:
            tensors[part] = tensor.numpy().copy()
    folder = quantized(tmp_path / "m", tensors, MX)
    said = config.to_dict() | {"architectures": ["GptOssForCausalLM"], "quantization_config": MX}
    (folder / "config.json").write_text(json.dumps(said, default=str))
    (tmp_path / "out").mkdir()
    huggingface.export(folder, tmp_path / "out", inputs={"input_ids": InputSpec((1, 8), "int64")}, opset=18)
    found = {weight.name: name(weight.encoding) for weight in sources.read(tmp_path / "out").weights}
    for part in ("gate_up_proj", "down_proj"):
        assert found[f"model.layers.0.mlp.experts.{part}"] == "scaled(palettized4)"
    tokens = np.arange(8)[None]
    (logits, *_) = run(tmp_path / "out" / "model.onnx", {"input_ids": tokens})
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
