"""Workers: the processes of any executor, on any machines, that see the same files at the same paths.

What a function needs beside its item lies in a file that all of them read, so that a task is small: an item, pickled.
They read slices of the source, write at places of the artefact, and nothing but facts comes back. That file is also how
a worker that sees another file system, or has other versions, is found out before it has done anything.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import pickle
import secrets
import socket
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from compressor.compilation import publish
from compressor.compilation.stream import IN_FLIGHT, dense_nbytes, named
from compressor.compilation.versions import identity
from compressor.errors import CompressorError, line
from compressor.model import Stamps
from compressor.weight import Weight

T = TypeVar("T")
R = TypeVar("R")

MOST_TASKS = 512
"""Tasks that an executor has at a time: so many workers are kept busy, and so few tasks are remembered."""

BATCH_NBYTES, MOST_IN_BATCH = 4 << 20, 64
"""Small weights go together: dense bytes from which on a task has enough, and the most weights of one."""

_HELLO = "hello.json"
_UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)


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
        for results in self.map(partial(_each, function), _batches(zip(weights, *others, strict=True))):
            yield from results

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`map(function, items)` on the workers, a task an item, results in order.

        At most `MOST_TASKS` of them, and `IN_FLIGHT` bytes of what they carry, are on their way. What cannot be pickled
        is done here.

        Raises:
            CompressorError: the executor or a worker has failed.
        """
        number = next(self.numbers)
        try:
            (self.room / str(number)).write_bytes(_pickled(function))
        except _UNPICKLABLE:
            yield from map(function, items)
            return
        pending: deque[tuple[Future[bytes] | None, Any]] = deque()
        in_flight = 0
        try:
            for item in items:
                task = _task(item)
                size = 0 if task is None else len(task)
                while pending and (len(pending) >= MOST_TASKS or in_flight + size > IN_FLIGHT):
                    future, told = pending.popleft()
                    in_flight -= told[1] if future else 0
                    yield self._done(function, future, told)
                if task is None:
                    pending.append((None, item))
                else:
                    seal = secrets.token_hex(8)
                    pending.append((self._submit(_work, seal, number, task), (seal, size)))
                    in_flight += size
            while pending:
                yield self._done(function, *pending.popleft())
        finally:
            for future, _ in pending:
                if future is not None:
                    future.cancel()

    def greet(self) -> None:
        """Have a worker look whether it can take part.

        Raises:
            CompressorError: it cannot.
        """
        try:
            with _executors_errors():
                _opened(self._submit(_join, "hello").result(), "hello")
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

    def _done(self, function: Callable[[Any], R], future: Future[bytes] | None, told: Any) -> R:
        if future is None:
            return function(told)
        with _executors_errors():
            content = future.result()
        result: R = _opened(content, told[0])
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
        (room / _HELLO).write_text(json.dumps(hello), encoding="utf-8")
        workers = Workers(executor, room.absolute(), token)
        workers.greet()
        yield workers


def different(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """What a worker has that is not ours, in words; empty where it has the same.

    >>> different({"numpy": "2.3"}, {"numpy": "2.2"})
    'numpy 2.2, expected 2.3'
    """
    packages = [name for name in ours if name != "code" and ours[name] != theirs.get(name)]
    if packages:
        return "; ".join(f"{name} {theirs.get(name, 'missing')}, expected {ours[name]}" for name in packages)
    same = ours.get("code") == theirs.get("code")
    return "" if same else f"other code of compressor {ours.get('compressor')}"


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


class _Pickler(pickle.Pickler):
    """Paths are made absolute: a worker has another current directory."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Path) and not obj.is_absolute():
            return type(obj), (str(obj.absolute()),)
        return NotImplemented


def _pickled(one: object) -> bytes:
    content = io.BytesIO()
    _Pickler(content, pickle.HIGHEST_PROTOCOL).dump(one)
    return content.getvalue()


def _task(item: object) -> bytes | None:
    """An item, pickled; None where it cannot be."""
    try:
        return _pickled(item)
    except _UNPICKLABLE:
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


def _opened(content: object, seal: str) -> Any:
    """The result that a worker has sealed.

    Raises:
        CompressorError: it is damaged, or of another task.
    """
    if isinstance(content, bytes) and zlib.crc32(content[4:]).to_bytes(4, "big") == content[:4]:
        told, result = pickle.loads(content[4:])  # noqa: S301 - from a worker that runs code of ours
        if told == seal:
            return result
    raise CompressorError(
        "a worker has returned a damaged result, or that of another task. Nothing was published. Look for the one "
        "whose memory, network or code is not sound, and run the command again without it."
    )


def _sealed(seal: str, result: object) -> bytes:
    content = pickle.dumps((seal, result), pickle.HIGHEST_PROTOCOL)
    return zlib.crc32(content).to_bytes(4, "big") + content


def _join(room: str, token: str, seal: str) -> bytes:
    """On a worker: look whether it can take part."""
    _check(room, token)
    return _sealed(seal, None)


def _work(room: str, token: str, seal: str, number: int, task: bytes) -> bytes:
    """On a worker: one task, its result sealed."""
    _check(room, token)
    try:
        return _sealed(seal, _function(room, token, number)(pickle.loads(task)))  # noqa: S301 - the driver's own
    except OSError as error:
        what = f"{error.filename or 'the system'}: {error.strerror or error}"
        raise CompressorError(f"{what}, on {_who()}. Nothing was published.") from error
    except MemoryError as error:
        raise CompressorError(f"out of memory on {_who()}. Nothing was published.") from error


@functools.lru_cache(maxsize=4)
def _function(room: str, token: str, number: int) -> Callable[[Any], Any]:  # noqa: ARG001 - part of the key
    function: Callable[[Any], Any] = pickle.loads((Path(room) / str(number)).read_bytes())  # noqa: S301
    return function


@functools.lru_cache(maxsize=16)
def _check(room: str, token: str) -> None:
    """Whether this process can take part; done once, since errors are not kept.

    Raises:
        CompressorError: it sees other files, or has other versions.
    """
    shared = "The file system must be the same, at the same paths, on every worker."
    try:
        hello = json.loads((Path(room) / _HELLO).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompressorError(f"{_who()} sees no {Path(room).parent} that others write to. {shared}") from error
    if hello["token"] != token:
        raise CompressorError(f"{_who()} sees another {Path(room).parent} than the one that is written to. {shared}")
    if unlike := different(hello["identity"], identity()):
        raise CompressorError(f"{_who()} has {unlike}. Install on every worker what is installed here.")
    for name, nbytes in hello["files"].items():
        try:
            found = Path(name).stat().st_size
        except OSError as error:
            raise CompressorError(f"{_who()} cannot see {name}: {error.strerror}. {shared}") from error
        if found != nbytes:
            raise CompressorError(f"{_who()} sees another {name}: of {found:,} bytes, expected {nbytes:,}. {shared}")


def _who() -> str:
    return f"the worker on {socket.gethostname()}, process {os.getpid()},"
