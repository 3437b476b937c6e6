"""Workers: the same artefact whoever makes it, bounded, and one error whatever goes wrong with them."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import compressor
from compressor.compilation import workers
from compressor.compilation import write as writing
from compressor.compilation.stream import InexactError
from compressor.compilation.tasks import different, sealed
from compressor.compilation.workers import Workers, joined
from compressor.encodings import Dense
from compressor.errors import CompressorError
from compressor.weight import Weight
from tests.benchmarks.cluster import checkpoint
from tests.faults.commands import chain, snapshot, working_directory
from tests.sources.onnx.test_folding import CASES, Case, built
from tests.test_determinism import check_mixed, mixed


class Inline(Executor):
    """Tasks run one by one, each when its result is asked for; `change` is done to what they return."""

    def __init__(self, change: Callable[[bytes], Any] = lambda content: content) -> None:
        self.change, self.started, self.finished, self.most, self.sent = change, 0, 0, 0, 0

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        self.started += 1
        self.most = max(self.most, self.started - self.finished)
        self.sent += len(pickle.dumps(arguments))
        outer, future = self, Future[Any]()

        def result(timeout: float | None = None) -> Any:
            outer.finished += 1
            return outer.change(function(*arguments))

        future.result = result  # type: ignore[method-assign]
        return future


@contextmanager
def at_work(executor: Executor, folder: Path) -> Iterator[Workers]:
    directory = folder / ".compressor-out-abcdefgh"
    directory.mkdir()
    with joined(executor, {}, directory) as found:
        yield found


def weights(count: int, size: int = 10) -> list[Weight]:
    return [Weight(f"w{place}", Dense(np.full((size, 1), place, np.float32))) for place in range(count)]


def name_of(weight: Weight, mark: str = "") -> str:
    return weight.name + mark


def test_every_weight_comes_back_in_order_with_what_belongs_to_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool, at_work(pool, tmp_path) as others:
        marks = [str(place % 7) for place in range(200)]
        assert list(others.stream(name_of, weights(200), marks)) == [f"w{at}{mark}" for at, mark in enumerate(marks)]
        assert list(others.stream(name_of, [])) == []
        assert list(others.map(abs, [-3, 2])) == [3, 2]
    assert [path.name for path in tmp_path.iterdir()] == [".compressor-out-abcdefgh"]


def test_small_weights_go_together_and_large_ones_alone(tmp_path: Path) -> None:
    for count, size, tasks in ((200, 10, 4), (3, workers.BATCH_NBYTES // 4, 3)):
        folder = tmp_path / str(size)
        folder.mkdir()
        executor = Inline()
        with at_work(executor, folder) as others:
            assert len(list(others.stream(name_of, weights(count, size)))) == count
        assert executor.started == tasks + 1  # the first one says hello


def test_the_tasks_on_their_way_are_bounded_in_number_and_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = Inline()
    monkeypatch.setattr(workers, "MOST_TASKS", 5)
    with at_work(executor, tmp_path) as others:
        assert len(list(others.map(abs, range(40)))) == 40
        assert executor.most == 5
        executor.most = 0
        monkeypatch.setattr(workers, "IN_FLIGHT", 25_000)
        assert len(list(others.map(len, [b"." * 10_000] * 10))) == 10
        assert executor.most == 2


def test_what_does_not_pickle_is_done_here_in_its_turn(tmp_path: Path) -> None:
    executor, here = Inline(), [0, lambda: None, 2]
    with at_work(executor, tmp_path) as others:
        assert [type(one).__name__ for one in others.map(identity, here)] == ["int", "function", "int"]
        assert executor.started == 3
        assert list(others.map(lambda number: number + 1, [1, 2])) == [2, 3]
        assert executor.started == 3


def identity(one: object) -> object:
    return one


def test_paths_are_those_of_the_driver(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(os.getcwd).result() != str(tmp_path)
        with working_directory(tmp_path), at_work(pool, Path("here")) as others:
            assert list(others.map(str, [Path("a"), Path("/b")])) == [str(tmp_path / "a"), "/b"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_processes_writes_the_same_bytes(tmp_path: Path, count: int) -> None:
    model = mixed(tmp_path / "m.onnx")
    compressor.compress(model, tmp_path / "here")
    with working_directory(tmp_path), ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        seen: list[tuple[str, int, int]] = []
        compressor.compress("m.onnx", "there", executor=pool, progress=lambda *told: seen.append(told))
    assert snapshot(tmp_path / "there") == snapshot(tmp_path / "here")
    assert {phase: (done, total) for phase, done, total in seen}.keys() == {"detect", "compress", "verify"}
    assert all(done == total for done, total in {phase: (done, total) for phase, done, total in seen}.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "m.onnx", "there"]
    check_mixed(tmp_path / "there")


class Messages(Executor):
    """Tasks and results go as messages, pickled, as with the executors of MPI; futures are its own."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        future = Future[Any]()
        future.set_running_or_notify_cancel()
        try:
            called, given, named = pickle.loads(pickle.dumps((function, arguments, options)))  # noqa: S301
            future.set_result(pickle.loads(pickle.dumps(called(*given, **named))))  # noqa: S301
        except Exception as error:  # noqa: BLE001 - any
            future.set_exception(pickle.loads(pickle.dumps(error)))  # noqa: S301
        return future


def loky() -> Executor:
    """Joblib's processes, which are spawned and used again."""
    module = pytest.importorskip("joblib.externals.loky")
    return cast("Executor", module.ProcessPoolExecutor(2))


EXECUTORS = {
    "threads": lambda: ThreadPoolExecutor(2),
    "spawned": lambda: ProcessPoolExecutor(2, multiprocessing.get_context("spawn")),
    "forkserver": lambda: ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")),
    "ended after each task": lambda: ProcessPoolExecutor(
        2, multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ),
    "loky": loky,
    "messages": Messages,
}


@pytest.mark.parametrize("name", EXECUTORS)
def test_any_executor_will_do(tmp_path: Path, name: str) -> None:
    checkpoint(tmp_path / "model", shards=2, side=256)
    compressor.compress(tmp_path / "model", tmp_path / "here", target="compressed-tensors")
    with working_directory(tmp_path), EXECUTORS[name]() as executor:
        compressor.compress("model", "out", target="compressed-tensors", executor=executor)
        assert executor.submit(abs, -1).result() == 1  # it is not shut down
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "here")


@pytest.mark.parametrize("name", ["spawned", "loky"])
def test_an_executor_whose_processes_cannot_begin(tmp_path: Path, name: str) -> None:
    class Failing(Executor):
        def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
            return inner.submit(dies)

    with EXECUTORS[name]() as inner, pytest.raises(CompressorError, match=r"a worker of the executor has died"):
        compressor.compress(chain(tmp_path / "m.onnx"), tmp_path / "out", executor=Failing())
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("case", CASES.values(), ids=[*CASES])
def test_what_a_runtime_folds_is_folded_by_workers(tmp_path: Path, case: Case) -> None:
    model, executor = built(tmp_path / "m.onnx", case.nodes, case.constants), Inline()
    compressor.compress(model, tmp_path / "here")
    compressor.compress(model, tmp_path / "there", executor=executor)
    assert snapshot(tmp_path / "there") == snapshot(tmp_path / "here")
    assert executor.started == 4  # hello, look, write, verify


def test_a_folder_of_shards_is_the_same(tmp_path: Path) -> None:
    checkpoint(tmp_path / "model", shards=3, side=256)
    compressor.compress(tmp_path / "model", tmp_path / "here", target="compressed-tensors")
    expected = snapshot(tmp_path / "here")
    assert sum(name.endswith(".safetensors") for name in expected) == 3
    executor = Inline()
    compressor.compress(tmp_path / "model", tmp_path / "out", target="compressed-tensors", executor=executor)
    assert snapshot(tmp_path / "out") == expected
    assert executor.started == 1 + 1 + 2 * 3  # hello, a look, and each shard is written and compared
    for count in (1, 2, 3):
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
            compressor.compress(tmp_path / "model", tmp_path / "out", target="compressed-tensors", executor=pool)
        assert snapshot(tmp_path / "out") == expected


def test_a_run_whose_workers_failed_goes_on_where_it_was(tmp_path: Path) -> None:
    checkpoint(tmp_path / "model", shards=4, side=256)
    compressor.compress(tmp_path / "model", tmp_path / "here", target="compressed-tensors")

    def compressed(executor: Executor) -> None:
        compressor.compress(
            tmp_path / "model", tmp_path / "out", target="compressed-tensors", executor=executor, resume=True
        )

    results = itertools.count()
    failing = Inline(lambda content: None if next(results) == 7 else content)
    with pytest.raises(CompressorError, match="damaged result"):
        compressed(failing)  # hello, look, four shards are written, the first one is compared, the second one is not
    rest = Inline()
    compressed(rest)
    assert rest.started == 1 + 2 * 3  # nothing is looked at again
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "here")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "model", "out"]


@pytest.mark.parametrize(("abreast", "most"), [(1, 1), (4, 2), (5, 2), (6, 3), (128, 6)])
def test_shards_of_few_weights_are_worked_on_side_by_side(
    tmp_path: Path, abreast: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six shards of two weights, which are one task: as many are on their way as are of so many weights."""
    checkpoint(tmp_path / "model", shards=6, side=256)
    monkeypatch.setattr(workers, "ABREAST", abreast)
    executor, told = Inline(), list[tuple[str, int, int]]()
    compressor.compress(
        tmp_path / "model",
        tmp_path / "out",
        target="compressed-tensors",
        executor=executor,
        progress=lambda *one: told.append(one),
    )
    assert executor.most == most
    for phase in ("compress", "verify"):
        done = [(done, total) for one, done, total in told if one == phase]
        assert done == sorted(set(done))
        assert done[-1] == (6 * 2 * 256 * 256 * 2,) * 2


class Never(Executor):
    """Takes tasks and does none but the first ones."""

    def __init__(self, first: int) -> None:
        self.first, self.futures = first, list[Future[Any]]()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        self.futures.append(Future())
        if len(self.futures) <= self.first:
            self.futures[-1].set_result(function(*arguments))
        elif len(self.futures) == self.first + 3:
            self.futures[-3].set_exception(CompressorError("the disk is full"))
        return self.futures[-1]


def test_what_one_failure_leaves_undone_is_cancelled(tmp_path: Path) -> None:
    checkpoint(tmp_path / "model", shards=6, side=256)
    executor = Never(2)  # hello, and the look
    with pytest.raises(CompressorError, match="the disk is full"):
        compressor.compress(tmp_path / "model", tmp_path / "out", target="compressed-tensors", executor=executor)
    assert len(executor.futures) == 2 + 6
    assert all(future.cancelled() for future in executor.futures[3:])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_form_that_a_sample_has_missed_is_mended_as_without_workers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(16).astype(np.float32)[rng.integers(0, 16, (512, 512))]
    values[300, 77] = 5.0  # where no sample looks
    model = chain(tmp_path / "m.onnx", {"w": values})
    compressor.compress(model, tmp_path / "here")
    with ThreadPoolExecutor(2) as pool:
        compressor.compress(model, tmp_path / "there", executor=pool)
    assert snapshot(tmp_path / "there") == snapshot(tmp_path / "here")


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "change",
    [flipped, lambda content: content[:-1], lambda _: None, lambda _: b"", lambda _: sealed("other", None)],
    ids=["a bit", "cut short", "nothing", "no bytes", "that of another task"],
)
def test_a_damaged_result_is_an_error(tmp_path: Path, change: Callable[[bytes], Any]) -> None:
    later = iter([False, True])
    executor = Inline(lambda content: change(content) if next(later, True) else content)
    with pytest.raises(CompressorError, match=r"damaged result.*Nothing was published"):
        compressor.compress(chain(tmp_path / "m.onnx"), tmp_path / "out", executor=executor)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_an_executor_that_was_shut_down(tmp_path: Path) -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(CompressorError, match="takes no tasks: cannot schedule new futures after shutdown"):
        compressor.compress(chain(tmp_path / "m.onnx"), tmp_path / "out", executor=pool)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def dies(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying() -> None:
    """What a process is told at its start: to die when it writes."""
    writing.write = dies  # type: ignore[assignment]


def test_a_process_that_is_killed_in_the_middle(tmp_path: Path) -> None:
    with (
        ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), dying) as pool,
        pytest.raises(CompressorError, match=r"a worker of the executor has died.*Nothing was published"),
    ):
        compressor.compress(chain(tmp_path / "m.onnx"), tmp_path / "out", executor=pool)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_what_another_process_has() -> None:
    ours = {"python": "3.11", "compressor": "1", "numpy": "2.3", "code": "a"}
    assert different(ours, ours) == ""
    assert different(ours, {**ours, "numpy": "2.2", "python": "3.12"}) == (
        "python 3.12, expected 3.11; numpy 2.2, expected 2.3"
    )
    assert different(ours, {**ours, "code": "b"}) == "other code of compressor 1"
    assert "numpy missing" in different(ours, {"python": "3.11"})


def test_a_failure_comes_back_from_another_process() -> None:
    error = InexactError("w", Dense(np.zeros(3, np.float32)), "is not so")
    back = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(back), str(back), back.name, back.reason) == (InexactError, str(error), "w", "is not so")


def test_an_error_in_a_worker_comes_out_here(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1) as pool, at_work(pool, tmp_path) as others:
        with pytest.raises(CompressorError, match=r"weight w3: is gone"):
            list(others.stream(partial(missing, "w3"), weights(5)))
        with pytest.raises(CompressorError, match=r"No such file or directory, on the worker on .*, process \d+"):
            list(others.map(os.listdir, ["/no such folder"]))
        with pytest.raises(RuntimeError, match=r"ZeroDivisionError: division by zero, on the worker on") as raised:
            list(others.map(divided, [0]))
        assert "in divided" in raised.value.__notes__[0]


def missing(name: str, weight: Weight) -> None:
    if weight.name == name:
        raise CompressorError(f"weight {name}: is gone")


def divided(number: int) -> float:
    return 1 / number
