"""Files as ggml writes them, made here by the format's description."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from compressor.arrays import NDArray
from compressor.formats.gguf import TYPES

NUMBERS = {kind.name: number for number, kind in TYPES.items()}
KINDS = {kind.name: kind for kind in TYPES.values()}
RANDOM = np.random.default_rng(0)

Tensors = Mapping[str, tuple[str, Sequence[int], bytes]]
"""By name: the type, the shape as numpy has it, the bytes."""


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def field(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def described(name: str, kind: int, shape: Sequence[int], offset: int) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return text(name) + dims + struct.pack("<IQ", kind, offset)


def content(tensors: Tensors, *fields: bytes, alignment: int = 32, version: int = 3) -> bytes:
    header = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(fields)) + b"".join(fields)
    data = b""
    for name, (kind, shape, raw) in tensors.items():
        data += bytes(-len(data) % alignment)
        header += described(name, NUMBERS[kind], shape, len(data))
        data += raw
    return header + bytes(-len(header) % alignment) + data


def blocks(kind: str, shape: Sequence[int]) -> bytes:
    """Random blocks, whose scales are numbers."""
    elements, nbytes = KINDS[kind].elements, KINDS[kind].nbytes
    return RANDOM.integers(0, 120, int(np.prod(shape)) // elements * nbytes, np.uint8).tobytes()


def floats(shape: Sequence[int]) -> NDArray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def model() -> Tensors:
    """A layer as llama.cpp has it: a matrix in codes of each sort, a norm, an index."""
    kinds = {"attn_q": "Q4_0", "attn_k": "Q8_0", "attn_v": "Q6_K", "ffn_up": "Q4_K", "ffn_down": "IQ2_XXS"}
    found: dict[str, tuple[str, Sequence[int], bytes]] = {}
    found |= {f"blk.0.{name}.weight": (kind, (4, 512), blocks(kind, (4, 512))) for name, kind in kinds.items()}
    found["blk.0.attn_norm.weight"] = ("F32", (512,), floats((512,)).tobytes())
    found["positions"] = ("I32", (8,), np.arange(8, dtype=np.int32).tobytes())
    return found


def metadata() -> tuple[bytes, ...]:
    tokens = struct.pack("<IQ", 8, 3) + text("<s>") + text("▁the") + text("")
    return (
        field("general.architecture", 8, text("llama")),
        field("llama.block_count", 4, struct.pack("<I", 1)),
        field("tokenizer.ggml.tokens", 9, tokens),
        field("tokenizer.ggml.scores", 9, struct.pack("<IQ3f", 6, 3, 0.0, 1.0, 2.0)),
        field("general.x", 12, struct.pack("<d", 0.5)),
    )


def saved(path: Path) -> Path:
    path.write_bytes(content(model(), *metadata()))
    return path
