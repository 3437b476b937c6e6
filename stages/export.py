"""`compressor export`: from what a training wrote to one canonical graph, its weights as they were trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson, Overrides, ParamsFile, Strict


def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A state dict, a checkpoint, an exported program, a Hugging Face folder, or ONNX.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Where to write the graph.", show_default=False)],
    params: ParamsFile = None,
    settings: Overrides = None,
    *,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Write MODEL as one ONNX graph, its weights untouched.

    OUT_DIR is replaced as a whole. How a torch model is built and what it takes stands in params.yaml (export).

    Examples:
        compressor export models/finetuned.pt models/exported
        compressor export finetuned.pt out -S export.factory=src.model:create
        compressor export bert-sst2 models/exported -S export.opset=21
    """
    from compressor.compilation import publish

    from . import display, files, graph, text, toolchain
    from .given import Given
    from .params import ExportParams, load

    toolchain.check("export", params, strict=strict)
    own = load(ExportParams, Given(params, settings or ()))
    files.check_outputs(out, None, source, params)
    with publish.directory(out) as directory:
        graph.write(source, directory, own.export)
    written = {file.name: file.stat().st_size for file in sorted(out.iterdir())}
    if as_json:
        display.show_json({"path": str(out), "files": written})
    else:
        display.show(display.pairs("file", "bytes", [(name, text.size(count)) for name, count in written.items()]))
