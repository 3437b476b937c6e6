"""Full disks, kills and interruptions in the middle: the old output stays, and nothing else is left for long."""

from __future__ import annotations

import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from compressor.encodings import Dense
from tests.faults.commands import chain, check_refusal, done, encodings, refused, snapshot, weights
from tests.faults.disks import disk_of
from tests.formats.coreml import models as coreml_models

ALL = os.environ.get("COMPRESSOR_TESTS") == "all"
MAIN = "from compressor.stages.app import main; main()"

# Runs `compress`, and when STEP is reached says so and waits to be stopped.
PAUSED = """
import signal, sys, time
from contextlib import contextmanager
from pathlib import Path
from compressor.compilation import renaming
from compressor.stages import progress
from compressor.stages.app import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests in the background has it ignored
step, exchange, rename = sys.argv.pop(1), renaming.exchange, Path.rename

def pause():
    print("ready", flush=True)
    time.sleep(60)

@contextmanager
def shown():
    yield lambda phase, done, total: pause() if phase == step else None

def paused_exchange(one, other):
    if step == "between the renames":  # of a file system that cannot exchange two directories
        Path.rename = paused_rename
        return False
    done = exchange(one, other)
    if step == "exchanged":
        pause()
    return done

def paused_rename(self, target):
    rename(self, target)
    Path.rename = rename
    pause()

progress.shown, renaming.exchange = shown, paused_exchange
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


@pytest.fixture(params=["onnxruntime", "iOS18"])
def family(request: pytest.FixtureRequest) -> list[str]:
    """A model, another one, and the target of each family; `out` is an artefact of the other one."""
    models = ["m.onnx", "other.onnx"]
    chain(Path("other.onnx"), weights(seed=1))
    if request.param == "iOS18":
        shutil.rmtree("out")
        models = ["m.mlpackage", "other.mlpackage"]
        for seed, package in enumerate(models):
            coreml_models.save(Path(package), 9, {name: Dense(array) for name, array in weights(seed).items()})
        done("compress", models[1], "out", "--target", "iOS18")
    return [*models, request.param]


def test_a_disk_that_fills_up_at_any_write(family: list[str]) -> None:
    command = ["compress", family[0], "out", "--target", family[2]]
    shutil.copytree("out", "earlier")
    with disk_of(math.inf) as endless:
        done(*command)
    shutil.rmtree("out")
    Path("earlier").rename("out")
    rooms = [*range(len(endless.writes))]
    assert len(rooms) > 20
    for room in rooms if ALL else np.random.default_rng(0).choice(rooms, 8, replace=False):
        before = snapshot(Path())
        with disk_of(room):
            says = "error: out: cannot be written: No space left on device. Nothing was changed."
            refused(*command, status=1, says=says)
        assert snapshot(Path()) == before


# Forks a run after the other, each of another model, and kills it at a random moment. What is there afterwards is
# whole: the bytes of one of the two artefacts, beside what the next run sweeps.
KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import compressor

models, target, count = sys.argv[1:3], sys.argv[3], int(sys.argv[4])
chance, out = random.Random(0), Path("out")

def state(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

whole, longest = [], 0.0
for model in models:
    for _ in range(2):  # the second one imports nothing
        started = time.perf_counter()
        compressor.compress(model, out, target=target)
        longest = max(longest, time.perf_counter() - started) if _ else longest
    whole.append(state(out))
assert whole[0] != whole[1]
killed = 0
for number in range(count):
    child = os.fork()
    if not child:
        compressor.compress(models[number % 2], out, target=target)
        os._exit(0)
    time.sleep(chance.uniform(0, longest * 1.1))
    os.kill(child, signal.SIGKILL)
    killed += os.waitpid(child, 0)[1] == signal.SIGKILL
    assert state(out) in whole, f"run {number}: {sorted(state(out))}"
compressor.compress(models[0], out, target=target)
assert state(out) == whole[0]
assert sorted(path.name for path in Path().iterdir() if path.name.startswith(".compressor")) == []
print(killed)
"""


def test_kills_at_random_moments(family: list[str]) -> None:
    """There is an artefact at every moment, the old one or the new one, whole."""
    count = 200 if ALL else 8
    command = [sys.executable, "-c", KILLS, *family, str(count)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert int(ended.stdout) > count // 2


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


STEPS = ["detect", "compress", "verify"]


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
    assert all(name.startswith(".compressor-out") for name in after.keys() - before.keys())
    done("compress", "m.onnx", "out")
    assert sorted(path.name for path in Path().iterdir()) == ["m.onnx", "out"]
    assert encodings(Path("out")) == {"palette": "palettized4", "pruned": "sparse", "plain": "dense"}


def test_a_kill_after_the_exchange_leaves_the_new_output() -> None:
    assert stopped("exchanged", signal.SIGKILL)[0] == -signal.SIGKILL
    assert encodings(Path("out"))["palette"] == "palettized4"
    done("compress", "m.onnx", "out")
    assert sorted(path.name for path in Path().iterdir()) == ["m.onnx", "out"]


def test_a_kill_between_the_two_renames_is_mended_by_the_next_run() -> None:
    """The old output has stepped aside, the new one has not come: the next run, even one that fails, puts it back."""
    before = snapshot(Path())
    assert stopped("between the renames", signal.SIGKILL)[0] == -signal.SIGKILL
    assert not Path("out").exists()
    values = weights()
    values["palette"] = values["plain"]
    done("detect", "m.onnx", "--out", "detection.json")
    chain(Path("other.onnx"), values)
    arguments = ["compress", "other.onnx", "out", "--detection", "detection.json"]
    ended = subprocess.run([sys.executable, "-c", MAIN, *arguments], capture_output=True, text=True)
    check_refusal(ended.returncode, ended.stdout, ended.stderr, status=1, says="Run `compressor detect` again")
    after = snapshot(Path())
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"detection.json", "other.onnx"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_between_the_two_renames_puts_the_old_output_back(number: int) -> None:
    before = snapshot(Path())
    stopped("between the renames", number)
    assert snapshot(Path()) == before
