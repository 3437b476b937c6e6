"""Dask's workers for a command: those of a scheduler, or of this machine while the command runs."""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from compressor.errors import CompressorError, UsageError, line

if TYPE_CHECKING:
    from distributed import Client

LOCAL = "local"
"""What is said in the place of an address for workers of this machine."""

ANSWER_SECONDS, WORKER_SECONDS, ANOTHER_SECONDS = 10, 60, 60
"""In which a scheduler must answer, its first worker come, and another one where the last has gone."""


@contextmanager
def executor(scheduler: str | None) -> Iterator[Executor | None]:
    """The workers of a scheduler as an executor; None where none was asked for. Its dashboard is told on stderr.

    scheduler: its address, or `LOCAL`: a process for each of this machine's processors, and the memory shared out.

    Raises:
        UsageError: what was asked for is no address.
        CompressorError: Dask is not installed, no scheduler answers, no worker comes or is left, or one has other
            versions.
    """
    if scheduler is None:
        yield None
        return
    check(scheduler)
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="distributed")  # what is wrong with versions is an error here
        client = stack.enter_context(_local() if scheduler == LOCAL else _connected(scheduler))
        try:
            client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except TimeoutError as error:
            raise CompressorError(
                f"{scheduler}: no worker has come within {WORKER_SECONDS} s. Start some: `dask worker {scheduler}`."
            ) from error
        _check_versions(client)
        print(f"dashboard: {client.dashboard_link}", file=sys.stderr, flush=True)
        with _watched(client, scheduler) as watched:
            yield watched


@contextmanager
def _watched(client: Client, scheduler: str) -> Iterator[Executor]:
    """An executor whose tasks do not wait for workers for ever.

    Raises:
        CompressorError: all workers have gone, and none has come.
    """
    executor, over, left = client.get_executor(), threading.Event(), threading.Event()

    def watch() -> None:
        alone = 0
        while alone < ANOTHER_SECONDS and not over.wait(1):
            try:
                alone = 0 if client.nthreads() else alone + 1
            except Exception:  # noqa: BLE001 - the scheduler is gone, of which the tasks tell
                return
        if not over.is_set():
            left.set()
            executor.shutdown(wait=False)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield executor
    except CompressorError as error:
        if left.is_set():
            raise CompressorError(
                f"{scheduler}: its workers have gone, and none has come within {ANOTHER_SECONDS} s. Nothing was "
                "published."
            ) from error
        raise
    finally:
        over.set()


def check(scheduler: str | None) -> None:
    """Refuse what is no scheduler, before any work is done.

    Raises:
        UsageError: it is neither `LOCAL` nor an address.
        CompressorError: Dask is not installed.
    """
    if scheduler is None:
        return
    if scheduler != LOCAL and not re.fullmatch(r"[a-z]+://.+:\d+", scheduler):
        raise UsageError(
            f"--scheduler {scheduler}: expected local, or the address of a Dask scheduler: tcp://HOST:8786."
        )
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise CompressorError(f"--scheduler needs Dask: pip install 'compressor[dask]' ({line(error)}).") from error
    for name in ("distributed", "distributed.client"):  # what goes wrong is an error here, without its traceback
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(address, timeout=ANSWER_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise CompressorError(
            f"{address}: no Dask scheduler answers there within {ANSWER_SECONDS} s: {line(error)}. Start one: "
            "`dask scheduler`, and `dask worker` with its address on each machine."
        ) from error
    with client:
        yield client


@contextmanager
def _local() -> Iterator[Client]:
    from distributed import Client, LocalCluster

    from compressor.compilation.stream import processors

    with ExitStack() as stack:
        with _apart_from_the_terminal():
            cluster = stack.enter_context(LocalCluster(n_workers=processors(), threads_per_worker=1, silence_logs=50))
            client = stack.enter_context(Client(cluster, set_as_default=False))
        yield client


@contextmanager
def _apart_from_the_terminal() -> Iterator[None]:
    """A block whose threads and processes do not get what a terminal sends to a whole command: this one ends them.

    The signals are blocked, which is inherited, and come to the main thread when the block ends.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    resource_tracker.ensure_running()  # which takes the block from SIGINT when it starts
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_versions(client: Client) -> None:
    """Compare the versions of all workers that are there with those of this process.

    Raises:
        CompressorError: one has others; it is named.
    """
    from compressor.compilation.tasks import different
    from compressor.compilation.versions import identity

    found: Mapping[str, Any] = client.run(identity, on_error="return")
    for address, theirs in sorted(found.items()):
        unlike = different(identity(), theirs) if isinstance(theirs, dict) else line(theirs)
        if unlike:
            raise CompressorError(
                f"the worker {address} has {unlike}. Install on every worker what is installed here."
                if isinstance(theirs, dict)
                else f"the worker {address} cannot take part: {unlike}. Install there what is installed here."
            )
