"""A task on its way to a worker and back: pickled, sealed, done where the worker is known to be one of ours."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import socket
import traceback
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compressor.compilation.versions import identity
from compressor.errors import CompressorError, line

HELLO = "hello.json"
"""What a worker reads first, in the folder that it shares: a token, versions, the files of the source."""

UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)
"""What is raised for an object that cannot be pickled."""


class _Pickler(pickle.Pickler):
    """Paths are made absolute: a worker has another current directory."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Path) and not obj.is_absolute():
            return type(obj), (str(obj.absolute()),)
        return NotImplemented


def pickled(one: object) -> bytes:
    content = io.BytesIO()
    _Pickler(content, pickle.HIGHEST_PROTOCOL).dump(one)
    return content.getvalue()


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


def opened(content: object, seal: str) -> Any:
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


def sealed(seal: str, result: object) -> bytes:
    content = pickle.dumps((seal, result), pickle.HIGHEST_PROTOCOL)
    return zlib.crc32(content).to_bytes(4, "big") + content


def join(room: str, token: str, seal: str) -> bytes:
    """On a worker: look whether it can take part."""
    _check(room, token)
    return sealed(seal, None)


def work(room: str, token: str, seal: str, number: int, task: bytes) -> bytes:
    """On a worker: one task, its result sealed."""
    _check(room, token)
    try:
        return sealed(seal, _function(room, token, number)(pickle.loads(task)))  # noqa: S301 - the driver's own
    except CompressorError:
        raise
    except Exception as error:  # noqa: BLE001 - as what pickles for sure
        failed = _told(error)
    raise failed


def _told(error: Exception) -> Exception:
    """An error of the system, or a defect with its traceback, as one that names the worker."""
    if isinstance(error, MemoryError):
        return CompressorError(f"out of memory on {_who()}. Nothing was published.")
    if isinstance(error, OSError):
        what = f"{error.filename or 'the system'}: {error.strerror or error}"
        return CompressorError(f"{what}, on {_who()}. Nothing was published.")
    defect = RuntimeError(f"{type(error).__name__}: {line(error)}, on {_who()}")
    defect.add_note("".join(traceback.format_exception(error)))
    return defect


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
        hello = json.loads((Path(room) / HELLO).read_text(encoding="utf-8"))
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
    return f"the worker on {socket.gethostname()}, process {os.getpid()}"
