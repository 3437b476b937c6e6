"""Every encoding on every target in the folder: it is refused with a reason, or computes what `decode` does."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import pytest

from compressor import targets
from compressor.arrays import NDArray
from compressor.encodings import decode, spec
from compressor.model import Model
from compressor.targets import Target
from compressor.targets.coreml import PACKAGE
from compressor.targets.coreml.target import CoreML
from compressor.targets.onnxruntime import OnnxRuntime
from compressor.weight import Weight
from tests import conformance
from tests.conformance import Case
from tests.formats.compressed_tensors import decompressed
from tests.formats.coreml import models as coreml_models
from tests.sources.huggingface import folders

# A form in so many: of a target that differs from another one by its version alone, and where decompression is slow.
SAMPLED = {"onnx-opset18": 3, "onnx-opset21": 3, "onnx-opset25": 3, "iOS16": 3, "iOS17": 7, "iOS18": 4, "iOS26": 6}


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(conformance.forms())


def run_onnx(target: Target, chunk: Sequence[Case], directory: Path) -> Mapping[str, NDArray]:
    """The weights of an artefact; nothing but the operator that reads a weight is left of it."""
    assert isinstance(target, OnnxRuntime)
    opset = target.newest()
    model = conformance.model(chunk, opset)
    specs = {weight.name: spec(weight.encoding) for weight in model.weights}
    targets.write(target, model, directory)
    assert target.layout(model, specs).nbytes == sum(file.stat().st_size for file in directory.iterdir())
    onnx.checker.check_model(directory / "model.onnx")
    values = conformance.outputs(directory / "model.onnx", chunk, directory / "optimized.onnx")
    assert conformance.operators(directory / "optimized.onnx") == {"Gather": len(chunk)}
    return values


def run_core_ml(target: Target, chunk: Sequence[Case], directory: Path) -> Mapping[str, NDArray]:
    """The weights of an artefact as Core ML Tools decompresses them."""
    assert isinstance(target, CoreML)
    made = coreml_models.stubbed(target.version, dict(chunk))
    weights = [Weight(name, encoding) for name, encoding in chunk]
    model = Model(Path("forms.mlpackage"), weights, made)
    specs = {name: spec(encoding) for name, encoding in chunk}
    targets.write(target, model, directory)
    files = [file for file in directory.rglob("*") if file.is_file()]
    assert target.layout(model, specs).nbytes == sum(file.stat().st_size for file in files)
    values = coreml_models.materialized(directory / PACKAGE)
    return {name: values[spelled] for name, spelled in zip(made.names, coreml_models.outputs(made), strict=True)}


def run_compressed_tensors(_: Target, chunk: Sequence[Case], directory: Path) -> Mapping[str, NDArray]:
    """The weights of a folder as the library of the format decompresses them."""
    source = directory / "source"
    folders.dense(source, {name: decode(encoding) for name, encoding in chunk})
    weights = [Weight(name, encoding) for name, encoding in chunk]
    model, target = Model(source, weights, None), targets.get("compressed-tensors")
    targets.write(target, model, directory)
    files = [file for file in directory.iterdir() if file.is_file()]
    assert target.layout(model, dict(chunk)).nbytes == sum(file.stat().st_size for file in files)
    values = decompressed.weights(directory)
    shutil.rmtree(source)
    return values


_VERSIONS = ("iOS16", "iOS17", "iOS18", "iOS26")
RUNNERS = {
    **dict.fromkeys((name for name in targets.names() if name.startswith("onnx")), run_onnx),
    **dict.fromkeys(_VERSIONS, run_core_ml),
    "compressed-tensors": run_compressed_tensors,
}
"""One target of a version stands for those that are the same but for their names."""


def test_every_target_is_run() -> None:
    run = {summary(name) for name in RUNNERS}
    assert {summary(name) for name in targets.names()} == run


def summary(name: str) -> str:
    return targets.get(name).summary


@pytest.mark.parametrize("name", RUNNERS)
def test_lowering_means_what_decode_does(name: str, cases: list[Case], tmp_path: Path) -> None:
    some = cases[:: SAMPLED.get(name, 1)]
    if name == "compressed-tensors":  # weights of layers are called so
        some = [(f"{case}.weight", encoding) for case, encoding in some]
    assert conformance.wrong(targets.get(name), RUNNERS[name], some, tmp_path) == []
