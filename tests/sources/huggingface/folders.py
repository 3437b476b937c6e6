"""Folders as quantizers write them, made here by the formats' descriptions."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from compressor import sources
from compressor.arrays import NDArray
from compressor.weight import Weight

RANDOM = np.random.default_rng(0)
TYPES = {"bool": "BOOL", "int8": "I8", "int32": "I32", "int64": "I64", "uint8": "U8", "float8_e4m3fn": "F8_E4M3"}
TYPES |= {"float8_e5m2": "F8_E5M2", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

Layer = tuple[dict[str, NDArray], dict[str, Any], NDArray]
"""Tensors and settings of a layer, and its values by the published formula."""


def saved(path: Path, tensors: Mapping[str, NDArray], pad: int = 0, **metadata: str) -> Path:
    """A file in the format, written by its description. pad: spaces behind the header, which may end anywhere."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, values in tensors.items():
        raw = np.ascontiguousarray(values).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": TYPES[values.dtype.name], "shape": list(values.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode() + b" " * pad
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def dense(path: Path, *shards: Mapping[str, NDArray], **config: Any) -> Path:
    """A folder of plain tensors, with an index where there are several shards."""
    path.mkdir(exist_ok=True)
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, tensors in zip(names, shards, strict=True):
        saved(path / (name if len(shards) > 1 else "model.safetensors"), tensors, format="pt")
    if len(shards) > 1:
        placed = {key: name for name, tensors in zip(names, shards, strict=True) for key in tensors}
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    (path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return path


def quantized(path: Path, tensors: Mapping[str, NDArray], said: Mapping[str, Any]) -> Path:
    """A folder whose settings say how it is quantized."""
    path.mkdir(exist_ok=True)
    saved(path / "model.safetensors", tensors)
    (path / "config.json").write_text(json.dumps({"quantization_config": said}))
    return path


def read(path: Path, tensors: Mapping[str, NDArray], said: Mapping[str, Any]) -> Weight:
    """The only weight of such a folder."""
    (weight,) = sources.read(quantized(path, tensors, said)).weights
    return weight


def words(codes: NDArray, width: int) -> NDArray:
    """Unsigned codes `[rows, n]` one behind the other in 32-bit words, each row's as one large number."""
    count = -(-codes.shape[1] * width // 32)
    rows = [sum(int(code) << place * width for place, code in enumerate(row)) for row in codes]
    return np.frombuffer(b"".join(row.to_bytes(4 * count, "little") for row in rows), np.int32).reshape(-1, count)


def product(codes: NDArray, zero: NDArray | int, scale: NDArray, kind: Any) -> NDArray:
    exact: NDArray = ((codes.astype(np.float64) - zero) * scale.astype(np.float64)).astype(kind)
    return exact


def gptq(
    width: int, size: int, columns: int = 96, rows: int = 32, order: NDArray | None = None, offset: int = 1
) -> Layer:
    count = 1 if size == -1 else -(-columns // size)
    codes = RANDOM.integers(0, 1 << width, (columns, rows))
    zeros = RANDOM.integers(offset, 1 << width, (count, rows))
    scales = (RANDOM.random((count, rows)) * 0.1 + 0.01).astype(np.float16)
    group = np.arange(columns) // (columns if size == -1 else size) if order is None else order
    tensors = {
        "m.l.qweight": words(codes.T, width).T,
        "m.l.qzeros": words(zeros - offset, width),
        "m.l.scales": scales,
        "m.l.g_idx": group.astype(np.int32),
    }
    said = {"quant_method": "gptq", "bits": width, "group_size": size, "desc_act": order is not None, "sym": False}
    return tensors, said, product(codes, zeros[group], scales[group], np.float16).T


def awq(columns: int = 64, rows: int = 16, size: int = 32) -> Layer:
    count = columns // size
    codes, zeros = RANDOM.integers(0, 16, (columns, rows)), RANDOM.integers(0, 16, (count, rows))
    scales = RANDOM.random((count, rows)).astype(np.float16)

    def packed(matrix: NDArray) -> NDArray:
        return words(matrix.reshape(len(matrix), -1, 8)[:, :, AWQ_ORDER].reshape(len(matrix), -1), 4)

    tensors = {"l.qweight": packed(codes), "l.qzeros": packed(zeros), "l.scales": scales, "l.bias": scales[0]}
    said = {"quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm", "zero_point": True}
    group = np.arange(columns) // size
    return tensors, said, product(codes, zeros[group], scales[group], np.float16).T


def floats_of_4_bits() -> tuple[dict[str, NDArray], dict[str, Any]]:
    """A layer in NVFP4 and one in MXFP4, as compressed-tensors has them."""
    codes, powers = (
        RANDOM.integers(0, 256, (8, 32)).astype(np.uint8),
        RANDOM.integers(100, 140, (8, 2)).astype(np.uint8),
    )
    scales = (RANDOM.random((8, 4)) + 0.5).astype(ml_dtypes.float8_e4m3fn)
    tensors: dict[str, NDArray] = {"nv.weight_packed": codes, "nv.weight_scale": scales}
    tensors |= {
        "nv.weight_global_scale": np.ones(1, np.float32),
        "mx.weight_packed": codes ^ 3,
        "mx.weight_scale": powers,
    }
    return tensors, {"quant_method": "compressed-tensors", "config_groups": {}}


def experts() -> tuple[dict[str, NDArray], dict[str, Any]]:
    """MXFP4 of transformers."""
    blocks, scales = RANDOM.integers(0, 256, (2, 8, 2, 16)), RANDOM.integers(100, 140, (2, 8, 2))
    return {"up_blocks": blocks.astype(np.uint8), "up_scales": scales.astype(np.uint8)}, {"quant_method": "mxfp4"}


def floats_of_8_bits() -> tuple[dict[str, NDArray], dict[str, Any]]:
    """FP8 of transformers."""
    codes = RANDOM.normal(size=(24, 40)).astype(ml_dtypes.float8_e4m3fn)
    tensors = {"l.weight": codes, "l.weight_scale_inv": np.ones((2, 3), np.float32)}
    return tensors, {"quant_method": "fp8", "weight_block_size": [16, 16]}


def bitsandbytes() -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Four bits with nested scales, and int8."""
    said = {"shape": [8, 64], "blocksize": 64, "dtype": "float32", "nested_blocksize": 256, "nested_offset": 0.5}
    tensors: dict[str, NDArray] = {
        "l.weight": RANDOM.integers(0, 256, (256, 1)).astype(np.uint8),
        "l.weight.absmax": np.arange(8, dtype=np.uint8),
        "l.weight.quant_map": np.linspace(-1, 1, 16, dtype=np.float32),
        "l.weight.nested_absmax": np.ones(1, np.float32),
        "l.weight.nested_quant_map": np.linspace(-1, 1, 256, dtype=np.float32),
        "l.weight.quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(said).encode(), np.uint8),
        "b.weight": RANDOM.integers(-127, 128, (8, 64)).astype(np.int8),
        "b.SCB": np.ones(8, np.float32),
    }
    return tensors, {"quant_method": "bitsandbytes"}


def masked(values: NDArray, prefix: str = "l") -> dict[str, NDArray]:
    bits = np.packbits(values != 0, axis=-1, bitorder="little")
    counts = (values != 0).sum(axis=1)
    return {
        f"{prefix}.bitmask": bits,
        f"{prefix}.compressed": values[values != 0],
        f"{prefix}.shape": np.array(values.shape),
        f"{prefix}.row_offsets": np.cumsum(counts) - counts,
    }


def scaled(*shape: int, kind: Any = np.float16) -> NDArray:
    return (RANDOM.random(shape) + 0.5).astype(kind)


def scheme(**weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": 8, "symmetric": True, **weights}}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
