"""The options that commands share.

What stands for a value has one spelling in every help: MODEL and ARTEFACT are read, OUT_DIR is written as a whole,
other paths are FILE and DIR, a name from a list is NAME, a revision REV, module:function MODULE:FUNCTION, text TEXT, a
count N, another number AMOUNT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion

ParamsFile = Annotated[
    Path | None,
    typer.Option(
        "--params",
        metavar="FILE",
        help="Settings; without it compressor.yaml or params.yaml here.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-S",
        metavar="KEY=VALUE",
        help="Override a setting; the value is YAML. Repeatable.",
        show_default=False,
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Fail if versions differ from those in compression/toolchain.json.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
ModelPath = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", show_default=False, help="An exported directory, a model file, or a Hugging Face folder."
    ),
]
Plots = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write rows for dvc plots to this .csv or .json.", show_default=False),
]
TargetName = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="A name from compressor targets.",
        show_default=False,
        autocompletion=completion.targets,
    ),
]
