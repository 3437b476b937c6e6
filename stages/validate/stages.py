"""What the stages in dvc.yaml say of the pipeline: which model it compresses, and what it writes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..init import pipeline

FILE = Path("dvc.yaml")
_KINDS = ("outs", "metrics", "plots")
_TAKEN = ("export", "detect", "compress", "evaluate")
"""The commands that take the model first, the one that takes what the training wrote in front."""
_TARGET, _TEMPLATE = "${item.target}", "${"


@dataclass(frozen=True)
class Pipeline:
    """Of the stages that run this package in the folder of dvc.yaml.

    model: what the first of them reads; None if there is none, or its name is a template that is not known here.
    params: the file that their commands name; None for params.yaml.
    folders, files: what they write, as dvc.yaml has it.
    """

    model: Path | None
    params: Path | None
    folders: tuple[str, ...]
    files: tuple[str, ...]


def read() -> Pipeline | None:
    """The pipeline of the current directory; None where there is no dvc.yaml.

    Raises:
        UsageError: it is no YAML.
    """
    from .. import files, yaml

    if not FILE.is_file():
        return None
    content = yaml.read(files.read_text(FILE), str(FILE))
    stages = content.get("stages") if isinstance(content, dict) else None
    own = list(_own(stages)) if isinstance(stages, dict) else []
    known, _ = pipeline.context(content, _text) if own else ({}, frozenset())
    written = [path for words, stage in own for path in _written(stage)]
    folders = {words[3] for words, _ in own if words[1] in {"export", "compress"} and len(words) > 3}
    return Pipeline(
        next((Path(model) for command in _TAKEN for model in _models(own, command, known)), None),
        next((Path(words[at + 1]) for words, _ in own for at in _places(words, "--params")), None),
        tuple(path for path in written if path in folders),
        tuple(path for path in written if path not in folders),
    )


def _own(stages: Mapping[str, Any]) -> Iterator[tuple[list[str], Mapping[str, Any]]]:
    """The words of each command of this package, `compressor` the first, and its stage."""
    for stage in stages.values():
        if not isinstance(stage, dict) or stage.get("wdir", ".") != ".":
            continue
        inner = stage.get("do", stage)
        commands = inner.get("cmd") if isinstance(inner, dict) else None
        for command in [commands] if isinstance(commands, str) else commands or ():
            try:
                words = shlex.split(str(command))
            except ValueError:  # a shell's language, which is no command of this package alone
                continue
            words = words[2:] if tuple(words[:2]) in pipeline.BEFORE else words
            if words[:1] == ["compressor"] and len(words) > 2:
                yield words, inner


def _models(own: list[tuple[list[str], Mapping[str, Any]]], command: str, known: Mapping[str, Any]) -> Iterator[str]:
    named = (words[2] for words, _ in own if words[1] == command and not words[2].startswith("-"))
    return (model for model in (pipeline.resolved(name, known) for name in named) if model is not None)


def _text(name: str) -> str:
    from .. import files

    return files.read_text(Path(name)) if Path(name).is_file() else ""


def _places(words: list[str], option: str) -> Iterator[int]:
    return (place for place, word in enumerate(words[:-1]) if word == option)


def _written(stage: Mapping[str, Any]) -> Iterator[str]:
    for kind in _KINDS:
        for entry in stage.get(kind) or ():
            yield str(next(iter(entry)) if isinstance(entry, dict) else entry)


def expanded(path: str, targets: tuple[str, ...]) -> Iterator[Path]:
    """The paths that one of dvc.yaml stands for; none where a template says it that is not known here."""
    for text in [path.replace(_TARGET, target) for target in targets] if _TARGET in path else [path]:
        if _TEMPLATE not in text:
            yield Path(text)
