"""Core ML packages: the program, the blobs, and what Core ML Tools' own compression leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import compressor
from compressor.accounting.account import What
from compressor.accounting.explain import explain
from compressor.encodings import Dense, Encoding, Palettized, Sparse
from compressor.errors import CompressorError
from compressor.formats.coreml import package
from tests.accounting.sums import nbytes, of
from tests.formats.coreml.models import save

RANDOM = np.random.default_rng(0)
SIZE = 64
MASK = RANDOM.random((SIZE, SIZE)) < 0.25
ENCODINGS: dict[str, Encoding] = {
    "dense": Dense(RANDOM.standard_normal((SIZE, SIZE)).astype(np.float16)),
    "small": Dense(RANDOM.standard_normal(5).astype(np.float16)),
    "palettized": Palettized(
        RANDOM.integers(0, 16, (SIZE, SIZE)).astype(np.uint8),
        RANDOM.standard_normal((1, 1, 16, 1)).astype(np.float16),
    ),
    "sparse": Sparse(MASK, Dense(RANDOM.standard_normal(MASK.sum()).astype(np.float16)), (SIZE, SIZE)),
}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return save(tmp_path / "m.mlpackage", 9, ENCODINGS)


def test_weights_by_form(made: Path) -> None:
    found = explain(made)
    assert found.nbytes == nbytes(made)
    forms = {one.name: one.detail for one in found.portions if one.what is What.WEIGHTS}
    assert forms == {"dense": "dense", "small": "dense", "palettized": "palettized4", "sparse": "sparse"}
    weights = of(found, What.WEIGHTS)
    assert (weights["dense"], weights["palettized"]) == (SIZE * SIZE * 2, SIZE * SIZE // 2 + 16 * 2)
    assert weights["sparse"] == SIZE * SIZE // 8 + 2 * int(MASK.sum())
    assert 10 < weights["small"] < 20  # inside of the program, with keys and lengths
    blobs = 5
    assert of(found, What.CONTAINER)["headers of blobs"] == 64 * blobs
    assert of(found, What.UNREFERENCED) == {}
    assert found.notes == ()


def test_the_weights_of_an_inspection(made: Path) -> None:
    difference = sum(of(explain(made), What.WEIGHTS).values()) - compressor.inspect(made).weights_nbytes
    assert 0 <= difference <= 8  # keys and lengths of what lies in the program


def test_blobs_that_no_program_reads(made: Path) -> None:
    other = save(made.parent / "other.mlpackage", 9, {"dense": ENCODINGS["dense"]})
    shutil.copyfile(other / package.MODEL, made / package.MODEL)
    found = explain(made)
    assert found.nbytes == nbytes(made)
    assert of(found, What.WEIGHTS) == {"dense": SIZE * SIZE * 2}
    unread = sum(of(explain(save(made.parent / "all.mlpackage", 9, ENCODINGS)), What.WEIGHTS).values())
    assert 0 <= unread - SIZE * SIZE * 2 - of(found, What.UNREFERENCED)["blobs that the program does not read"] < 20


def test_files_that_are_no_part_of_the_model(made: Path) -> None:
    (made / "Data" / "extra.txt").write_text("extra")
    (made / package.WEIGHTS).with_name("old.bin").write_bytes(b"\1" * 200)
    found = explain(made)
    assert found.nbytes == nbytes(made)
    assert of(found, What.OTHER) == {"Data/extra.txt": 5}
    assert sum(of(found, What.UNREFERENCED).values()) + of(found, What.CONTAINER)["header"] - 64 == 200


def test_weights_that_are_missing(made: Path) -> None:
    (made / package.WEIGHTS).unlink()
    found = explain(made)
    assert found.nbytes == nbytes(made)
    assert "the weights' file weights/weight.bin is missing or outside of the package: not counted" in found.notes


def test_weights_that_are_cut_off(made: Path) -> None:
    weights = made / package.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    found = explain(made)
    assert found.nbytes == nbytes(made)
    assert "the program refers to 1 blob that the file does not have" in found.notes[-1]


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.95])
def test_a_program_that_is_cut_off(made: Path, kept: float) -> None:
    model = made / package.MODEL
    content = model.read_bytes()
    model.write_bytes(content[: int(kept * len(content))])
    try:
        assert explain(made).nbytes == nbytes(made)
    except CompressorError as error:
        refused = str(error)
        assert "not a Core ML model, or truncated" in refused


def test_a_package_without_a_model(made: Path) -> None:
    (made / package.MODEL).unlink()
    with pytest.raises(CompressorError, match="cannot be read"):
        explain(made)
    (made / package.MANIFEST).write_text("{}")
    with pytest.raises(CompressorError, match="it names no model"):
        explain(made)


def test_a_package_from_inside(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    assert explain(".") == explain(made)


def test_a_package_beside_other_models(made: Path) -> None:
    (made.parent / "notes.txt").write_text("notes")
    found = explain(made.parent)
    assert found.nbytes == nbytes(made) + 5
    assert of(found, What.WEIGHTS) == of(explain(made), What.WEIGHTS)
