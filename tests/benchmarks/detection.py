"""How long `detect` takes, every value looked at: 85 M float32 weights, and a checkpoint of 4-bit codes by group."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import compressor
from compressor.arrays import BFLOAT16
from tests.benchmarks import measure, models
from tests.benchmarks.measure import Figure

SIDE, LAYERS, GROUP = 2048, 8, 128


def figures(folder: Path, blocks: int, times: int) -> Iterator[Figure]:
    for kind in models.KINDS:
        source = folder / f"detected-{kind}"
        models.write(source, kind, blocks)
        wall, cpu = _detect(source, times)
        shutil.rmtree(source)
        name = f"detect {kind} {blocks * models.BLOCK_PARAMETERS / 1e6:.0f} M, seconds"
        yield Figure(name, wall, 0.25 * blocks / 12, f"{cpu:.2f} s of the processors")
    source = folder / "groups.safetensors"
    save_file({f"{layer}.weight": _groups(layer) for layer in range(LAYERS)}, source)
    wall, cpu = _detect(source, times)
    weights = LAYERS * SIDE * SIDE
    detail = f"of the processors; {wall / weights * 1e9:.2f} by the clock"
    yield Figure(f"detect bfloat16, 4 bits by {GROUP}, ns a weight", cpu / weights * 1e9, 4, detail)


def _detect(source: Path, times: int) -> tuple[float, float]:
    """Median seconds by the clock and of the processors."""
    compressor.detect(source)
    taken = [measure.call(lambda: compressor.detect(source)) for _ in range(times)]
    return statistics.median(each.wall for each in taken), statistics.median(each.cpu for each in taken)


def _groups(seed: int) -> models.NDArray:
    random = np.random.default_rng(seed)
    codes = random.integers(-8, 8, (SIDE, SIDE // GROUP, GROUP)).astype(np.float32)
    scale = (random.random((SIDE, SIDE // GROUP, 1), np.float32) * 0.01 + 0.001).astype(BFLOAT16)
    return np.asarray((codes * scale.astype(np.float32)).astype(BFLOAT16).reshape(SIDE, SIDE))
