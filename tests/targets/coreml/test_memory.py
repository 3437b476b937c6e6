"""What a fitted model holds: its weights lie in files, however a program has moved them."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from compressor import sources, targets
from compressor.compilation.pipelines import PIPELINES
from compressor.compilation.planning import Request
from compressor.encodings import decode
from compressor.recognition.findings import Settings
from tests.sources.onnx.models import save, tensor, value

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

SIZE = 512
"""Of a square weight, 1 MiB."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return moving(tmp_path / "m.onnx")


def moving(path: Path) -> Path:
    """Six weights: read as they are, transposed, turned twice behind each other; one of each on a grid."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((6, SIZE, SIZE)).astype(np.float32)
    weights[::2] = rng.integers(-127, 128, (3, SIZE, SIZE)) * rng.uniform(0.01, 0.02, (3, SIZE, 1)).astype(np.float32)
    nodes = [helper.make_node("Gemm", [f"x{at}", f"w{at}"], [f"x{at + 1}"], transB=1) for at in (0, 1)]
    nodes += [helper.make_node("MatMul", [f"x{at}", f"w{at}"], [f"x{at + 1}"]) for at in (2, 3)]
    for at in (4, 5):
        nodes.append(helper.make_node("Concat", [f"w{at}", f"w{at}"], [f"twice{at}"], axis=0))
        nodes.append(helper.make_node("Slice", [f"twice{at}", "begin", "end"], [f"turned{at}"]))
        nodes.append(helper.make_node("MatMul", [f"x{at}", f"turned{at}"], [f"x{at + 1}"]))
    ends = {"inputs": [value("x0", [1, SIZE])], "outputs": [value("x6", [1, SIZE])]}
    held = [tensor(f"w{at}", array) for at, array in enumerate(weights)]
    held += [tensor("begin", np.array([7])), tensor("end", np.array([7 + SIZE]))]
    return save(path, nodes, held, **ends)


@contextmanager
def traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def test_a_fitted_model_holds_no_weight(model: Path) -> None:
    target = targets.get("iOS18")
    asked = Request(target, PIPELINES["auto"], Settings())
    target.fit(sources.read(model), asked)  # everything is imported then
    with traced():
        fitted = target.fit(sources.read(model), asked).model
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    assert [weight.name for weight in fitted.weights] == [f"w{at}" for at in range(6)]
    assert held < SIZE * SIZE  # a byte an element of one of them


def test_reading_a_moved_weight_leaves_nothing_behind(model: Path) -> None:
    target = targets.get("iOS18")
    fitted = target.fit(sources.read(model), Request(target, PIPELINES["auto"], Settings())).model
    for weight in fitted.weights:
        decode(weight.encoding)
    gc.disable()
    try:
        with traced():
            for weight in fitted.weights:
                decode(weight.encoding)
            held, _ = tracemalloc.get_traced_memory()
    finally:
        gc.enable()
    assert held < SIZE * SIZE
