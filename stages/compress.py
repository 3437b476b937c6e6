"""`compressor compress`: the smallest artefact with exactly these weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import AsJson, ModelPath, Overrides, ParamsFile, Plots, Strict

if TYPE_CHECKING:
    from compressor.compilation.plan import Plan
    from compressor.recognition.findings import Detection, Settings
    from compressor.targets import Target

    from .groups import Export
    from .params import Given


def compress(
    model: ModelPath,
    out: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Where to write the artefact.", show_default=False)],
    target: Annotated[str | None, typer.Option(help="A name from compressor targets.", show_default=False)] = None,
    pipeline: Annotated[
        str | None, typer.Option(help="auto, default_pruning, default_palettization, ...", show_default=False)
    ] = None,
    detection: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What compressor detect found.", show_default=False)
    ] = None,
    plots: Plots = None,
    params: ParamsFile = None,
    settings: Overrides = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with every refusal; write nothing.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also print what was refused, and why.")] = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Write MODEL in its smallest exact form.

    Each weight gets the smallest form that the target can hold and that has exactly its values. Without --detection the
    model is looked at first. OUT_DIR is replaced as a whole, once what was written has been read back and compared.
    """
    import compressor
    from compressor.compilation import publish
    from compressor.errors import UsageError

    from . import files, graph, progress, report, toolchain
    from .params import Given

    if dry_run and plots is not None:
        raise UsageError("--dry-run writes nothing: leave --plots out.")
    toolchain.check("compress", params, strict=strict)
    files.check_rows(plots)
    publish.check_directory(out, [model])
    asked = _asked(model, detection, Given(params, settings or (), {"target": target, "compress.pipeline": pipeline}))
    read = files.read_by(model, params, detection)
    publish.check_directory(out, read)
    publish.check_files([plots], read)
    export = graph.for_weights(model, asked.export) if dry_run else asked.export
    with graph.exported(model, export) as path, progress.shown() as shown:
        if dry_run:
            planned = compressor.dry_run(path, **asked.arguments(), progress=shown)
        else:
            made = compressor.compress(path, out, **asked.arguments(), progress=shown)
    if dry_run:
        report.show_json(plan_document(planned)) if as_json else report.show(report.plan(planned))
        return
    if plots is not None:
        files.write_rows(plots, report.bytes_rows(made.weights), report.BYTES_COLUMNS)
    if as_json:
        report.show_json(made.to_json())
    else:
        report.show(report.manifest(made, refusals=verbose, threshold=asked.threshold))


@dataclass(frozen=True)
class _Asked:
    """What the core is asked for.

    target: with what is asked of it.
    pipeline: by name.
    detection: what a stage before has found, if there was one.
    settings: of a detection that is made now.
    export: how the model is exported before; None for one that has a graph.
    """

    target: Target
    pipeline: str
    detection: Detection | None
    settings: Settings
    export: Export | None

    @property
    def threshold(self) -> float:
        """The magnitude up to which values counted as zero."""
        from compressor.compilation.pipelines import get

        return get(self.pipeline, (self.detection.settings if self.detection else self.settings).threshold).threshold

    def arguments(self) -> dict[str, Any]:
        """What `compressor.compress` and `compressor.dry_run` take."""
        return {name: getattr(self, name) for name in ("target", "pipeline", "detection", "settings")}


def _asked(model: Path, detection: Path | None, given: Given) -> _Asked:
    """What the settings and the options ask for; groups that this run does not need are not read."""
    from compressor.recognition.findings import Settings

    from . import graph
    from .params import CompressAlone, CompressParams, core_settings, load, target

    exports = graph.needs_export(model)
    alone = load(CompressAlone, given) if detection is None or exports else None
    own = alone or load(CompressParams, given)
    return _Asked(
        target(own),
        own.compress.pipeline,
        None if detection is None else read_detection(detection),
        core_settings(alone.detect) if alone else Settings(),
        alone.export if alone and exports else None,
    )


def read_detection(path: Path) -> Detection:
    """What `compressor detect` wrote to `path`.

    Raises:
        CompressorError: the file cannot be read, or holds something else.
    """
    from compressor.errors import CompressorError
    from compressor.recognition.findings import Detection

    from . import files

    text = files.read_text(path)
    try:
        return Detection.from_json(text)
    except CompressorError as error:
        raise CompressorError(f"{path}: {error}") from error


def plan_document(planned: Plan) -> dict[str, object]:
    """A plan in the words of `manifest.json`."""
    return {
        "target": planned.target,
        "pipeline": planned.pipeline,
        "weights_nbytes": planned.nbytes,
        "weights_dense_nbytes": planned.dense_nbytes,
        "notes": list(planned.notes),
        "weights": [dataclasses.asdict(choice.facts) for choice in planned.choices],
    }
