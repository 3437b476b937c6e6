"""`compressor detect`: what each weight is, and the evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson, ModelPath, Overrides, ParamsFile, Plots, Strict

Findings = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the findings to this .json.", show_default=False)
]


def detect(
    model: ModelPath,
    out: Findings = None,
    plots: Plots = None,
    params: ParamsFile = None,
    settings: Overrides = None,
    *,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Find out what each weight of MODEL is.

    Pruned, palettized, quantized, or a combination of these, with the evidence and what it almost is.

    Examples:
        compressor detect model.onnx
        compressor detect models/exported --out compression/detection.json
        compressor detect llama-awq    # a Hugging Face folder, without torch
    """
    import compressor
    from compressor import targets
    from compressor.compilation import pipelines, publish
    from compressor.compilation.plan import plan

    from . import display, files, graph, progress, toolchain
    from .given import Given
    from .params import DetectAlone, DetectParams, core_settings, load

    toolchain.check("detect", params, strict=strict)
    files.check_json(out)
    files.check_rows(plots)
    given = Given(params, settings or ())
    alone = load(DetectAlone, given) if graph.needs_export(model) else None
    own = alone or load(DetectParams, given)
    export = graph.for_weights(model, alone.export if alone else None)
    publish.check_files([out, plots], files.read_by(model, params))
    with graph.exported(model, export) as path, progress.shown() as shown:
        found = compressor.detect(path, core_settings(own.detect), progress=shown)
    text = found.to_json()
    if out is not None:
        publish.text(out, text)
    if plots is not None:
        files.write_rows(plots, display.sparsity_rows(found), display.SPARSITY_COLUMNS)
    planned = plan(found.findings, targets.get(targets.DEFAULT), pipelines.get("auto", found.settings.threshold))
    display.show_json(text) if as_json else display.show(display.detection(found, planned))
