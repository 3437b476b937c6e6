"""The settings: what of `params.yaml` a command reads, and where each value comes from.

A command names the settings it reads as a class (`DetectParams`, ...): what is not a field of it cannot be read, so
the class is also the list of parameters that its stage in dvc.yaml declares.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from compressor import targets
from compressor.errors import UsageError, unknown
from compressor.recognition import findings

from . import groups, overrides, yaml
from .given import Given, file
from .groups import Compress, Detect, Evaluate, Export, Group, Target, Targets
from .text import visible

LIKE, LONGER = 0.83, 1
"""How much a misspelt group looks like ours, and its letters more: `exprot` is one, `exporter` a word of its own."""


class ExportParams(Group):
    """What `compressor export` reads."""

    export: Export = Export()


class DetectParams(Group):
    """What `compressor detect` reads."""

    detect: Detect = Detect()


class TargetParams(Group):
    """What the pipeline makes artefacts for: one target, or several."""

    target: Target = Field(
        default=targets.DEFAULT, description="What the artefact is for: a name from `compressor targets`."
    )
    targets: Targets = Field(
        default=(),
        description="Instead of `target`: those of a pipeline that makes several artefacts. A command takes one of "
        "them by `--target`.",
    )


if TYPE_CHECKING:

    class MadeParams(TargetParams):
        """What an artefact is made for: the target, and a group for every family of targets that has options."""

else:
    MadeParams = create_model(
        "MadeParams", __base__=TargetParams, **{name: (group, group()) for name, group in groups.OPTIONS.items()}
    )


class CompressParams(MadeParams):
    """What `compressor compress --detection FILE` reads: the file brings the settings it was made with."""

    compress: Compress = Compress()


class CheckParams(TargetParams):
    """What `compressor check` reads."""

    evaluate: Evaluate = Evaluate()


class EvaluateParams(CheckParams, MadeParams):
    """What `compressor evaluate` reads."""


class DetectAlone(DetectParams, ExportParams):
    """What `compressor detect` reads for a model that has not been exported."""


class CompressAlone(CompressParams, DetectParams, ExportParams):
    """What `compressor compress` reads where no stage before it has exported and detected."""


class SensitivityParams(CheckParams, DetectParams):
    """What `compressor sensitivity` reads."""


class SensitivityAlone(SensitivityParams, ExportParams):
    """What `compressor sensitivity` reads for a model that has not been exported."""


class ExplainParams(DetectParams):
    """What `compressor explain` reads."""

    compress: Compress = Compress()


class ExplainTargetParams(ExplainParams, MadeParams):
    """What `compressor explain --target NAME` reads."""


class EvaluateAlone(EvaluateParams, ExportParams):
    """What `compressor evaluate` reads for a model that has not been exported."""


class Settings(EvaluateParams, CompressParams, DetectParams, ExportParams):
    """Everything that `params.yaml` may hold for these commands; other groups are left to their owners."""


def target(params: MadeParams, name: str | None = None) -> targets.Target:
    """The target with what is asked of it.

    name: of the one, where the settings may have several.

    Raises:
        UsageError: the settings have several, and none is named.
        CompressorError: a file that the settings name cannot be read.
    """
    if name is None and len(params.targets) > 1:
        raise UsageError(f"targets are {', '.join(params.targets)}: name the one that is meant with --target.")
    name = name or next(iter(params.targets), params.target)
    family = targets.family(name)
    options = groups.options(family, getattr(params, family)) if family in groups.OPTIONS else {}
    return targets.get(name, options)


P = TypeVar("P", bound=Group)


def load(schema: type[P], given: Given) -> P:
    """The settings of `schema`, from the defaults, the params file, `-S` and the command's options.

    A group that looks misspelt is a warning on stderr.

    Raises:
        UsageError: the file is missing or no YAML mapping; a key is unknown, or its value of the wrong kind.
    """
    settings, wrong = sound(schema, given)
    if wrong:
        raise UsageError("\n".join(wrong.values()))
    for said in misspelt(schema, given.file):
        print(f"warning: {file(given.file)}: {visible(said)}", file=sys.stderr)
    return settings


def misspelt(schema: type[Group], named: Path | None) -> list[str]:
    """What there is to say of groups of others that are nearly one of `schema`, where that one is not there."""
    there = tuple(map(str, read(named)))
    absent, close = schema.model_fields.keys() - set(there), {}
    for name in set(there) - Settings.model_fields.keys():
        ours = [one for one in absent if len(name) <= len(one) + LONGER]
        close[name] = difflib.get_close_matches(name, ours, n=1, cutoff=LIKE)
    return [f"{name} is read by nothing here: was {close[name][0]} meant?" for name in there if close.get(name)]


def sound(schema: type[P], given: Given) -> tuple[P, Mapping[str, str]]:
    """The settings that are as they must be, and by group what is wrong with the others, which have their defaults.

    Raises:
        UsageError: the file is missing or no YAML mapping; a group of `-S` is none.
    """
    parsed = asked(schema, given.overrides)
    content = read(given.file)
    # A group without any key is null in YAML.
    own = {name: {} if content[name] is None else content[name] for name in schema.model_fields if name in content}
    options = [
        overrides.Override(f"--{key.rpartition('.')[2]}", tuple(key.split(".")), value)
        for key, value in given.options.items()
        if value is not None
    ]
    _check_one(own, str(file(given.file)))
    if any(override.key == ("target",) and not override.remove for override in (*parsed, *options)):
        own.pop("targets", None)  # which one is meant has been said
    merged = overrides.apply(own, [*parsed, *options])
    _check_one(merged, "-S")
    try:
        return schema.model_validate(merged), {}
    except ValidationError as error:
        settings = [*((one.key, f"-S {one.text}") for one in parsed), *((one.key, one.text) for one in options)]
        where = str(file(given.file))
        wrong: dict[str, list[str]] = {}
        for one in error.errors():
            wrong.setdefault(str(one["loc"][0]), []).append(_message(schema, one, settings, where))
        valid = {name: value for name, value in merged.items() if name not in wrong}
        return schema.model_validate(valid), {group: "\n".join(lines) for group, lines in wrong.items()}


def asked(schema: type[Group], texts: Sequence[str]) -> list[overrides.Override]:
    """What `-S` asks for.

    Raises:
        UsageError: one is not spelled so, or is of a group that `schema` does not have.
    """
    parsed = [overrides.parse(text) for text in texts]
    for override in parsed:
        _check_group(schema, override)
    return parsed


def place(given: Given, *key: str) -> tuple[Path, int] | None:
    """The file in which a setting stands, and the line; None if it stands in none, or `-S` says something else."""
    path = file(given.file)
    said = (overrides.parse(text).key for text in given.overrides)
    if not path.is_file() or any(other[: len(key)] == key[: len(other)] for other in said):
        return None
    line = yaml.line(path.read_text(encoding="utf-8"), *key)
    return (path, line) if line else None


def core_settings(group: Detect) -> findings.Settings:
    """The group `detect` as the core takes it."""
    return findings.Settings(**group.model_dump())


def read(named: Path | None) -> Mapping[str, Any]:
    """Everything that a params file holds, of whomever it is; nothing where none is named and none is there.

    Raises:
        UsageError: it cannot be read, or is no YAML mapping.
    """
    path = file(named)
    if named is None and not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}. Name a params file that exists.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}.") from error
    content = yaml.read(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected groups such as `detect:`, got a {type(content).__name__}.")
    return content


def _check_one(settings: Mapping[str, Any], where: str) -> None:
    if "target" in settings and "targets" in settings:
        raise UsageError(
            f"{where}: target and targets are both set. Keep target for one artefact, or targets for one each."
        )


def _check_group(schema: type[Group], override: overrides.Override) -> None:
    group, known = override.key[0], tuple(schema.model_fields)
    if group in known:
        return
    if group in Settings.model_fields:
        raise UsageError(f"-S {override.text}: {group} is not read here; this command reads {', '.join(known)}.")
    raise UsageError(f"-S {override.text}: {unknown('group', group, known)}")


def _message(
    schema: type[Group], error: ErrorDetails, settings: Iterable[tuple[tuple[str, ...], str]], file: str
) -> str:
    """One line: where the value came from, its key, the value, and what it must be."""
    path = tuple(str(part) for part in error["loc"])
    said, where = [((), file), *((key, origin) for key, origin in settings if path[: len(key)] == key[: len(path)])][-1]
    dotted = ".".join(path)
    match error["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key {dotted}.{_choices(schema, path)}"
        case "missing":
            return f"{where}: {dotted} is missing."
        case "choice":
            return f"{where}: {error['msg']}" if said == path else f"{where}: {dotted}: {error['msg']}"
    wanted = _KINDS.get(error["type"]) or error["msg"].removeprefix("Input should be ")
    return f"{where}: {dotted} is {error['input']!r}: expected {wanted}."


# What a value must be, in YAML's words instead of Python's.
_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "too_short": "at least one",
}


def _choices(schema: type[Group], path: tuple[str, ...]) -> str:
    """The keys that stand where the last one of `path` does, the closest one first."""
    place: Any = schema
    for name in path[:-1]:
        place = place.model_fields[name].annotation if hasattr(place, "model_fields") else get_args(place)[1]
    close = difflib.get_close_matches(path[-1], place.model_fields, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Choices: {', '.join(sorted(place.model_fields))}."
