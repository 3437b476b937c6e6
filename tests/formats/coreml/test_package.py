"""Packages: what is written is the same bytes every time, and what is read is whole and lies inside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.encodings import Dense, Encoding, Sparse, decode
from compressor.errors import CompressorError
from compressor.formats.coreml import blob, constants, package
from compressor.formats.coreml.importing import coremltools, messages
from compressor.formats.coreml.types import TYPES
from compressor.weight import Weight
from tests.formats.coreml.models import save, write

MASK = np.arange(300).reshape(10, 30) % 7 == 0
FORMS: dict[str, Encoding] = {
    "dense": Dense(np.linspace(-1, 1, 300, dtype=np.float32).reshape(10, 30)),
    "sparse": Sparse(MASK, Dense(np.arange(43, dtype=np.float16)), (10, 30)),
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path / "m.mlpackage", 9, FORMS)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def weights(path: Path) -> tuple[Weight, ...]:
    found = package.read(path)
    return constants.lift(found.model.mlProgram, found).weights


def change_manifest(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((path / package.MANIFEST).read_text())
    change(content)
    (path / package.MANIFEST).write_text(json.dumps(content))


def set_path(path: Path, to: Any) -> None:
    change_manifest(path, lambda content: content["itemInfoEntries"][content["rootModelIdentifier"]].update(path=to))


def test_what_lies_in_a_package(saved: Path) -> None:
    assert set(contents(saved)) == {package.MANIFEST, package.MODEL, package.WEIGHTS}
    found = package.read(saved)
    assert found.model.specificationVersion == 9
    constants.lift(found.model.mlProgram, found)
    assert found.files == (saved / package.MANIFEST, saved / package.MODEL, saved / package.WEIGHTS)


def test_core_ml_tools_reads_it(saved: Path) -> None:
    ct = coremltools()
    spec = ct.models.utils.load_spec(str(saved))
    assert spec.SerializeToString(deterministic=True) == (saved / package.MODEL).read_bytes()
    model = ct.models.MLModel(str(saved), skip_model_load=True)
    assert Path(model.weights_dir) / "weight.bin" == saved / package.WEIGHTS
    copy = saved.parent / "copy.mlpackage"
    model.save(str(copy))
    assert (copy / package.WEIGHTS).read_bytes() == (saved / package.WEIGHTS).read_bytes()
    for weight in weights(copy):
        np.testing.assert_array_equal(decode(weight.encoding), decode(FORMS[weight.name]))


def test_two_processes_write_the_same_bytes(saved: Path) -> None:
    script = (
        "from pathlib import Path; import sys; from tests.formats.coreml import test_package as t; "
        "t.save(Path(sys.argv[1]), 9, t.FORMS)"
    )
    other = saved.parent / "other.mlpackage"
    subprocess.run([sys.executable, "-c", script, str(other)], check=True, env={"PYTHONHASHSEED": "7"})
    assert contents(other) == contents(saved)


def test_a_package_without_large_constants(tmp_path: Path) -> None:
    made = messages("Model").Model(specificationVersion=7)
    made.mlProgram.version = 1
    write(tmp_path, made, blob.Blobs())
    assert set(contents(tmp_path)) == {package.MANIFEST, package.MODEL}
    assert len(json.loads((tmp_path / package.MANIFEST).read_text())["itemInfoEntries"]) == 1
    assert package.read(tmp_path).model == made


def test_reading_takes_neither_torch_nor_the_rest_of_core_ml_tools(saved: Path) -> None:
    script = (
        "from pathlib import Path; import sys; from compressor.formats.coreml import blob, constants, package; "
        "found = package.read(Path(sys.argv[1])); "
        "assert len(constants.lift(found.model.mlProgram, found).weights) == 2; "
        "assert not {'coremltools', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script, str(saved)], check=True)


def test_the_messages_are_those_of_core_ml_tools() -> None:
    proto = coremltools().proto
    assert messages("Model").Model is proto.Model_pb2.Model
    assert messages("MIL").Operation is proto.MIL_pb2.Operation


def test_without_core_ml_tools(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    coremltools.cache_clear()
    messages.cache_clear()
    monkeypatch.setattr("compressor.formats.coreml.importing._ALONE", "_not_loaded")
    for work in (coremltools, lambda: package.read(saved)):
        with pytest.raises(CompressorError, match=r'pip install "coremltools>=9.0"'):
            work()


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("../../../etc/passwd", "' leads out of the package"),
        ("com.apple.CoreML/../com.apple.CoreML/model.mlmodel", "' leads out of the package"),
        ("/etc/passwd", "is an absolute path"),
        ("", "is not a file name"),
        ("a\\b", "is not a file name"),
        ("com.apple.CoreML/none.mlmodel", "the package's model cannot be read: No such file"),
        ("com.apple.CoreML", "the package's model is not a file"),
        (5, "the path of the model is 5, expected a text"),
    ],
)
def test_paths_in_the_manifest(saved: Path, to: Any, message: str) -> None:
    set_path(saved, to)
    with pytest.raises(CompressorError, match=message) as error:
        package.read(saved)
    assert str(saved) in str(error.value)


def test_links_that_lead_out(saved: Path) -> None:
    elsewhere = saved.parent / "elsewhere"
    (saved / package.MODEL).rename(elsewhere)
    (saved / package.MODEL).symlink_to(elsewhere)
    with pytest.raises(CompressorError, match=f"a link that leads out of the package, to {elsewhere}"):
        package.read(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a manifest"),
        (b"{", "not a manifest"),
        (b"\xff\xfe", "not a manifest"),
        (b"[" * 100_000, "not a manifest"),
        (b"{}", "it names no model: KeyError"),
        (b"[]", "it names no model: TypeError"),
        (b'{"rootModelIdentifier": "a", "itemInfoEntries": {}}', "it names no model: KeyError"),
        (b'{"rootModelIdentifier": [], "itemInfoEntries": {}}', "it names no model: TypeError"),
        (b'{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {}}}', "it names no model: KeyError"),
    ],
)
def test_corrupt_manifests(saved: Path, content: bytes, message: str) -> None:
    (saved / package.MANIFEST).write_bytes(content)
    with pytest.raises(CompressorError, match=message):
        package.read(saved)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (package.MANIFEST, "the package's manifest cannot be read: No such file"),
        (package.MODEL, "the package's model cannot be read: No such file"),
        (package.WEIGHTS, "the weights' file cannot be read: No such file"),
    ],
)
def test_missing_files(saved: Path, name: str, message: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CompressorError, match=message):
        weights(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no version or no content"),
        (b"\x08\x09", "it has no version or no content"),
        (b"not a model at all", "not a Core ML model, or truncated"),
    ],
)
def test_corrupt_models(saved: Path, content: bytes, message: str) -> None:
    (saved / package.MODEL).write_bytes(content)
    with pytest.raises(CompressorError, match=message):
        package.read(saved)


def test_truncated_models(saved: Path) -> None:
    whole = (saved / package.MODEL).read_bytes()
    (saved / package.MODEL).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CompressorError, match="not a Core ML model, or truncated"):
        package.read(saved)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("weights/weight.bin", "does not begin with '@model_path/'"),
        ("@model_path/../../../weight.bin", "' leads out of the package"),
        ("@model_path//etc/passwd", "is an absolute path"),
        ("@model_path/", "is not a file name"),
        ("@model_path/weights", "expected a weight file"),
    ],
)
def test_files_of_weights(saved: Path, file: str, message: str) -> None:
    found = package.read(saved)
    with pytest.raises(CompressorError, match=message):
        found.read(file, 64, TYPES["uint8"], (1,))
