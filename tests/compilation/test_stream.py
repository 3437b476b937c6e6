"""Streaming: in order, bounded, on any executor."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compressor import encodings
from compressor.arrays import ArraySpec, MappedArray
from compressor.compilation import stream as streaming
from compressor.compilation.encode import encode
from compressor.compilation.legalize import legalize
from compressor.compilation.stream import run, stream
from compressor.compilation.verify import Allowed, verify
from compressor.encodings import Dense, Palettized
from compressor.errors import CompressorError
from compressor.weight import Weight


def weights(count: int, size: int = 10) -> list[Weight]:
    return [Weight(f"w{place}", Dense(np.full((size, 1), place, np.float32))) for place in range(count)]


def renamed(weight: Weight) -> Weight:
    return replace(weight, name=weight.name + "!")


def first(weight: Weight) -> Weight:
    return replace(weight, name=weight.name + "1")


def test_every_weight_goes_through_all_passes_in_order() -> None:
    def slow(weight: Weight) -> Weight:
        time.sleep(0.02 if weight.name == "w0" else 0)
        return weight

    assert [weight.name for weight in run([slow, first, renamed], weights(50))] == [
        f"w{place}1!" for place in range(50)
    ]
    assert list(run([renamed], [])) == []
    assert [weight.name for weight in run([], weights(2))] == ["w0", "w1"]


def test_the_builtin_map_is_an_executor() -> None:
    assert [weight.name for weight in run([first, renamed], weights(3), map=map)] == ["w01!", "w11!", "w21!"]


def test_an_error_of_a_pass_comes_out_in_its_place() -> None:
    def fail(weight: Weight) -> Weight:
        if weight.name == "w3":
            raise CompressorError("w3 is wrong")
        return weight

    seen: list[str] = []
    with pytest.raises(CompressorError, match="w3 is wrong"):
        seen.extend(weight.name for weight in run([fail], weights(10)))
    assert seen == ["w0", "w1", "w2"]


def test_an_error_of_the_source_ends_the_stream() -> None:
    def source() -> Iterator[Weight]:
        yield from weights(1)
        raise CompressorError("the file ends here")

    with pytest.raises(CompressorError, match="the file ends here"):
        list(run([renamed], source()))


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


def test_processes_run_the_same_passes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    values = (np.arange(4096) % 5).astype(np.float32)
    path.write_bytes(values.tobytes())
    source = [Weight(f"w{place}", Dense(MappedArray(path, 0, (64, 64), values.dtype))) for place in range(3)]
    spec = Palettized(ArraySpec((64, 64), np.dtype(np.uint8)), ArraySpec((1, 1, 5, 1), values.dtype))
    specs, thresholds = dict.fromkeys(("w0", "w1", "w2"), spec), dict.fromkeys(("w0", "w1", "w2"), 0.0)
    stored = {weight.name: weight.encoding for weight in source}
    steps = [encode(specs, thresholds), legalize(same)]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        encoded = list(run(steps, source, map=pool.map))
        compared = list(run([verify(stored, dict.fromkeys(stored, Allowed()))], encoded, map=pool.map))
    assert [weight.name for weight in compared] == ["w0", "w1", "w2"]
    assert all(encodings.spec(weight.encoding) == spec for weight in encoded)
    assert np.array_equal(encodings.decode(encoded[2].encoding), values.reshape(64, 64))
