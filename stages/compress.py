"""`compressor compress`: the smallest artefact with exactly these weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressor.stages.options import AsJson, ModelPath, Overrides, ParamsFile, Plots, Strict

if TYPE_CHECKING:
    from compressor.detection import Detection
    from compressor.plan import Plan


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
    from compressor import publish
    from compressor.detection import Settings
    from compressor.errors import UsageError
    from compressor.stages import files, graph, progress, report, toolchain
    from compressor.stages.params import CompressAlone, CompressParams, Given, core_settings, load

    if dry_run and plots is not None:
        raise UsageError("--dry-run writes nothing: leave --plots out.")
    toolchain.check("compress", params, strict=strict)
    files.check_rows(plots)
    publish.check_directory(out, model)
    given = Given(params, settings or (), {"target": target, "compress.pipeline": pipeline})
    alone = load(CompressAlone, given) if detection is None or graph.needs_export(model) else None
    own = alone or load(CompressParams, given)
    found = None if detection is None else read_detection(detection)
    held = core_settings(alone.detect) if alone else Settings()
    export = alone.export if alone and graph.needs_export(model) else None
    name, by = own.target, own.compress.pipeline
    with graph.exported(model, export) as path, progress.shown() as shown:
        if dry_run:
            planned = compressor.dry_run(path, target=name, pipeline=by, detection=found, settings=held, progress=shown)
        else:
            made = compressor.compress(
                path, out, target=name, pipeline=by, detection=found, settings=held, progress=shown
            )
    if dry_run:
        report.show_json(plan_document(planned)) if as_json else report.show(report.plan(planned))
        return
    if plots is not None:
        files.write_rows(plots, report.bytes_rows(made.weights), report.BYTES_COLUMNS)
    report.show_json(made.to_json()) if as_json else report.show(report.manifest(made, refusals=verbose))


def read_detection(path: Path) -> Detection:
    """What `compressor detect` wrote to `path`.

    Raises:
        CompressorError: the file cannot be read, or holds something else.
    """
    from compressor.detection import Detection
    from compressor.errors import CompressorError
    from compressor.stages import files

    text = files.read_text(path)
    try:
        return Detection.from_json(text)
    except CompressorError as error:
        raise CompressorError(f"{path}: {error}") from error


def plan_document(planned: Plan) -> dict[str, object]:
    """A plan in the words of `manifest.json`."""
    from compressor.stages import report

    return {
        "target": planned.target,
        "pipeline": planned.pipeline,
        "weights_nbytes": planned.nbytes,
        "weights_dense_nbytes": planned.dense_nbytes,
        "weights": [dataclasses.asdict(weight) for weight in report.facts(planned)],
    }
