"""From a model to an artefact through the Python API: the facts of the manifest are those of the files."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import compressor
from compressor import CompressorError, Detection, Settings, UsageError
from compressor.arrays import UINT4, NDArray
from compressor.gaps import count_of
from compressor.recognition.findings import Finding
from compressor.recognition.schemes import Loss
from tests.faults.commands import chain

SIZE = 96


@pytest.fixture
def weights() -> dict[str, NDArray]:
    random = np.random.default_rng(0)
    pruned = random.normal(0, 1, (SIZE, SIZE)).astype(np.float32)
    pruned = np.where(np.abs(pruned) < 0.1, np.float32(0.2), pruned)
    pruned[random.random((SIZE, SIZE)) < 0.75] = 0
    noisy = pruned.copy()
    noisy.reshape(-1)[np.flatnonzero(noisy)[:7]] = np.float32(5e-4)
    palette = random.normal(0, 1, 16).astype(np.float32)[random.integers(0, 16, (SIZE, SIZE))]
    return {"pruned": pruned, "noisy": noisy, "palette": palette}


def model(path: Path, weights: dict[str, NDArray]) -> Path:
    """A chain of `MatMul`s, one for each weight."""
    nodes, last = [], "x"
    for name in weights:
        nodes.append(helper.make_node("MatMul", [last, name], [f"{name}.y"]))
        last = f"{name}.y"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SIZE])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", SIZE])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("pipeline", "threshold", "changed"),
    [
        ("auto", None, 0),
        ("auto", 0.0, 0),
        ("auto", 1e-3, 7),
        ("default_pruning", None, 7),
        ("default_pruning", 0.0, 0),
        ("default_palettization", None, 0),
    ],
)
@pytest.mark.parametrize("detected", [False, True])
def test_values_become_zero_only_where_that_is_asked_for(
    tmp_path: Path, weights: dict[str, NDArray], pipeline: str, threshold: float | None, changed: int, *, detected: bool
) -> None:
    source, settings = model(tmp_path / "m.onnx", weights), Settings(threshold=threshold)
    asked = {"detection": compressor.detect(source, settings)} if detected else {"settings": settings}
    made = compressor.compress(source, tmp_path / "out", pipeline=pipeline, **asked)
    assert [(weight.exact, weight.changed) for weight in made.weights] == [(True, 0), (not changed, changed), (True, 0)]
    assert ("7 of them values up to 0.001" in made.weights[1].evidence) == bool(changed)
    (stored,) = (one for one in compressor.inspect(tmp_path / "out").weights if one.name == "noisy")
    assert stored.encoding == ("dense" if pipeline == "default_palettization" else "sparse")
    # Beside the distances between them, 4 bytes for each value that is left.
    left = np.abs(weights["noisy"]) > (1e-3 if changed else 0)
    sparse = count_of(left, UINT4) // 2 + 4 * int(np.count_nonzero(left))
    assert stored.nbytes == (SIZE * SIZE * 4 if stored.encoding == "dense" else sparse)


def test_the_manifest_adds_up(tmp_path: Path, weights: dict[str, NDArray]) -> None:
    source = model(tmp_path / "m.onnx", weights)
    made = compressor.compress(source, tmp_path / "out")
    stored = (tmp_path / "out" / "model.onnx").read_bytes()
    assert [(file.name, file.nbytes, file.sha256) for file in made.files] == [
        ("model.onnx", len(stored), hashlib.sha256(stored).hexdigest())
    ]
    assert made.nbytes == len(stored)
    assert made.weights_nbytes == sum(weight.nbytes for weight in made.weights)
    assert made.weights_dense_nbytes == 3 * 4 * SIZE * SIZE
    compressor.write_baseline(source, tmp_path / "dense")
    assert made.dense_nbytes == (tmp_path / "dense" / "model.onnx").stat().st_size
    assert compressor.Manifest.from_json((tmp_path / "out" / "manifest.json").read_text()) == made


def test_inspect_says_the_same_from_the_artefact_itself(tmp_path: Path, weights: dict[str, NDArray]) -> None:
    made = compressor.compress(model(tmp_path / "m.onnx", weights), tmp_path / "out", target="onnx-opset21")
    (tmp_path / "out" / "manifest.json").unlink()
    seen = compressor.inspect(tmp_path / "out")
    assert (seen.target, seen.pipeline, seen.files, seen.nbytes) == ("onnx-opset21", "auto", made.files, made.nbytes)
    assert seen.versions == {"compressor": compressor.__version__}
    assert seen.dense_nbytes == made.dense_nbytes
    assert [(weight.name, weight.shape, weight.encoding, weight.nbytes) for weight in seen.weights] == [
        (weight.name, weight.shape, weight.encoding, weight.nbytes) for weight in made.weights
    ]


def test_inspect_counts_the_files_that_a_model_consists_of(tmp_path: Path, weights: dict[str, NDArray]) -> None:
    path = model(tmp_path / "m.onnx", weights)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "m.onnx.bak").write_bytes(b"not a part of it")
    assert [file.name for file in compressor.inspect(path).files] == ["m.onnx", "weights.bin"]


@pytest.mark.parametrize("write", [compressor.compress, compressor.write_baseline])
@pytest.mark.parametrize("place", ["thesis.txt", "m.onnx"])
def test_nothing_of_a_user_is_deleted(tmp_path: Path, weights: dict[str, NDArray], write, place: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    source = model(out / "m.onnx" if place == "m.onnx" else tmp_path / "m.onnx", weights)
    (out / place).touch()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UsageError, match=place):
        write(source, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def miscounted(finding: Finding) -> Finding:
    forms = (replace(form, loss=Loss(form.loss.threshold)) for form in finding.candidates)
    return replace(finding, candidates=tuple(forms))


def test_a_detection_that_miscounts_is_refused(tmp_path: Path, weights: dict[str, NDArray]) -> None:
    source = model(tmp_path / "m.onnx", weights)
    found = compressor.detect(source, Settings(threshold=1e-3))
    lying = Detection(found.settings, tuple(miscounted(finding) for finding in found.findings))
    with pytest.raises(CompressorError, match=r"weight noisy .*7 values up to 0.001 became zero, 0 were planned"):
        compressor.compress(source, tmp_path / "out", detection=lying)
    assert not (tmp_path / "out").exists()


def test_the_detection_of_another_model_is_refused(tmp_path: Path, weights: dict[str, NDArray]) -> None:
    found = compressor.detect(model(tmp_path / "m.onnx", weights))
    denser = weights | {"pruned": np.where(weights["pruned"] == 0, np.float32(0.3), weights["pruned"])}
    with pytest.raises(CompressorError, match=r"weight pruned float32\[96, 96\]: cannot be stored as sparse"):
        compressor.compress(model(tmp_path / "n.onnx", denser), tmp_path / "out", detection=found)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("zeros", "encoding", "most"), [(0.0, "int8(palettized5)", 5.4), (0.75, "sparse(int8(palettized5))", 2.5)]
)
def test_codes_take_no_more_bits_than_they_need(zeros: float, encoding: str, most: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = np.clip(np.rint(rng.standard_normal((256, 2, 128)) * 6), -16, 15).astype(np.float32)
    codes *= rng.random(codes.shape) >= zeros
    values = (codes * np.exp(rng.normal(-6, 0.5, (256, 2, 1))).astype(np.float32)).reshape(256, 256)
    source = chain(tmp_path / "m.onnx", {"w": values})
    (weight,) = compressor.compress(source, tmp_path / "out", target="onnxruntime").weights
    assert (weight.encoding, weight.exact) == (encoding, True)
    assert 8 * weight.nbytes / values.size < most
    assert "5 bits" in weight.evidence
