"""How things are measured: whole processes, their wall time and their peak of anonymous memory."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MB = 1e6


@dataclass(frozen=True)
class Figure:
    """One measured number against its limit: smaller is better unless `at_least`."""

    what: str
    got: float
    limit: float
    detail: str
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the number keeps its limit."""
        return self.got >= self.limit if self.at_least else self.got <= self.limit


@dataclass(frozen=True)
class Run:
    """One process: seconds by the clock and of the processors, and the peak of its anonymous memory in bytes."""

    seconds: float
    cpu: float
    anonymous: int


def process(command: Sequence[str | Path]) -> Run:
    """Runs a command to its end.

    Raises:
        RuntimeError: it failed; the message holds what it printed.
    """
    words = [str(word) for word in command]
    started, spent = time.perf_counter(), _children()
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_ENVIRONMENT)
    peaks, ended = [0], threading.Event()
    watching = threading.Thread(target=_watch, args=(Path(f"/proc/{running.pid}/status"), peaks, ended))
    watching.start()
    output, _ = running.communicate()
    seconds = time.perf_counter() - started
    ended.set()
    watching.join()
    if running.returncode:
        raise RuntimeError(f"{command}: exit {running.returncode}: {output.decode()}")
    return Run(seconds, _children() - spent, max(peaks))


_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""An installed package has its bytecode beside it: a checkout that never wrote any is compiled anew at each start."""


def _watch(status: Path, peaks: list[int], ended: threading.Event) -> None:
    while not ended.wait(0.02):  # often enough for a peak, seldom enough to leave both cores to what is measured
        peaks.append(_anonymous(status))


def _children() -> float:
    """The processor seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@dataclass(frozen=True)
class Seconds:
    """What a call took: by the clock, and of this process's processors."""

    wall: float
    cpu: float


def call(called: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    called()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def median(measured: Callable[[], float], times: int) -> float:
    """The median of several measurements after one that does not count."""
    measured()
    return statistics.median(measured() for _ in range(times))


def in_python(code: str, *arguments: str | Path) -> Any:
    """What a fresh interpreter prints as JSON when it runs `code` with `arguments` as `sys.argv[1:]`.

    Raises:
        RuntimeError: it failed; the message holds its errors.
    """
    finished = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise RuntimeError(finished.stderr)
    return json.loads(finished.stdout.splitlines()[-1])


def warm(directory: Path) -> None:
    """Reads every file once, so that it lies in the page cache."""
    for file in directory.iterdir():
        with file.open("rb") as stream:
            while stream.read(1 << 24):
                pass


def size(directory: Path, *, without: Sequence[str] = ()) -> int:
    """The bytes of a directory's files."""
    return sum(file.stat().st_size for file in directory.iterdir() if file.name not in without)


def sync() -> None:
    """Writes back what earlier runs left dirty: it would slow the next one down."""
    os.sync()


def _anonymous(status: Path) -> int:
    try:
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0
