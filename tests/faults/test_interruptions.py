"""Full disks, kills and interruptions in the middle: the old output stays, and nothing else is left for long."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.formats.onnx import writing
from tests.faults.commands import chain, check_refusal, done, encodings, refused, snapshot, weights

MAIN = "from compressor.stages.app import main; main()"

# Runs `compress`, and when STEP is reached says so and waits to be stopped.
PAUSED = """
import signal, sys, time
from compressor import artefact, publish
from compressor.formats.onnx import writing
from compressor.stages.app import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests in the background has it ignored

def pause():
    print("ready", flush=True)
    time.sleep(60)

step = sys.argv.pop(1)
if step == "detecting":
    artefact._findings = lambda *_, **__: pause()
elif step == "writing":
    original = writing._write_payload
    def _write_payload(file, tensor):
        original(file, tensor)
        file.flush()
        pause()
    writing._write_payload = _write_payload
elif step == "verifying":
    artefact._verify = lambda *_: pause()
elif step == "replacing":
    rename = publish.Path.rename
    def between(self, target):
        rename(self, target)
        publish.Path.rename = rename
        pause()
    publish.Path.rename = between
main()
"""


@pytest.fixture(autouse=True)
def model(folder: Path) -> Path:
    return chain(Path("m.onnx"))


def test_a_full_disk() -> None:
    """A limit on the size of files fails a write as a full disk does."""
    before = snapshot(Path())
    for limit in (0, 100, 5000, 15000):
        full = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
        ended = subprocess.run(
            [sys.executable, "-c", MAIN, "compress", "m.onnx", "out"],
            capture_output=True,
            text=True,
            preexec_fn=full,
        )
        says = "out: cannot be written: File too large. Nothing was changed."
        check_refusal(ended.returncode, ended.stdout, ended.stderr, status=1, says=says)
        assert snapshot(Path()) == before


@pytest.fixture
def small_disk() -> Iterator[Path]:
    disk = Path("disk")
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    rng = np.random.default_rng(0)
    values = {f"w{place}": rng.standard_normal((64, 64)).astype(np.float32) for place in range(6)}
    out = small_disk / "out"
    done("compress", "m.onnx", out)
    says = "disk/out: cannot be written: No space left on device. Nothing was changed."
    refused("compress", chain(Path("large.onnx"), values), out, status=1, says=says)
    assert encodings(out)["palette"] == "palettized4"


@pytest.mark.parametrize("call", range(4))
def test_a_disk_that_fills_up_at_any_write(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = writing._write_payload, []

    def full(file: Any, tensor: Any) -> None:
        calls.append(tensor)
        if len(calls) > call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(file, tensor)

    monkeypatch.setattr(writing, "_write_payload", full)
    says = "error: out: cannot be written: No space left on device. Nothing was changed."
    refused("compress", "m.onnx", "out", status=1, says=says)


def stopped(step: str, number: int) -> tuple[int, str]:
    """The exit status and stderr of `compress`, stopped at a step."""
    command = [sys.executable, "-c", PAUSED, step, "compress", "m.onnx", "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        process.send_signal(number)
        said = process.stderr.read()
        return process.wait(30), said


STEPS = ["detecting", "writing", "verifying"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_everything_as_it_was(step: str, number: int, status: int) -> None:
    before = snapshot(Path())
    code, said = stopped(step, number)
    assert code == status
    assert "Traceback" not in said
    assert snapshot(Path()) == before


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_run_leaves_the_old_output_and_the_next_one_cleans_up(step: str) -> None:
    before = snapshot(Path())
    assert stopped(step, signal.SIGKILL)[0] == -signal.SIGKILL
    after = snapshot(Path())
    assert {name: after[name] for name in before} == before
    assert all(name.startswith(".compressor-out-") for name in after.keys() - before.keys())
    done("compress", "m.onnx", "out")
    assert sorted(path.name for path in Path().iterdir()) == ["m.onnx", "out"]
    assert encodings(Path("out")) == {"palette": "palettized4", "pruned": "sparse", "plain": "dense"}


def test_a_kill_between_the_two_renames_is_mended_by_the_next_run() -> None:
    """The old output has stepped aside, the new one has not come: the next run, even one that fails, puts it back."""
    before = snapshot(Path())
    assert stopped("replacing", signal.SIGKILL)[0] == -signal.SIGKILL
    assert not Path("out").exists()
    values = weights()
    values["palette"] = values["plain"]
    done("detect", "m.onnx", "--out", "detection.json")
    chain(Path("other.onnx"), values)
    arguments = ["compress", "other.onnx", "out", "--detection", "detection.json"]
    ended = subprocess.run([sys.executable, "-c", MAIN, *arguments], capture_output=True, text=True)
    check_refusal(ended.returncode, ended.stdout, ended.stderr, status=1, says="Run `detect` again")
    after = snapshot(Path())
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"detection.json", "other.onnx"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_between_the_two_renames_puts_the_old_output_back(number: int) -> None:
    before = snapshot(Path())
    stopped("replacing", number)
    assert snapshot(Path()) == before


def test_progress_of_a_failing_disk_names_no_temporary_place() -> None:
    """What a user reads is the name that the user gave."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_write_payload", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
        said = refused("compress", "m.onnx", "out", status=1, says="out: cannot be written: I/O error")
    assert ".compressor-" not in said
