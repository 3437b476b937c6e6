"""Passes: pure functions from a weight to a weight, and `run`, which streams weights through them.

A pass sees one weight, so whatever maps a function over items in order may run it: threads here, processes elsewhere.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import reduce
from typing import TypeVar

from compressor.encodings import nbytes
from compressor.model import Weight

Pass = Callable[[Weight], Weight]
T = TypeVar("T")

IN_FLIGHT = 64 << 20
"""Bytes of dense weights that may be worked on at a time; a larger weight is worked on alone."""


def run(
    passes: Sequence[Pass],
    weights: Iterable[Weight],
    *,
    map: Callable[[Pass, Iterable[Weight]], Iterator[Weight]] | None = None,
) -> Iterator[Weight]:
    """Every weight through all passes, in order; `map` is the executor, threads by default."""
    executor = stream if map is None else map
    return executor(lambda weight: reduce(lambda value, step: step(value), passes, weight), weights)


def stream(function: Callable[[Weight], T], weights: Iterable[Weight]) -> Iterator[T]:
    """`map(function, weights)` on threads, results in order, the bytes in flight bounded.

    numpy releases the interpreter's lock in its loops, so threads share the mapped files and need no copies.
    """
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pending: deque[tuple[Future[T], int]] = deque()
    in_flight = 0
    with ThreadPoolExecutor(workers) as executor:
        try:
            for weight in weights:
                size = nbytes(weight.encoding)
                while pending and (in_flight + size > IN_FLIGHT or len(pending) > 2 * workers):
                    future, done = pending.popleft()
                    yield future.result()
                    in_flight -= done
                pending.append((executor.submit(function, weight), size))
                in_flight += size
            while pending:
                yield pending.popleft()[0].result()
        finally:
            for future, _ in pending:
                future.cancel()
