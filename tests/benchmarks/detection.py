"""How long `detect` takes, every value looked at: 85 M float32 weights of common and rarer kinds, and a checkpoint."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import compressor
from compressor.arrays import BFLOAT16, DType
from compressor.recognition.lookup import formats
from tests.benchmarks import measure, models
from tests.benchmarks.measure import Figure

SIDE, LAYERS, GROUP = 2048, 8, 128


F32 = np.dtype(np.float32)


def _by_channel(random: np.random.Generator, rows: int, columns: int, dtype: DType = F32) -> models.NDArray:
    """A palette of 16 for each row."""
    tables = (random.standard_normal((rows, 16), np.float32) * np.float32(0.05)).astype(dtype)
    return np.take_along_axis(tables, random.integers(0, 16, (rows, columns)), axis=1)


def _grid(random: np.random.Generator, rows: int, columns: int, block: int) -> models.NDArray:
    """Codes of 8 bits, a scale for each block of a row."""
    codes = random.integers(-128, 128, (rows, columns // block, block)).astype(np.float32)
    scale = random.random((rows, columns // block, 1), np.float32) * np.float32(0.01) + np.float32(0.001)
    return np.asarray((codes * scale).reshape(rows, columns))


def _scaled(random: np.random.Generator, rows: int, columns: int, table: models.NDArray, block: int) -> models.NDArray:
    """A table of floats, a scale for each block of a row."""
    scale = random.random((rows, columns // block, 1), np.float32) + np.float32(0.1)
    entries = table[random.integers(0, table.size, (rows, columns // block, block))]
    return np.asarray((entries * scale).reshape(rows, columns))


def _noise(random: np.random.Generator, rows: int, columns: int) -> models.NDArray:
    """A palette of 16 but for noise: what is looked for longest."""
    table = random.standard_normal(16, np.float32) * np.float32(0.05)
    noise = random.standard_normal((rows, columns), np.float32) * np.float32(1e-6)
    return np.asarray(table[random.integers(0, 16, (rows, columns))] * (1 + noise))


def _scaled_channels(random: np.random.Generator, rows: int, columns: int) -> models.NDArray:
    table = np.linspace(-1, 1, 16, dtype=np.float32) ** 3
    return _scaled(random, rows, columns, table, columns)


RARER: Mapping[str, tuple[Callable[[np.random.Generator, int, int], models.NDArray], float]] = {
    "palettes by channel": (_by_channel, 1),
    "palettes by channel in bfloat16": (partial(_by_channel, dtype=BFLOAT16), 1),
    "int8 in blocks of 128": (partial(_grid, block=128), 1),
    "int8 in blocks of 32": (partial(_grid, block=32), 1),
    "one table scaled by channel": (_scaled_channels, 3),
    "NF4 in blocks of 64": (partial(_scaled, table=dict(formats())["nf4"], block=64), 3),
    "a palette but for noise": (_noise, 3),
}
"""How rarer kinds are made, and the seconds of the processors that 85 M of them may take."""


def figures(folder: Path, blocks: int, times: int) -> Iterator[Figure]:
    for kind in models.KINDS:
        source = folder / f"detected-{kind}"
        models.write(source, kind, blocks)
        wall, cpu = _detect(source, times)
        shutil.rmtree(source)
        name = f"detect {kind} {blocks * models.BLOCK_PARAMETERS / 1e6:.0f} M, seconds"
        yield Figure(name, wall, 0.25 * blocks / 12, f"{cpu:.2f} s of the processors")
    for kind, (make, limit) in RARER.items():
        source = folder / "rarer.safetensors"
        random = np.random.default_rng(0)
        shapes = {name: (rows, columns) for name, rows, columns in models.layers(blocks)}
        save_file({name: make(random, *shape) for name, shape in shapes.items()}, source)
        wall, cpu = _detect(source, times)
        name = f"detect {kind} {blocks * models.BLOCK_PARAMETERS / 1e6:.0f} M, seconds of the processors"
        yield Figure(name, cpu, limit * blocks / 12, f"{wall:.2f} s by the clock")
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
