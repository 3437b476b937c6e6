"""What a run that was ended has done is not done again."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compressor
import compressor.sources
from compressor.arrays import NDArray
from compressor.compilation import artefact, journal, planning
from compressor.compilation.manifest import Manifest
from compressor.errors import CompressorError
from compressor.formats.layout import FileLayout
from tests.sources.huggingface import folders

SHARDS = 6
RANDOM = np.random.default_rng(0)


def grid(rows: int = 512, columns: int = 1024) -> NDArray:
    codes = RANDOM.integers(-8, 8, (rows, columns))
    return (codes * RANDOM.uniform(0.5, 1, (rows, 1)).astype(np.float32)).astype(np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    shards = [{f"model.layers.{number}.up_proj.weight": grid()} for number in range(SHARDS)]
    return folders.dense(tmp_path / "source", *shards)


def compressed(source: Path, out: Path, **options: Any) -> Manifest:
    return compressor.compress(source, out, target="compressed-tensors", **options)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def left(out: Path) -> list[Path]:
    return [entry for entry in out.parent.iterdir() if entry.name.startswith(f".compressor-{out.name}")]


class Counted:
    """What was looked at, and which shards were begun; the one that is asked for fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looked: list[str] = []
        self.begun: list[str] = []
        self.failing = -1
        find, begin = planning.find, FileLayout.begin

        def looking(weight: Any, *arguments: Any, **options: Any) -> Any:
            self.looked.append(weight.name)
            return find(weight, *arguments, **options)

        def beginning(layout: FileLayout, directory: Path) -> None:
            if len(self.begun) == self.failing:
                raise OSError(28, "No space left on device")
            self.begun.append(layout.file)
            begin(layout, directory)

        monkeypatch.setattr(planning, "find", looking)
        monkeypatch.setattr(FileLayout, "begin", beginning)


def test_what_is_done_is_not_done_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = compressed(source, tmp_path / "whole")
    seen = Counted(monkeypatch)
    seen.failing = 3
    with pytest.raises(CompressorError, match="No space left"):
        compressed(source, tmp_path / "out", resume=True)
    told = "3 files that were compared are kept: the same command with --resume goes on from there."
    assert caplog.messages == [told]
    assert len(seen.looked) == SHARDS
    (kept,) = left(tmp_path / "out")
    assert len(list((kept / journal.NAME).glob("*.safetensors"))) == 3
    seen.begun, seen.looked, seen.failing = [], [], -1
    assert compressed(source, tmp_path / "out", resume=True) == whole
    assert seen.begun == [f"model-{number:05}-of-{SHARDS:05}.safetensors" for number in (4, 5, 6)]
    assert seen.looked == []
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert left(tmp_path / "out") == []


@pytest.mark.parametrize(("worth", "again"), [(4 << 21, 2), (1 << 30, SHARDS)], ids=["four shards", "more than all"])
def test_what_was_looked_at_is_noted_once_it_is_much(
    worth: int, again: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_WORTH_NOTING", worth)
    seen = Counted(monkeypatch)
    seen.failing = 0
    with pytest.raises(CompressorError, match="No space left"):
        compressed(source, tmp_path / "out", resume=True)
    assert len(left(tmp_path / "out")) == (again < SHARDS)
    seen.looked, seen.failing = [], -1
    compressed(source, tmp_path / "out", resume=True)
    assert len(seen.looked) == again


def test_without_being_asked_for_nothing_stays(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Counted(monkeypatch)
    seen.failing = 3
    with pytest.raises(CompressorError, match="No space left"):
        compressed(source, tmp_path / "out")
    assert left(tmp_path / "out") == []
    assert not caplog.messages


def _touched(source: Path) -> dict[str, Any]:
    os.utime(source / "config.json")
    return {}


def _asked(_: Path) -> dict[str, Any]:
    return {"rules": {"model.layers.0.*": "dense"}}


@pytest.mark.parametrize("change", [_touched, _asked])
def test_another_source_or_request_begins_anew(
    change: Callable[[Path], dict[str, Any]],
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = Counted(monkeypatch)
    seen.failing = 3
    with pytest.raises(CompressorError, match="No space left"):
        compressed(source, tmp_path / "out", resume=True)
    options = change(source)
    seen.begun, seen.failing = [], -1
    with caplog.at_level(logging.WARNING):
        compressed(source, tmp_path / "out", resume=True, **options)
    assert len(seen.begun) == SHARDS
    assert "is of another source, request or version: all is done again" in caplog.text


def test_of_a_model_in_memory_nothing_that_was_done_is_taken_for_its_own(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dataclasses.replace(compressor.sources.weights(source), stamps={})
    seen = Counted(monkeypatch)
    seen.failing = 3
    with pytest.raises(CompressorError, match="No space left"):
        compressor.compress(model, tmp_path / "out", target="compressed-tensors", resume=True)
    seen.begun, seen.looked, seen.failing = [], [], -1
    compressor.compress(model, tmp_path / "out", target="compressed-tensors", resume=True)
    assert (len(seen.begun), len(seen.looked)) == (SHARDS, SHARDS)


def test_a_file_that_is_no_longer_what_was_noted_is_done_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compressed(source, tmp_path / "whole")
    seen = Counted(monkeypatch)
    seen.failing = 3
    with pytest.raises(CompressorError, match="No space left"):
        compressed(source, tmp_path / "out", resume=True)
    (kept,) = left(tmp_path / "out")
    damaged = kept / journal.NAME / f"model-00002-of-{SHARDS:05}.safetensors"
    raw = bytearray(damaged.read_bytes())
    raw[-1] ^= 1
    damaged.write_bytes(raw)
    with (kept / journal.NAME / "journal.jsonl").open("a") as file:
        file.write('{"file": "model-0000')  # where a kill cut the line short
    seen.begun, seen.failing = [], -1
    assert compressed(source, tmp_path / "out", resume=True) == whole
    assert [name[6:11] for name in seen.begun] == ["00002", "00004", "00005", "00006"]


PART = '{"file": "model-00002-of-00006.safetensors", "key": "k", "nbytes": 3, "sha256": "s"}'


@pytest.mark.parametrize("at", [0, 1, -1], ids=["first", "second", "last"])
@pytest.mark.parametrize(
    "line",
    [
        PART.replace('"model-00002-of-00006.safetensors"', "3"),
        PART.replace('"model-00002-of-00006.safetensors"', '"../source/model-00001-of-00006.safetensors"'),
        PART.replace('"model-00002-of-00006.safetensors"', '"/etc/passwd"'),
        PART.replace('"model-00002-of-00006.safetensors"', '"\\u0000"'),
        PART.replace('"key": "k", ', ""),
        PART.replace("3,", '"3",'),
        PART.replace('"s"', "null"),
        PART.replace('"s"', '"\\ud800"'),
        '{"finding": 3}',
        '{"finding": "{}"}',
        '{"finding": "\\ud800"}',
        '{"state": 3}',
        '{"state": "another"}',
        '{"file": "model',
        "[" * 100_000,
        "[]",
        "3",
        "",
        "\x00\xff",
    ],
    ids=str,
)
def test_a_line_that_nobody_wrote_ends_what_is_known(
    source: Path, tmp_path: Path, line: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compressed(source, tmp_path / "whole")
    seen = Counted(monkeypatch)
    seen.failing = 4
    with pytest.raises(CompressorError, match="No space left"):
        compressed(source, tmp_path / "out", resume=True)
    (kept,) = left(tmp_path / "out")
    noted = kept / journal.NAME / "journal.jsonl"
    lines = noted.read_bytes().splitlines()
    lines[at if at >= 0 else len(lines) - 1] = line.encode("latin-1")
    noted.write_bytes(b"\n".join(lines) + b"\n")
    seen.begun, seen.failing = [], -1
    assert compressed(source, tmp_path / "out", resume=True) == whole
    assert len(seen.begun) >= {0: SHARDS, 1: 2, -1: 3}[at]
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert left(tmp_path / "out") == []


def test_a_form_that_fails_costs_its_shard_alone(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, verify = Counted(monkeypatch), artefact.verify

    def verifying(weight: Any, stored: Any, loss: Any) -> None:
        if weight.name == "model.layers.2.up_proj.weight" and not isinstance(stored, compressor.encodings.Dense):
            raise artefact.InexactError(weight.name, stored, "is not what it was")
        verify(weight, stored, loss)

    monkeypatch.setattr(artefact, "verify", verifying)
    made = compressed(source, tmp_path / "out")
    assert [one.encoding for one in made.weights] == ["int4", "int4", "dense", "int4", "int4", "int4"]
    shards = [name[6:11] for name in seen.begun]
    assert shards == ["00001", "00002", "00003", "00004", "00005", "00006", "00003"]


def test_a_killed_run_goes_on_where_it_was(source: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", compressed(source, tmp_path / "whole")
    command = [sys.executable, "-m", "compressor", "compress", str(source), str(out), "--target", "compressed-tensors"]
    slow = "import time; from compressor.formats import layout; begin = layout.FileLayout.begin\n"
    slow += "layout.FileLayout.begin = lambda *given: (time.sleep(0.5), begin(*given))[1]\n"
    slow += "from compressor.stages.app import main; main()"
    run = subprocess.Popen([command[0], "-c", slow, *command[3:]], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while sum(1 for each in left(out) for _ in (each / journal.NAME).glob("*.safetensors")) < SHARDS // 2:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert not out.exists()
    (kept,) = [each for each in left(out) if each.is_dir()]
    done = {file.name: file.stat().st_ino for file in (kept / journal.NAME).glob("*.safetensors")}
    assert SHARDS // 2 <= len(done) < SHARDS
    resumed = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(resumed.stdout) == json.loads(whole.to_json())
    assert {name: (out / name).stat().st_ino for name in done} == done
    assert content(out) == content(tmp_path / "whole")
    assert left(out) == []
    shutil.rmtree(out)
