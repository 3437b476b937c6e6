"""Functions of the user, named in settings as `module:function`."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from compressor.errors import CompressorError, UsageError, line, unknown


@contextmanager
def importable_here() -> Iterator[None]:
    """Let a function, and whatever it imports while it runs, be found in the current directory, as `python -m` does."""
    directory = str(Path.cwd())
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)


def load(reference: str, setting: str) -> Callable[..., Any]:
    """The function that `reference` names.

    setting: what errors call it, such as `evaluate.data`.

    Raises:
        UsageError: it is not spelled `module:function`, or there is no such module or function.
        CompressorError: importing the module failed.
    """
    where, separator, name = reference.partition(":")
    if not (separator and where and name):
        raise UsageError(f"{setting} is {reference!r}: expected module:function, such as training.data:held_out.")
    with importable_here():
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name is not None and (where == error.name or where.startswith(error.name + ".")):
                raise UsageError(
                    f"{setting} {reference}: no module {error.name!r} in the current directory or the environment."
                ) from error
            raise _failure(f"{setting} {reference}: importing {where} failed", error) from error
        except Exception as error:  # the module is the user's code
            raise _failure(f"{setting} {reference}: importing {where} failed", error) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise unknown(f"function in module {where} ({setting})", name, _functions(module))
    return function  # type: ignore[no-any-return]  # mypy takes a callable attribute for Any


def call(function: Callable[..., Any], what: str, /, *args: object, **kwargs: object) -> Any:
    """What the user's function returns.

    what: what errors call it, such as `evaluate.data training.data:held_out`.

    Raises:
        CompressorError: it raised an exception: the message says which, and in what line of the user's.
    """
    with importable_here():
        try:
            return function(*args, **kwargs)
        except CompressorError:
            raise
        except Exception as error:  # the function is the user's code
            raise _failure(f"{what} failed", error) from error


def _failure(what: str, error: Exception) -> CompressorError:
    where = _place(traceback.extract_tb(error.__traceback__))
    return CompressorError(f"{what}: {type(error).__name__}: {line(error)}{where}")


def _place(frames: Iterable[traceback.FrameSummary]) -> str:
    """The innermost line of the user's own code, or of what it called where that code lies elsewhere."""
    foreign = [frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith("<frozen")]
    paths = {frame.filename: Path(frame.filename) for frame in foreign}
    own = [
        frame
        for frame in foreign
        if paths[frame.filename].is_relative_to(Path.cwd()) and "site-packages" not in paths[frame.filename].parts
    ]
    return next((f" ({frame.filename}:{frame.lineno})" for frame in reversed(own or foreign)), "")


def _functions(module: ModuleType) -> list[str]:
    own = vars(module).items()
    return [name for name, value in own if inspect.isfunction(value) and value.__module__ == module.__name__]
