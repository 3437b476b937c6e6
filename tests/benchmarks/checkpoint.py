"""A checkpoint of a large language model: what its folder costs against `cp`, and after a kill at half.

bfloat16, codes of 4 bits in groups of 128, shards of 67 MB. Processors' seconds count: by the clock both wait for the
disk. Where that is short, fewer shards tell the same, since each is read, written and compared by itself.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.compilation import journal
from tests.benchmarks import cluster, measure
from tests.benchmarks.measure import Figure

SHARDS = 16
COMMAND = [sys.executable, "-m", "compressor", "compress"]


@dataclass(frozen=True)
class Spent:
    """Of a process: seconds by the clock and of processors. peak: of its anonymous memory, in bytes."""

    wall: float
    cpu: float
    peak: int


def figures(folder: Path, shards: int = SHARDS) -> Iterator[Figure]:
    """The measured numbers."""
    source, out = folder / "checkpoint", folder / "checkpoint-out"
    cluster.checkpoint(source, shards)
    nbytes = measure.size(source)
    measure.warm(source)
    copied = _spent(["cp", "-r", source, folder / "copy"])
    shutil.rmtree(folder / "copy")
    whole = _spent([*COMMAND, source, out, "--target", "compressed-tensors"])
    stored = measure.size(out, without=("manifest.json",))
    shutil.rmtree(out)
    weights = nbytes / 2
    name = f"checkpoint {weights / 1e9:.2f} G bfloat16"
    yield Figure(
        f"{name}: compress / cp, CPU",
        whole.cpu / copied.cpu,
        6.0,
        f"{whole.cpu:.2f} s ({whole.wall:.2f} s by the clock) / {copied.cpu:.2f} s ({copied.wall:.2f} s)",
    )
    yield Figure(f"{name}: CPU ns a weight", 1e9 * whole.cpu / weights, 10, "look, encode, write, read back, compare")
    yield Figure(f"{name}: peak anonymous MB", whole.peak / measure.MB, 2000, "polled every 20 ms")
    yield Figure(f"{name}: bytes of source", stored / nbytes, 0.26, f"{stored:,} of {nbytes:,}")
    resumed = _killed_at_half(source, out, shards)
    shutil.rmtree(out)
    detail = f"{resumed.cpu:.2f} s of CPU, a whole run {whole.cpu:.2f} s"
    yield Figure(f"{name}: resumed after a kill at half / whole", resumed.cpu / whole.cpu, 0.6, detail)


def _killed_at_half(source: Path, out: Path, shards: int) -> Spent:
    """What the rest takes, once half of the shards are done."""
    command = [*COMMAND, str(source), str(out), "--target", "compressed-tensors"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kept = f".compressor-{out.name}-*/{journal.NAME}/*.safetensors"
    while running.poll() is None and len(list(out.parent.glob(kept))) < shards // 2:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    return _spent([*command, "--resume"])


def _spent(command: Sequence[str | Path]) -> Spent:
    os.sync()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = measure.process(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(run.seconds, cpu, run.anonymous)
