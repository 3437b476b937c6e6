"""What the stages in dvc.yaml say of the pipeline: which model it compresses, and what it writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..init import pipeline

FILE = Path("dvc.yaml")
_TAKEN = ("export", "detect", "compress", "evaluate")
"""The commands that take the model first, the one that takes what the training wrote in front."""
_DIRECTORIES = {"export", "compress"}
"""Those that write a directory, which they take second."""


@dataclass(frozen=True)
class Pipeline:
    """A dvc.yaml, as far as its stages run this package in its folder.

    model: what the first of them reads; None if there is none, or its name is not known before DVC runs.
    params: the file that their commands name; None for params.yaml.
    folders, files: what they write, with templates, as dvc.yaml has it.
    made: what any stage writes, those of others too.
    context: what templates may name.
    """

    model: Path | None
    params: Path | None
    folders: tuple[str, ...]
    files: tuple[str, ...]
    made: frozenset[str]
    context: Mapping[str, Any]

    def expanded(self, path: str, targets: tuple[str, ...]) -> Iterator[Path]:
        """The paths that one of dvc.yaml stands for: one for each target where it names them, none if it is unknown."""
        contexts = [{**self.context, "item": {"target": target}} for target in targets]
        yield from map(Path, dict.fromkeys(filter(None, (pipeline.resolved(path, context) for context in contexts))))

    def makes(self, path: Path) -> bool:
        """Whether a stage writes the path, or a folder that it lies in."""
        return any(path.as_posix() == out or Path(out) in path.parents for out in self.made)


def read() -> Pipeline | None:
    """The pipeline of the current directory; None where there is no dvc.yaml.

    Raises:
        UsageError: it is no YAML, or has no stages by name.
    """
    from .. import files

    if not FILE.is_file():
        return None
    parsed = pipeline.parse(files.read_text(FILE), str(FILE), _text)
    context, _ = pipeline.context(parsed.content, _text)
    here = {stage.key: stage for stage in parsed.stages if stage.compressor and _runs_here(parsed.content, stage)}
    words = [[pipeline.resolved(word, context) or "" for word in stage.words] for stage in here.values()]
    directories = {stage.words[3] for stage in here.values() if stage.compressor in _DIRECTORIES and stage.words[3:]}
    written = [path for key in here for path in _written(parsed.content["stages"][key])]
    return Pipeline(
        next((Path(own[2]) for command in _TAKEN for own in words if own[1] == command and _names(own)), None),
        next((Path(own[own.index("--params") + 1]) for own in words if "--params" in own[:-1]), None),
        tuple(path for path in written if path in directories),
        tuple(path for path in written if path not in directories),
        frozenset(out for stage in parsed.stages for out in stage.outs),
        context,
    )


def _text(name: str) -> str:
    from .. import files

    return files.read_text(Path(name)) if Path(name).is_file() else ""


def _runs_here(content: Mapping[str, Any], stage: pipeline.Stage) -> bool:
    return str(content["stages"][stage.key].get("wdir", ".")) == "."


def _names(words: list[str]) -> bool:
    """Whether a command takes its model first."""
    return len(words) > 2 and bool(words[2]) and not words[2].startswith("-")


def _written(stage: Mapping[str, Any]) -> Iterator[str]:
    inner = stage.get("do", stage)
    for kind in pipeline.WRITTEN:
        for entry in inner.get(kind) or ():
            yield str(next(iter(entry)) if isinstance(entry, dict) else entry)
