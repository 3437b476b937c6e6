"""Rows of different kinds in one tensor: where they end, and what each part is stored as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import compressor
from compressor.arrays import NDArray
from compressor.compilation import encode
from compressor.encodings import Concatenated, Dense, decode, name, nbytes, shape
from compressor.recognition import parts
from compressor.recognition.find import find
from compressor.recognition.findings import Settings
from compressor.weight import Weight

RNG = np.random.default_rng(0)


def dense(*dims: int) -> NDArray:
    return RNG.standard_normal(dims).astype(np.float32)


def pruned(*dims: int) -> NDArray:
    return np.where(RNG.random(dims) < 0.75, np.float32(0), dense(*dims))


def palette(*dims: int, entries: int = 16) -> NDArray:
    return np.asarray(dense(entries)[RNG.integers(0, entries, dims)])


def grid(*dims: int) -> NDArray:
    return RNG.integers(-127, 128, dims).astype(np.float32) * np.float32(0.003)


def by_row(rows: int, columns: int, block: int = 0) -> NDArray:
    """Codes of 4 bits, a scale for each row or block of it."""
    codes = RNG.integers(-8, 8, (rows, columns // (block or columns), block or columns)).astype(np.float32)
    scale = RNG.random((rows, codes.shape[1], 1), np.float32) * np.float32(0.01) + np.float32(0.001)
    return np.asarray((codes * scale).reshape(rows, columns))


def pruned_palette(rows: int, columns: int) -> NDArray:
    return np.where(RNG.random((rows, columns)) < 0.25, palette(rows, columns), np.float32(0))


def half(*dims: int) -> NDArray:
    return dense(*dims).astype(np.float16).astype(np.float32)


CASES = {
    "fused projections": (0, [pruned(64, 256), palette(64, 256), grid(64, 256)], ["sparse", "palettized4", "int8"]),
    "the same by columns": (1, [pruned(256, 64), palette(256, 64), grid(256, 64)], ["sparse", "palettized4", "int8"]),
    "fewer keys than queries": (0, [palette(96, 256), dense(16, 256), grid(16, 256)], ["palettized4", "dense", "int8"]),
    "one row of another kind": (0, [dense(1, 4096), grid(99, 4096)], ["dense", "int8"]),
    "gates of a palette each": (0, [palette(33, 300, entries=200) for _ in range(3)], ["palettized8"] * 3),
    "half precision beside full": (0, [half(64, 256), dense(64, 256)], ["float16", "dense"]),
    "half a palette, half codes by row": (0, [palette(192, 512), by_row(192, 512)], ["palettized4", "int4"]),
    "half a palette, half codes by block": (0, [palette(192, 512), by_row(192, 512, 32)], ["palettized4", "int4"]),
    "half of a palette is pruned": (
        0,
        [pruned_palette(192, 512), palette(192, 512)],
        ["sparse(palettized4)", "palettized4"],
    ),
    "a pruned palette, one that is not, codes by row": (
        0,
        [pruned_palette(256, 768), palette(256, 768), by_row(256, 768)],
        ["sparse(palettized4)", "palettized4", "int4"],
    ),
    "experts": (0, [palette(2, 96, 64), pruned(1, 96, 64), dense(1, 96, 64)], ["palettized4", "sparse", "dense"]),
    "a convolution's filters": (0, [grid(32, 16, 3, 3), pruned(32, 16, 3, 3)], ["int8", "sparse"]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sampled", [False, True])
def test_parts_end_where_the_kind_changes(case: str, *, sampled: bool) -> None:
    axis, pieces, names = CASES[case]
    weight = Weight("w", Dense(np.concatenate(pieces, axis)))
    found = find(weight, Settings(), sampled=sampled)
    (form,) = (one for one in found.candidates if isinstance(one.spec, Concatenated))
    assert isinstance(form.spec, Concatenated)
    assert form.spec.axis == axis
    assert [name(part) for part in form.spec.parts] == names
    assert [shape(part)[axis] for part in form.spec.parts] == [piece.shape[axis] for piece in pieces]
    assert nbytes(form.spec) == min(nbytes(one.spec) for one in found.candidates)
    assert found.parts == form.evidence
    assert found.evidence.count(f"{len(pieces)} parts along axis {axis}") == 1
    made = encode.encode(weight, form)
    assert decode(made).tobytes() == np.concatenate(pieces, axis).tobytes()


def asked(values: NDArray) -> list[NDArray]:
    """The parts that are looked at."""
    looked_at: list[NDArray] = []

    def describe(part: NDArray) -> list[parts.Candidate]:
        looked_at.append(part)
        return [parts.Candidate((), Dense(part), "")]

    assert [*parts.detect(values, values.nbytes, describe)] == []
    return looked_at


@pytest.mark.parametrize("values", [dense(512, 512), dense(64, 64, 3, 3), pruned(300, 200), half(256, 256)])
def test_a_weight_of_one_kind_costs_a_sample(values: NDArray) -> None:
    assert asked(values) == []


def test_rows_of_two_kinds_in_turn_are_no_parts() -> None:
    values = dense(512, 512)
    values[::2] = 0
    assert asked(values) == []


def test_parts_are_not_looked_for_where_little_is_to_be_saved() -> None:
    axis, pieces, _ = CASES["fused projections"]
    values = np.concatenate(pieces, axis)
    assert [*parts.detect(values, values.nbytes / 4, lambda _: pytest.fail("looked at"))] == []


def save(path: Path, values: NDArray) -> Path:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    inputs = [helper.make_tensor_value_info("x", 1, [1, values.shape[1]])]
    outputs = [helper.make_tensor_value_info("y", 1, [1, values.shape[0]])]
    graph = helper.make_graph([node], "g", inputs, outputs, [numpy_helper.from_array(values, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_an_artefact_has_the_parts_and_is_its_own_fixed_point(tmp_path: Path) -> None:
    axis, pieces, names = CASES["fused projections"]
    values = np.concatenate(pieces, axis)
    made = compressor.compress(save(tmp_path / "m.onnx", values), tmp_path / "once")
    assert made.weights[0].encoding == f"concatenated({', '.join(names)})"
    again = compressor.compress(tmp_path / "once" / "model.onnx", tmp_path / "twice")
    assert again.weights[0].encoding == made.weights[0].encoding
    assert (tmp_path / "once" / "model.onnx").read_bytes() == (tmp_path / "twice" / "model.onnx").read_bytes()


def test_core_ml_has_the_best_form_of_the_whole_and_says_why(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    values = np.concatenate([half(128, 128), palette(128, 128)], 1)
    made = compressor.compress(save(tmp_path / "m.onnx", values), tmp_path / "out", target="iOS18")
    (weight,) = made.weights
    assert not weight.encoding.startswith("concatenated")
    reasons = {encoding.split("(")[0]: reason for encoding, reason in weight.rejected}
    assert reasons["concatenated"] == "Core ML has no constant that is made of several, and what reads it is not split"
