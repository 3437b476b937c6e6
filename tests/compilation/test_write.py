"""A weight goes to its place: in any order, on any executor."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import compressor
from compressor import sources, targets
from compressor.arrays import NDArray
from compressor.compilation.stream import failure
from compressor.compilation.write import write
from compressor.encodings import Dense
from compressor.model import Model
from tests.faults.commands import chain, snapshot
from tests.formats.coreml.models import save


def palette(seed: int, count: int) -> NDArray:
    """Normal values are nobody's grid."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(count).astype(np.float32)[rng.integers(0, count, (64, 64))]


VALUES = {"five": palette(0, 5), "two": palette(1, 2), "many": palette(2, 16)}
"""Tables so small that a program holds them, and larger ones."""


def model(target: str, folder: Path) -> Model:
    if target == "onnxruntime":
        return sources.read(chain(folder / "m.onnx", VALUES))
    dense = {name: Dense(values) for name, values in VALUES.items()}
    return sources.read(save(folder / "m.mlpackage", 9, dense))


@pytest.mark.parametrize("name", ["onnxruntime", "iOS18"])
def test_processes_write_what_a_loop_writes(name: str, tmp_path: Path) -> None:
    target, source = targets.get(name), model(name, tmp_path)
    choices = compressor.dry_run(source, target=target).choices
    assert [choice.legal.lut.size for choice in choices] == ([5, 2, 16] if name == "onnxruntime" else [8, 2, 16])
    layout = target.layout(source, {choice.name: choice.legal for choice in choices})
    items = [
        (weight, choice, layout.places[choice.name]) for weight, choice in zip(source.weights, choices, strict=True)
    ]
    for folder in ("loop", "pool"):
        (tmp_path / folder).mkdir()
        layout.begin(tmp_path / folder)
    for item in items:
        write(target.legalize, tmp_path / "loop", *item)
    task = partial(failure, partial(write, target.legalize, tmp_path / "pool"))
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(task, *zip(*items[::-1], strict=True))) == [None] * 3
    layout.check(tmp_path / "pool")
    assert snapshot(tmp_path / "pool") == snapshot(tmp_path / "loop")
    for weight, choice in zip(target.read(tmp_path / "pool").weights, choices, strict=True):
        assert compressor.encodings.spec(weight.encoding) == choice.legal
        assert np.array_equal(compressor.encodings.decode(weight.encoding), VALUES[weight.name])


def test_a_weight_that_is_not_what_was_chosen_is_told_and_the_others_are_written(tmp_path: Path) -> None:
    target, source = targets.get("onnxruntime"), model("onnxruntime", tmp_path)
    choices = compressor.dry_run(source, target=target).choices
    layout = target.layout(source, {choice.name: choice.legal for choice in choices})
    layout.begin(tmp_path)
    swapped = (source.weights[2], choices[0], layout.places["five"])
    told = failure(write, target.legalize, tmp_path, *swapped)
    assert told is not None
    assert "cannot be stored as palettized3" in str(told)
    assert failure(write, target.legalize, tmp_path, source.weights[1], choices[1], layout.places["two"]) is None
    assert failure(write, target.legalize, tmp_path, source.weights[0], choices[0], layout.places["five"]) is None
    read = {weight.name: weight.encoding for weight in target.read(tmp_path).weights}
    assert np.array_equal(compressor.encodings.decode(read["five"]), VALUES["five"])
    assert np.array_equal(compressor.encodings.decode(read["two"]), VALUES["two"])
