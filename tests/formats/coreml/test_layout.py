"""Packages as layouts: every byte of the files is a weight's, or what is no weight, or lies between blobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor import sources
from compressor.encodings import Dense, Encoding, Palettized, Quantized, decode, spec
from compressor.errors import CompressorError
from compressor.formats.coreml import blob, lowering, package
from compressor.formats.coreml.layout import layout
from compressor.formats.coreml.opsets import OPSETS
from compressor.formats.layout import FileLayout
from compressor.model import Model
from tests.formats.coreml.models import in_package, model
from tests.formats.coreml.test_constants import nested, reader

RNG = np.random.default_rng(0)


def table(entries: int) -> Palettized:
    """A table of less than 10 entries lies in the program, a larger one in the file of blobs."""
    return Palettized(
        RNG.integers(0, entries, (6, 8)).astype(np.uint8), RNG.standard_normal((1, 1, entries, 1)).astype(np.float16)
    )


def codes(count: int) -> Quantized:
    scale = (RNG.random((count, 1)) + 0.5).astype(np.float16)
    return Quantized(Dense(RNG.integers(-127, 128, (6, 8)).astype(np.int8)), scale)


def joint() -> Quantized:
    """Two operations: the table is scaled before it is looked up."""
    lut = RNG.integers(-127, 128, (1, 1, 16, 1)).astype(np.int8)
    indices = RNG.integers(0, 16, (6, 8)).astype(np.uint8)
    return Quantized(Palettized(indices, lut), np.array([[0.5]], np.float16))


FORMS: dict[str, Encoding] = {"shared": joint(), "own": codes(1), "inner": table(16), "prefill/own": codes(6)}


def program(blobs: blob.Store) -> Any:
    """Two functions that share a weight under two names, and each have an `own`; `inner` lies in a nested block."""
    made = model(9, [], [])
    shared = lowering.lower("shared", FORMS["shared"], 9, blobs)
    inner = [*lowering.lower("inner", FORMS["inner"], 9, blobs), reader("conv", "inner", "inner2")]
    for function, weight, own in (("decode", "shared", "own"), ("prefill", "again", "prefill/own")):
        block = made.mlProgram.functions[function].block_specializations[OPSETS[9]]
        operations = [*lowering.renamed(shared, "shared", weight), reader("linear", weight, "y")]
        operations += [*lowering.lower("own", FORMS[own], 9, blobs), reader("matmul", "own", "z")]
        block.operations.extend(operations if function == "decode" else [*operations, nested("cond", inner)])
    del made.mlProgram.functions["main"]
    return made


@pytest.fixture
def found(tmp_path: Path) -> Model:
    in_package(tmp_path / "m.mlpackage", program)
    return sources.read(tmp_path / "m.mlpackage")


def laid_out(found: Model, forms: dict[str, Encoding]) -> FileLayout:
    skeleton: Any = found.graph
    return layout("out.mlpackage", skeleton, {name: spec(form) for name, form in forms.items()}, 9, {})


def test_weights_lie_wherever_they_are_used(found: Model, tmp_path: Path) -> None:
    order = [weight.name for weight in found.weights]
    forms = {name: FORMS[name] for name in order}
    assert sorted(order) == sorted(FORMS)
    made = laid_out(found, forms)
    made.begin(tmp_path)
    for name in reversed(order):
        made.places[name].write(tmp_path, forms[name])
    made.check(tmp_path)
    assert made.nbytes == sum(file.stat().st_size for file in (tmp_path / "out.mlpackage").rglob("*") if file.is_file())
    again = {weight.name: weight.encoding for weight in sources.read(tmp_path / "out.mlpackage").weights}
    assert {name: spec(encoding) for name, encoding in again.items()} == {
        name: spec(form) for name, form in FORMS.items()
    }
    for name, form in FORMS.items():
        np.testing.assert_array_equal(decode(again[name]), decode(form))
    original, written = (package.read(tmp_path / name).model for name in ("m.mlpackage", "out.mlpackage"))
    assert [*written.mlProgram.functions] == [*original.mlProgram.functions]


@pytest.mark.parametrize("file", [package.MODEL, package.WEIGHTS, package.MANIFEST])
def test_what_is_no_weight_is_compared(file: str, found: Model, tmp_path: Path) -> None:
    """Any byte that differs is found, unless it is a weight's."""
    made = laid_out(found, {weight.name: weight.encoding for weight in found.weights})
    made.begin(tmp_path)
    path = tmp_path / "out.mlpackage" / file
    begun = np.fromfile(path, np.uint8)
    ours = np.zeros(begun.size, np.bool_)
    for piece in made.rest:
        if piece.file == f"out.mlpackage/{file}":
            assert not ours[piece.offset : piece.offset + len(piece.data)].any()
            ours[piece.offset : piece.offset + len(piece.data)] = True
    for weight in found.weights:
        made.places[weight.name].write(tmp_path, weight.encoding)
    made.check(tmp_path)
    assert (np.fromfile(path, np.uint8) == begun)[ours].all()
    for place in np.flatnonzero(ours)[:: max(1, int(ours.sum()) // 20)]:
        changed = begun.copy()
        changed[place] ^= 1
        changed.tofile(path)
        with pytest.raises(CompressorError, match=r"read back, are not what was written\. Nothing was published"):
            made.check(tmp_path)


def test_weights_of_another_size_are_refused(found: Model, tmp_path: Path) -> None:
    made = laid_out(found, {weight.name: weight.encoding for weight in found.weights})
    made.begin(tmp_path)
    with pytest.raises(CompressorError, match=r"'inner': expected \d+ bytes in the program and \d+ of blobs, got"):
        made.places["inner"].write(tmp_path, table(8))


def test_a_weight_out_of_order_is_refused(found: Model) -> None:
    forms = {weight.name: weight.encoding for weight in reversed(found.weights)}
    with pytest.raises(CompressorError, match=r"came where .* was planned"):
        laid_out(found, forms)
