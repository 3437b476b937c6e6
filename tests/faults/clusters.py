"""Dask clusters of real processes, some of whose workers do harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import helper

from tests.sources.onnx.models import save, tensor, value

SIZE, COUNT = 640, 8
"""A weight has 1.6 MB: two go together, so that there are four tasks."""

MAIN = "from compressor.stages.app import main; main()"

HARM = """
import os, resource, signal, time
from dataclasses import replace
from pathlib import Path

import numpy as np

from compressor.compilation import tasks
from compressor.compilation import write as writing
from compressor.encodings import Dense, decode

harm, flag = os.environ["HARM"], Path(os.environ["FLAG"])
if not hasattr(writing, "sound"):  # this is loaded more than once
    writing.sound, tasks.sound = writing.write, tasks.work

def worse(legalize, directory, weight, choice, place):
    if harm == "slow":
        time.sleep(0.4)
    if harm == "killed once" and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if harm == "frozen once" and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    if harm == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if harm == "waits":
        flag.touch()
        time.sleep(60)
    if harm == "turns values":
        weight = replace(weight, encoding=Dense(np.roll(decode(weight.encoding), 1)))
    if harm == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        writing.sound(legalize, directory, weight, choice, place)
    finally:
        if harm == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def lying(room, token, seal, number, task):
    content = tasks.sound(room, token, seal, number, task)
    return content[:-1] + bytes([content[-1] ^ 1]) if number else content

writing.write = worse
if harm == "lies":
    tasks.work = lying
"""
"""Loaded by a worker: what it does to the weights that it is given to write."""


@dataclass(frozen=True)
class Worker:
    """harm: what it does. before: a command that starts it. nanny: whether it is started again where it dies."""

    harm: str = ""
    before: Sequence[str] = ()
    nanny: bool = False
    path: str = ""


@dataclass(frozen=True)
class Cluster:
    """address: of the scheduler, a process like the workers. flag: a file that some harm makes."""

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: Sequence[subprocess.Popen[bytes]]
    flag: Path


@contextmanager
def started(folder: Path, *workers: Worker, patience: str = "5 minutes") -> Iterator[Cluster]:
    """A scheduler and workers, each one a process with a thread, in a folder of its own.

    patience: after which a worker that says nothing is given up.
    """
    folder.mkdir()
    (folder / "harm.py").write_text(HARM)
    file, flag, dask = folder / "scheduler.json", folder / "flag", [sys.executable, "-m"]
    dasks = {"COMM__TIMEOUTS__CONNECT": "5s", "SCHEDULER__WORKER_TTL": patience}
    common = {**os.environ, "FLAG": str(flag), **{f"DASK_DISTRIBUTED__{key}": text for key, text in dasks.items()}}
    with ExitStack() as stack, (folder / "log").open("wb") as log:

        def process(command: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
            made = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=env)
            return stack.enter_context(ended(made))

        local = ["--scheduler-file", str(file), "--no-dashboard"]
        command = [*dask, "distributed.cli.dask_scheduler", "--port", "0", "--host", "127.0.0.1", *local]
        scheduler = process(command, common)
        made = []
        for worker in workers:
            own = [*worker.before, *dask, "distributed.cli.dask_worker", *local, "--nthreads", "1"]
            own += ["--nanny" if worker.nanny else "--no-nanny", "--preload", str(folder / "harm.py")]
            path = os.pathsep.join(filter(None, [worker.path, os.environ.get("PYTHONPATH", "")]))
            made.append(process(own, {**common, "HARM": worker.harm, "PYTHONPATH": path}))
        until(file.exists)
        # All are there before a task is: each gets some.
        until(lambda: (folder / "log").read_text().count("Register worker addr") >= len(workers))
        yield Cluster(json.loads(file.read_text())["address"], scheduler, made, flag)


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended when the block ends: asked first, so that a nanny takes its worker with it."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(holds: object, seconds: float = 60) -> None:
    """Wait until a function holds."""
    assert callable(holds)
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def model(path: Path) -> Path:
    """A chain of matrix products: palettized, pruned and dense weights in turn."""
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((COUNT, SIZE, SIZE)).astype(np.float32)
    table, zeros = rng.standard_normal(16).astype(np.float32), rng.random((SIZE, SIZE)) < 0.75
    values = []
    for place, weight in enumerate(plain):
        forms = (table[rng.integers(0, 16, weight.shape)], np.where(zeros, np.float32(0), weight), weight)
        values.append(forms[place % 3])
    steps = [f"h{place}" for place in range(COUNT)]
    nodes = [
        helper.make_node("MatMul", [before, f"w{place}"], [steps[place]])
        for place, before in enumerate(["x", *steps[:-1]])
    ]
    ends = {"inputs": [value("x", ["n", SIZE])], "outputs": [value(steps[-1], ["n", SIZE])]}
    return save(path, nodes, [tensor(f"w{place}", array) for place, array in enumerate(values)], opset=18, **ends)


def driver(*arguments: str, main: str = MAIN) -> subprocess.Popen[str]:
    """A command, in a process of its own, which leads a group as under a shell."""
    return subprocess.Popen(
        [sys.executable, "-c", main, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
