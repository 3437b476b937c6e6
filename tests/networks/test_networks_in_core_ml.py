"""Networks that others trained as Core ML packages, evaluated beside ONNX Runtime; a foreign package as a source."""

from __future__ import annotations

import os
import shutil

import numpy as np
import onnx
import pytest

import compressor
from compressor import targets
from compressor.errors import CompressorError
from compressor.formats.coreml.importing import coremltools

coremltools()

from tests.networks.catalogue import NETWORKS, PACKAGE, fetched  # noqa: E402
from tests.networks.test_networks import changed, feeds, palettize, prune, quantize, session  # noqa: E402
from tests.targets.coreml.mil_evaluation import evaluate_package  # noqa: E402 - after Core ML Tools, which warns at import

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")

REFUSED = {"voice (spox, branches)": "If: If_0"}
"""What the refusal names. One branch of the voice detector takes windows of 512 samples, the other one of 256: with one
size of the input, one of them is no valid graph."""

# Some convert and evaluate for minutes: these are left out, and weights are changed in a few, unless all are asked for.
ALL = os.environ.get("COMPRESSOR_TESTS") == "all"
SLOW = {"Thai words (LSTM, Keras)", "text lines (Paddle)", "text (Paddle)"}
TAKEN = [name for name in NETWORKS if name not in REFUSED and (ALL or name not in SLOW)]
CHANGED = TAKEN if ALL else ["file types (JAX)", "voice (LSTM)", "Thai words (torch)", "seizures (LSTM)"]


def of_fixed_size(network, path, folder):
    """The network with the sizes of its feeds, and the feeds."""
    given, proto = feeds(network, session(path)), onnx.load(path)
    for declared in proto.graph.input:
        if declared.name in given:
            shape = declared.type.tensor_type.shape
            del shape.dim[:]
            for size in given[declared.name].shape:
                shape.dim.add(dim_value=size)
    for declared in proto.graph.output:
        declared.type.tensor_type.ClearField("shape")
    made = folder / "source.onnx"
    onnx.save(proto, made)
    return made, given


def check(path, given, folder, target):
    """That the package computes what the network does."""
    manifest = compressor.compress(path, folder / "out", target=targets.get(target, {"precision": "float32"}))
    assert all(weight.exact for weight in manifest.weights)
    found = evaluate_package(folder / "out" / "model.mlpackage", list(given.values()))
    for want, got in zip(session(path).run(None, given), found.values(), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), 1e-3, 1e-3)
    return manifest


@pytest.mark.parametrize("name", TAKEN)
def test_a_network_as_it_is(name, tmp_path):
    network = NETWORKS[name]
    path, given = of_fixed_size(network, fetched(network), tmp_path)
    check(path, given, tmp_path, "iOS18")


@pytest.mark.parametrize("name", CHANGED)
def test_a_network_whose_weights_were_compressed_in_training(name, tmp_path):
    network = NETWORKS[name]
    path, given = of_fixed_size(network, fetched(network), tmp_path)
    source, before, after = changed(path, [prune, palettize, quantize], tmp_path)
    manifest = check(source, given, tmp_path, "iOS17")
    assert any(weight.encoding != "dense" for weight in manifest.weights)
    assert manifest.nbytes < manifest.dense_nbytes - (before - after) / 2


@pytest.mark.parametrize(("name", "named"), REFUSED.items())
def test_a_network_that_is_refused_by_name(name, named, tmp_path):
    path, _ = of_fixed_size(NETWORKS[name], fetched(NETWORKS[name]), tmp_path)
    with pytest.raises(CompressorError, match=named):
        compressor.compress(path, tmp_path / "out", target="iOS18")


def test_a_package_of_others_as_a_source(tmp_path):
    path, given = fetched(PACKAGE), {"input_2": np.random.default_rng(0).standard_normal((1, 43844, 1))}
    shutil.copytree(path, tmp_path / "model.mlpackage")
    compressor.compress(tmp_path / "model.mlpackage", tmp_path / "out", target="iOS18")
    expected = evaluate_package(path, list(given.values()))
    found = evaluate_package(tmp_path / "out" / "model.mlpackage", list(given.values()))
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        np.testing.assert_array_equal(found[name], want)
