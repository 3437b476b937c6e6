"""From what is asked and what is there to a plan: options, then what is set already, then guesses, then questions."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from compressor.errors import UsageError

from . import answers, code, layout, measuring, models
from .answers import Ask, Asked, Decision
from .checkpoints import BY_SUFFIX, FOLDER, MODULE, ONNX, STATE
from .layout import Chosen, value
from .plan import RECORDS, Plan
from .repository import Repository


def decide(repository: Repository, asked: Asked, ask: Ask) -> tuple[Plan, tuple[tuple[str, str, str], ...]]:
    """The plan, and the evidence for what in it was guessed.

    Raises:
        UsageError: something is missing or wrong that only the user can say.
        CompressorError: the model cannot be read.
    """
    own = repository.pipelines[0]
    prefix, params, there = layout.prefix(own, asked.prefix), layout.params(repository, own), layout.ours(own)
    settings = answers.settings(repository, params.value) if there else {}
    making = Decision(repository, asked, ask, settings, params.value)
    found, kind = _model(making)
    factory, targets = _factory(making, found, kind), _targets(making)
    data = measuring.data_of(making)
    told, metric, metric_args = measuring.measured(making, found, kind, factory, data)
    folder, lock = layout.models(repository, own), layout.lock(repository)
    runner = layout.runner(own, found.stage)
    _note(making, prefix, runner, params, folder, lock)
    plan = Plan(
        model=found.model,
        factory=factory,
        factory_files=_files(repository, factory),
        inputs=told.inputs,
        axes=told.axes,
        data=data,
        data_files=tuple(dict.fromkeys((*_files(repository, data, reads=True), *_files(repository, metric)))),
        metric=metric,
        metric_args=metric_args,
        drop=f"{_key(metric)}_drop",
        targets=targets,
        matrix=len(targets) > 1 or "targets" in settings,
        prefix=prefix.value,
        runner=runner.value,
        lock=lock.value,
        params=params.value,
        models=folder.value,
        ignored=layout.unignored(repository, [f"{RECORDS}/metrics.json", f"{RECORDS}/bytes.csv"]),
        extras=_extras(kind, targets),
        folder=repository.project,
    )
    return plan, tuple(making.found)


def _note(
    making: Decision,
    prefix: Chosen[str],
    runner: Chosen[str],
    params: Chosen[str],
    folder: Chosen[str],
    lock: Chosen[str | None],
) -> None:
    """Why the new parts go where they go."""
    making.note("stages", f"{prefix.value}export ...", prefix.because)
    making.note("commands", f"{runner.value}compressor ...", runner.because)
    making.note("settings", params.value, params.because)
    making.note("folder", folder.value, folder.because)
    if "toolchain" not in layout.ours(making.repository.pipelines[0]):
        making.note("toolchain", lock.value or "", lock.because or "it changes when a package is upgraded")


def _model(making: Decision) -> tuple[models.Found, str]:
    """The model, and what it is."""
    repository, there = making.repository, layout.ours(making.repository.pipelines[0]).get("export")
    known = there.words[2] if there is not None and len(there.words) > 2 else None
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
    free = known is None and making.asked.factory is None
    if free and path.suffix == ".safetensors" and (path.parent / "config.json").is_file():
        folder = posixpath.dirname(found.path)
        found = models.Found(folder, folder, found.stage, f"{found.because}; the folder has the architecture too")
    answers.path(found.model, "model")
    kind, because = models.kind(repository, found)
    if known is None:
        making.note("model", found.model, f"{found.because}: {kind}, {because}")
    if kind == MODULE:
        making.note("", "", "save model.state_dict(), or set export.allow_pickle: true if you trust the file")
    return found, kind


def _guessed(making: Decision) -> models.Found:
    found = models.candidates(making.repository)
    if len(found) == 1:
        return found[0]
    seen = "; ".join(f"{one.path} ({one.because})" for one in found[:5])
    kinds = ", ".join(sorted(BY_SUFFIX))
    why = f"several could be it: {seen}" if found else f"no stage writes a file of {kinds}, or a Hugging Face folder"
    name = making.ask(
        "model",
        f"{why}. Which one is the trained model?" if found else f"{why}. Where is the trained model?",
        found[-1].path if found else "",
    )
    chosen = models.named(making.repository, name)
    if chosen is None:
        raise UsageError(f"--model {name}: not there, and no stage writes it.")
    return chosen


def _targets(making: Decision) -> tuple[str, ...]:
    from compressor import targets

    asked = tuple(dict.fromkeys(targets.get(name).name for name in making.asked.targets))
    there = value(making.settings, "targets") or value(making.settings, "target")
    known = tuple(map(str, there)) if isinstance(there, list) else (str(there),) if there else ()
    if asked and known and asked != known:
        raise UsageError(
            f"--target {' '.join(asked)}: {making.file} has {' '.join(known)}, and init changes nothing that is there. "
            "Change it there."
        )
    if known or asked:
        return known or asked
    answer = making.ask("target", "What is it for? (see compressor targets)", targets.DEFAULT, needed=False)
    return tuple(dict.fromkeys(targets.get(name).name for name in answer.replace(",", " ").split()))


def _factory(making: Decision, found: models.Found, kind: str) -> str | None:
    factory = making.known("factory", making.asked.factory, "export", "factory")
    if kind != STATE or factory is not None:
        if factory is not None and making.asked.factory is not None and kind not in (STATE, FOLDER):
            raise UsageError(f"--factory {factory}: {found.path} is {kind}, which needs none.")
        return factory if factory is None else answers.reference(factory, "factory")
    if layout.ours(making.repository.pipelines[0]) and making.settings.get("export") is not None:
        return None  # what stands there is the user's
    builders = models.builders(making.repository, found)
    hint = f" The training's code has {', '.join(builders[:3])}." if builders else ""
    there = (making.repository.folder / found.path).exists()
    known = "is a state dict" if there else "is not there yet, and taken for a state dict by its name"
    question = f"{found.path} {known}: which module:function builds its module?{hint}"
    return answers.reference(making.ask("factory", question, builders[0] if len(builders) == 1 else ""), "factory")


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
    stages = (stage for one in repository.pipelines for stage in one.stages if not stage.compressor)
    made = {*repository.tracked, *(out for stage in stages for out in stage.outs)}
    read = {one for one in made if any(text == one or text.startswith(f"{one}/") for text in named)}
    return (*map(repository.relative, files), *sorted(read))


def _extras(kind: str, targets: Sequence[str]) -> tuple[str, ...]:
    from compressor.targets import family

    wanted = {"dvc", *({family(target) for target in targets} & {"coreml"})}
    wanted |= {"huggingface"} if kind == FOLDER else {"torch"} if kind != ONNX else set()
    return tuple(sorted(wanted))


def _key(metric: str) -> str:
    from compressor.evaluation import metrics

    return metrics.key(metric)
