"""Which file of a repository is the trained model, and what it is: guesses, each with its evidence."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from compressor.errors import CompressorError

from . import checkpoints, code
from .checkpoints import BY_SUFFIX, FOLDER, SAVED_BY
from .pipeline import Stage
from .repository import Repository

MOST_SCANNED = 200
"""The files of a training's code that are read for evidence."""


@dataclass(frozen=True)
class Found:
    """A model, as dvc.yaml spells it.

    path: the same without `${...}`, relative to the project. stage: that writes it, None for a file of its own.
    because: the evidence.
    """

    model: str
    path: str
    stage: Stage | None
    because: str


def candidates(repository: Repository) -> tuple[Found, ...]:
    """The models that stages of others write: of the project's own dvc.yaml, else of any, else what DVC tracks."""
    for pipelines in (repository.pipelines[:1], repository.pipelines[1:]):
        foreign = [(one.name, stage) for one in pipelines for stage in one.stages if not stage.compressor]
        found = [each for name, stage in foreign for each in _of_stage(repository, name, stage)]
        if found:
            return _last(found)
    tracked = [path for path in repository.tracked if PurePosixPath(path).suffix in BY_SUFFIX]
    return tuple(Found(path, path, None, f"DVC tracks it by {path}.dvc") for path in tracked)


def named(repository: Repository, model: str) -> Found | None:
    """The model that a user named, if it is there or shall be."""
    path = posixpath.normpath(Path(model).as_posix())
    for pipeline in repository.pipelines:
        for stage in pipeline.stages:
            for out in stage.outs:
                if path == out or model == stage.written.get(out) or path.startswith(f"{out}/"):
                    place = path if path.startswith(f"{out}/") else out
                    return Found(stage.written.get(place, place), place, stage, f"stage {stage.name} writes it")
    tracked = any(path == one or path.startswith(f"{one}/") for one in repository.tracked)
    if tracked or (repository.folder / path).exists():
        return Found(path, path, None, "DVC tracks it" if tracked else "it lies there")
    return None


def kind(repository: Repository, found: Found) -> tuple[str, str]:
    """What the model is, and how that is known.

    Raises:
        CompressorError: it is there, and is no model.
    """
    path = repository.folder / found.path
    if path.exists():
        return checkpoints.kind(path), "its first bytes say so" if path.is_file() else "its files say so"
    files = _code(repository, found.stage) if found.stage else ()
    saved = {SAVED_BY[name]: (call, file) for call, file in code.calls(files) for name in SAVED_BY if _is(call, name)}
    guess = BY_SUFFIX.get(PurePosixPath(found.path).suffix.lower(), FOLDER)
    plain = any(_is(call, "torch.save") for call, _ in code.calls(files))
    if len(saved) == 1 and not plain and guess in (checkpoints.STATE, FOLDER):
        (what, (call, file)), *_ = saved.items()
        return what, f"it is not there yet; {repository.relative(file)} calls {call}"
    return guess, "it is not there yet; its name says so"


def builders(repository: Repository, found: Found) -> tuple[str, ...]:
    """What may build the module of a state dict: `module:name` of the networks in the training's code."""
    return tuple(code.networks(_code(repository, found.stage), repository.folder)) if found.stage else ()


def _of_stage(repository: Repository, pipeline: str, stage: Stage) -> Iterator[Found]:
    where = f"stage {stage.name}" + (f" of {pipeline}" if pipeline != "dvc.yaml" else "")
    for out in stage.outs:
        path = repository.folder / out
        if PurePosixPath(out).suffix.lower() in BY_SUFFIX:
            yield Found(stage.written.get(out, out), out, stage, f"{where} writes it")
        elif path.is_dir():
            yield from _inside(repository, path, out, stage, where)
        elif not path.exists() and not PurePosixPath(out).suffix:
            yield from _foreseen(repository, out, stage, where)


def _inside(repository: Repository, path: Path, out: str, stage: Stage, where: str) -> Iterator[Found]:
    try:
        if checkpoints.kind(path):
            yield Found(stage.written.get(out, out), out, stage, f"{where} writes it")
            return
    except CompressorError:
        pass  # a folder with the model somewhere in it
    for file in _near(path):
        if file.suffix.lower() in BY_SUFFIX or (file.is_dir() and (file / "config.json").is_file()):
            model = repository.relative(file)
            yield Found(model, model, stage, f"{where} writes it, in {out}")


def _near(folder: Path) -> list[Path]:
    """The first entries of a folder and of the folders in it: it may hold a data set."""
    first = sorted(islice(folder.iterdir(), MOST_SCANNED))
    inner = (entry for one in first if one.is_dir() for entry in sorted(islice(one.iterdir(), MOST_SCANNED)))
    return [*first, *islice(inner, MOST_SCANNED)]


def _foreseen(repository: Repository, out: str, stage: Stage, where: str) -> Iterator[Found]:
    """What the training's code will put in a folder that is not there yet."""
    files = _code(repository, stage)
    names = {
        text: file
        for text, file in code.constants(files)
        if PurePosixPath(text).suffix.lower() in BY_SUFFIX and PurePosixPath(text).stem and "\n" not in text
    }
    for text, file in names.items():
        whole = text.startswith(f"{out}/")
        model = posixpath.normpath(text) if whole else posixpath.join(out, text)
        if whole or "/" not in text:
            yield Found(model, model, stage, f"{where} writes {out}, {repository.relative(file)} names it")
    folders = [name for name, what in SAVED_BY.items() if what == FOLDER]
    saving = next(((call, file) for call, file in code.calls(files) if any(_is(call, one) for one in folders)), None)
    if not names and saving is not None:
        because = f"{where} writes it, {repository.relative(saving[1])} calls {saving[0]}"
        texts = {posixpath.normpath(text) for text, _ in code.constants(files) if text.startswith(f"{out}/")}
        inside = [text for text in texts if text != out and not PurePosixPath(text).suffix]
        place = inside[0] if len(inside) == 1 else out
        yield Found(stage.written.get(place, place), place, stage, because)


def _last(found: Sequence[Found]) -> tuple[Found, ...]:
    """Those that no stage makes another one of."""
    used = {dep for one in found if one.stage for dep in one.stage.deps}
    last = tuple(one for one in found if one.path not in used and not (one.stage and used & {*one.stage.outs}))
    return last or tuple(found)


def _code(repository: Repository, stage: Stage | None) -> tuple[Path, ...]:
    """The scripts of a stage, the code that it depends on, and what these import."""
    if stage is None:
        return ()
    words = [*stage.command, *stage.deps]
    scripts = [repository.folder / word for word in words if word.endswith(".py")]
    for dep in stage.deps:
        scripts += repository.listed("*.py", dep) if (repository.folder / dep).is_dir() else []
    modules = [after for word, after in zip(stage.command, stage.command[1:], strict=False) if word == "-m"]
    modules += [name for script in scripts[:MOST_SCANNED] for name in code.modules(script)]
    found = dict.fromkeys(script for script in scripts if script.is_file())
    for module in modules:
        found |= dict.fromkeys(code.files_of(module, repository.folder))
    return tuple(found)[:MOST_SCANNED]


def _is(call: str, name: str) -> bool:
    """Whether a call is that of a function: `torch.jit.save` as `jit.save` too, `save_pretrained` of any object."""
    return f".{call}".endswith(f".{name}") or ("." in call and name.endswith(f".{call}"))
