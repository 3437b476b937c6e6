"""The command `compressor`: one typer application, and the ways in which a command may end.

exit status    0  done                    1  could not be done       2  wrong request
             129, 130, 143  hung up, interrupted, terminated       141  nobody reads stdout
              70  a defect of this package
"""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, cast

import typer
from typer.core import TyperCommand, TyperGroup

from compressor.errors import CompressorError

from . import examples, noise, streams
from .text import visible

A = ParamSpec("A")

DEBUG = "COMPRESSOR_DEBUG"
COMPLETION = "_COMPRESSOR_COMPLETE"  # typer's: that a shell asks what fits
DEFECT, INTERRUPTED = 70, 130

COMMANDS = (
    "init",
    "validate",
    "export",
    "detect",
    "compress",
    "evaluate",
    "check",
    "report",
    "inspect",
    "diff",
    "explain",
    "sensitivity",
    "targets",
    "toolchain",
)
"""In the order of `--help`: the function of that name in the module of that name is the command."""


class _Built(Mapping[str, Any]):
    """The commands, each imported and built once it is asked for: all take nearly as long as numpy."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        return _built(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Commands(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = ChainMap(self.commands, cast(Any, _Built()))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _make_direct(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the same in any context
        return list(self.commands)


_HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="compressor",
    cls=_Commands,
    help="A compiler for compressed weights: the smallest artefact with exactly the weights of a fine-tuned model.",
    epilog="Settings come from params.yaml; -S key=value and the options of a command override them.",
    no_args_is_help=True,
    rich_markup_mode=None,  # its renderer of help takes as long to import as all the rest
    pretty_exceptions_enable=False,
    context_settings=_HELP,
)


def _show_version(asked: bool) -> None:  # noqa: FBT001 - typer's protocol
    if asked:
        from importlib.metadata import version

        from compressor import native

        print(f"compressor {version('compressor')}", native.described(), sep="\n")
        raise typer.Exit


@app.callback()
def options(
    *,
    debug: bool = typer.Option(
        False, "--debug", help=f"Show tracebacks of defects, and what other packages say (also {DEBUG}=1)."
    ),
    version: bool = typer.Option(  # noqa: ARG001 - its callback ends the command
        False,
        "--version",
        callback=_show_version,
        is_eager=True,
        help="Print the version, and which kernels run, and exit.",
    ),
) -> None:
    """Take what is said before the command."""
    if debug:
        os.environ[DEBUG] = "1"
    if not os.environ.get(DEBUG):
        noise.silence()


def reported(command: Callable[A, None]) -> Callable[A, None]:
    """The command, ending with a line on stderr and an exit status where it would raise."""

    @functools.wraps(command)
    def run(*args: A.args, **kwargs: A.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except CompressorError as error:
            raise _end(str(error), error.exit_status) from None
        except (KeyboardInterrupt, typer.Abort) as error:
            if isinstance(error, typer.Abort):  # at a prompt, whose line has no end yet
                print(file=sys.stderr)
            raise _end("interrupted; nothing was left half-written", INTERRUPTED) from None
        except MemoryError:
            raise _end("out of memory", 1) from None
        except OSError as error:
            raise _end(f"{error.filename or 'the system'}: {error.strerror or error}", 1) from None
        except typer.Exit:
            raise
        except Exception as error:
            if os.environ.get(DEBUG):
                raise
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise _end(f"internal error: {text}. Please report it, with the output of {DEBUG}=1.", DEFECT) from None

    return run


def _end(message: str, status: int) -> typer.Exit:
    print("\n".join(f"error: {visible(line)}" for line in message.split("\n")), file=sys.stderr)
    return typer.Exit(status)


@dataclass(frozen=True)
class _Direct:
    """What an argument becomes that may be any text: a path, or itself. typer would ask pydantic, as slow as numpy."""

    kind: type[bool | str | Path]

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ARG002 - typer's protocol
        if param.multiple or param.nargs == -1:
            return [self.kind(one) for one in value or ()]
        return None if value is None else self.kind(value)


_DIRECT: Mapping[Any, _Direct] = {
    bool: _Direct(bool),  # of a flag, which is one already
    **{kind: _Direct(str) for kind in (str, list[str])},
    **{kind: _Direct(Path) for kind in (Path, list[Path])},
}


def _make_direct(params: Iterable[Any]) -> None:
    """Have those converted here that take any text; a typer that asks parameters for nothing of the kind does it."""
    for param in params:
        known = _DIRECT.get(getattr(getattr(param, "type_descriptor", None), "annotation", None))
        if known is not None:
            vars(param)["get_runtime_param"] = lambda known=known: known


class _Plain(TyperCommand):
    """A command whose usage has its arguments as its help has them, without braces."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _make_direct(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


@functools.cache
def _built(name: str) -> Any:
    command = getattr(import_module(f".{name}", __package__), name)
    said, shown = examples.split(command)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    epilog = examples.epilog(shown)
    alone.command(name, cls=_Plain, help=said, epilog=epilog, context_settings=_HELP)(reported(command))
    return typer.main.get_command(alone)


def main() -> None:
    """Run the command line of this process."""
    # A terminated command removes what it has half written, as an interrupted one does.
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has the latter ignored
            signal.signal(number, _terminate)
    streams.open_all()
    # Little of what a command makes is garbage; looking for some takes a quarter of the time of its imports.
    gc.set_threshold(100_000, 20, 20)
    # No command needs them, and each makes every command start later: linear algebra's threads, pydantic's plugins.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if COMPLETION in os.environ:  # typer fills what it says to a shell to the width of a terminal that it is not for
        os.environ["TERMINAL_WIDTH"] = "1000"
    try:
        app(prog_name="compressor")  # as a module too: its name is part of what completion is installed as
    finally:
        gc.freeze()  # all goes with the process: to look for garbage among it first takes as long as to import numpy
        sys.stdout.flush()


def _terminate(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
