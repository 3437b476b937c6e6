"""Passes: pure functions from a weight to a weight, and `run`, which streams weights through them.

A pass sees one weight, so whatever maps a function over items in order may run it: threads here, processes elsewhere.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial, reduce
from typing import TypeVar

from compressor.arrays import ArraySpec
from compressor.encodings import Encoding, dtype, shape
from compressor.errors import CompressorError, DamageError
from compressor.weight import Weight

Pass = Callable[[Weight], Weight]
T = TypeVar("T")

IN_FLIGHT = 64 << 20
"""Bytes of dense weights that may be worked on at a time; a larger weight is worked on alone."""


class InexactError(CompressorError):
    """A weight is not what its spec says, or is not read back as it was: the plan does not fit the model.

    name: the weight's; reason: what is wrong with its form.
    """

    def __init__(self, name: str, spec: Encoding, reason: str) -> None:
        super().__init__(f"weight {name} {dtype(spec)}{list(shape(spec))}: {reason}")
        self.name, self.reason = name, reason


def run(
    passes: Sequence[Pass],
    weights: Iterable[Weight],
    *,
    map: Callable[[Pass, Iterable[Weight]], Iterator[Weight]] | None = None,  # noqa: A002 - what may be given
) -> Iterator[Weight]:
    """Every weight through all passes, in order; `map` is the executor, threads by default.

    What `map` gets pickles if the passes do, which those of this package do: a pool of processes can run it.
    """
    return (stream if map is None else map)(partial(_through, tuple(passes)), weights)


def _through(passes: tuple[Pass, ...], weight: Weight) -> Weight:
    return reduce(lambda value, step: step(value), passes, weight)


def failures(passes: Sequence[Pass], weights: Iterable[Weight]) -> Iterator[InexactError | None]:
    """For every weight: why it does not come through the passes, None if it does."""
    return stream(partial(_failure, tuple(passes)), weights)


def _failure(passes: tuple[Pass, ...], weight: Weight) -> InexactError | None:
    try:
        _through(passes, weight)
    except InexactError as error:
        return error
    return None


def stream(function: Callable[[Weight], T], weights: Iterable[Weight]) -> Iterator[T]:
    """`map(function, weights)` on threads, results in order, the bytes in flight bounded.

    numpy releases the interpreter's lock in its loops, so threads need no copies of what they share.
    """
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pending: deque[tuple[Future[T], int]] = deque()
    in_flight = 0
    with ThreadPoolExecutor(workers) as executor:
        try:
            for weight in weights:
                size = ArraySpec(shape(weight.encoding), dtype(weight.encoding)).nbytes
                while pending and (in_flight + size > IN_FLIGHT or len(pending) > 2 * workers):
                    future, done = pending.popleft()
                    yield future.result()
                    in_flight -= done
                pending.append((executor.submit(_named, function, weight), size))
                in_flight += size
            while pending:
                yield pending.popleft()[0].result()
        finally:
            for future, _ in pending:
                future.cancel()


def _named(function: Callable[[Weight], T], weight: Weight) -> T:
    try:
        return function(weight)
    except DamageError as error:
        raise CompressorError(
            f"weight {weight.name}: {error}. The file is damaged: write or download it again."
        ) from error
