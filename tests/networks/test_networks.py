"""Networks that others trained: as they are, and pruned, palettized, quantized and mixed by this test."""

from __future__ import annotations

import math
import os
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import compressor
from compressor import encodings, sources
from compressor.recognition.schemes import sparsify
from tests.networks.catalogue import NETWORKS, fetched
from tests.networks.quantizing import QUANTIZED, quantized

FEWEST = 2048
"""Elements of a weight that is looked at: the default of `detect.min_elements`."""

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}

DECODING = 3_500
"""Bytes that the functions of one form take, at most."""

NODES, NAMES = 400, 6
"""Bytes that the nodes of one encoded weight take, and how often its name stands there, at most."""


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(network, model):
    rng = np.random.default_rng(0)
    given = {}
    for declared in model.get_inputs():
        dtype = np.dtype(DTYPES[declared.type])
        if declared.name in network.numbers:
            given[declared.name] = np.array(network.numbers[declared.name], dtype)
            continue
        shape = network.shapes.get(declared.name, tuple(declared.shape))
        if dtype.kind == "f":
            given[declared.name] = rng.standard_normal(shape).astype(dtype)
        else:
            given[declared.name] = rng.integers(1, network.most, shape).astype(dtype)
    return given


def outputs(network, path):
    model = session(path)
    return model.run(None, feeds(network, model))


def assert_same_bits(network, source, artefact):
    expected, got = outputs(network, source), outputs(network, artefact)
    assert len(expected) == len(got)
    for one, other in zip(expected, got, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f"), np.abs(one - other).max()


def source_nbytes(path):
    """The bytes of a model and of the data files that it names."""
    proto = onnx.load(path, load_external_data=False)
    names = {
        entry.value for tensor in _tensors(proto.graph) for entry in tensor.external_data if entry.key == "location"
    }
    return sum(file.stat().st_size for file in [path, *(path.parent / name for name in names)])


def _tensors(graph):
    """Every tensor of a graph and of its branches."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _tensors(inner)


def claimed(values, encoding):
    """Whether values are what the name of their encoding says, counted by other means."""
    distinct = len(np.unique(values + 0.0))
    zeros = np.count_nonzero(values == 0)
    if encoding.startswith("sparse"):
        return zeros > 0
    if encoding.startswith("palettized"):
        return distinct <= 2 ** int(encoding.removeprefix("palettized"))
    channels = (np.moveaxis(values, axis, 0) for axis in range(values.ndim))
    return any(all(len(np.unique(channel)) <= 256 for channel in along) for along in channels)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_as_it_is_computes_the_same_and_is_never_larger(name, tmp_path):
    network = NETWORKS[name]
    path = fetched(network)
    manifest = compressor.compress(path, tmp_path / "out")
    assert manifest.nbytes <= source_nbytes(path)
    assert all(weight.exact for weight in manifest.weights)
    assert_same_bits(network, path, tmp_path / "out" / "model.onnx")
    values = {one.name: encodings.decode(one.encoding) for one in sources.read(tmp_path / "out/model.onnx").weights}
    for weight in manifest.weights:
        if weight.encoding != "dense":
            assert claimed(values[weight.name], weight.encoding), weight


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_quantized_network_computes_the_same_and_is_never_larger(name, tmp_path):
    network, quantizer = NETWORKS[QUANTIZED[name][0]], QUANTIZED[name][1]
    path, source = fetched(network), tmp_path / "source.onnx"
    quantized(path, quantizer, source, feeds(network, session(path)))
    manifest = compressor.compress(source, tmp_path / "out")
    assert manifest.nbytes <= source.stat().st_size
    assert all(weight.exact for weight in manifest.weights)
    assert_same_bits(network, source, tmp_path / "out" / "model.onnx")


def prune(values, rng):
    kept = np.zeros(values.size, bool)
    kept[rng.permutation(values.size)[: values.size // 4]] = True
    return np.where(kept.reshape(values.shape), values, 0)


def palettize(values, rng):
    table = np.quantile(values.astype(np.float64), np.linspace(0, 1, 16)).astype(values.dtype)
    return table[rng.integers(0, 16, values.shape)]


def quantize(values, rng):
    codes = rng.integers(-127, 128, values.shape)
    codes.flat[0] = 127
    scale = np.float32(np.abs(values.astype(np.float32)).max() / 127)
    return (codes.astype(np.float32) * scale).astype(values.dtype)


def prune_and_palettize(values, rng):
    return prune(palettize(values, rng), rng)


KINDS = {
    "pruned": [prune],
    "palettized": [palettize],
    "quantized": [quantize],
    "mixed": [prune_and_palettize, palettize, prune, quantize],
}
"""What is done to the weights, in turn."""


def bound(change, size, width):
    """The bytes that a changed weight takes at most."""
    by_change = {
        prune: (size / 8 + (size // 4) * width) * sparsify.SOONER,
        palettize: size / 2 + 16 * width,
        # A float16 has rounded the grid away: what is left are 255 distinct values.
        quantize: size + 8 if width == 4 else size + 256 * width,
        prune_and_palettize: (size / 8 + size / 8 + 16 * width) * sparsify.SOONER,
    }
    return by_change[change]


def changed(path, changes, folder):
    """The network with each weight changed in turn; the bytes that the weights took, and must take at most."""
    # With its data inside: khmersm, the one with external data, is small.
    proto = onnx.load(path)
    rng, turn, before, after = np.random.default_rng(1), 0, 0, len(changes) * DECODING
    for tensor in _tensors(proto.graph):
        if tensor.data_type not in {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}:
            continue
        if len(tensor.dims) < 2 or math.prod(tensor.dims) < FEWEST:
            continue
        values = numpy_helper.to_array(tensor)
        change = changes[turn % len(changes)]
        turn += 1
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(change(values, rng), name))
        before += values.nbytes
        after += math.ceil(bound(change, values.size, values.itemsize)) + NODES + NAMES * len(name)
    made = folder / "source.onnx"
    onnx.save(proto, made)
    return made, before, after


# Each network with one kind, unless all are asked for.
ALL = os.environ.get("COMPRESSOR_TESTS") == "all"
CHANGED = [
    (name, kind)
    for place, name in enumerate(NETWORKS)
    for number, kind in enumerate(KINDS)
    if ALL or place % len(KINDS) == number
]


@pytest.mark.parametrize(("name", "kind"), CHANGED)
def test_a_network_whose_weights_were_compressed_in_training_is_stored_so(name, kind, tmp_path):
    network, changes = NETWORKS[name], KINDS[kind]
    source, before, after = changed(fetched(network), changes, tmp_path)
    manifest = compressor.compress(source, tmp_path / "out")
    large = [one for one in manifest.weights if len(one.shape) > 1 and math.prod(one.shape) >= FEWEST]
    dense = [(one.name, one.shape, one.evidence, one.rejected) for one in large if one.encoding == "dense"]
    assert not dense
    assert all(one.exact for one in manifest.weights)
    assert manifest.nbytes <= source.stat().st_size - before + after
    assert_same_bits(network, source, tmp_path / "out" / "model.onnx")
    shutil.rmtree(tmp_path / "out")
