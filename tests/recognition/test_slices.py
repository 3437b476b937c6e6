"""Large weights of which some is read: what that tells, and that no more is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import compressor
from compressor import sources
from compressor.arrays import MappedArray, NDArray
from compressor.encodings import Dense, Sparse, nbytes
from compressor.recognition.find import find
from compressor.recognition.findings import Settings
from compressor.recognition.slices import LARGE
from compressor.weight import Weight
from tests.compilation.test_planning import chain

SIDE = 2304
SHAPE = (SIDE, SIDE)
assert SIDE * SIDE > LARGE


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def dense() -> NDArray:
    return random().standard_normal(SHAPE, np.float32)


def palette(entries: int = 16, *, rows: int = SIDE) -> NDArray:
    table = random().standard_normal(entries, np.float32)
    return np.asarray(table[random().integers(0, entries, (rows, SIDE))])


def by_channel() -> NDArray:
    """64 values in all, 16 of them in each column."""
    table = random().standard_normal(64, np.float32)
    first = 16 * random().integers(0, 4, (1, SIDE))
    return np.asarray(table[first + random().integers(0, 16, SHAPE)])


def vectors(entries: int) -> NDArray:
    table = random().standard_normal((entries, 2), np.float32)
    return np.asarray(table[random().integers(0, entries, (SIDE, SIDE // 2))].reshape(SHAPE))


def grid(bits: int, group: int, *, scales: int = 0, unsigned: bool = False, dtype: str = "f4") -> NDArray:
    """Normal values rounded to codes, each run of `group` with a scale; of so many scales, if they are few."""
    rng, half = random(), 1 << bits - 1
    codes = np.clip(np.rint(rng.standard_normal((SIDE, SIDE // group, group)) * half / 2.7), -half, half - 1)
    counts = (SIDE, SIDE // group, 1)
    scale = np.exp(rng.normal(-6, 0.5, counts)).astype(dtype)
    if scales:
        scale = rng.choice(scale.reshape(-1)[:scales], counts)
    if unsigned:
        codes += half - 2 + rng.integers(-1, 2, counts)
    return np.asarray((codes.astype(np.float32) * scale.astype(np.float32)).reshape(SHAPE))


def scaled(table: NDArray, group: int) -> NDArray:
    """Any entries of a table, each run of `group` with a scale."""
    codes = random().integers(0, len(table), (SIDE, SIDE // group, group))
    scale = random().random((SIDE, SIDE // group, 1), np.float32) + np.float32(0.1)
    return np.asarray((table.astype(np.float32)[codes] * scale).reshape(SHAPE))


def with_rows(kind: NDArray, values: NDArray, start: int) -> NDArray:
    values[start : start + len(kind)] = kind
    return values


def with_part(kind: NDArray, start: int) -> NDArray:
    values = dense()
    values[start : start + len(kind)] = kind
    return values


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of every reading of a file's slice."""
    counted: list[int] = []
    runs = MappedArray.runs

    def counting(self: MappedArray, count: int) -> Iterator[NDArray]:
        counted.append(self.nbytes)
        return runs(self, count)

    monkeypatch.setattr(MappedArray, "runs", counting)
    return counted


WHOLE = {
    "dense": dense,
    "a palette": palette,
    "half precision": lambda: dense().astype(np.float16).astype(np.float32),
    "a grid by channel": lambda: random().integers(-100, 100, SHAPE) * random().random((SIDE, 1), np.float32),
    "a grid by group": lambda: grid(4, 128),
    "a grid by small group": lambda: grid(4, 32),
    "a grid by group with zero points": lambda: grid(4, 128, unsigned=True),
    "a grid of 8 bits by group": lambda: grid(8, 128),
    "scales of half precision": lambda: grid(4, 128, dtype="f2"),
}
OTHERS = {
    "a grid": lambda: random().integers(-100, 100, SHAPE).astype(np.float32) * np.float32(0.003),
    "zeros": lambda: dense() * (random().random(SHAPE) < 0.5),
    "smaller tables by channel": by_channel,
    "codes that are a short table": lambda: scaled(np.arange(-16, 16), 128),
    "a short table that few rows do not tell": lambda: scaled(random().standard_normal(16), 64),
    "a grid with zeros": lambda: grid(4, 128) * (random().random(SHAPE) < 0.5),
    "a grid of few scales": lambda: grid(4, 128, scales=16),
    "a grid of two bits in part": lambda: with_rows(grid(2, 128)[:300], grid(8, 128), 1100),
    "a grid with rows of zeros": lambda: with_rows(np.zeros((100, SIDE), np.float32), grid(4, 128), 1100),
    "a grid with a dense part": lambda: with_rows(dense()[:300], grid(4, 128), 1100),
    "a part that is a palette": lambda: with_part(palette(rows=300), 1100),
    "a part that is zero": lambda: with_part(np.zeros((300, SIDE), np.float32), 1500),
    "vectors": lambda: vectors(64),
}


def written(values: NDArray, folder: Path) -> Weight:
    save_file({"w": values.astype(np.float32)}, folder / "w.safetensors")
    (weight,) = sources.weights(folder / "w.safetensors").weights
    assert isinstance(weight.encoding, Dense)
    return weight


@pytest.mark.parametrize("kind", [*WHOLE, *OTHERS])
def test_some_rows_tell_what_all_would(kind: str, tmp_path: Path, read: list[int]) -> None:
    weight = written((WHOLE | OTHERS)[kind](), tmp_path)
    read.clear()
    some = find(weight, Settings(), sampled=True)
    share = sum(read) / (4 * SIDE * SIDE)
    assert (share < 0.2) == (kind in WHOLE)
    whole = find(weight, Settings())
    smallest = [min(map(nbytes, (one.spec for one in found.candidates)), default=0) for found in (some, whole)]
    assert smallest[0] == smallest[1]
    no_mask = [one.spec for one in whole.candidates if kind in OTHERS or not isinstance(one.spec, Sparse)]
    assert [one.spec for one in some.candidates] == no_mask


def test_a_value_that_was_not_seen_costs_the_form(tmp_path: Path) -> None:
    values = palette()
    values[SIDE // 2, 77] = 7
    source = chain(tmp_path / "m.onnx", {"w": values})
    found = {one.name: one for one in compressor.compress(source, tmp_path / "out").weights}
    assert found["w"].encoding == "palettized5"
    assert found["w"].exact


def test_a_code_that_was_not_seen_costs_the_form(tmp_path: Path) -> None:
    values = grid(4, 128)
    values[SIDE // 2 - 1, :128] = np.arange(-64, 64) * np.float32(0.001)
    source = chain(tmp_path / "m.onnx", {"w": values})
    found = {one.name: one for one in compressor.compress(source, tmp_path / "out").weights}
    assert found["w"].encoding == "int8(palettized7)"
    assert found["w"].exact


@pytest.mark.parametrize("kind", ["dense", "a palette", "a grid by group"])
def test_a_source_is_read_to_be_written_and_to_be_compared(kind: str, tmp_path: Path, read: list[int]) -> None:
    source = chain(tmp_path / "m.onnx", {"w": WHOLE[kind]()})
    read.clear()
    compressor.compress(source, tmp_path / "out")
    own = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert sum(read) < 2.2 * 4 * SIDE * SIDE + own
