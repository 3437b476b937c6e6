"""Where the new parts go, so that they stand in nobody's way: names of stages, the settings' file, folders."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from compressor.errors import UsageError

from . import merging
from .pipeline import RUNNERS, Pipeline, Stage
from .plan import OWN_PARAMS, PARAMS, RECORDS, STAGES
from .repository import Repository

GROUPS = frozenset({"target", "targets", "export", "detect", "compress", "coreml", "evaluate"})
"""The keys that the settings have at the top."""
PREFIXES = ("", "compress-", "compressor-")
FOLDERS = ("models", RECORDS, "compressed")
LOCKS = (
    *("uv.lock", "poetry.lock", "pdm.lock", "pixi.lock", "conda-lock.yml", "constraints.txt"),
    *("requirements.txt", "environment.yml", "environment.yaml", "pyproject.toml", "setup.py"),
)
"""Files that say what is installed, the most exact ones first."""

T = TypeVar("T")


@dataclass(frozen=True)
class Chosen(Generic[T]):
    """A value with its evidence; none where it is what anybody expects."""

    value: T
    because: str = ""


def ours(pipeline: Pipeline) -> Mapping[str, Stage]:
    """The stages of this package that are there already, by command."""
    return {stage.compressor: stage for stage in pipeline.stages if stage.compressor in STAGES}


def prefix(own: Pipeline, asked: str | None) -> Chosen[str]:
    """What stands in front of the stages' names.

    Raises:
        UsageError: it is no part of a name, or a stage of others has such a name.
    """
    there = ours(own)
    known = next((stage.key.removesuffix(command) for command, stage in there.items()), None)
    if known is not None:
        if asked is not None and asked != known:
            raise UsageError(
                f"--prefix {asked}: {own.name} has the stage {next(iter(there.values())).key} already. For a second "
                "model, give it a folder of its own: compressor init DIR."
            )
        return Chosen(known)
    if asked is not None and not re.fullmatch(r"[\w-]*", asked):
        raise UsageError(f"--prefix {asked}: expected letters, digits, - and _.")
    foreign = {stage.key for stage in own.stages}
    for one in PREFIXES if asked is None else (asked,):
        taken = [f"{one}{name}" for name in STAGES if f"{one}{name}" in foreign]
        if not taken:
            first = [name for name in STAGES if name in foreign]
            return Chosen(one, f"{own.name} has a stage {first[0]} of its own" if one and asked is None else "")
    raise UsageError(f"{own.name} has a stage {taken[0]} of its own. Name another prefix: --prefix compressed-.")


def runner(own: Pipeline, training: Stage | None) -> Chosen[str]:
    """What the commands are run by: that of the stages that are there, else that of the training's."""
    there = ours(own)
    if there:
        return Chosen(next(iter(there.values())).runner)
    if training is None or training.command[:2] not in RUNNERS:
        return Chosen("")
    return Chosen(training.runner, f"stage {training.name} is run so")


def params(repository: Repository, own: Pipeline) -> Chosen[str]:
    """The file with the settings: params.yaml, unless that belongs to somebody.

    Raises:
        UsageError: the other one does too.
    """
    there = [stage.command for stage in ours(own).values() if stage.compressor != "toolchain"]
    if there:
        named = [after for word, after in zip(there[0], there[0][1:], strict=False) if word == "--params"]
        return Chosen(named[0] if named else PARAMS)
    because = next(_against_params(repository, own), "")
    if not because:
        return Chosen(PARAMS)
    if taken := sorted(GROUPS & merging.content(repository.text(OWN_PARAMS) or "", OWN_PARAMS).keys()):
        raise UsageError(f"{because}, and so has {OWN_PARAMS} {taken[0]}. Rename one of these files or keys.")
    return Chosen(OWN_PARAMS, because)


def _against_params(repository: Repository, own: Pipeline) -> Iterator[str]:
    """Reasons against settings in params.yaml."""
    text = repository.text(PARAMS)
    content = merging.content(text or "", PARAMS)
    if taken := sorted(GROUPS & content.keys()):
        yield f"{PARAMS} has {taken[0]} of its own"
    if taken := sorted(GROUPS & own.names):
        yield f"vars of {own.name} has {taken[0]} of its own"
    if repository.config.get("hydra", {}).get("enabled", "").lower() == "true":
        yield f"DVC writes {PARAMS} anew from Hydra's configuration"
    if text is None and (repository.folder / "conf" / "config.yaml").is_file():
        yield f"there is no {PARAMS}, the settings are Hydra's, in conf"
    if PARAMS in repository.ignored([PARAMS]):
        yield f"Git ignores {PARAMS}: something writes it"
    stages = (stage for one in repository.pipelines for stage in one.stages)
    whole = next(
        (stage for stage in stages if PARAMS in stage.deps or (stage in own.stages and PARAMS in stage.whole)), None
    )
    if whole is not None:
        yield f"stage {whole.name} depends on all of {PARAMS}, and would run again"
    if text and not merging.extensible(text, PARAMS):
        yield f"{PARAMS} is written in braces"


def models(repository: Repository, own: Pipeline) -> Chosen[str]:
    """The folder of the exported and the compressed model: one that no other stage writes or reads as a whole.

    Raises:
        UsageError: there is none.
    """
    there = ours(own).get("export")
    if there is not None and there.outs:
        return Chosen(posixpath.dirname(there.outs[0]))
    others = _others(repository)
    for whole in (RECORDS, f"{RECORDS}/metrics.json"):
        if whole in others:
            raise UsageError(f"{others[whole]}: {RECORDS} is where the metrics go. Rename that output.")
    first = ""
    for folder in FOLDERS:
        wanted = (f"{folder}/exported", f"{folder}/compressed")
        taken = next((other for other in others if any(_overlap(one, other) for one in wanted)), None)
        if taken is None and not (repository.folder / folder).is_file():
            return Chosen(folder, first)
        first = first or (f"{others[taken]} in {FOLDERS[0]}" if taken else f"{folder} is a file")
    raise UsageError(f"{', '.join(FOLDERS)}: {first}, and so in the others. Rename one of these outputs.")


def lock(repository: Repository) -> Chosen[str | None]:
    """The file that changes when a package is upgraded, in the project or above it."""
    top = repository.git or repository.root
    for folder in (repository.folder, *repository.folder.parents):
        for name in LOCKS:
            if (folder / name).is_file():
                return Chosen(repository.relative(folder / name))
        if folder == top:
            break
    return Chosen(None, "no lock file is there: upgrades do not run the stages again by themselves")


def _others(repository: Repository) -> Mapping[str, str]:
    """What others write, and the folders that they read, with who does."""
    found = {path: f"DVC tracks {path}" for path in repository.tracked}
    for pipeline in repository.pipelines:
        for stage in pipeline.stages:
            if not stage.compressor:
                found |= {dep: f"stage {stage.name} reads {dep}" for dep in stage.deps}
                found |= {out: f"stage {stage.name} writes {out}" for out in stage.outs}
    return found


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def unignored(repository: Repository, paths: Iterable[str]) -> tuple[str, ...]:
    """The lines that .gitignore needs: DVC's plots, and what lets Git see the records."""
    plots = "dvc_plots/"
    ignored = repository.ignored([plots, *paths])
    lines = [] if plots in ignored or repository.git is None else [f"/{plots}"]
    if ignored - {plots}:
        lines += [f"!/{RECORDS}/", f"!/{RECORDS}/**"]
    return tuple(lines)


def value(settings: Mapping[str, Any], *keys: str) -> Any:
    """A setting that is there, or None."""
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None  # type: ignore[assignment]
    return settings
