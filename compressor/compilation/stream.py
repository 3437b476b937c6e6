"""Streaming: a function mapped over weights on threads, in order, the bytes in flight bounded.

A function sees one weight and what belongs to it, so whatever maps a function over items in order may run it: threads
here, processes elsewhere (`workers`).
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from compressor.arrays import ArraySpec
from compressor.encodings import Encoding, dtype, shape
from compressor.errors import CompressorError, DamageError
from compressor.weight import Weight

T = TypeVar("T")

IN_FLIGHT = 64 << 20
"""Bytes of dense weights that may be worked on at a time; a larger weight is worked on alone."""


class Run(Protocol):
    """What maps a function over weights and what belongs to each, results in order: `stream`, or workers."""

    def __call__(
        self, function: Callable[..., T], weights: Iterable[Weight], *others: Iterable[Any]
    ) -> Iterator[T]: ...


class InexactError(CompressorError):
    """A weight is not what its form says, or is not read back as it was: the plan does not fit the model.

    name: the weight's; reason: what is wrong with its form.
    """

    def __init__(self, name: str, spec: Encoding, reason: str) -> None:
        super().__init__(f"weight {name} {dtype(spec)}{list(shape(spec))}: {reason}")
        self.name, self.spec, self.reason = name, spec, reason

    def __reduce__(self) -> tuple[type[InexactError], tuple[str, Encoding, str]]:
        return type(self), (self.name, self.spec, self.reason)


def failure(function: Callable[..., object], *arguments: Any) -> InexactError | None:
    """Why a weight does not come through `function(*arguments)`, None if it does."""
    try:
        function(*arguments)
    except InexactError as error:
        return error
    return None


def processors() -> int:
    """How many of them this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stream(function: Callable[..., T], weights: Iterable[Weight], *others: Iterable[Any]) -> Iterator[T]:
    """`map(function, weights, *others)` on threads, results in order, the bytes in flight bounded.

    numpy releases the interpreter's lock in its loops, so threads need no copies of what they share.
    """
    workers = processors()
    pending: deque[tuple[Future[T], int]] = deque()
    in_flight = 0
    with ThreadPoolExecutor(workers) as executor:
        try:
            for weight, *rest in zip(weights, *others, strict=True):
                size = dense_nbytes(weight)
                while pending and (in_flight + size > IN_FLIGHT or len(pending) > 2 * workers):
                    future, done = pending.popleft()
                    yield future.result()
                    in_flight -= done
                pending.append((executor.submit(named, function, weight, *rest), size))
                in_flight += size
            while pending:
                yield pending.popleft()[0].result()
        finally:
            for future, _ in pending:
                future.cancel()
    _given_back()(0)


@functools.cache
def _given_back() -> Callable[[int], object]:
    """What gives freed memory back to the system, where the C library keeps it: glibc does, for each thread."""
    try:
        found: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return id
    return found


def dense_nbytes(weight: Weight) -> int:
    """The bytes that a weight takes once it is decoded."""
    return ArraySpec(shape(weight.encoding), dtype(weight.encoding)).nbytes


def named(function: Callable[..., T], weight: Weight, *rest: Any) -> T:
    """`function(weight, *rest)`, whose errors about damage name the weight.

    Raises:
        CompressorError: what the weight stores contradicts itself.
    """
    try:
        return function(weight, *rest)
    except DamageError as error:
        raise CompressorError(
            f"weight {weight.name}: {error}. The file is damaged: write or download it again."
        ) from error
