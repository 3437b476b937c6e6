"""What workers cost: seconds of processors and bytes a weight, by form, and two of them against one.

How much faster two are shows by the clock where the machine is quiet, and elsewhere in the share of the time in which
workers have a task: others slow down what is in a task and what is not alike. Bytes are counted by the system
(`/proc/self/io`, what a process asks for, whether from the page cache or not) and by the executor (what tasks and
results take, pickled).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import compressor
from tests.benchmarks import models
from tests.benchmarks.measure import Figure

SHARDS, LAYERS, SIDE, GROUP = 32, 2, 4096, 128
"""Of the checkpoint: its shards, the matrices of each, and their rows and columns in groups."""


@dataclass(frozen=True)
class Spent:
    """cpu: seconds. read, written: bytes."""

    cpu: float
    read: int
    written: int

    def __sub__(self, before: Spent) -> Spent:
        return Spent(self.cpu - before.cpu, self.read - before.read, self.written - before.written)


@dataclass
class Counted(Executor):
    """An executor whose tasks and results are counted, in bytes. seconds: that tasks took, by the clock."""

    pool: Executor
    nbytes: int = 0
    seconds: float = 0.0

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        self.nbytes += sum(len(one) for one in arguments if isinstance(one, bytes | str))
        counted = Future[Any]()

        def done(future: Future[Any]) -> None:
            if error := future.exception():
                counted.set_exception(error)
                return
            seconds, result = future.result()
            self.seconds += seconds
            self.nbytes += len(result)
            counted.set_result(result)

        self.pool.submit(timed, function, *arguments, **options).add_done_callback(done)
        return counted


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def figures(folder: Path) -> Iterator[Figure]:
    """For each kind of model: one worker, and two."""
    for kind in ("palettized", "pruned", "dense"):
        models.write(folder / kind, kind, 6)
        yield from _figures(folder, kind, 6 * models.BLOCK_PARAMETERS, "onnxruntime")
    checkpoint(folder / "int4")
    yield from _figures(folder, "int4", SHARDS * LAYERS * SIDE * SIDE, "compressed-tensors")


def checkpoint(path: Path, shards: int = SHARDS, side: int = SIDE) -> None:
    """A folder of Hugging Face whose bfloat16 weights are on a grid of 4 bits in groups along the columns."""
    path.mkdir()
    rng, index = np.random.default_rng(0), dict[str, str]()
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        header, names = dict[str, Any](), [f"model.layers.{shard}.mlp.{name}_proj.weight" for name in ("gate", "up")]
        nbytes = 2 * side * side
        for place, name in enumerate(names):
            where = [place * nbytes, (place + 1) * nbytes]
            header[name] = {"dtype": "BF16", "shape": [side, side], "data_offsets": where}
            index[name] = file
        text = json.dumps(header).encode()
        with (path / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for _ in names:
                codes = rng.integers(-8, 8, (side, side // GROUP, GROUP), np.int8).astype(np.float32)
                scales = np.exp(rng.normal(-6.5, 0.5, (side, side // GROUP, 1))).astype(ml_dtypes.bfloat16)
                out.write((codes * scales.astype(np.float32)).astype(ml_dtypes.bfloat16).tobytes())
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))


def _figures(folder: Path, kind: str, parameters: int, target: str) -> Iterator[Figure]:
    spent, rate, clock = {}, {}, {}
    for count in (1, 2):
        driver, workers, counted, wall = _run(folder / kind, folder / f"{kind}-out", target, count)
        spent[count], rate[count], clock[count] = workers.cpu, counted.seconds / wall / workers.cpu, wall
        at_work = f"{wall:.2f} s by the clock, {counted.seconds / count:.2f} s of them at work"
        detail = f"{at_work}; the driver {driver.cpu:.2f} s and {driver.read / 1e6:.0f} MB read"
        name = f"{kind} {parameters / 1e6:.0f} M, {count} worker{'s' * (count > 1)}"
        yield Figure(f"{name}: CPU ns a weight", 1e9 * workers.cpu / parameters, 40, detail)
        yield Figure(f"{name}: driver's CPU ns a weight", 1e9 * driver.cpu / parameters, 10, "")
        yield Figure(f"{name}: bytes read a weight", workers.read / parameters, 17, "")
        yield Figure(f"{name}: bytes written a weight", workers.written / parameters, 5, "")
        yield Figure(f"{name}: bytes sent a weight", counted.nbytes / parameters, 0.01, f"{counted.nbytes:,} bytes")
    if target == "compressed-tensors":  # the driver's part of the others is as long as theirs
        faster = f"{kind}: times faster two workers are"
        yield Figure(f"{faster}, by their time at work", rate[2] / rate[1], 1.7, "", at_least=True)
        detail = f"{clock[1]:.2f} s / {clock[2]:.2f} s"
        yield Figure(f"{faster}, by the clock", clock[1] / clock[2], 1.7, detail, at_least=True)
    detail = f"{spent[2]:.2f} s / {spent[1]:.2f} s"
    yield Figure(f"{kind}: CPU of two workers / one", spent[2] / spent[1], 1.3, detail)
    shutil.rmtree(folder / kind)


def _run(source: Path, out: Path, target: str, count: int) -> tuple[Spent, Spent, Counted, float]:
    """What the driver and the workers spend in a second run, what was counted, and the seconds by the clock."""
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        compressor.compress(source, out, target=target, executor=pool)  # imports, and the cache
        before = _all(pool, count)
        counted, own, start = Counted(pool), spent(), time.perf_counter()
        compressor.compress(source, out, target=target, executor=counted)
        wall = time.perf_counter() - start
        driver, after = spent() - own, _all(pool, count)
    shutil.rmtree(out)
    workers = [after[process] - before[process] for process in before]
    return (
        driver,
        Spent(*(sum(getattr(one, name) for one in workers) for name in ("cpu", "read", "written"))),
        counted,
        wall,
    )


def _all(pool: Executor, count: int) -> dict[int, Spent]:
    """What each worker has spent: asked until all have answered."""
    found: dict[int, Spent] = {}
    while len(found) < count:
        found |= dict(future.result() for future in [pool.submit(named) for _ in range(2 * count)])
    return found


def named() -> tuple[int, Spent]:
    time.sleep(0.05)  # so that another one takes the next
    return os.getpid(), spent()


def spent() -> Spent:
    """What this process has spent."""
    lines = Path("/proc/self/io").read_text().splitlines()
    counts = {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}
    return Spent(time.process_time(), counts["rchar"], counts["wchar"])
