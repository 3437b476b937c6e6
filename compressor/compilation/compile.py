"""From a model to a verified artefact: fit, look, plan, encode, write, read back, compare, publish."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compressor import sources, targets
from compressor.compilation import describe, journal, publish, workers
from compressor.compilation import rules as rules_
from compressor.compilation.artefact import FailedError, Work, contents, finished, opened, put_source, write_all
from compressor.compilation.digests import Digests
from compressor.compilation.manifest import Manifest
from compressor.compilation.pipelines import UNCOMPRESSED
from compressor.compilation.pipelines import get as get_pipeline
from compressor.compilation.plan import Plan
from compressor.compilation.planning import Progress, Request, Taken, look, mended, planned, take
from compressor.compilation.stream import stream
from compressor.compilation.versions import versions
from compressor.errors import CompressorError
from compressor.model import Model, unchanged
from compressor.recognition.findings import Detection, Settings
from compressor.targets import Fitted, Target


def detect(
    model: Model | Path | str,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    *,
    progress: Progress | None = None,
) -> Detection:
    """What every weight of a model is, and the ways to store it.

    model: a file or folder that a source reads, or what one has read.
    settings: when a weight is worth encoding, and what counts as zero.
    progress: called with (`detect`, dense bytes done, dense bytes in all) on the way.

    Raises:
        CompressorError: the model cannot be read.
    """
    model = _model(model)
    with unchanged(model.stamps):
        return Detection(settings, tuple(look(model, lambda _: settings, progress)))


def dry_run(
    model: Model | Path | str,
    *,
    target: str | Target = targets.DEFAULT,
    pipeline: str = "auto",
    detection: Detection | None = None,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    rules: Mapping[str, rules_.Asked] = MappingProxyType({}),
    progress: Progress | None = None,
) -> Plan:
    """What `compress` would do: the form of every weight on a target, its size, and every refusal with its reason.

    model: a file or folder that a source reads, one of weights without a graph too, or what a source has read.
    target: by name, in any case, or with what is asked of it.
    pipeline: a key of `PIPELINES`.
    detection: what `detect` found in this model, which brings its settings; without it the model is looked at here.
    settings: of that look.
    rules: what holds for some weights instead, by patterns of their names in the source: `{"*.head.*": "dense"}`; the
        first that matches a weight holds. See `compress.rules` of params.yaml.
    progress: called with (`detect`, dense bytes done, dense bytes in all) on the way.

    Raises:
        UsageError: no such target or pipeline; a rule is not understood, or matches no weight.
        CompressorError: the model cannot be read, or `detection` is of another one.
    """
    model = _model(model)
    asked = _request(model, _target(target), pipeline, detection, settings, rules, progress)
    with unchanged(model.stamps):
        return planned(take(model, asked), asked)


def compress(
    model: Model | Path | str,
    out: Path | str,
    *,
    target: str | Target = targets.DEFAULT,
    pipeline: str = "auto",
    detection: Detection | None = None,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    rules: Mapping[str, rules_.Asked] = MappingProxyType({}),
    progress: Progress | None = None,
    executor: Executor | None = None,
    resume: bool = False,
) -> Manifest:
    """Writes the artefact and its manifest to the directory `out`, verified before it appears there.

    model: a file or folder with a graph that a source reads, or what one has read.
    out: a directory that does not exist, is empty, or was written by this package: it is replaced as a whole.
    target: by name, in any case, or with what is asked of it.
    pipeline: a key of `PIPELINES`.
    detection: what `detect` found in this model, which brings its settings; without it a sample of each weight is
        looked at.
    settings: of that look.
    rules: what holds for some weights instead, by patterns of their names in the source: `{"*.head.*": "dense"}`; the
        first that matches a weight holds. See `compress.rules` of params.yaml.
    progress: called with (`detect`, `compress` or `verify`; dense bytes done, dense bytes in all) on the way.
    executor: what looks at, writes and compares the weights, in the place of threads: processes, or Dask's workers on
        many machines (`Client.get_executor()`), that have these versions and see the files of the model and the folder
        of `out` at the same paths. The artefact is the same, whatever it is. It is not shut down.
    resume: whether to go on where a run into `out` was ended: each gigabyte of weights that it looked at, and shards
        that it wrote, are not done again, if the source and all that is asked are the same. Where this run ends with an
        error, the next one can go on.

    Raises:
        UsageError: no such target or pipeline; a rule is not understood, or matches no weight; `out` holds what this
            package has not written.
        CompressorError: the model cannot be read, a weight read back differs, the disk is full, or the executor or one
            of its workers has failed.
    """
    asked_for = _target(target)
    model = _whole(model, asked_for)
    # Every weight is compared with its source before anything is published, so a sample of each is enough to plan by;
    # where it missed a value, which the comparison shows, the weight is looked at as a whole.
    asked = _request(model, asked_for, pipeline, detection, settings, rules, progress, sampled=True)
    publish.check_directory(Path(out), (model.path, *model.stamps))
    with publish.directory(Path(out), resume=resume) as directory, unchanged(model.stamps):
        joined = nullcontext() if executor is None else workers.joined(executor, model.stamps, directory)
        with joined as others:
            kept = journal.begun(directory, partial(_state, model, asked))
            asked = replace(asked, run=None if others is None else others.stream, kept=kept)
            with kept.told() if resume else nullcontext():
                made = _settled(take(model, asked), asked, directory)
        kept.close()
        return made


def write_baseline(model: Model | Path | str, out: Path | str, *, target: str | Target = targets.DEFAULT) -> Model:
    """Writes the same model for the same target with every weight dense: what a compressed one is compared with.

    Returns the model as the target has it, by which a session of this one and of compressed ones can be opened.

    model: a file or folder with a graph that a source reads, or what one has read.
    out: a directory that does not exist, is empty, or was written by this package: it is replaced as a whole.
    target: by name, in any case, or with what is asked of it.

    Raises:
        UsageError: no such target, or `out` holds what this package has not written.
        CompressorError: the model cannot be read, or the disk is full.
    """
    chosen = _target(target)
    model = _whole(model, chosen)
    publish.check_directory(Path(out), (model.path, *model.stamps))
    with publish.directory(Path(out)) as directory, unchanged(model.stamps):
        fitted = chosen.fit(model, Request(chosen, UNCOMPRESSED, Settings()))
        choices = [describe.as_dense(weight) for weight in fitted.model.weights]
        work = Work(fitted, choices, directory, None)
        write_all(work, describe.written())
        if failed := finished(work.verify()):
            raise FailedError(failed)
    return fitted.model


def _request(
    model: Model,
    target: Target,
    pipeline: str,
    detection: Detection | None,
    settings: Settings,
    rules: Mapping[str, rules_.Asked],
    progress: Progress | None,
    *,
    sampled: bool = False,
) -> Request:
    settings = detection.settings if detection else settings
    chosen = rules_.resolved(rules, [weight.name for weight in model.weights], model.aliases)
    return Request(target, get_pipeline(pipeline, settings.threshold), settings, progress, detection, sampled, chosen)


def _state(model: Model, asked: Request) -> dict[str, Any]:
    """All that decides what is written of a model, as JSON."""
    return {
        "versions": versions(),
        "target": [asked.target.name, repr(getattr(asked.target, "options", ""))],
        "pipeline": [asked.pipeline.name, asked.pipeline.threshold],
        "settings": vars(asked.settings),
        "rules": repr(asked.rules),
        "detection": "" if asked.detection is None else asked.detection.to_json(),
        # Of what lies in memory nobody knows whether it is the same again.
        "source": {str(path): list(stamp) for path, stamp in model.stamps.items()} or secrets.token_hex(),
    }


def _settled(taken: Taken, asked: Request, directory: Path) -> Manifest:
    """Writes, reads back and compares; a form that fails costs its weight that form, and all is written again.

    It ends: each time some weight is looked at as a whole for the first time, or has a form less.
    """
    while True:
        chosen = planned(taken, asked)
        try:
            with publish.attempt(directory) as folder:
                return _written(taken.fitted, chosen, asked, folder)
        except FailedError as error:
            taken = mended(taken, chosen, error.failures, asked)


def _written(fitted: Fitted, chosen: Plan, asked: Request, directory: Path) -> Manifest:
    """Writes, reads back, compares; the runtime opens the files and their digests are computed meanwhile.

    Raises:
        FailedError: some weights cannot be stored so, or are not read back as they were.
    """
    target, model, kept = fitted.target, fitted.model, asked.kept
    abreast = 1 if asked.run is None else workers.ABREAST
    with ThreadPoolExecutor(3) as executor:
        digests = Digests(executor)
        # What workers elsewhere have written may be seen here only once a file is opened anew.
        meanwhile = digests if asked.run is None else None
        work = Work(fitted, chosen.choices, directory, asked.progress, asked.run or stream, abreast, meanwhile)
        done = write_all(work, describe.said(chosen), kept)
        source = put_source(model, target, chosen, directory, digests, sum(facts.nbytes for facts in done.values()))
        chosen, done = (chosen, done) if source is None else (source, {})
        files = executor.submit(describe.files, sorted(contents(directory)), directory, digests.found)
        # What was kept has been compared already, and is not here yet.
        opening = None if done else executor.submit(opened, model, target, directory)
        if not done and (failed := finished(replace(work, choices=chosen.choices).verify())):
            raise FailedError(failed)
        if kept is not None:
            kept.release(done, directory)
        notes = (*chosen.notes, *(opened(model, target, directory) if opening is None else opening.result()))
        made = describe.manifest(fitted, chosen, (*files.result(), *done.values()), notes)
        (directory / publish.MANIFEST).write_text(made.to_json(), encoding="utf-8", newline="\n")
    return made


def _target(target: str | Target) -> Target:
    return targets.get(target) if isinstance(target, str) else target


def _model(model: Model | Path | str) -> Model:
    return model if isinstance(model, Model) else sources.weights(Path(model))


def _whole(model: Model | Path | str, target: Target) -> Model:
    """A model with its graph, where the target needs it.

    Raises:
        CompressorError: the file holds weights alone, which detect, inspect and dry_run need no more of.
    """
    model = _model(model)
    if model.graph is None and target.needs_graph:
        raise CompressorError(f"{model.path}: holds weights without a graph; {_graph_of(model.path)}")
    return model


def _graph_of(path: Path) -> str:
    """How one comes by the graph of weights that have none."""
    if sources.exporter(path) is None:
        return (
            "export the model that they were made of, in the framework that trained it. `compressor detect`, "
            "`inspect`, `explain`, `diff` and `compress --dry-run` read them as they are."
        )
    return (
        f"first run `compressor export {path} DIRECTORY`, with export.factory in params.yaml for a state dict, or with "
        "transformers installed for its folders."
    )
