"""coreai-opt, which finalizes models for Core ML with the buffers of Core ML Tools."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Module

from tests.sources.torch.declared_exports import FLAT, Exported

pytest.importorskip("coreai_opt")
pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ["first", "second"]


NETWORKS = "declared_networks"


@pytest.fixture(scope="module")
def ai() -> SimpleNamespace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from coreai_opt import common, palettization, pruning, quantization
        from coreai_opt.palettization import spec as palettes
        from coreai_opt.quantization import spec as grids
    modules = (common, palettization, pruning, quantization)
    found = {name: value for module in modules for name, value in vars(module).items()}
    return SimpleNamespace(**found, palettes=palettes, grids=grids)


def palettized(ai: Any, model: Module, *, fast: bool = True, **spec: Any) -> Module:
    module = ai.ModuleKMeansPalettizerConfig(
        op_state_spec={"weight": ai.PalettizationSpec(**spec)}, enable_fast_kmeans_mode=fast
    )
    palettizer = ai.KMeansPalettizer(model, ai.KMeansPalettizerConfig(global_config=module))
    palettizer.prepare((torch.rand(2, 64),))
    finalized: Module = palettizer.finalize(backend=ai.ExportBackend.CoreML)
    return finalized


def quantized(ai: Any, model: Module, **spec: Any) -> Module:
    state = {"weight": ai.QuantizationSpec(**spec)}
    module = ai.ModuleQuantizerConfig(op_state_spec=state, op_input_spec=None, op_output_spec=None)
    config = ai.QuantizerConfig(global_config=module, execution_mode=ai.ExecutionMode.EAGER)
    quantizer = ai.Quantizer(model, config)
    quantizer.prepare((torch.rand(2, 64),))(torch.rand(2, 64))
    finalized: Module = quantizer.finalize(backend=ai.ExportBackend.CoreML)
    return finalized


def pruned(ai: Any, model: Module) -> Module:
    state = {"weight": ai.PruningSpec(target_sparsity=0.75)}
    config = ai.MagnitudePrunerConfig(global_config=ai.ModuleMagnitudePrunerConfig(op_state_spec=state))
    pruner = ai.MagnitudePruner(model, config)
    prepared: Module = pruner.prepare((torch.rand(2, 64),))
    return prepared


MADE: dict[str, tuple[Callable[[Any, Module], Module], str, str]] = {
    "tables": (
        lambda ai, model: palettized(
            ai, model, n_bits=4, granularity=ai.palettes.PerGroupedChannelGranularity(axis=0, group_size=8)
        ),
        "palettized4",
        "palettized4",
    ),
    "scaled": (
        lambda ai, model: palettized(ai, model, n_bits=4, enable_per_channel_scale=True),
        "scaled(palettized4)",
        "scaled(palettized4)",
    ),
    "vectors": (
        lambda ai, model: palettized(ai, model, fast=False, n_bits=4, cluster_dim=2),
        "palettized4",
        "palettized4",
    ),
    "tables of codes": (
        lambda ai, model: palettized(ai, model, n_bits=4, lut_qspec=ai.QuantizationSpec(dtype=torch.int8)),
        "int8(palettized4)",
        "int8(palettized4)",
    ),
    "channels": (
        lambda ai, model: quantized(ai, model, dtype=torch.int8, granularity=ai.grids.PerChannelGranularity(axis=0)),
        "int8",
        "int8",
    ),
    "blocks": (
        lambda ai, model: quantized(
            ai, model, dtype=torch.int4, granularity=ai.grids.PerBlockGranularity(axis=1, block_size=16)
        ),
        "int4",
        "int4",
    ),
    "masks, before they are merged": (pruned, "dense", "sparse"),
}
"""What makes a model, what it declares, and what is stored."""


@pytest.mark.parametrize("kind", MADE)
def test_what_is_finalized_for_core_ml(kind: str, networks, ai, tmp_path: Path) -> None:
    make, told, stored = MADE[kind]
    torch.manual_seed(0)
    model = make(ai, networks.layers(NAMES))
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    weights = {
        f"layers.{name}.{part}": getattr(model.layers[name], part) for name in NAMES for part in ("weight", "bias")
    }
    exported = Exported(
        tmp_path / "trained.pt",
        tmp_path / "out",
        weights,
        FLAT,
        factory="declared_networks:layers",
        args={"names": NAMES},
    )
    assert exported.names == dict.fromkeys(NAMES, told)
    assert exported.notes == {}
    assert {form.split("(")[0] for form in exported.stored.values()} == {stored.split("(")[0]}
    x = torch.rand(5, 64)
    np.testing.assert_allclose(exported.run(x), model(x).detach().numpy(), atol=1e-5)
