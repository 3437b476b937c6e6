"""A command for which nothing is set does what one does for which the defaults are."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor import targets
from compressor.stages import compress, params
from compressor.stages.given import DEFAULT_FILE, OWN_FILE, Given


@pytest.mark.parametrize("target", [None, *targets.names(), "IOS17"])
@pytest.mark.parametrize("pipeline", [None, "default_pruning"])
def test_nothing_that_is_set_is_the_defaults(
    target: str | None, pipeline: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"target": target, "compress.pipeline": pipeline}
    asked = compress._asked(Path("m.onnx"), None, Given(options=options))
    monkeypatch.setattr(compress, "_by_default", lambda *_: None)
    assert asked == compress._asked(Path("m.onnx"), None, Given(options=options))
    assert asked.target.name == targets.get(target or targets.DEFAULT).name
    assert asked.pipeline == (pipeline or "auto")


@pytest.mark.parametrize("where", [OWN_FILE, DEFAULT_FILE, Path("other.yaml"), "-S"])
def test_what_is_set_is_read(where: Path | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"target": None, "compress.pipeline": None}
    given = Given(overrides=("compress.pipeline=default_pruning",), options=options)
    if isinstance(where, Path):
        where.write_text("compress:\n  pipeline: default_pruning\n", encoding="utf-8")
        given = Given(where if where.stem == "other" else None, options=options)
    assert not given.alone
    assert compress._asked(Path("m.onnx"), None, given).pipeline == "default_pruning"
    assert params.load(params.CompressAlone, given).compress.pipeline == "default_pruning"
