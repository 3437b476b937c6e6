"""How well weights are recognised: thousands of generated ones, none stored wrongly, none taken for what it is not.

Every kind is made in several shapes, types and draws. Whatever is proposed must give back the very values, or values
within the tolerance that was asked for; a dense weight must stay dense; and what has a structure must be found, but for
the misses that stand here with their reason. A miss that is not listed fails, and so does one that is found by now.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor import compress, encodings
from compressor.arrays import FLOAT_DTYPES, ArraySpec, NDArray, Shape
from compressor.compilation.encode import encode
from compressor.compilation.verify import differences
from compressor.encodings import Dense, Encoding
from compressor.recognition.find import find
from compressor.recognition.findings import Finding, Settings
from compressor.weight import Weight
from tests.recognition.kinds import (
    COARSE,
    INT8,
    KINDS,
    NOTHING,
    Random,
    folded,
    n_of_m,
    noisy,
    palette,
    vectors,
)

DTYPES = ("float32", "float16", "bfloat16")
SEEDS = 3
EXACT = Settings(min_elements=0, threshold=0.0)


def smallest(finding: Finding) -> Encoding:
    """The form that takes the fewest bytes, dense if none is smaller."""
    dense = Dense(ArraySpec(finding.shape, FLOAT_DTYPES[finding.dtype]))
    return min((dense, *(candidate.spec for candidate in finding.candidates)), key=encodings.nbytes)


def wrong(values: NDArray, finding: Finding, tolerance: float) -> list[str]:
    """The candidates that do not give back the values as they promise."""
    found = []
    for candidate in finding.candidates:
        encoded, loss = encode(Weight("w", Dense(values)), candidate), candidate.loss
        decoded = encodings.decode(encoded)
        different = differences(values, decoded, loss.threshold, loss.max_error)
        far = loss.max_error > tolerance * float(np.abs(values.astype(np.float64)).max())
        if different != (0, loss.changed) or far or encodings.spec(encoded) != candidate.spec:
            found.append(f"{encodings.name(candidate.spec)}: {different}, {candidate}")
    return found


def cases(shapes: tuple[Shape, ...], dtypes: tuple[str, ...] = DTYPES) -> list[tuple[Shape, str, int]]:
    return list(itertools.product(shapes, dtypes, range(SEEDS)))


"""A 16-bit type has few values where these lie: they are a palette, whoever trained them."""


@pytest.mark.parametrize("kind", NOTHING)
def test_nothing_is_seen_in_a_dense_weight(kind: str) -> None:
    seen, looked_at = [], 0
    dtypes = ("float32",) if kind in COARSE else DTYPES
    for shape, dtype, seed in cases(((64, 96), (16, 16, 3, 3), (7, 350)), dtypes):
        values = NOTHING[kind](np.random.default_rng([len(kind), seed, *shape]), shape).astype(FLOAT_DTYPES[dtype])
        for settings in (EXACT, Settings(min_elements=0, tolerance=1e-5)):
            finding = find(Weight("w", Dense(values)), settings)
            looked_at += 1
            if finding.grid or encodings.name(smallest(finding)) != "dense" or wrong(values, finding, 1e-5):
                seen.append((shape, dtype, seed, finding.evidence))
    assert (seen, looked_at) == ([], 3 * len(dtypes) * SEEDS * 2)


_CLOSE = "bfloat16 has fewer values between 128 and 256 than there are codes"
_TWICE = "rounded twice to 16 bits, neighbouring codes are no farther apart than the error"


MISSES: Mapping[tuple[str, str], str] = {
    ("uint8 -55..200 per channel along axis 0", "bfloat16"): _CLOSE,
    ("uint8 -55..200 per channel along axis 1", "bfloat16"): _CLOSE,
    ("uint8 -55..200 per block of 32 along axis 1", "bfloat16"): _CLOSE,
    (
        "int2 -2..1 per block of 32 along axis 1",
        "bfloat16",
    ): "scales of 8 bits have common multiples: longer blocks fit",
    ("int8, folded", "float16"): _TWICE,
    ("int8, folded", "bfloat16"): _TWICE,
}


"""(kind, dtype): why it is not found in every shape and draw."""


@pytest.mark.parametrize("name", KINDS)
def test_what_has_a_structure_is_recognised(name: str) -> None:
    kind = KINDS[name]
    settings = Settings(min_elements=0, threshold=0.0, tolerance=kind.tolerance)
    missed: dict[tuple[str, str], list[object]] = {}
    for shape, dtype, seed in cases(kind.shapes):
        values = kind.make(np.random.default_rng([seed, *shape]), shape, FLOAT_DTYPES[dtype])
        finding = find(Weight("w", Dense(values)), settings)
        assert not wrong(values, finding, kind.tolerance)
        if not kind.found(finding, smallest(finding)):
            missed.setdefault((name, dtype), []).append(
                (shape, seed, encodings.name(smallest(finding)), finding.evidence)
            )
    assert missed.keys() == {miss for miss in MISSES if miss[0] == name}, missed


def model_of(values: NDArray, path: Path) -> Path:
    """A model that multiplies with a weight."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", values.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", values.shape[1]])],
        [numpy_helper.from_array(values, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def run(path: Path, rows: int) -> NDArray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: NDArray = session.run(None, {"x": np.eye(rows, dtype=np.float32)})[0]
    return result


@pytest.mark.parametrize(("length", "axis"), [(2, 0), (2, 1), (4, 0), (4, 1)])
def test_vectors_run_in_onnx_runtime(length: int, axis: int, tmp_path: Path) -> None:
    values = vectors(256, length, axis).make(np.random.default_rng(0), (256, 256), FLOAT_DTYPES["float32"])
    manifest = compress(model_of(values, tmp_path / "model.onnx"), tmp_path / "out")
    assert (manifest.weights[0].encoding, manifest.weights[0].nbytes) == (
        "palettized8",
        values.size // length + 256 * length * 4,
    )
    assert np.array_equal(run(tmp_path / "out" / "model.onnx", 256), values)


@pytest.mark.parametrize(
    ("kind", "form"), [("palette of 16, noise", "palettized4"), ("int4 per channel, noise", "int4")]
)
def test_noise_within_the_tolerance_is_left_out_and_counted(kind: str, form: str, tmp_path: Path) -> None:
    values = KINDS[kind].make(np.random.default_rng(0), (128, 128), FLOAT_DTYPES["float32"])
    model = model_of(values, tmp_path / "model.onnx")
    asked = compress(model, tmp_path / "out", settings=Settings(tolerance=KINDS[kind].tolerance)).weights[0]
    apart = np.abs(run(tmp_path / "out" / "model.onnx", 128).astype(np.float64) - values)
    assert (asked.encoding, asked.exact) == (form, False)
    assert asked.changed == np.count_nonzero(apart)
    assert asked.max_error == apart.max() <= KINDS[kind].tolerance * np.abs(values).max()
    assert f"within {asked.max_error / np.abs(values).max():.1e} of the largest magnitude" in asked.evidence
    unasked = compress(model, tmp_path / "exact").weights[0]
    assert (unasked.encoding, unasked.exact, unasked.max_error) == ("dense", True, 0.0)


def nearly_2_of_4(random: Random) -> NDArray:
    mask = n_of_m(2, 4, 1)(random, (64, 64))
    mask[0, :4] = True
    return mask * random.uniform(1, 2, (64, 64)).astype(np.float32)


@pytest.mark.parametrize(
    ("make", "near_miss"),
    [
        pytest.param(
            lambda random: noisy(palette(16), 1e-6, 0, "").make(random, (64, 96), FLOAT_DTYPES["float32"]),
            "16 clusters within 2e-06; `detect.tolerance: 2e-06` would store 4 bits a weight",
            id="noise",
        ),
        pytest.param(
            lambda random: folded(INT8).make(random, (64, 96), FLOAT_DTYPES["float32"]),
            "int8 grid per channel along axis 0 but for a relative error of 2e-07: "
            "batch norm was folded before export; `detect.tolerance: 2e-07` would store it so",
            id="folded grid",
        ),
        pytest.param(
            nearly_2_of_4,
            "2:4 along axis 1 in all but 0.10% of the groups",
            id="nearly 2:4",
        ),
    ],
)
def test_what_is_nearly_something_says_so(make: Callable[[Random], NDArray], near_miss: str) -> None:
    finding = find(Weight("w", Dense(make(np.random.default_rng(5))), note="from the source"), EXACT)
    assert finding.note == "from the source"
    assert near_miss in finding.near_misses
