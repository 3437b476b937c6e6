"""Weights of a package, made in other processes: they read the source's file, and nothing of a weight is sent."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import compressor
from compressor import sources, targets
from compressor.arrays import ComputedArray
from compressor.compilation.pipelines import PIPELINES
from compressor.compilation.planning import Request
from compressor.compilation.tasks import pickled
from compressor.encodings import Dense, decode
from compressor.recognition.findings import Settings
from compressor.targets.coreml.floats import Traced, later
from tests.compilation.test_workers import Inline
from tests.faults.commands import snapshot
from tests.targets.coreml.networks import Exported
from tests.targets.coreml.test_memory import SIZE, moving

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

MOST_NBYTES = 20_000
"""Of a task. A weight has a million."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return moving(tmp_path / "m.onnx")


@pytest.mark.parametrize("name", ["iOS16", "iOS18"])
def test_a_fitted_weight_pickles_as_where_its_values_lie(model: Path, name: str) -> None:
    target = targets.get(name)
    fitted = target.fit(sources.read(model), Request(target, PIPELINES["auto"], Settings())).model
    for weight in fitted.weights:
        sent = pickled(weight)
        assert len(sent) < MOST_NBYTES, weight.name
        again = pickle.loads(sent)  # noqa: S301
        np.testing.assert_array_equal(decode(again.encoding), decode(weight.encoding))
        assert again.origin is not None
        assert again.origin.weight == weight.name


@pytest.mark.parametrize("given", [0.1, 0.2])
def test_values_that_a_frontend_has_made_are_sent(given: float) -> None:
    """What the moves that were noted do not give is no reading of the source."""
    dims, kind = (SIZE, SIZE), np.dtype(np.float32)
    known = Traced(Dense(ComputedArray(dims, kind, partial(np.full, dims, np.float32(0.1)))), None)
    rounded = later(np.full(dims, given, kind), np.dtype(np.float16), None, known).compute
    sent = pickled(rounded)
    assert (len(sent) > MOST_NBYTES) == (given != 0.1)
    np.testing.assert_array_equal(pickle.loads(sent)(), np.full(dims, given, np.float16))  # noqa: S301


def compressed(model: Path, out: Path, target: str, executor: Executor | None = None) -> dict[str, object]:
    compressor.compress(model, out, target=target, executor=executor)
    return dict(snapshot(out))


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_the_package_is_the_same_and_no_weight_was_sent(model: Path, target: str) -> None:
    executor = Inline()
    here = compressed(model, model.with_name("here"), target)
    assert compressed(model, model.with_name("there"), target, executor) == here
    assert executor.started >= 3
    assert executor.sent < executor.started * 3 * MOST_NBYTES


@pytest.mark.parametrize("name", ["classifier", "lstm"])
def test_networks_of_torch_are_the_same_from_any_number_of_processes(
    export: Callable[[str], Exported], tmp_path: Path, name: str
) -> None:
    folder = export(name).folder
    here = compressed(folder, tmp_path / "here", "iOS18")
    for count in (1, 2, 3):
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
            assert compressed(folder, tmp_path / "there", "iOS18", pool) == here


def test_a_package_that_is_compressed_again(model: Path) -> None:
    compressed(model, model.with_name("first"), "iOS16")
    package = model.with_name("first") / "model.mlpackage"
    here = compressed(package, model.with_name("here"), "iOS18")
    assert compressed(package, model.with_name("there"), "iOS18", Inline()) == here
