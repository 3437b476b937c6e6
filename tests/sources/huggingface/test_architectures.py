"""Architectures of transformers, from the folders that it writes to artefacts for both families.

A few of them here; all where COMPRESSOR_TESTS is `all`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch.utils._pytree import tree_leaves

import compressor
from compressor import sources, targets
from compressor.arrays import NDArray
from compressor.formats.coreml.importing import coremltools
from compressor.sources.huggingface import export
from compressor.sources.onnx import TRACED

pytest.importorskip("transformers")
coremltools()

from tests.sources.huggingface.architectures import NETWORKS, Network, feeds  # noqa: E402
from tests.targets.coreml.mil_evaluation import evaluate_package  # noqa: E402 - after Core ML Tools, which warns at import

pytestmark = pytest.mark.filterwarnings("ignore")  # of both libraries, about themselves

EVERY = os.environ.get("COMPRESSOR_TESTS") == "all"
CHOSEN = NETWORKS if EVERY else ("BERT", "Mixtral", "ResNet", "ViT", "Whisper (encoder)")
SETTINGS = compressor.Settings(min_elements=256)
LENGTHS = ((16, 0), (9, 3), (21, 20), (7, 7), (1, 0))
"""Lengths, and how many places at the end are masked: none, some, all."""
DOCUMENT = Path(__file__).parents[3] / "docs" / "sources.md"


def modified(model: Any) -> Any:
    """`model` as trainings leave it: matrices in turn pruned, on a palette, on a grid, as they were."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        matrices = [tensor for tensor in dict(model.named_parameters()).values() if tensor.ndim > 1]
        for number, tensor in enumerate(matrices):
            if number % 4 == 0:
                tensor.mul_(torch.rand(tensor.shape, generator=random) < 0.3)
            elif number % 4 == 1:
                tensor.copy_(torch.linspace(-0.3, 0.4, 8)[torch.randint(0, 8, tensor.shape, generator=random)])
            elif number % 4 == 2:
                tensor.copy_(torch.randint(-127, 128, tensor.shape, generator=random) * torch.tensor(0.003))
    return model


def expected(model: Any, given: dict[str, Any]) -> list[NDArray]:
    with torch.no_grad():
        returned = model(**{name: torch.from_numpy(np.asarray(value)) for name, value in given.items()})
    kept = {key: value for key, value in returned.items() if key != "past_key_values"}
    return [leaf.numpy() for leaf in tree_leaves(kept) if isinstance(leaf, torch.Tensor)]


def cases(network: Network) -> Iterator[dict[str, Any]]:
    varies = any(spec.dynamic for spec in network.inputs.values())
    for length, padded in LENGTHS if varies else LENGTHS[:1]:
        yield feeds(network, length, padded if "attention_mask" in network.inputs else 0)


def close(found: list[NDArray], wanted: list[NDArray]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(other).max())))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network and its export, by the name of the architecture."""
    known: dict[str, tuple[Any, Path]] = {}

    def make(key: str) -> tuple[Any, Path]:
        if key not in known:
            folder, exported = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("exported")
            model = modified(NETWORKS[key].build())
            model.save_pretrained(folder)
            export(folder, exported, inputs=NETWORKS[key].inputs)
            known[key] = model, exported
        return known[key]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make


@pytest.mark.parametrize("key", CHOSEN)
def test_what_is_exported_and_compressed_computes_what_torch_does(made: Any, tmp_path: Path, key: str) -> None:
    model, exported = made(key)
    manifest = compressor.compress(exported, tmp_path / "artefact", settings=SETTINGS)
    assert all(weight.exact for weight in manifest.weights)
    forms = {weight.encoding for weight in manifest.weights}
    assert len({"sparse", "palettized3", "int8"} & forms) >= 2  # of some networks, all that is pruned is small
    for folder in (exported, tmp_path / "artefact"):
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        taken = {one.name for one in session.get_inputs()}
        for given in cases(NETWORKS[key]):
            wanted = expected(model, given)
            close(session.run(None, {name: value for name, value in given.items() if name in taken}), wanted)


ROUTES = [(key, route, "iOS18") for key in CHOSEN for route in NETWORKS[key].routes]
ROUTES = ROUTES if EVERY else [("BERT", "torch", "iOS17"), *(each for each in ROUTES if each[0] != "Mixtral")]


@pytest.mark.parametrize(("key", "route", "target"), ROUTES)
def test_packages_of_both_routes_compute_what_torch_does(
    made: Any, tmp_path: Path, key: str, route: str, target: str
) -> None:
    """At every length between bounds, and under every mask, also one that leaves nothing."""
    model, exported = made(key)
    traced, hidden = exported / TRACED, exported / "hidden.pt"
    instead = NETWORKS[key].instead
    if route == "onnx" and traced.exists() and not instead:
        traced.rename(hidden)
    try:
        axes = {"sequence": (1, 40)} if any(spec.dynamic for spec in NETWORKS[key].inputs.values()) else {}
        asked = targets.get(target, {"precision": "float32", "axes": axes})
        manifest = compressor.compress(exported, tmp_path / "out", target=asked, settings=SETTINGS)
        order = [one.name for one in sources.read(exported).graph.graph.input]
    finally:
        if hidden.exists():
            hidden.rename(traced)
    said = [note for note in manifest.notes if note.startswith("Converted from the ONNX graph: ")]
    assert bool(said) == bool(instead)
    assert all(instead in note for note in said)
    for given in cases(NETWORKS[key]):
        wanted = expected(model, given)
        found = evaluate_package(tmp_path / "out" / "model.mlpackage", [given[name] for name in order])
        close(list(found.values()), wanted)


def test_the_document_names_the_architectures() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ") and "`transformers." in line]
    found = [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]
    ways = {key: ", ".join(one.routes) or "not tested" for key, one in NETWORKS.items()}
    wanted = [(key, f"`transformers.{one.kind}`", ways[key]) for key, one in NETWORKS.items()]
    assert found == wanted
