"""The settings of `params.yaml`, from its schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from compressor.compilation.pipelines import PIPELINES

from ..groups import OPTIONS, Compress, Detect, Evaluate, Export, Group
from ..params import TargetParams
from .markdown import WRITTEN, table

GROUPS: tuple[tuple[str, type[Group]], ...] = (
    ("export", Export),
    ("detect", Detect),
    ("compress", Compress),
    *OPTIONS.items(),
    ("evaluate", Evaluate),
)

_OPTIONS = ", ".join(f"`{family}`" for family in OPTIONS)

INTRODUCTION = f"""\
# Settings

{WRITTEN}

A command takes its settings from, each winning over those before it: the defaults below, `params.yaml` in the current
directory (or `--params FILE`), `-S`, and its own options (`--target`). `-S key=value` sets a dotted key to a value in
YAML, as it would stand in `params.yaml` (`-S evaluate.limits='{{size_ratio: 4}}'`): mappings are merged, all else is
replaced, and nothing after the `=` is empty text. `-S ~key` takes a key back to its default. `dvc exp run -S` reads
numbers, text, `null`, `[a, b]` and `{{a: 1}}` in the same way, and wants a `+` before a key that `params.yaml` lacks.
Groups of `params.yaml` that are not listed here belong to other stages and are ignored, with a warning where one looks
like one of these that is not there (`detct`); a key that a group here does not know is an error.

| command | reads |
|---|---|
| `compressor export` | `export` |
| `compressor detect` | `detect`; for a torch file also `export` |
| `compressor explain` | `detect`, `compress`; with `--target` also `coreml` |
| `compressor compress --detection FILE` | `target`, `compress`, {_OPTIONS}; the file brings its settings |
| `compressor compress` without it, or for a torch file | `target`, `compress`, {_OPTIONS}, `detect`, `export` |
| `compressor evaluate` | `target`, {_OPTIONS}, `evaluate` |
| `compressor check` | `evaluate` |
| `compressor sensitivity` | `evaluate`, `detect`; for a torch file also `export` |

In dvc.yaml a stage lists under `params` what its command reads: `target` only where the command has no `--target`.
"""


def page() -> str:
    """The whole text."""
    parts = [INTRODUCTION, "\n".join(["## target\n", *_table(TargetParams.model_fields.items())])]
    for name, group in GROUPS:
        parts.append("\n".join([f"## {name}\n", f"{group.__doc__}\n", *_table(_fields(group, ""))]))
        if group is Compress:
            parts.append("\n".join(_pipelines()))
    return "\n".join(f"{part.rstrip()}\n" for part in parts)


def _pipelines() -> Iterator[str]:
    return table(("pipeline", ""), [(f"`{name}`", pipeline.summary) for name, pipeline in PIPELINES.items()])


def _fields(group: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """The dotted keys of a group in order, those of groups inside it in its place."""
    for name, field in group.model_fields.items():
        inner, nested = _nested(field.annotation)
        if inner != ".":
            yield prefix + name, field
        if nested is not None:
            yield from _fields(nested, f"{prefix}{name}{inner}")


def _nested(annotation: Any) -> tuple[str, type[BaseModel] | None]:
    """The group that a field holds, and how its keys continue the field's."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return ".", annotation
    if (
        get_origin(annotation) is dict
        and isinstance(group := get_args(annotation)[1], type)
        and issubclass(group, BaseModel)
    ):
        return ".NAME.", group
    return "", None


def _table(fields: Iterable[tuple[str, FieldInfo]]) -> Iterator[str]:
    rows = [(f"`{key}`", _kind(field.annotation), _default(field), field.description or "") for key, field in fields]
    return table(("key", "kind", "default", ""), rows)


KINDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true`, `false`",
    tuple: "list",
    dict: "mapping",
}


def _kind(annotation: Any) -> str:
    if isinstance(annotation, UnionType):
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    return KINDS[get_origin(annotation) or annotation]


def _default(field: FieldInfo) -> str:
    match field.default:
        case value if value is PydanticUndefined:
            return "required"
        case None:
            return "none"
        case "":
            return "empty"
        case bool(value):
            return f"`{str(value).lower()}`"
        case tuple(value):
            return f"`{list(value)}`"
        case value:
            return f"`{value}`"
