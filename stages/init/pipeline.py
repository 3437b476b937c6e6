"""A dvc.yaml as `init` looks at it: which stage reads and writes what, and which are its own."""

from __future__ import annotations

import itertools
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compressor.errors import UsageError

from . import merging

PLACE = re.compile(r"(?<!\\)\$\{(.*?)\}")
WRITTEN = ("outs", "metrics", "plots")
RUNNERS = tuple((name, "run") for name in ("uv", "poetry", "pdm", "pipenv", "hatch", "pixi", "rye"))
"""What runs a command in the environment of a project."""
BEFORE = (*RUNNERS, ("python", "-m"))
"""What may stand before the name of this package."""


@dataclass(frozen=True)
class Stage:
    """One stage, or one of those that `foreach` and `matrix` make.

    name: as DVC calls it. key: as dvc.yaml does. outs, deps: relative to the project. written: the same outs as they
    stand in dvc.yaml where they mean the same to another stage, by the resolved one. params: the whole files, among
    the stage's params.
    """

    name: str
    key: str
    command: tuple[str, ...]
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    written: Mapping[str, str]
    whole: tuple[str, ...]

    @property
    def runner(self) -> str:
        """What its command is run by, with a space behind: `uv run `; empty where nothing is."""
        return " ".join(self.command[:2]) + " " if self.command[:2] in BEFORE else ""

    @property
    def words(self) -> tuple[str, ...]:
        """Its command without what runs it."""
        return self.command[2:] if self.runner else self.command

    @property
    def compressor(self) -> str:
        """The command of this package that it runs; empty for a stage of others."""
        return self.words[1] if len(self.words) > 1 and self.words[0] == "compressor" else ""


@dataclass(frozen=True)
class Pipeline:
    """A dvc.yaml.

    name: relative to the project. content: of the file. names: those that its `vars` give.
    """

    name: str
    content: Mapping[str, Any]
    stages: tuple[Stage, ...]
    names: frozenset[str]


def parse(text: str, name: str, read: Callable[[str], str]) -> Pipeline:
    """A dvc.yaml.

    read: the text of another file, relative to its folder; empty where there is none.

    Raises:
        UsageError: the text is no valid YAML, or its stages are no mapping.
    """
    content = merging.content(text, name)
    stages = content.get("stages") or {}
    if not isinstance(stages, dict):
        raise UsageError(f"{name}: stages is a {type(stages).__name__}: expected a mapping.")
    known, given = context(content, read)
    # It has the same paths, and is long: it is only read for those that this does not say.
    lock = read("dvc.lock") if PLACE.search(text) else ""
    locked = _mapping(merging.content(lock, "dvc.lock").get("stages"))
    folder = posixpath.dirname(name)
    found = [one for key, stage in stages.items() for one in _stages(str(key), stage, known, locked, folder)]
    return Pipeline(name, content, tuple(found), given)


def _stages(
    key: str, stage: Any, context: Mapping[str, Any], locked: Mapping[str, Any], folder: str
) -> Iterator[Stage]:
    if not isinstance(stage, dict):
        return
    if "foreach" in stage or "matrix" in stage:
        body = stage.get("do") if "foreach" in stage else stage
        items = _items(stage, context)
        # What cannot be resolved is as dvc.lock has it; without one the stage has no outputs.
        names = [f"{key}@{name}" for name in items] or [name for name in locked if name.startswith(f"{key}@")]
        for name in names or [key]:
            own = {**context, **items.get(name.removeprefix(f"{key}@"), {})}
            yield _stage(name, key, _mapping(body), own, _mapping(locked.get(name)), folder, alone=False)
    else:
        yield _stage(key, key, stage, context, _mapping(locked.get(key)), folder, alone=True)


def _items(stage: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What `item` and `key` stand for in each stage of a `foreach` or a `matrix`, by its name; empty if not known.

    >>> _items({"foreach": "${folds}"}, {"folds": [0, 1]})
    {'0': {'item': 0, 'key': '0'}, '1': {'item': 1, 'key': '1'}}
    >>> list(_items({"matrix": {"size": ["s", {"wide": 1}], "fold": [0]}}, {}))
    ['s-0', 'size1-0']
    """
    if "foreach" in stage:
        values = _looked_up(stage["foreach"], context)
        if isinstance(values, list):
            # DVC counts those that have no name of one word.
            nested = any(isinstance(value, dict | list) for value in values)
            values = {str(at if nested else value): value for at, value in enumerate(values)}
        return {str(name): {"item": value, "key": str(name)} for name, value in _mapping(values).items()}
    axes = {str(axis): _looked_up(values, context) for axis, values in _mapping(stage["matrix"]).items()}
    if not axes or not all(isinstance(values, list) for values in axes.values()):
        return {}
    named = [
        [
            (axis, f"{axis}{at}" if isinstance(value, dict | list) else str(value), value)
            for at, value in enumerate(values)
        ]
        for axis, values in axes.items()
    ]
    return {
        "-".join(name for _, name, _ in chosen): {"item": {axis: value for axis, _, value in chosen}}
        for chosen in itertools.product(*named)
    }


def _looked_up(value: Any, context: Mapping[str, Any]) -> Any:
    """A value, or what the one `${...}` that it is stands for; so for each of a list. None where it is not known."""
    if isinstance(value, list):
        found = [_looked_up(one, context) for one in value]
        return None if None in found else found
    place = PLACE.fullmatch(value) if isinstance(value, str) else None
    return _value(place[1], context) if place else value


def _stage(
    name: str,
    key: str,
    stage: Mapping[str, Any],
    context: Mapping[str, Any],
    locked: Mapping[str, Any],
    folder: str,
    *,
    alone: bool,
) -> Stage:
    own = {**context, **_inline(stage.get("vars"))}
    place = posixpath.join(folder, resolved(str(stage.get("wdir", ".")), own) or ".")
    alone = alone and not folder and "vars" not in stage and "wdir" not in stage
    outs: dict[str, str] = {}
    for kind in WRITTEN:
        for entry in _paths(stage.get(kind)):
            path = resolved(entry, own)
            if path is not None:
                outs[posixpath.normpath(posixpath.join(place, path))] = entry if alone else ""
    recorded = [_mapping(one).get("path") for one in locked.get("outs") or ()]
    outs = {posixpath.normpath(posixpath.join(place, str(path))): "" for path in recorded if path} | outs
    deps = [resolved(entry, own) for entry in _paths(stage.get("deps"))]
    command = stage.get("cmd", "")
    return Stage(
        name,
        key,
        _words(command if isinstance(command, str) else " && ".join(map(str, command or ()))),
        tuple(posixpath.normpath(posixpath.join(place, path)) for path in deps if path is not None),
        tuple(outs),
        {path: entry for path, entry in outs.items() if entry},
        tuple(str(file) for entry in stage.get("params") or () for file, keys in _mapping(entry).items() if not keys),
    )


def resolved(text: str, context: Mapping[str, Any]) -> str | None:
    """The text with the values of its `${name.key}`; None where one is not known.

    >>> resolved("models/${net.name}.pt", {"net": {"name": "a"}}), resolved("${item}.pt", {})
    ('models/a.pt', None)
    """
    values = {place[1]: _value(place[1], context) for place in PLACE.finditer(text)}
    if any(not isinstance(value, str | int | float) for value in values.values()):
        return None
    return PLACE.sub(lambda place: str(values[place[1]]), text)


def _value(path: str, context: Any) -> Any:
    for key in re.split(r"\.|\[|\]\.?", path.strip()):
        if isinstance(context, list) and key.isdigit() and int(key) < len(context):
            context = context[int(key)]
        elif isinstance(context, Mapping) and key in context:
            context = context[key]
        elif key:
            return None
    return context


def context(content: Mapping[str, Any], read: Callable[[str], str]) -> tuple[Mapping[str, Any], frozenset[str]]:
    """What `${...}` may name, and the names that `vars` gives.

    read: as `parse` has it.
    """
    known = dict(_loaded("params.yaml", read))
    given: set[str] = set()
    entries = content.get("vars")
    for entry in entries if isinstance(entries, list) else ():
        values = _inline([entry])
        if isinstance(entry, str):
            file, _, keys = entry.partition(":")
            values = _loaded(file, read)
            if keys:
                values = {key: values[key] for key in keys.split(",") if key in values}
            if posixpath.normpath(file) == "params.yaml":
                values = {}
        given |= values.keys()
        known |= values
    return known, frozenset(given)


def _loaded(file: str, read: Callable[[str], str]) -> Mapping[str, Any]:
    """The values of a file; nothing of one that is no YAML, which is DVC's to say."""
    try:
        return merging.content(read(file), file)
    except UsageError:
        return {}


def _inline(entries: Any) -> Mapping[str, Any]:
    pairs = [_mapping(entry) for entry in entries or ()] if isinstance(entries, list) else []
    return {str(key): value for pair in pairs for key, value in pair.items()}


def _paths(entries: Any) -> Iterator[str]:
    for entry in entries if isinstance(entries, list) else ():
        yield from map(str, entry) if isinstance(entry, dict) else (str(entry),)


def _words(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError:
        return tuple(command.split())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
