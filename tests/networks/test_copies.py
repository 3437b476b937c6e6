"""A language model whose table is its last layer, which an optimizer stores a second time, transposed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import compressor
from compressor import sources, targets
from compressor.formats.coreml.importing import coremltools
from tests.networks.catalogue import LANGUAGE, fetched
from tests.networks.test_networks import session

coremltools()

from tests.targets.coreml.mil_evaluation import evaluate_package  # noqa: E402 - after Core ML Tools, which warns at import

pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS, WIDTH, LAYERS = LANGUAGE.most, 256, 2
TABLE = TOKENS * WIDTH


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layers of the network, exported by torch and optimized by ONNX Runtime, which transposes the head."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("language")
    config = transformers.GPT2Config(
        vocab_size=TOKENS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=8,
        n_positions=512,
        bos_token_id=2,
        eos_token_id=3,
        attn_implementation="eager",
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    state = torch.load(fetched(LANGUAGE), weights_only=True, map_location="cpu")
    assert not model.load_state_dict(state, strict=False).missing_keys

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.model(ids, use_cache=False).logits)

    ids = torch.zeros((1, 16), dtype=torch.int64)
    torch.onnx.export(Logits(), (ids,), folder / "exported.onnx", dynamo=True, external_data=False, verbose=False)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "model.onnx")
    onnxruntime.InferenceSession(folder / "exported.onnx", options, providers=["CPUExecutionProvider"])
    return folder / "model.onnx"


def given() -> np.ndarray:
    return np.random.default_rng(0).integers(0, TOKENS, (1, 16))


def operators(path: Path, folder: Path) -> list[str]:
    """What a session runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return sorted(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def test_the_head_is_the_table_for_onnx_runtime(network: Path, tmp_path: Path) -> None:
    stored = [tuple(one.dims) for one in onnx.load(network).graph.initializer]
    assert (TOKENS, WIDTH) in stored
    assert (WIDTH, TOKENS) in stored
    copies = sources.read(network).copies.values()
    assert [(one.shape, one.frame, one.order) for one in copies] == [((TOKENS, WIDTH), (WIDTH, TOKENS), (1, 0))]
    manifest = compressor.compress(network, tmp_path / "out")
    assert manifest.nbytes < network.stat().st_size - 4 * TABLE + 4096
    artefact, feeds = tmp_path / "out" / "model.onnx", {"ids": given()}
    expected, got = (session(path).run(None, feeds)[0] for path in (network, artefact))
    assert np.array_equal(expected, got)
    assert operators(artefact, tmp_path) == operators(network, tmp_path)


def test_the_head_is_the_table_for_core_ml(network: Path, tmp_path: Path) -> None:
    target = targets.get("iOS18", {"precision": "float32"})
    manifest = compressor.compress(network, tmp_path / "out", target=target)
    tables = [weight for weight in manifest.weights if np.prod(weight.shape) == TABLE]
    assert [(one.shape, one.nbytes) for one in tables] == [((TOKENS, WIDTH), 4 * TABLE)]
    package = tmp_path / "out" / "model.mlpackage"
    assert sum(file.stat().st_size for file in package.rglob("*.bin")) < network.stat().st_size - 4 * TABLE + 65536
    (got,) = evaluate_package(package, [given()]).values()
    np.testing.assert_allclose(got, session(network).run(None, {"ids": given()})[0], 1e-3, 1e-3)
