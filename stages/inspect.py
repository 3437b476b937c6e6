"""`compressor inspect`: what an artefact holds, by its own bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson


def inspect(
    artefact: Annotated[
        Path, typer.Argument(metavar="ARTEFACT", help="A directory, or a model file.", show_default=False)
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Print what ARTEFACT holds, read from the model itself.

    Examples:
        compressor inspect models/compressed
        compressor inspect model.onnx --json
    """
    import compressor

    from . import display

    found = compressor.inspect(artefact)
    display.show_json(found.to_json()) if as_json else display.show(display.manifest(found))
