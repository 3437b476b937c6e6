"""Sessions of artefacts against those of the same model, all dense, for the same target: load, memory, latency."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import measure
from tests.benchmarks.measure import Figure

LIMITS = {"palettized": 1.5, "dense": 1.1}
"""How many times the dense model's load takes, by kind of weights; `SPARSE` for others."""

SPARSE = 1.8

_LOAD = """
import json, sys, time
import numpy, onnxruntime
from pathlib import Path
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
started, used = time.perf_counter(), time.process_time()
session = onnxruntime.InferenceSession(Path(sys.argv[1], "model.onnx"), options, providers=["CPUExecutionProvider"])
loaded = time.perf_counter() - started, time.process_time() - used
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
x = {"x": numpy.full((1, 768), 0.01, numpy.float32)}
times = []
for _ in range(30):
    started = time.perf_counter()
    session.run(None, x)
    times.append(time.perf_counter() - started)
print(json.dumps([*loaded, int(status["VmHWM"].split()[0]) / 1000, sorted(times)[len(times) // 2]]))
"""


def figures(source: Path, artefact: Path, what: str, times: int) -> Iterator[Figure]:
    """The medians of runs in turns. what: begins with the kind of weights."""
    from compressor import write_baseline

    dense = source.with_name(f"{source.name}-dense")
    write_baseline(source, dense)
    pairs = [(measure.in_python(_LOAD, artefact), measure.in_python(_LOAD, dense)) for _ in range(times + 1)][1:]
    shutil.rmtree(dense)
    wall, cpu, peak, latency = (
        tuple(statistics.median(pair[side][place] for pair in pairs) for side in (0, 1)) for place in range(4)
    )
    limit = LIMITS.get(what.partition(" ")[0], SPARSE)
    for of, (ours, theirs) in (("session load / dense", wall), ("CPU of the load / dense", cpu)):
        yield Figure(f"{what}: {of}", ours / theirs, limit, f"{ours:.2f} s / {theirs:.2f} s")
    yield Figure(f"{what}: peak memory / dense", peak[0] / peak[1], 2.5, f"{peak[0]:.0f} MB / {peak[1]:.0f} MB")
    detail = f"{latency[0] * 1e3:.1f} ms / {latency[1] * 1e3:.1f} ms"
    yield Figure(f"{what}: latency / dense", latency[0] / latency[1], 1.05, detail)
