"""Random weights of every kind through both families: what a runtime decodes is what the source has.

ONNX Runtime evaluates the artefacts of one family; those of the other are decoded by Core ML Tools. A sample of the
10,000 weights is drawn here; `COMPRESSOR_TESTS=all` draws all of them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

import compressor
from compressor import Manifest, Settings, targets
from compressor.arrays import FLOAT_DTYPES, NDArray
from compressor.targets.coreml import PACKAGE
from tests.generated import coreml_runs, onnx_runs, weights
from tests.generated.onnx_runs import SIGNED

ONNX, CORE_ML = 100, 50
"""Weights in a model."""

ALL = os.environ.get("COMPRESSOR_TESTS") == "all"
ONNX_MODELS, CORE_ML_MODELS = range(60 if ALL else 2), range(80 if ALL else 2)

ONNX_TARGETS = ("onnxruntime", "onnx-opset18", "onnx-opset21", "onnx-opset25")
CORE_ML_TARGETS = ("iOS18", "iOS16", "iOS26", "iOS17")
ONNX_DTYPES = [*(FLOAT_DTYPES[name] for name in ("float32", "float16", "float32", "bfloat16", "float64"))]
INTEGERS = [np.dtype(np.int8), np.dtype(np.uint8)]
CORE_ML_DTYPES = [FLOAT_DTYPES[name] for name in ("float32", "float16", "float32", "bfloat16", "float64")]
PIPELINES = ("auto", "auto", "auto", "default_palettization", "default_quantization", "default_pruning")


def drawn(first: int, count: int, dtypes: list[np.dtype]) -> Iterator[tuple[str, NDArray]]:
    for seed in range(first, first + count):
        yield f"{SIGNED if seed % 3 == 0 else 'plain'} {seed}", weights.weight(seed, dtypes[seed % len(dtypes)])


def check(made: Manifest, pipeline: str) -> None:
    """No value was given up, no form failed, and much was stored in another form than values."""
    assert [fact.name for fact in made.weights if not fact.exact or fact.changed] == []
    reasons = [(fact.name, reason) for fact in made.weights for _, reason in fact.rejected]
    assert [one for one in reasons if "cannot be stored" in one[1] or "read back" in one[1]] == []
    forms = Counter(fact.encoding for fact in made.weights)
    if pipeline == "auto":
        assert sum(forms.values()) - forms["dense"] - forms["int8"] - forms["uint8"] >= sum(forms.values()) / 8


@pytest.mark.parametrize("model", ONNX_MODELS)
def test_onnx_runtime_decodes_the_bits_of_the_source(model: int, tmp_path: Path) -> None:
    values: Mapping[str, NDArray] = dict(drawn(ONNX * model, ONNX, [*ONNX_DTYPES, *ONNX_DTYPES, *INTEGERS]))
    target, pipeline = ONNX_TARGETS[model % 4], PIPELINES[model % 6]
    source = onnx_runs.save(tmp_path / "m.onnx", values, 18)
    settings = Settings(min_elements=0 if model % 2 == 0 else 200, threshold=0.0)
    made = compressor.compress(source, tmp_path / "out", target=target, pipeline=pipeline, settings=settings)
    check(made, pipeline)
    found = onnx_runs.values(tmp_path / "out" / "model.onnx", values)
    wrong = [
        name for name, array in values.items() if not same_bits(found[name], array, signed=name.startswith(SIGNED))
    ]
    assert wrong == []


def same_bits(got: NDArray, expected: NDArray, *, signed: bool) -> bool:
    if got.shape != expected.shape:
        return False
    bits = f"u{expected.dtype.itemsize}"
    equal = np.ascontiguousarray(got).view(bits) == expected.view(bits)
    if not signed:
        with np.errstate(invalid="ignore"):
            equal |= (got == 0) & (expected == 0)
    return bool(equal.all())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore:Implicitly:ResourceWarning")
@pytest.mark.parametrize("model", CORE_ML_MODELS)
def test_core_ml_tools_decode_the_source_at_its_precision(model: int, tmp_path: Path) -> None:
    first = 100_000 + CORE_ML * model
    values = {name: array for name, array in drawn(first, CORE_ML, CORE_ML_DTYPES) if array.size}
    source = onnx_runs.save(tmp_path / "m.onnx", values, 18)
    target = targets.get(CORE_ML_TARGETS[model % 4], {"axes": {f"{name} n": 1 for name in values}})
    made = compressor.compress(source, tmp_path / "out", target=target, settings=Settings(min_elements=0))
    check(made, "auto")
    found = coreml_runs.values(tmp_path / "out" / PACKAGE, values)
    facts = {fact.name: fact for fact in made.weights}
    wrong = {}
    for name, array in values.items():
        fact = facts.get(name)
        codes = fact is not None and ("int" in fact.encoding or " grid " in fact.evidence)
        wrong[name] = coreml_runs.differ(
            array, found[name], codes=codes, tool=fact is None, signed=name.startswith(SIGNED)
        )
    assert {name: reason for name, reason in wrong.items() if reason} == {}
