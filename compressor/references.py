"""Functions of the user, named in settings as `module:function`."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from compressor.errors import CompressorError, UsageError, line, plural, unknown


def places(directory: Path) -> tuple[Path, ...]:
    """Where a project's own modules lie: its folder, as with `python -m`, and its `src`, unless that is a package."""
    source = directory / "src"
    return (directory, source) if source.is_dir() and not (source / "__init__.py").exists() else (directory,)


@contextmanager
def importable_here() -> Iterator[None]:
    """Let a function, and whatever it imports while it runs, be found in the places of the current directory.

    Its compiled code is not kept: a stage that depends on a folder of code would run again for the files in it.
    """
    directories = [str(place) for place in places(Path.cwd())]
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path[:0] = directories
    try:
        yield
    finally:
        sys.dont_write_bytecode = kept
        for directory in directories:
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
                    f"{setting} {reference}: no module {error.name!r} in the current directory, its src, or the "
                    "environment."
                ) from error
            raise _failure(f"{setting} {reference}: importing {where} failed", error) from error
        except SystemExit as error:
            problem = _failure(f"{setting} {reference}: importing {where} ended the process", error)
            raise CompressorError(
                f"{problem}. What it does as a script belongs under `if __name__ == '__main__':`."
            ) from error
        except Exception as error:  # the module is the user's code
            raise _failure(f"{setting} {reference}: importing {where} failed", error) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise unknown(f"function in module {where} ({setting})", name, _functions(module))
    return function  # type: ignore[no-any-return]  # mypy takes a callable attribute for Any


def check_arguments(
    function: Callable[..., Any], what: str, setting: str, given: Mapping[str, object], positional: int = 0
) -> None:
    """That a function may be called with arguments by keyword, after so many by position: found before the call.

    what: what errors call the function. setting: where the arguments are set; empty if it gets none.

    Raises:
        UsageError: it has no such argument, or one more that must be given.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # compiled ones do not tell
        return
    if not any(one.kind is one.VAR_POSITIONAL for one in parameters):
        taken = [one for one in parameters if one.kind in {one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD}]
        if len(taken) < positional:
            raise UsageError(f"{what} takes {plural(len(taken), 'argument')}, it is called with {positional}.")
        parameters = [one for one in parameters if one not in taken[:positional]]
    named = {one.name: one for one in parameters if one.kind in {one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY}}
    wrong = [name for name in given if name not in named]
    if wrong and not any(one.kind is one.VAR_KEYWORD for one in parameters):
        if not named:
            raise UsageError(f"{what} takes no argument {wrong[0]!r}, and no other. Remove it from {setting}.")
        raise unknown(f"argument of {what} ({setting})", wrong[0], named)
    missing = [name for name, one in named.items() if one.default is one.empty and name not in given]
    if missing:
        remedy = f"Set it in {setting}." if setting else "It is called without arguments: give it a default."
        raise UsageError(f"{what} needs a value for {', '.join(missing)}. {remedy}")


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
        except (Exception, SystemExit) as error:  # the function is the user's code
            raise _failure(f"{what} failed", error) from error


def _failure(what: str, error: BaseException) -> CompressorError:
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
