"""Layers that loaders compute as one: one scheme for all of them, and what vLLM and SGLang make of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compressor
from compressor.arrays import NDArray
from compressor.formats.compressed_tensors.schemes import (
    FLOATS,
    MXFP4,
    MXFP6,
    MXFP8,
    NVFP4,
    PACKED,
    Scheme,
)
from compressor.targets.compressed_tensors import runtimes
from compressor.targets.compressed_tensors.fused import FUSED
from tests.formats.compressed_tensors import decompressed
from tests.sources.huggingface import folders
from tests.targets.compressed_tensors.checkpoints import Floats, Grid

RANDOM = np.random.default_rng(0)
GROUP = "config_groups"


def weight(kind: Grid | Floats | None, rows: int = 256, columns: int = 256) -> NDArray:
    values = torch.from_numpy(RANDOM.standard_normal((rows, columns)).astype(np.float32)).to(torch.bfloat16)
    return decompressed.array(values if kind is None else kind.of(values))


def compressed(tmp_path: Path, kinds: Mapping[str, Grid | Floats | None], **options: Any) -> Any:
    tensors = {f"model.layers.0.{name}.weight": weight(kind) for name, kind in kinds.items()}
    folders.dense(tmp_path / "source", tensors)
    made = compressor.compress(tmp_path / "source", tmp_path / "out", target="compressed-tensors", **options)
    found = decompressed.weights(tmp_path / "out")
    for name, values in tensors.items():
        np.testing.assert_array_equal(found[name], values, name)
    return made


def schemes(folder: Path) -> dict[str, tuple[Any, ...] | None]:
    """What vLLM takes each fused layer for, by its rules: None for a dense one.

    A layer is looked for by the names of its shards: it is dense where all are ignored, an error where only some are,
    and has the scheme of the first one where each is some target's.
    """
    config = json.loads((folder / "config.json").read_text()).get("quantization_config", {})
    layers = {name.rpartition(".")[0] for name in decompressed.weights(folder)}

    def matches(layer: str, target: str) -> bool:
        return re.match(target[3:], layer) is not None if target.startswith("re:") else target == layer

    found: dict[str, tuple[Any, ...] | None] = {}
    for names in FUSED:
        for layer in sorted(layers):
            module, _, own = layer.rpartition(".")
            if own != names[0]:
                continue
            shards = [f"{module}.{name}" for name in names if f"{module}.{name}" in layers]
            ignored = [any(matches(shard, one) for one in config.get("ignore", ())) for shard in shards]
            assert all(ignored) or not any(ignored), shards
            each = [
                [
                    (group["format"], json.dumps(group["weights"]))
                    for group in config.get(GROUP, {}).values()
                    if any(matches(shard, target) for target in group["targets"])
                ]
                for shard in shards
            ]
            assert all(one == each[0] for one in each), shards
            found[f"{module}.{names[0]}"] = each[0][0] if each[0] and not ignored[0] else None
    return found


ASYMMETRIC, CHANNELS, TWO = Grid(4, 64, asymmetric=True), Floats(8, (1, 0)), Floats(4, (1, 16), 2.0**-9)

MIXED: dict[str, tuple[dict[str, Grid | Floats | None], str, dict[str, Any]]] = {
    "bits": ({"q": Grid(4, 64), "k": Grid(8, 64), "v": Grid(4, 64)}, "int8", {"num_bits": 8, "group_size": 64}),
    "odd bits": ({"q": Grid(3, 64), "k": Grid(5, 64), "v": Grid(3, 64)}, "int8(palettized5)", {"num_bits": 5}),
    "groups": ({"q": Grid(4, 64), "k": Grid(4, 32), "v": Grid(4, 128)}, "int4", {"num_bits": 4, "group_size": 32}),
    "channels": ({"q": Grid(4), "k": Grid(4, 128), "v": Grid(4)}, "int4", {"group_size": 128, "strategy": "group"}),
    "zero points": ({"q": Grid(4, 64), "k": ASYMMETRIC, "v": Grid(4, 64)}, "int4", {"symmetric": False}),
    "floats": ({"q": CHANNELS, "k": Floats(8, (1, 64)), "v": CHANNELS}, "scaled(float8_e4m3fn)", {"group_size": 64}),
}
"""What q, k and v lie on, and the scheme that holds all of them."""


@pytest.mark.parametrize("case", MIXED)
def test_the_smallest_scheme_that_holds_all(case: str, tmp_path: Path) -> None:
    kinds, form, told = MIXED[case]
    made = compressed(tmp_path, {f"self_attn.{name}_proj": kind for name, kind in kinds.items()})
    assert [one.encoding for one in made.weights] == [form] * 3
    (group,) = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"][GROUP].values()
    assert told.items() <= group["weights"].items()
    evidence = [one.evidence for one in made.weights if "stored as the others are" in one.evidence]
    assert evidence
    assert "vLLM and SGLang compute q_proj, k_proj and v_proj as one layer" in evidence[0]
    assert len(schemes(tmp_path / "out")) == 1


APART: dict[str, tuple[dict[str, Grid | Floats | None], str]] = {
    "one is dense": ({"gate": Grid(4, 64), "up": None}, "others stay dense"),
    "integers and floats": ({"gate": Grid(4, 64), "up": CHANNELS}, "they have 4 bits by group of 64 and 8-bit"),
}


@pytest.mark.parametrize("case", APART)
def test_dense_together_where_no_scheme_holds_all(case: str, tmp_path: Path) -> None:
    kinds, why = APART[case]
    layers = {f"mlp.{name}_proj": kind for name, kind in kinds.items()} | {"mlp.down_proj": Grid(4, 64)}
    made = compressed(tmp_path, layers)
    assert [one.encoding for one in made.weights] == ["dense", "dense", "int4"]
    told = [reason for one in made.weights[:2] for _, reason in one.rejected]
    assert any(why in reason and "gate_proj and up_proj as one layer" in reason for reason in told), told
    assert schemes(tmp_path / "out") == {"model.layers.0.mlp.gate_proj": None}


def test_two_scales_would_be_one_of_all_shards(tmp_path: Path) -> None:
    """VLLM takes the largest scale of all for a fused layer: steps of halves are integers, too."""
    made = compressed(tmp_path, {f"mlp.{name}_proj": TWO for name in ("gate", "up", "down")})
    assert [one.encoding for one in made.weights] == ["int8(palettized5)", "int8(palettized5)", "scaled(palettized4)"]
    refused = dict(made.weights[0].rejected)["scaled(palettized4)"]
    assert refused.endswith("each of these floats of 4 bits has a scale of all of its own")


def test_a_rule_for_one_holds_for_all(tmp_path: Path) -> None:
    kinds = {"self_attn.q_proj": Grid(4, 64), "self_attn.k_proj": Grid(4, 64), "self_attn.o_proj": Grid(4, 64)}
    made = compressed(tmp_path, kinds, rules={"*.k_proj.*": "dense"})
    assert [one.encoding for one in made.weights] == ["dense", "dense", "int4"]


def test_floats_of_4_bits_by_powers_of_two_are_alike(tmp_path: Path) -> None:
    made = compressed(tmp_path, {f"mlp.{name}_proj": Floats(4, (1, 32)) for name in ("gate", "up", "down")})
    assert [one.encoding for one in made.weights] == ["scaled(palettized4)"] * 3
    assert made.notes == (
        "SGLang 0.5.23 does not load layers of MXFP4 by group of 32, 3 here: a rule keeps them dense",
    )


@pytest.mark.parametrize(("kind", "form"), [(CHANNELS, "dense"), (TWO, "int8(palettized5)")])
def test_experts_that_loaders_would_get_wrong(kind: Floats, form: str, tmp_path: Path) -> None:
    """One loads experts of 8-bit floats with quantized activations alone; another forgets one of two scales."""
    made = compressed(tmp_path, {"mlp.experts.0.up_proj": kind, "mlp.experts.1.up_proj": kind, "mlp.up_proj": kind})
    *experts, layer = (one.encoding for one in made.weights)
    assert experts == [form] * 2
    assert layer.startswith("scaled")


def by(strategy: str, kind: str = FLOATS, bits: int = 8, **more: Any) -> Scheme:
    return Scheme(kind, "int" if kind == PACKED else "float", bits, strategy, **more)


@pytest.mark.parametrize(
    ("how", "vllm", "sglang"),
    [
        (by("group", PACKED, 4, group=128), (True, True), (True, True)),
        (by("channel", PACKED, 8), (True, True), (True, True)),
        (by("group", PACKED, 3, group=64), (True, True), (False, False)),
        (by("tensor"), (True, False), (True, False)),
        (by("channel"), (True, False), (True, False)),
        (by("block", block=(128, 128)), (True, False), (False, False)),
        (by("block", block=(64, 64)), (False, False), (False, False)),
        (by("group", group=64), (False, False), (False, False)),
        (by("group", MXFP4, 4, group=32), (True, True), (False, True)),
        (by("group", MXFP8, 8, group=32), (True, True), (False, False)),
        (by("group", MXFP6, 6, group=32), (False, False), (False, False)),
        (by("tensor_group", NVFP4, 4, group=16), (True, True), (True, True)),
    ],
)
def test_what_runtimes_load(how: Scheme, vllm: tuple[bool, bool], sglang: tuple[bool, bool]) -> None:
    """Layers, and experts: facts of vLLM 0.33.0 and SGLang 0.5.23."""
    for runtime, (layer, expert) in ((runtimes.VLLM, vllm), (runtimes.SGLANG, sglang)):
        assert runtimes.loads(runtime, how) == layer
        assert runtimes.loads(runtime, how, expert=True) == expert


@pytest.mark.parametrize(
    ("how", "package"),
    [
        *((by("group", PACKED, bits, group=32), "humming-kernels") for bits in (2, 3, 7)),
        *((by("group", PACKED, bits, group=32), "") for bits in (4, 5, 6, 8)),
        (by("group", PACKED, 5, group=16), "humming-kernels"),
        (by("group", PACKED, 8, group=32, symmetric=False), "humming-kernels"),
        (by("group", PACKED, 4, group=32, symmetric=False), ""),
        (by("channel", PACKED, 8), ""),
        (by("channel"), ""),
    ],
)
def test_what_vllm_has_no_kernel_for_without_a_package(how: Scheme, package: str) -> None:
    """Facts of a run of vLLM 0.33.0's own code."""
    assert runtimes.package(runtimes.VLLM, how) == package
    assert runtimes.package(runtimes.SGLANG, how) == ""


@pytest.mark.parametrize(("other", "count"), [(None, 0), (Grid(4, 32), 2)])
def test_sglang_knows_experts_of_mxfp4_by_the_format_of_a_folder(
    other: Grid | None, count: int, tmp_path: Path
) -> None:
    experts = {f"mlp.experts.{number}.up_proj": Floats(4, (1, 32)) for number in range(2)}
    made = compressed(tmp_path, {**experts, "self_attn.o_proj": other})
    told = f"SGLang 0.5.23 does not load experts of MXFP4 by group of 32, {count} here: a rule keeps them dense"
    assert made.notes == ((told,) if count else ())
    form = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["format"]
    assert form == ("mixed-precision" if count else MXFP4)


def test_the_package_is_told_with_what_needs_it(tmp_path: Path) -> None:
    made = compressed(tmp_path, {f"mlp.{name}_proj": Grid(3, 32) for name in ("gate", "up", "down")})
    assert made.notes == (
        "vLLM 0.33 loads layers of 3 bits by group of 32, 3 here, with humming-kernels alone, on CUDA",
        "SGLang 0.5.23 does not load layers of 3 bits by group of 32, 3 here: a rule keeps them dense",
    )
