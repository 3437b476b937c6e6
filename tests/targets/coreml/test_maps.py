"""Weights as maps of copies: a view says which elements it has, and these are read where they lie."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from compressor import sources, targets
from compressor.arrays import ComputedArray, MappedArray, NDArray
from compressor.compilation.pipelines import PIPELINES
from compressor.compilation.planning import Request
from compressor.encodings import Dense, Encoding, decode
from compressor.errors import CompressorError
from compressor.recognition.findings import Settings
from compressor.targets.coreml import frontends, spilling
from compressor.targets.coreml.floats import later
from compressor.targets.coreml.maps import bound, held, keeping, lying, read
from tests.sources.onnx.models import save, tensor, value
from tests.targets.coreml.test_memory import SIZE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

SHAPE = (520, 12, 60)

HALF = np.dtype(np.float16)

VIEWS: dict[str, Callable[[NDArray], NDArray]] = {
    "all": lambda x: x,
    "some rows": lambda x: x[3:500],
    "in another shape": lambda x: x.reshape(60, 12, -1),
    "a matrix turned": lambda x: x.reshape(520, -1).T,
    "some columns turned": lambda x: x.reshape(520, -1)[:, 40:90].T,
    "axes in another order": lambda x: x.transpose(2, 0, 1),
    "a column": lambda x: x.reshape(1, -1).T,
    "from behind": lambda x: x[::-1, :, ::-3],
}


@pytest.fixture
def source(tmp_path: Path) -> MappedArray:
    """More than a megabyte behind other bytes."""
    values = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    (tmp_path / "data").write_bytes(bytes(12) + values.tobytes() + bytes(5))
    return MappedArray(tmp_path / "data", 12, SHAPE, values.dtype)


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_read_from_their_file(source: MappedArray, view: str) -> None:
    made, expected = VIEWS[view](held(Dense(source))), VIEWS[view](np.asarray(source))
    assert np.array_equal(read(made), expected)
    array, _ = lying(made)
    assert isinstance(array, MappedArray | ComputedArray)
    assert len(pickle.dumps(array)) < 1000
    rounded = later(made, HALF, None, None)
    assert np.asarray(rounded).tobytes() == expected.astype(HALF).tobytes()
    if rounded.rows is not None:
        assert rounded.rows(5, 9).tobytes() == expected[5:9].astype(HALF).tobytes()
    factor = np.linspace(0.5, 2, made.shape[0]).reshape(-1, *[1] * (made.ndim - 1))
    scaled = later(made, HALF, factor, None)
    assert np.asarray(scaled).tobytes() == (expected.astype(np.float64) * factor).astype(HALF).tobytes()
    os.truncate(source.path, 100)  # a map of it would end the process
    assert np.array_equal(made, expected)
    with pytest.raises(CompressorError, match="data: cannot read bytes"):
        np.asarray(rounded)


@pytest.mark.parametrize("extreme", [70000.0, -70000.0, np.inf, np.nan])
def test_the_largest_magnitude_is_known_without_a_look(source: MappedArray, extreme: float) -> None:
    values = np.array(source)
    assert bound(held(Dense(source))[3:9].T) == np.abs(values).max()
    values[7, 3, 5] = extreme
    source.path.write_bytes(bytes(12) + values.tobytes())
    assert np.array_equal(bound(held(Dense(source))), abs(extreme), equal_nan=True)
    assert bound(values) == np.inf


def test_a_view_that_others_passed_on_is_one_of_the_map(source: MappedArray, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = held(Dense(source))
    kept = keeping([np.zeros(3, np.float32), mapped])
    passed_on = torch.from_numpy(mapped).reshape(520, -1).T.numpy()
    array, order = lying(kept(passed_on))
    assert (array, order) == (MappedArray(source.path, 12, (520, 720), source.dtype), (1, 0))
    assert lying(kept(passed_on + 1))[0] is not array
    monkeypatch.setattr(spilling, "SPILLED", 1)
    other, _ = lying(kept(np.ones(7, np.float32)))
    assert isinstance(other, np.ndarray)


def test_a_model_is_fitted_without_a_look_into_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold NaNs here: the weights are those of the file all the same."""
    weights = np.random.default_rng(0).standard_normal((2, SIZE, SIZE)).astype(np.float32)
    nodes = [helper.make_node("Gemm", ["x", "w0"], ["y"], transB=1), helper.make_node("MatMul", ["y", "w1"], ["z"])]
    ends = {"inputs": [value("x", [1, SIZE])], "outputs": [value("z", [1, SIZE])]}
    path = save(tmp_path / "m.onnx", nodes, [tensor(f"w{at}", array) for at, array in enumerate(weights)], **ends)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="data")  # at multiples of a page
    blanks: list[NDArray] = []

    def blank(encoding: Encoding) -> NDArray:
        made = held(encoding)
        made.flags.writeable = True
        made[...] = np.nan  # of its own copies of the pages
        blanks.append(made)
        return made

    monkeypatch.setattr(frontends, "held", blank)
    target = targets.get("iOS18")
    fitted = target.fit(sources.read(path), Request(target, PIPELINES["auto"], Settings())).model
    assert np.isnan(blanks).all()
    for weight, expected in zip(fitted.weights, (weights[0], weights[1].T), strict=True):
        assert decode(weight.encoding).tobytes() == expected.astype(HALF).tobytes()


def test_a_number_has_no_axis() -> None:
    number = later(np.array(1.5, np.float32), np.dtype(np.float16), None, None)
    same = later(np.array(1.5, np.float16), np.dtype(np.float16), None, None)
    assert [np.asarray(one).shape for one in (number, same)] == [(), ()]
