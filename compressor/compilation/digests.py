"""The digest of a large file, computed while it is written: as far as nothing is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from compressor.errors import CompressorError

_READ = 1 << 18


@dataclass(frozen=True)
class Digests:
    """SHA-256 of files, by their paths in the artefact. executor: on which they are computed."""

    executor: ThreadPoolExecutor
    found: dict[str, Future[str]] = field(default_factory=dict)

    @contextmanager
    def following(self, directory: Path, file: str) -> Iterator[Callable[[int], None]]:
        """A block that writes a file, and a function that takes up to where it is complete."""
        told: SimpleQueue[int | None] = SimpleQueue()
        self.found[file] = self.executor.submit(digest, directory / file, iter(told.get, None))
        try:
            yield told.put
        finally:
            told.put(None)

    def settle(self) -> None:
        """Wait until no file is read any more."""
        for one in self.found.values():
            one.exception()


def digest(path: Path, ends: Iterable[int | None]) -> str:
    """That of a file up to the last of `ends`, each of which is reached as soon as it is known.

    Raises:
        CompressorError: the file ends before.
    """
    found, buffer, at = hashlib.sha256(), memoryview(bytearray(_READ)), 0
    with path.open("rb", buffering=0) as file:
        for end in ends:
            while at < (end or 0):
                count = file.readinto(buffer[: end - at])  # type: ignore[operator]
                if not count:
                    raise CompressorError(
                        f"{path} was cut short while it was written: it ends at byte {at:,} of {end:,}"
                    )
                found.update(buffer[:count])
                at += count
    return found.hexdigest()
