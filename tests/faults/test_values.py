"""Weights that a careless step loses: NaN payloads, infinities, nothing at all, the same everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import compressor
from compressor.arrays import NDArray
from compressor.encodings import decode
from compressor.sources import read
from compressor.targets import onnxruntime as target
from tests.conformance import same
from tests.faults.commands import done, encodings, holding, weights

RNG = np.random.default_rng(0)
# Quiet and signalling NaN with payloads, negative NaN, infinities, the smallest number, one, and zero.
SPECIAL = np.array([0x7FC00005, 0x7F800001, 0xFFC00000, 0x7F800000, 0xFF800000, 1, 0x3F800000, 0], np.uint32)


def special(*shape: int) -> NDArray:
    return SPECIAL.view(np.float32)[RNG.integers(0, len(SPECIAL), shape)]


def sparse_with_special_values() -> NDArray:
    values = RNG.standard_normal((128, 128)).astype(np.float32) + np.float32(3)
    values[RNG.random((128, 128)) < 0.75] = 0
    values[0, :5] = SPECIAL.view(np.float32)[:5]
    return values


def noise_with(value: float) -> NDArray:
    values = RNG.standard_normal((64, 64)).astype(np.float32)
    values[3, 5] = value
    return values


CASES: dict[str, tuple[NDArray, str]] = {
    "palette of special values": (special(128, 128), "palettized3"),
    "a special value a row": (np.repeat(special(128, 1), 128, axis=1), "palettized3"),
    "sparse with special values": (sparse_with_special_values(), "sparse"),
    "noise with a NaN": (noise_with(np.nan), "dense"),
    "noise with an infinity": (noise_with(np.inf), "dense"),
    "only NaN": (np.full((64, 64), np.nan, np.float32), "palettized1"),
    "only infinity": (np.full((64, 64), -np.inf, np.float32), "palettized1"),
    "zero": (np.zeros((64, 64), np.float32), "sparse"),
    "negative zero": (-np.zeros((64, 64), np.float32), "dense"),
    "equal": (np.full((64, 64), 1.7, np.float32), "palettized1"),
    "empty": (np.zeros((0, 64), np.float32), "dense"),
    "zero channels": (np.zeros((64, 0, 3, 3), np.float32), "dense"),
    "rank 0": (np.array(2.5, np.float32), "dense"),
    "rank 1": (np.repeat(np.array([1, 2], np.float32), 4096), "dense"),
    "one element": (np.array([[2.5]], np.float32), "dense"),
    "one row": (weights()["palette"].reshape(1, -1), "palettized4"),
    "one column": (weights()["palette"].reshape(-1, 1), "palettized4"),
    "float64": (weights()["palette"].astype(np.float64), "palettized4"),
    "NaN in float16": (special(256, 128).astype(np.float16), "palettized3"),
}


@pytest.mark.parametrize("min_elements", [2048, 0])
@pytest.mark.parametrize("name", CASES)
def test_every_value_is_kept(name: str, min_elements: int) -> None:
    values, encoding = CASES[name]
    holding(Path("m.onnx"), values)
    done("compress", "m.onnx", "out", "-S", f"detect.min_elements={min_elements}")
    assert encodings(Path("out")) == {"w": encoding}
    (weight,) = read(Path("out")).weights
    assert same(decode(weight.encoding), values)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession("out/model.onnx", options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {})
    assert same(found[0], values)


def test_a_form_that_a_target_cannot_hold_gives_way_to_the_next_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opset 13 has no bitwise operators to unpack 3 bits with."""
    monkeypatch.setitem(target.TARGETS, "onnx-opset13", (13, "1.8"))
    table = np.sort(RNG.standard_normal(7)).astype(np.float32)
    values = np.where(RNG.random((256, 128)) < 0.6, np.float32(0), table[RNG.integers(0, 7, (256, 128))])
    holding(Path("m.onnx"), values, opset=13)
    done("compress", "m.onnx", "newest")
    assert encodings(Path("newest")) == {"w": "sparse(palettized3)"}
    said = done("compress", "m.onnx", "out", "--target", "onnx-opset13", "-v")
    assert encodings(Path("out")) == {"w": "sparse(palettized4)"}
    refusal = "decoding needs opset 18, onnx-opset13 has 13"
    assert f"not sparse(palettized3) by a mask: {refusal}" in said
    (weight,) = json.loads(Path("out/manifest.json").read_text())["weights"]
    assert ["sparse(palettized3) by a mask", refusal] in weight["rejected"]
    assert {entry.domain: entry.version for entry in onnx.load("out/model.onnx").opset_import}[""] == 13


def test_more_axes_than_decoding_takes_stay_dense() -> None:
    holding(Path("m.onnx"), weights()["palette"].reshape(2, 2, 2, 2, 2, 2, 2, 2, 4, 4))
    made = compressor.compress("m.onnx", "out")
    assert [weight.encoding for weight in made.weights] == ["dense"]
    assert ("palettized4", "decoding takes at most 8 axes") in made.weights[0].rejected
