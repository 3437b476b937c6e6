"""Architectures of transformers: none loads other weights than it had, whatever its layers are called.

A few of them here; all where COMPRESSOR_TESTS is `all`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors.base import decompress_module

import compressor
from tests.sources.huggingface.architectures import NETWORKS
from tests.targets.compressed_tensors.checkpoints import Grid

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about itself

EVERY = os.environ.get("COMPRESSOR_TESTS") == "all"
DENSE = {"BEiT", "DeiT", "DINOv2", "GPT-2", "ResNet", "SegFormer", "Swin", "T5 (encoder)", "ViT", "ViTMAE", "Wav2Vec2"}
"""Those that have no linear layer that would be found again."""
CHOSEN = NETWORKS if EVERY else ("ALBERT", "GPT-2", "Mixtral", "T5 (encoder)", "ViT", "Whisper (encoder)")


@pytest.mark.parametrize("key", CHOSEN)
def test_it_loads_as_it_was(key: str, tmp_path: Path) -> None:
    model = NETWORKS[key].build()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and weight.shape[-1] >= 8:
                weight.copy_(Grid(4).of(weight))
    model.save_pretrained(tmp_path / "source")
    settings = compressor.Settings(min_elements=256)
    made = compressor.compress(tmp_path / "source", tmp_path / "out", target="compressed-tensors", settings=settings)
    assert any(one.encoding == "int4" for one in made.weights) == (key not in DENSE)
    expected = type(model).from_pretrained(tmp_path / "source")
    loaded, told = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told.values()), told
    for module in loaded.modules():
        decompress_module(module)
    found = dict(loaded.named_parameters())
    for name, weight in expected.named_parameters():
        assert torch.equal(found[name], weight), name
