"""Streaming: in order, bounded, on any executor."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from compressor import encodings
from compressor.arrays import ArraySpec, MappedArray
from compressor.compilation import stream as streaming
from compressor.compilation.encode import stored
from compressor.compilation.plan import Choice
from compressor.compilation.stream import failure, stream
from compressor.compilation.verify import verify
from compressor.encodings import Dense, Palettized
from compressor.errors import CompressorError
from compressor.recognition.find import unlooked
from compressor.recognition.schemes import EXACT, Candidate
from compressor.weight import Weight


def weights(count: int, size: int = 10) -> list[Weight]:
    return [Weight(f"w{place}", Dense(np.full((size, 1), place, np.float32))) for place in range(count)]


def named(weight: Weight, mark: str) -> str:
    return weight.name + mark


def test_every_weight_goes_through_with_what_belongs_to_it_in_order() -> None:
    def slow(weight: Weight, mark: str) -> str:
        time.sleep(0.02 if weight.name == "w0" else 0)
        return weight.name + mark

    marks = [chr(65 + place % 26) for place in range(50)]
    assert list(stream(slow, weights(50), marks)) == [f"w{place}{mark}" for place, mark in enumerate(marks)]
    assert list(stream(named, [], [])) == []


def test_there_is_one_of_everything_for_each_weight() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        list(stream(named, weights(2), ["!"]))


def test_an_error_comes_out_in_its_place() -> None:
    def fail(weight: Weight) -> str:
        if weight.name == "w3":
            raise CompressorError("w3 is wrong")
        return weight.name

    seen: list[str] = []
    with pytest.raises(CompressorError, match="w3 is wrong"):
        seen.extend(stream(fail, weights(10)))
    assert seen == ["w0", "w1", "w2"]


def test_an_error_of_the_source_ends_the_stream() -> None:
    def source() -> Iterator[Weight]:
        yield from weights(1)
        raise CompressorError("the file ends here")

    with pytest.raises(CompressorError, match="the file ends here"):
        list(stream(named, source(), "!!"))


@pytest.mark.parametrize(
    ("limit", "most"),
    [
        pytest.param(100 * 4, 1, id="larger than the limit: alone"),
        pytest.param(1000 * 4, 1, id="one at a time"),
        pytest.param(2000 * 4, 2, id="two at a time"),
    ],
)
@pytest.mark.parametrize("palettized", [False, True], ids=["dense", "palettized: few bytes that become many"])
def test_the_dense_bytes_in_flight_are_bounded(
    limit: int, most: int, *, palettized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "IN_FLIGHT", limit)
    monkeypatch.setattr(streaming.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)  # type: ignore[attr-defined]
    lock, taken, finished, seen = threading.Lock(), 0, 0, []

    def source() -> Iterator[Weight]:
        nonlocal taken
        for weight in weights(30, 1000):
            taken += 1
            if palettized:
                spec = Palettized(np.zeros((1000, 1), np.uint8), np.zeros((1, 1, 1, 1), np.float32))
                yield replace(weight, encoding=spec)
            else:
                yield weight

    def work(weight: Weight) -> Weight:
        nonlocal finished
        with lock:
            seen.append(1)
            working = len(seen) - finished
        assert working <= most
        time.sleep(0.002)
        with lock:
            finished += 1
        return weight

    consumed = 0
    for _ in stream(work, source()):
        consumed += 1
        assert taken - consumed <= most + 1
    assert consumed == 30


def test_small_weights_are_worked_on_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)  # type: ignore[attr-defined]
    together = threading.Barrier(2, timeout=10)

    def meet(weight: Weight) -> Weight:
        together.wait()
        return weight

    assert len(list(stream(meet, weights(4)))) == 4


def test_a_reader_that_stops_early_ends_the_work() -> None:
    done = []

    def work(weight: Weight) -> Weight:
        time.sleep(0.001)
        done.append(weight.name)
        return weight

    with closing(stream(work, weights(1000))) as results:  # type: ignore[type-var]  # it is a generator
        next(results)
    assert len(done) < 100


def same(encoding: encodings.Encoding) -> encodings.Encoding:
    return encoding


def test_processes_run_the_same_functions(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    values = (np.arange(4096) % 5).astype(np.float32)
    path.write_bytes(values.tobytes())
    source = [Weight(f"w{place}", Dense(MappedArray(path, 0, (64, 64), values.dtype))) for place in range(3)]
    spec = Palettized(ArraySpec((64, 64), np.dtype(np.uint8)), ArraySpec((1, 1, 5, 1), values.dtype))
    choices = [Choice(unlooked(weight), Candidate(("palettize",), spec, ""), spec) for weight in source]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        made = list(pool.map(partial(stored, same), source, choices))
        compared = list(pool.map(partial(failure, verify), source, [one.encoding for one in made], [EXACT] * 3))
    assert compared == [None, None, None]
    assert [encodings.spec(weight.encoding) for weight in made] == [spec] * 3
    assert np.array_equal(encodings.decode(made[2].encoding), values.reshape(64, 64))
