"""Core ML Tools, imported quietly, and its protobuf messages without the rest of it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType

from compressor import requirements
from compressor.errors import CompressorError

_ALONE = "_compressor_coremltools_proto"


@functools.cache
def coremltools() -> ModuleType:
    """The package itself; it takes seconds, and its warnings (of libraries that it has not been tested with) are muted.

    Raises:
        CompressorError: it is not installed.
    """
    check_installed()
    muted = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with uninterrupted(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("coremltools")
    finally:
        logging.disable(muted)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait for the end of a block.

    Core ML Tools imports what it may need under a bare `except`, which swallows the interrupt, or leaves half a torch
    behind that ends the process later.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    caught: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if caught:
        handler(*caught[0])


@functools.cache
def messages(name: str) -> ModuleType:
    """The protobuf module `Model` or `MIL` of Core ML Tools; the rest of it, torch included, is not imported.

    Raises:
        CompressorError: Core ML Tools is not installed.
    """
    # Their package of messages needs nothing of its parent, so it is loaded under a name of its own. Protobuf has one
    # class for each message, whoever registers it again: these are those of `coremltools.proto`.
    if _ALONE not in sys.modules:
        folder = _location() / "proto"
        spec = importlib.util.spec_from_file_location(
            _ALONE, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        sys.modules[_ALONE] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{_ALONE}.{name}_pb2")


def check_installed() -> None:
    """Whether Core ML Tools is there, without importing it.

    Raises:
        CompressorError: it is not installed.
    """
    _location()


def _location() -> Path:
    spec = importlib.util.find_spec("coremltools")
    if spec is None or not spec.submodule_search_locations:
        raise CompressorError(f"Core ML needs coremltools. Install it: {requirements.hint('coreml')}")
    return Path(spec.submodule_search_locations[0])
