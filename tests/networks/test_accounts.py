"""Where the bytes of networks are that others trained, as they are, packed and quantized."""

from __future__ import annotations

from pathlib import Path

import pytest

import compressor
from compressor.accounting.account import Account, What
from compressor.accounting.explain import explain
from tests.networks.catalogue import CHECKPOINT, NETWORKS, PACKAGE, fetched
from tests.networks.quantizing import QUANTIZED, quantized
from tests.networks.test_networks import feeds, session

SHARE = {"voice (torch.export)": 0.76, "Thai words (Keras)": 0.97, "notes (TensorFlow)": 0.62}
"""How much of a file its weights are, where that is less than nine tenths, or a network is special."""


def nbytes(account: Account, *whats: What) -> int:
    return sum(portion.nbytes for portion in account.portions if portion.what in whats)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_byte_of_a_network(name: str) -> None:
    path = fetched(NETWORKS[name])
    found = explain(path)
    assert found.nbytes == sum((path.parent / file).stat().st_size for file in found.files)
    assert found.notes == ()
    stored = nbytes(found, What.WEIGHTS, What.COPIES)
    # What the source reads as weights, but those that several names have and scalars that are numbers of the graph.
    assert stored >= 0.99 * compressor.inspect(path).weights_nbytes
    assert stored >= SHARE.get(name, 0.83) * found.nbytes
    assert nbytes(found, What.CONSTANTS, What.UNREFERENCED, What.UNREADABLE) < 0.08 * found.nbytes


def test_what_torch_export_leaves_in_a_network() -> None:
    """A fifth of the voice detector is where each operator came from in its source code."""
    found = explain(fetched(NETWORKS["voice (torch.export)"]))
    (properties,) = (one for one in found.portions if (one.what, one.name) == (What.NAMES, "properties"))
    assert properties.nbytes == 640_777


def test_a_package_of_an_older_core_ml_tools() -> None:
    path = fetched(PACKAGE)
    found = explain(path)
    assert found.nbytes == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert nbytes(found, What.UNREFERENCED, What.UNREADABLE) == 0
    difference = nbytes(found, What.WEIGHTS, What.COPIES) - compressor.inspect(path).weights_nbytes
    assert 0 <= difference < 200  # keys and lengths of those that lie in the program
    assert found.notes == ()


LATE = {"Q/DQ (Paddle)", "QLinearConv (Paddle)"}
"""Of these, weights lie in `Constant`s, which the quantizer leaves as they are: sessions quantize them."""


@pytest.mark.parametrize("name", QUANTIZED)
def test_every_byte_of_a_quantized_network(name: str, tmp_path: Path) -> None:
    network, quantizer = QUANTIZED[name]
    path = fetched(NETWORKS[network])
    quantized(path, quantizer, tmp_path / "m.onnx", feeds(NETWORKS[network], session(path)))
    found = explain(tmp_path / "m.onnx")
    assert found.nbytes == (tmp_path / "m.onnx").stat().st_size
    forms = {one.detail for one in found.portions if one.what is What.WEIGHTS}
    assert ("dense, quantized when a session loads" in forms) == (name in LATE)
    assert name in LATE or forms & {"int8", "uint8", "int4", "uint4"}
    # Nothing that training has learned counts as a number of the graph.
    floats = [one for one in found.portions if one.what is What.CONSTANTS and one.detail == "float32"]
    assert sum(one.nbytes for one in floats) < 0.002 * found.nbytes
    assert (nbytes(found, What.QUANTIZATION) > 0) == ("4-bit" not in name)


def test_a_checkpoint_of_an_early_torch() -> None:
    path = fetched(CHECKPOINT)
    found = explain(path)
    assert found.nbytes == path.stat().st_size == 6009
    weights = {one.name: one.nbytes for one in found.portions if one.what is What.WEIGHTS}
    assert weights == {f"lin{layer}.model.1.weight": 4 * size for layer, size in enumerate((64, 192, 384, 256, 256))}
    assert found.by_what().keys() == {What.WEIGHTS, What.NAMES, What.CONTAINER}
