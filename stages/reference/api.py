"""What `import compressor` offers, from signatures and docstrings."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args, get_type_hints

import compressor
from compressor import arrays
from compressor.compilation.pipelines import PassPipeline

from .docstrings import parse
from .markdown import WRITTEN, table

INTRODUCTION = f"""\
# Python

{WRITTEN}

```python
import compressor
```

Whatever is not on this page may change without notice. Sizes are in bytes, shapes tuples of whole numbers, dtypes
numpy's names. All that fails raises `CompressorError` or its subclass `UsageError`, with a message for the user; any
other exception is a defect. Nothing prints, nothing reads `params.yaml`, and all values are frozen.
"""


def page() -> str:
    """The whole text."""
    parts = [INTRODUCTION, "## Functions\n", *map(_function, functions())]
    parts += ["## Values\n", *map(_value, values())]
    parts += ["## What these consist of\n", *map(_value, consist_of(values()))]
    parts += ["## Errors\n", *map(_error, errors())]
    parts += ["## Constants\n", "\n".join(table(("name", ""), _constants()))]
    return "\n".join(f"{part.rstrip()}\n" for part in parts)


def functions() -> list[Callable[..., Any]]:
    """The public functions."""
    return [one for one in _public() if inspect.isfunction(one)]


def values() -> list[type]:
    """The public dataclasses."""
    return [one for one in _public() if dataclasses.is_dataclass(one) and isinstance(one, type)]


def errors() -> list[type]:
    """The public exceptions."""
    return [one for one in _public() if isinstance(one, type) and issubclass(one, Exception)]


def consist_of(kinds: Iterable[type]) -> list[type]:
    """The dataclasses inside others, as often as it takes, each once; and what constants are."""
    known = list(kinds)
    for kind in known:
        hints = get_type_hints(kind).values()
        # How an array lies in memory or in a file is no part of what it means.
        inside = [one for hint in hints for one in _dataclasses(hint) if one.__module__ != arrays.__name__]
        known += [one for one in dict.fromkeys(inside) if one not in known]
    return [*known[len(list(kinds)) :], arrays.ArraySpec, PassPipeline]


def _public() -> list[Any]:
    return [getattr(compressor, name) for name in compressor.__all__]


def _dataclasses(hint: Any) -> Iterator[type]:
    for part in get_args(hint):
        yield from _dataclasses(part)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint


def _function(function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    said = parse(function, signature.parameters)
    lines = [f"### {function.__name__}", "", "```python", *_signature(function.__name__, signature), "```", ""]
    lines += [said.text, "", *table(("parameter", ""), [(f"`{name}`", text) for name, text in said.names.items()]), ""]
    return "\n".join([*lines, *_raises(said.raised)])


def _signature(name: str, signature: inspect.Signature) -> Iterator[str]:
    yield f"compressor.{name}("
    star = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            yield "    *,"
        default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
        yield f"    {parameter.name}: {parameter.annotation}{default},"
    yield f") -> {signature.return_annotation}"


def _default(value: object) -> str:
    return f"{type(value).__name__}()" if dataclasses.is_dataclass(value) else repr(value).replace("'", '"')


def _value(kind: type) -> str:
    fields = dataclasses.fields(kind)
    said = parse(kind, [field.name for field in fields])
    rows = [(f"`{field.name}`", f"`{field.type}`", said.names.get(field.name, "")) for field in fields]
    lines = [f"### {kind.__name__}", "", said.text, "", *table(("field", "type", ""), rows), ""]
    lines += [*table(("also", ""), _members(kind)), ""]
    return "\n".join([*lines, *_raises(said.raised)])


def _members(kind: type) -> Iterator[tuple[str, str]]:
    """The properties and methods of a class, with the first sentence of each."""
    for name, member in vars(kind).items():
        called = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(called):
            continue
        signature = inspect.signature(called)
        arguments = ", ".join(f"{one}" for one in list(signature.parameters.values())[1:])
        spelled = name if isinstance(member, property) else f"{name}({arguments})"
        said = parse(called, signature.parameters)
        raised = "".join(f" Raises `{error}`: {text}" for error, text in said.raised.items())
        yield f"`{spelled} -> {signature.return_annotation}`", f"{' '.join(said.text.split())}{raised}"


def _raises(raised: dict[str, str]) -> Iterator[str]:
    yield from table(("raises", "when"), [(f"`{error}`", text) for error, text in raised.items()])


def _error(error: type) -> str:
    base = error.__bases__[0].__name__
    status = getattr(error, "exit_status", 1)
    return f"### {error.__name__}\n\n{parse(error, ()).text} A command ends with status {status}. A `{base}`.\n"


def _constants() -> Iterator[tuple[str, str]]:
    yield "`PIPELINES`", f"{', '.join(f'`{name}`' for name in compressor.PIPELINES)}: a `PassPipeline` by its name"
    yield "`__version__`", "this package's version, as text"
