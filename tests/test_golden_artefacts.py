"""Artefacts that earlier versions wrote load in ONNX Runtime and are read to the same values, for ever.

`tests/golden/add_artefacts.py` says how new ones are added; what is there is never changed to make a test pass.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import compressor
from compressor import sources
from compressor.encodings import decode, name
from tests.conformance import operators, outputs, same
from tests.golden.add_artefacts import FOLDER, forms

ARTEFACTS = sorted(FOLDER.glob("*.onnx"))


def test_every_form_is_there() -> None:
    assert {path.name.partition(".")[0] for path in ARTEFACTS} == {path.stem for path in FOLDER.glob("*.npy")}
    assert {path.stem for path in FOLDER.glob("*.npy")} >= forms().keys()
    assert {path.suffixes[0] for path in ARTEFACTS} == {".opset18", ".opset21", ".opset25"}


@pytest.mark.parametrize("path", ARTEFACTS, ids=lambda path: path.stem)
def test_an_artefact_is_read_and_computed_as_it_was_written(path: Path, tmp_path: Path) -> None:
    stem = path.name.partition(".")[0]
    (weight,) = sources.read(path).weights
    values = decode(weight.encoding)
    expected = np.load(path.with_name(f"{stem}.npy"))
    assert same(values, expected.view(values.dtype))
    assert (values.dtype.itemsize, values.shape) == (expected.dtype.itemsize, expected.shape)
    (found,) = compressor.inspect(path).weights
    assert found.encoding == name(weight.encoding)
    assert found.encoding.replace("(", "-").rstrip(")") == stem.partition("-by-")[0].removesuffix(
        "-vectors"
    ).removesuffix("-blocks").removesuffix("-float16").removesuffix("-bfloat16")
    onnx.checker.check_model(path)
    computed = outputs(path, [("w", weight.encoding)], tmp_path / "optimized.onnx")["w"]
    assert same(computed, expected.view(values.dtype))
    assert operators(tmp_path / "optimized.onnx") == {"Gather": 1}
