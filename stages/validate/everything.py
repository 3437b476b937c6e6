"""All checks, in the order of the pipeline: each by the very functions that its stage calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from compressor import references
from compressor.compilation import publish
from compressor.errors import CompressorError, UsageError

from .. import params
from ..given import Given
from ..given import file as params_file
from . import measuring, model, stages
from .checks import Check, Checks


def checks(
    source: Path | None,
    given: Given,
    pipeline: stages.Pipeline | CompressorError | None,
    begun: Callable[[str], None],
) -> list[Check]:
    """What was found.

    source: the model; None where none is named. pipeline: of dvc.yaml, or what is wrong with that; None for none.
    begun: is told what is looked at now.
    """
    done = Checks(begun)
    try:
        own, wrong = params.sound(params.Settings, given)
    except UsageError as error:  # of the file itself
        done.add("params", "failed", str(error))
        return done.done
    _params(done, given, wrong)
    missing = _imports(done, own, wrong)
    with TemporaryDirectory(prefix="compressor-") as folder:
        if "export" in wrong or "export.factory" in missing:
            why = "the group export is wrong" if "export" in wrong else "the factory cannot be imported"
            graph = model.without_export(done, source, why)
        else:
            graph = model.check(done, source, own.export, Path(folder))
        made = pipeline.makes if isinstance(pipeline, stages.Pipeline) else lambda _: False
        measuring.check(done, own, {**wrong, **missing}, graph, Path(folder), made)
    _outputs(done, own, source, pipeline)
    return done.done


def _params(done: Checks, given: Given, wrong: Mapping[str, str]) -> None:
    with done.look("params") as told:
        if wrong:
            raise CompressorError("\n".join(wrong.values()))
        file = params_file(given.file)
        there = str(file) if file.is_file() else f"there is no {file}: the defaults"
        told.append("\n".join([there, *params.misspelt(params.Settings, given.file)]))


def _imports(done: Checks, own: params.Settings, wrong: Mapping[str, str]) -> Mapping[str, str]:
    """The settings whose functions cannot be imported, and why."""
    named: list[tuple[str, str | None]] = []
    if "export" not in wrong:
        named.append(("export.factory", own.export.factory))
    if "evaluate" not in wrong:
        named += [("evaluate.data", own.evaluate.data), ("evaluate.metric", own.evaluate.metric)]
    functions = [(setting, reference) for setting, reference in named if reference and ":" in reference]
    if not functions:
        done.add("imports", "skipped", "no setting names a function")
        return {}
    missing = {}
    with done.look("imports") as told:
        for setting, reference in functions:
            try:
                references.load(reference, setting)
                told.append(reference)
            except CompressorError as error:
                missing[setting] = str(error)
        if missing:
            raise CompressorError("\n".join(missing.values()))
    return missing


def _outputs(
    done: Checks, own: params.Settings, source: Path | None, pipeline: stages.Pipeline | CompressorError | None
) -> None:
    """That what the stages write may be written where dvc.yaml has it."""
    from compressor import sources

    if isinstance(pipeline, CompressorError):
        done.add("outputs", "failed", str(pipeline))
        return
    if pipeline is None or not (pipeline.folders or pipeline.files):
        done.add("outputs", "skipped", "there is no dvc.yaml here with stages of compressor")
        return
    targets = own.targets or (own.target,)
    with done.look("outputs") as told:
        read = [source, *sources.files(source)] if source is not None and source.exists() else []
        folders, files = (
            [path for text in texts for path in pipeline.expanded(text, targets)]
            for texts in (pipeline.folders, pipeline.files)
        )
        for folder in folders:
            publish.check_directory(folder, read)
            publish.check_writable(folder)
        publish.check_files(files, read)
        told.append(f"{len(folders) + len(files)} of dvc.yaml may be written")
