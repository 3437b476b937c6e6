"""Recorded versions against installed ones."""

import json
from importlib import metadata
from pathlib import Path

import pytest

from compressor.errors import CompressorError
from compressor.stages import toolchain


@pytest.fixture
def params(tmp_path: Path) -> Path:
    (tmp_path / "compression").mkdir()
    return tmp_path / "params.yaml"


def record(params: Path, **changes: str) -> None:
    versions = {**toolchain.installed(), **{name.replace("_", "-"): version for name, version in changes.items()}}
    (params.parent / toolchain.FILE).write_text(json.dumps(versions))


def test_installed_versions_are_those_of_the_distributions() -> None:
    found = toolchain.installed()
    assert found["numpy"] == metadata.version("numpy")
    assert list(found) == sorted(found)
    assert "absent-package" not in found


def test_equal_versions_say_nothing(params: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toolchain.check("compress", params, strict=True)
    record(params)
    toolchain.check("compress", params, strict=True)
    assert capsys.readouterr().err == ""


def test_another_version_is_a_warning_and_with_strict_an_error(
    params: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(params, onnxruntime="0.1")
    toolchain.check("compress", params, strict=False)
    said = capsys.readouterr()
    assert said.out == ""
    assert f"onnxruntime 0.1 is recorded, {metadata.version('onnxruntime')} is installed" in said.err
    with pytest.raises(CompressorError, match=r"onnxruntime 0\.1 is recorded"):
        toolchain.check("compress", params, strict=True)


def test_a_package_that_the_stage_does_not_use_says_nothing(params: Path) -> None:
    record(params, torch="0.1")
    toolchain.check("compress", params, strict=True)
    with pytest.raises(CompressorError, match=r"torch 0\.1"):
        toolchain.check("export", params, strict=True)


@pytest.mark.parametrize("package", ["compressor", "numpy", "ml_dtypes"])
@pytest.mark.parametrize("stage", ["export", "detect", "compress", "evaluate"])
def test_what_computes_every_value_matters_to_every_stage(params: Path, package: str, stage: str) -> None:
    record(params, **{package: "0.1"})
    with pytest.raises(CompressorError, match=rf"{package.replace('_', '-')} 0\.1 is recorded"):
        toolchain.check(stage, params, strict=True)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("[]", "expected package: version, got a list")]
)
def test_a_damaged_file(params: Path, text: str, message: str) -> None:
    (params.parent / toolchain.FILE).write_text(text)
    with pytest.raises(CompressorError, match=message):
        toolchain.check("detect", params, strict=False)


def test_the_file_beside_the_default_params(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(params.parent)
    record(params, compressor="0.0.0")
    with pytest.raises(CompressorError, match=r"compressor 0\.0\.0"):
        toolchain.check("detect", None, strict=True)
