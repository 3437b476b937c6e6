"""The tensors of a folder are the parameters that loaders make for its layers, by name, type and shape.

Facts of `create_weights` of the schemes of vLLM 0.33.0 and SGLang 0.5.23, which take tensors of no other shape. Layers
that are computed as one lie side by side along the outputs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import compressor
from compressor.formats import safetensors
from tests.formats.compressed_tensors import decompressed
from tests.sources.huggingface import folders
from tests.targets.compressed_tensors.checkpoints import Floats, Grid

ROWS, COLUMNS = 64, 256
Parameters = dict[str, tuple[str, list[int]]]
LAYER = "model.layers.0.self_attn.o_proj."


def packed(bits: int, scales: int, *, zero_points: bool = False) -> Parameters:
    made: Parameters = {
        "weight_packed": ("I32", [ROWS, COLUMNS * bits // 32]),
        "weight_scale": ("BF16", [ROWS, scales]),
        "weight_shape": ("I64", [2]),
    }
    return made | ({"weight_zero_point": ("I32", [ROWS * bits // 32, scales])} if zero_points else {})


def floats(*scale: int) -> Parameters:
    return {"weight": ("F8_E4M3", [ROWS, COLUMNS]), "weight_scale": ("BF16", [*scale])}


PARAMETERS: dict[str, tuple[Grid | Floats, Parameters]] = {
    **{f"{bits} bits by group": (Grid(bits, 32), packed(bits, 8)) for bits in range(3, 8)},
    "2 bits by channel": (Grid(2), packed(2, 1)),
    "4 bits by channel": (Grid(4), packed(4, 1)),
    "8 bits by channel": (Grid(8), packed(8, 1)),
    "4 bits with zero points": (Grid(4, 32, asymmetric=True), packed(4, 8, zero_points=True)),
    "floats by tensor": (Floats(8), floats(1)),
    "floats by channel": (Floats(8, (1, 0)), floats(ROWS, 1)),
    "MXFP4": (
        Floats(4, (1, 32)),
        {"weight_packed": ("U8", [ROWS, COLUMNS // 2]), "weight_scale": ("U8", [ROWS, COLUMNS // 32])},
    ),
    "NVFP4": (
        Floats(4, (1, 16), 2.0**-10),
        {
            "weight_packed": ("U8", [ROWS, COLUMNS // 2]),
            "weight_scale": ("F8_E4M3", [ROWS, COLUMNS // 16]),
            "weight_global_scale": ("F32", [1]),
        },
    ),
}


@pytest.mark.parametrize("form", PARAMETERS)
def test_tensors_are_the_parameters_of_loaders(form: str, tmp_path: Path) -> None:
    kind, expected = PARAMETERS[form]
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32))
    tensors = {f"{LAYER}weight": decompressed.array(kind.of(values.to(torch.bfloat16)))}
    folders.dense(tmp_path / "source", tensors)
    compressor.compress(tmp_path / "source", tmp_path / "out", target="compressed-tensors")
    found = safetensors.header(tmp_path / "out" / "model.safetensors")[0]
    made = {name: (one["dtype"], one["shape"]) for name, one in found.items() if name != safetensors.METADATA}
    assert made == {LAYER + name: one for name, one in expected.items()}
