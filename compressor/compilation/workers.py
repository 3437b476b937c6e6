"""Workers: the processes of any executor, on any machines, that see the same files at the same paths.

What a function needs beside its item lies in a file that all of them read, so that a task is small: an item, pickled.
They read slices of the source, write at places of the artefact, and nothing but facts comes back. That file is also how
a worker that sees another file system, or has other versions, is found out before it has done anything.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from compressor.compilation import publish
from compressor.compilation.stream import IN_FLIGHT, dense_nbytes, named
from compressor.compilation.tasks import HELLO, UNPICKLABLE, join, opened, pickled, work
from compressor.compilation.versions import identity
from compressor.errors import CompressorError, line
from compressor.model import Stamps
from compressor.weight import Weight

T = TypeVar("T")
R = TypeVar("R")

MOST_TASKS = 512
"""Tasks that an executor has at a time: so many workers are kept busy, and so few tasks are remembered."""

ABREAST = 128
"""Weights whose files are written and compared side by side, in files of fewer weights: so that workers that are done
with one have another."""

BATCH_NBYTES, MOST_IN_BATCH = 4 << 20, 64
"""Small weights go together: dense bytes from which on a task has enough, and the most weights of one."""


@dataclass(frozen=True)
class Workers:
    """An executor whose workers know what they work on.

    room: a folder that they share, for functions. token: what tells this run from any other.
    """

    executor: Executor
    room: Path
    token: str
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def stream(self, function: Callable[..., T], weights: Iterable[Weight], *others: Iterable[Any]) -> Iterator[T]:
        """`map(function, weights, *others)` on the workers, results in order.

        Raises:
            CompressorError: the executor or a worker has failed.
        """
        return itertools.chain.from_iterable(
            self.map(partial(_each, function), _batches(zip(weights, *others, strict=True)))
        )

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`map(function, items)` on the workers, a task an item, results in order; the first tasks are on their way.

        At most `MOST_TASKS` of them, and `IN_FLIGHT` bytes of what they carry, are at a time. What cannot be pickled is
        done here.

        Raises:
            CompressorError: the executor or a worker has failed.
        """
        number = next(self.numbers)
        try:
            (self.room / str(number)).write_bytes(pickled(function))
        except UNPICKLABLE:
            return map(function, items)
        results = self._results(function, number, items)
        next(results)  # it has begun, so that closing it cancels the tasks
        return results

    def _results(self, function: Callable[[Any], R], number: int, items: Iterable[Any]) -> Iterator[Any]:
        """The results, after something else: then as many tasks are on their way as may be."""
        pending: deque[tuple[Future[bytes] | None, Any, int]] = deque()
        in_flight, told = 0, False
        try:
            for item in items:
                task = _task(item)
                size = 0 if task is None else len(task)
                while pending and (len(pending) >= MOST_TASKS or in_flight + size > IN_FLIGHT):
                    if not told:
                        yield (told := True)
                    future, known, done = pending.popleft()
                    in_flight -= done
                    yield self._done(function, future, known)
                if task is None:
                    pending.append((None, item, 0))
                else:
                    seal = secrets.token_hex(8)
                    pending.append((self._submit(work, seal, number, task), seal, size))
                    in_flight += size
            if not told:
                yield True
            while pending:
                future, known, _ = pending.popleft()
                yield self._done(function, future, known)
        finally:
            for future, _, _ in pending:
                if future is not None:
                    future.cancel()

    def greet(self) -> None:
        """Have a worker look whether it can take part.

        Raises:
            CompressorError: it cannot.
        """
        try:
            with _executors_errors():
                opened(self._submit(join, "hello").result(), "hello")
        except CompressorError:
            raise
        except Exception as error:  # where not even this module is the same, whatever the executor raises
            raise CompressorError(
                f"a worker cannot take part: {line(error)}. Install there what is installed here, in the same versions."
            ) from error

    def _submit(self, function: Callable[..., bytes], seal: str, *arguments: Any) -> Future[bytes]:
        with _executors_errors():
            try:
                return self.executor.submit(function, str(self.room), self.token, seal, *arguments)
            except BrokenExecutor:
                raise
            except RuntimeError as error:
                raise CompressorError(f"the executor takes no tasks: {line(error)}. Nothing was published.") from error

    def _done(self, function: Callable[[Any], R], future: Future[bytes] | None, known: Any) -> R:
        """A result. known: the seal of a task, or the item where there is none."""
        if future is None:
            return function(known)
        with _executors_errors():
            content = future.result()
        result: R = opened(content, known)
        return result


@contextmanager
def joined(executor: Executor, stamps: Stamps, directory: Path) -> Iterator[Workers]:
    """The workers of an executor, for what is written to `directory` from the files of `stamps`.

    Raises:
        CompressorError: they cannot take part: they see other files, have other versions, or do not answer.
    """
    with publish.beside(directory) as room:
        files = {str(file.absolute()): stamp.nbytes for file, stamp in stamps.items()}
        token = secrets.token_hex(16)
        hello = {"token": token, "identity": identity(), "files": files}
        (room / HELLO).write_text(json.dumps(hello), encoding="utf-8")
        workers = Workers(executor, room.absolute(), token)
        workers.greet()
        yield workers


def _batches(items: Iterable[tuple[Weight, *tuple[Any, ...]]]) -> Iterator[list[tuple[Any, ...]]]:
    """Weights and what belongs to them, small ones together."""
    batch: list[tuple[Any, ...]] = []
    nbytes = 0
    for item in items:
        size = dense_nbytes(item[0])
        if batch and (nbytes + size > BATCH_NBYTES or len(batch) == MOST_IN_BATCH):
            yield batch
            batch, nbytes = [], 0
        batch.append(item)
        nbytes += size
    if batch:
        yield batch


def _each(function: Callable[..., T], batch: Iterable[tuple[Any, ...]]) -> list[T]:
    return [named(function, *arguments) for arguments in batch]


def _task(item: object) -> bytes | None:
    """An item, pickled; None where it cannot be."""
    try:
        return pickled(item)
    except UNPICKLABLE:
        return None


@contextmanager
def _executors_errors() -> Iterator[None]:
    """A block whose errors of the executor are told as what they mean."""
    try:
        yield
    except BrokenExecutor as error:
        raise CompressorError(
            f"a worker of the executor has died, for want of memory perhaps: {line(error)} Nothing was published. Give "
            "each worker more memory, or have fewer of them."
        ) from error
    except CancelledError as error:
        raise CompressorError(
            "the executor has dropped its tasks: its scheduler is gone, or it was shut down. Nothing was published."
        ) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "distributed":
            raise
        raise CompressorError(f"the executor has failed: {line(error)} Nothing was published.") from error
