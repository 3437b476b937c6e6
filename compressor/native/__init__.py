"""Which path serves: loops in C where they were compiled, else the numpy that says what they do.

This is the only place that chooses, once, when it is imported. A definition in numpy stands where it is used, marked
`@native.loop`; the C beside this file has a function of its name for it, which takes the same arguments. Arrays are
contiguous, values are bit patterns, results are written into arrays of the right length: C checks that they are.

In a checkout, loops that were built of other sources than lie there are left alone: definitions may have changed too.

`COMPRESSOR_KERNELS=numpy` leaves the compiled loops alone.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

VARIABLE = "COMPRESSOR_KERNELS"
"""The environment variable that chooses numpy."""


def _compiled() -> tuple[ModuleType | None, str]:
    """The loops, or why there are none."""
    if os.environ.get(VARIABLE) == "numpy":
        return None, f"{VARIABLE}=numpy"
    try:
        loops = import_module("compressor.native.loops")
    except ImportError:
        return None, "no compiler when it was installed"
    files = sorted(Path(__file__).parent.glob("*.[ch]"))  # of a checkout
    there = zlib.crc32(b"".join(path.read_bytes() for path in files))
    if files and there != getattr(loops, "SOURCES", None):
        return None, "the sources have changed since it was installed"
    return loops, ""


_LOOPS, _REASON = _compiled()


def loop(definition: F) -> F:
    """The loop in C of a definition's name, with the definition behind `__wrapped__`; or the definition itself."""
    compiled = getattr(_LOOPS, definition.__name__, None)
    if compiled is None:
        return definition

    @wraps(definition)
    def chosen(*arguments: Any) -> Any:
        return compiled(*arguments)

    return chosen  # type: ignore[return-value] # it takes what the definition takes


def described() -> str:
    """Which path serves, and why it is numpy's."""
    return f"kernels: numpy ({_REASON})" if _REASON else "kernels: C"
