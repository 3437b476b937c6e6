"""From what is asked and what is there to a plan: options, then what is set already, then guesses, then questions."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import CompressorError, UsageError

from . import code, inputs, layout, merging, models
from .checkpoints import FOLDER, MODULE, ONNX, STATE
from .layout import value
from .plan import RECORDS, Plan
from .repository import Repository

if TYPE_CHECKING:
    from compressor.evaluation.samples import Samples

NONE = "none"
"""What a user says who has no data."""


@dataclass(frozen=True)
class Asked:
    """The options of the command, None or empty where not given."""

    model: str | None = None
    factory: str | None = None
    data: str | None = None
    inputs: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    metric: str | None = None
    prefix: str | None = None


Ask = Callable[[str, str, str], str]
"""Asks for what an option was to say: its name, the question, and what is taken where nothing is answered.

Raises:
    UsageError: there is nobody to ask.
"""


@dataclass
class _Decision:
    """A plan in the making. found: the evidence so far, as (what, value, because)."""

    repository: Repository
    asked: Asked
    ask: Ask
    settings: Mapping[str, Any]
    file: str
    found: list[tuple[str, str, str]] = field(default_factory=list)

    def note(self, what: str, chosen: str, because: str) -> None:
        if because:
            self.found.append((what, chosen, because))

    def known(self, option: str, given: str | None, *keys: str) -> str | None:
        """What is set already, or what is asked for: not both, unless they agree.

        Raises:
            UsageError: they do not.
        """
        there = value(self.settings, *keys)
        if there is None or there == given or given is None:
            return given if there is None else str(there)
        raise UsageError(
            f"--{option} {given}: {self.file} has {'.'.join(keys)}: {there}, and init changes nothing that is there. "
            "Change it in that file."
        )


def decide(repository: Repository, asked: Asked, ask: Ask) -> tuple[Plan, tuple[tuple[str, str, str], ...]]:
    """The plan, and the evidence for what in it was guessed.

    Raises:
        UsageError: something is missing or wrong that only the user can say.
        CompressorError: the model cannot be read.
    """
    own = repository.pipelines[0]
    prefix, params, there = layout.prefix(own, asked.prefix), layout.params(repository, own), layout.ours(own)
    settings = merging.content(repository.text(params.value) or "", params.value) if there else {}
    making = _Decision(repository, asked, ask, settings, params.value)
    found, kind = _model(making)
    targets = _targets(making)
    factory = _factory(making, found, kind)
    data = _data(making)
    told, metric = _measured(making, found, kind, factory, data)
    folder, lock = layout.models(repository, own), layout.lock(repository)
    making.note("stages", f"{prefix.value}export ...", prefix.because)
    making.note("settings", params.value, params.because)
    making.note("folder", folder.value, folder.because)
    if "toolchain" not in there:
        making.note("toolchain", lock.value or "", lock.because or "it changes when a package is upgraded")
    dynamic = {name for one in told.values() for name in one.get("dynamic", {}).values()}
    plan = Plan(
        model=found.model,
        factory=factory,
        factory_files=_files(repository, factory),
        inputs=told,
        axes={inputs.BATCH: 1} if inputs.BATCH in dynamic else {},
        data=data,
        data_files=tuple(dict.fromkeys((*_files(repository, data, reads=True), *_files(repository, metric)))),
        metric=metric,
        drop=f"{_key(metric)}_drop",
        targets=targets,
        matrix=len(targets) > 1 or "targets" in settings,
        prefix=prefix.value,
        lock=lock.value,
        params=params.value,
        models=folder.value,
        ignored=layout.unignored(repository, [f"{RECORDS}/metrics.json", f"{RECORDS}/bytes.csv"]),
        extras=_extras(kind, targets),
        folder=repository.project,
    )
    return plan, tuple(making.found)


def _model(making: _Decision) -> tuple[models.Found, str]:
    """The model, and what it is."""
    repository, there = making.repository, layout.ours(making.repository.pipelines[0]).get("export")
    known = there.command[2] if there is not None and len(there.command) > 2 else None
    given = making.asked.model
    if known is not None and given not in (None, known):
        raise UsageError(f"--model {given}: dvc.yaml exports {known} already. Change it there.")
    if given is None and known is None:
        found = _guessed(making)
    else:
        name = known or given or ""
        found = models.named(repository, name) or models.Found(name, name, None, "")
        if known is None and not found.because:
            raise UsageError(
                f"--model {name}: not there, and no stage writes it. Name a file that a stage of DVC writes."
            )
    path = repository.folder / found.path
    if path.suffix == ".safetensors" and (path.parent / "config.json").is_file() and making.asked.factory is None:
        folder = posixpath.dirname(found.path)
        found = models.Found(folder, folder, found.stage, f"{found.because}; the folder has the architecture too")
    kind, because = models.kind(repository, found)
    if known is None:
        making.note("model", found.model, f"{found.because}: {kind}, {because}")
    if kind == MODULE:
        making.note("", "", "save model.state_dict(), or set export.allow_pickle: true if you trust the file")
    return found, kind


def _guessed(making: _Decision) -> models.Found:
    found = models.candidates(making.repository)
    if len(found) == 1:
        return found[0]
    seen = "; ".join(f"{one.path} ({one.because})" for one in found[:5])
    why = (
        f"several could be the trained model: {seen}" if found else "no stage writes a model that is known by its name"
    )
    name = making.ask("model", f"{why}. Which file does the training write?", found[-1].path if found else "")
    chosen = models.named(making.repository, name)
    if chosen is None:
        raise UsageError(f"--model {name}: not there, and no stage writes it.")
    return chosen


def _targets(making: _Decision) -> tuple[str, ...]:
    from compressor import targets

    asked = tuple(dict.fromkeys(targets.get(name).name for name in making.asked.targets))
    there = value(making.settings, "targets") or value(making.settings, "target")
    known = tuple(map(str, there)) if isinstance(there, list) else (str(there),) if there else ()
    if asked and known and asked != known:
        raise UsageError(
            f"--target {' '.join(asked)}: {making.file} has {' '.join(known)}, and init changes nothing that is there. "
            "Change it there."
        )
    return known or asked or (targets.DEFAULT,)


def _factory(making: _Decision, found: models.Found, kind: str) -> str | None:
    factory = making.known("factory", making.asked.factory, "export", "factory")
    if kind != STATE or factory is not None:
        if factory is not None and making.asked.factory is not None and kind not in (STATE, FOLDER):
            raise UsageError(f"--factory {factory}: {found.path} is {kind}, which needs none.")
        return factory
    if layout.ours(making.repository.pipelines[0]) and making.settings.get("export") is not None:
        return None  # what stands there is the user's
    builders = models.builders(making.repository, found)
    hint = f" The training's code has {', '.join(builders[:3])}." if builders else ""
    question = f"{found.path} is a state dict: which module:function builds its module?{hint}"
    return making.ask("factory", question, builders[0] if len(builders) == 1 else "")


def _data(making: _Decision) -> str:
    given = "" if making.asked.data == NONE else making.asked.data
    data = making.known("data", given, "evaluate", "data")
    if data is None:
        question = (
            f"which module:function returns (inputs, labels), or which .npz has them? ({NONE}: only sizes are measured)"
        )
        data = making.ask("data", question, NONE)
    if data in (NONE, ""):
        return ""
    if ":" not in data and not data.endswith(".npz"):
        raise UsageError(f"--data {data}: expected module:function or a path that ends with .npz, or {NONE}.")
    return data


def _measured(
    making: _Decision, found: models.Found, kind: str, factory: str | None, data: str
) -> tuple[inputs.Inputs, str]:
    """The inputs of the model, and the metric."""
    there, metric = (
        value(making.settings, "export", "inputs"),
        making.known("metric", making.asked.metric, "evaluate", "metric"),
    )
    if making.settings.get("export") is not None:
        return there or {}, metric or "accuracy_score"
    path = making.repository.folder / found.path
    with contextlib.chdir(making.repository.folder):
        told = (
            inputs.Told(inputs.parse(making.asked.inputs), "") if making.asked.inputs else inputs.of_model(kind, path)
        )
        samples, problem = (None, "") if kind == ONNX and metric else _samples(making.repository, data)
        if told is None and samples is not None:
            try:
                told = inputs.of_data(data, samples, inputs.names(kind, path, factory))
            except CompressorError as error:
                problem = str(error)
    if told is None:
        why = problem or f"nothing says what {found.path} takes"
        spelled = making.ask("input", f"{why}. What are the model's inputs, as image=float32[batch,3,224,224]?", "")
        told = inputs.Told(inputs.parse(spelled.split()), "")
    making.note("inputs", inputs.describe(told.inputs), told.because)
    if metric is None and samples is not None:
        metric = _of_labels(making, samples)
    return told.inputs, metric or "accuracy_score"


def _samples(repository: Repository, data: str) -> tuple[Samples | None, str]:
    """What the data is, or why that cannot be told yet.

    Raises:
        UsageError: there is no such function, or no such file and none that a stage writes.
    """
    if not data:
        return None, ""
    from compressor.evaluation import samples

    if data.endswith(".npz") and not Path(data).is_file() and models.named(repository, data) is not None:
        return None, f"{data} is not there yet"
    try:
        return samples.read(data), ""
    except UsageError:
        raise
    except CompressorError as error:  # what it reads may be made by a stage that has not run yet
        return None, str(error)


def _of_labels(making: _Decision, samples: Samples) -> str | None:
    """A metric for numbers where the labels are no classes."""
    import numpy as np

    labels = samples.labels
    first = next(iter(labels.values()), None) if isinstance(labels, Mapping) else labels
    if isinstance(first, tuple | list) and first and np.ndim(first[0]):
        first = first[0]
    if first is None or np.asarray(first).dtype.kind != "f":
        return None
    making.note("metric", "r2_score", "the labels are no classes but numbers")
    return "r2_score"


def _files(repository: Repository, reference: str | None, *, reads: bool = False) -> tuple[str, ...]:
    """The code of a reference, and with `reads` what DVC has of the files that it names."""
    if not reference or not (":" in reference or reads):
        return ()
    if reference.endswith(".npz"):
        return (posixpath.normpath(reference),)
    files = code.files_of(reference, repository.folder)
    if not reads:
        return tuple(map(repository.relative, files))
    named = {posixpath.normpath(text) for text, _ in code.constants(files) if "/" in text or "." in text}
    outs = {out for one in repository.pipelines for stage in one.stages if not stage.compressor for out in stage.outs}
    return (*map(repository.relative, files), *sorted(named & (outs | {*repository.tracked})))


def _extras(kind: str, targets: Sequence[str]) -> tuple[str, ...]:
    from compressor.targets import family

    wanted = {"dvc", *({family(target) for target in targets} & {"coreml"})}
    wanted |= {"huggingface"} if kind == FOLDER else {"torch"} if kind != ONNX else set()
    return tuple(sorted(wanted))


def _key(metric: str) -> str:
    from compressor.evaluation import metrics

    return metrics.key(metric)
