"""Artefacts that earlier versions wrote load in ONNX Runtime and are read to the same values, for ever.

`tests/golden/add_artefacts.py` says how new ones are added; what is there is never changed to make a test pass.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import compressor
from compressor import sources
from compressor.arrays import NDArray
from compressor.encodings import Encoding, decode, name
from tests.conformance import operators, outputs, same
from tests.golden.add_artefacts import FOLDER, INNER, OPSETS, models, products

ARTEFACTS = sorted(FOLDER.glob("*.onnx"))
MULTIPLIED = [path for path in ARTEFACTS if path.name.partition(".")[0] in products(OPSETS[0])]
DECODED = [path for path in ARTEFACTS if path not in MULTIPLIED]


def test_every_form_is_there() -> None:
    assert {path.name.partition(".")[0] for path in ARTEFACTS} == {path.stem for path in FOLDER.glob("*.npy")}
    assert {path.stem for path in FOLDER.glob("*.npy")} >= models(OPSETS[0]).keys()
    assert {path.suffixes[0] for path in ARTEFACTS} == {".opset18", ".opset21", ".opset25"}


def read(path: Path) -> tuple[Encoding, NDArray]:
    """The weight of an artefact, after it was seen to be what was written, and its values."""
    stem = path.name.partition(".")[0]
    (weight,) = (one for one in sources.read(path).weights if one.name == "w")
    values = decode(weight.encoding)
    expected = np.load(path.with_name(f"{stem}.npy"))
    assert same(values, expected.view(values.dtype))
    assert (values.dtype.itemsize, values.shape) == (expected.dtype.itemsize, expected.shape)
    (found,) = (one for one in compressor.inspect(path).weights if one.name == "w")
    assert found.encoding == name(weight.encoding)
    form = "dense" if stem.startswith("dense") else stem.partition("-by-")[0]
    assert found.encoding.replace("(", "-").replace(", ", "-").rstrip(")") == form.removesuffix(
        "-vectors"
    ).removesuffix("-blocks")
    onnx.checker.check_model(path)
    return weight.encoding, expected.view(values.dtype)


@pytest.mark.parametrize("path", DECODED, ids=lambda path: path.stem)
def test_an_artefact_is_read_and_computed_as_it_was_written(path: Path, tmp_path: Path) -> None:
    encoding, expected = read(path)
    computed = outputs(path, [("w", encoding)], tmp_path / "optimized.onnx")["w"]
    assert same(computed, expected)
    assert operators(tmp_path / "optimized.onnx") == {"Gather": 1}


@pytest.mark.parametrize("path", MULTIPLIED, ids=lambda path: path.stem)
def test_what_multiplies_by_codes_is_read_and_computed_as_it_was_written(path: Path) -> None:
    _, expected = read(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"x": np.eye(INNER[0], dtype=np.float32)})
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-4)  # a step is at least 0.01
