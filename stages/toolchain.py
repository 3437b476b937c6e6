"""`compressor toolchain`: the versions of the packages that shape an artefact, so that DVC reruns what they change."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from compressor.errors import CompressorError

from .options import AsJson
from .text import visible

FILE = Path("compression/toolchain.json")

ABSENT = "none"
"""In place of the version of a package that is not installed: DVC refuses to run a stage whose parameter is missing."""


def toolchain(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the versions to this .json.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Print the versions of the packages that shape results.

    Examples:
        compressor toolchain
        compressor toolchain --out compression/toolchain.json
    """
    from compressor.compilation import publish

    from . import display, files

    files.check_json(out)
    versions = installed()
    text = json.dumps(versions, indent=2) + "\n"
    if out is not None:
        publish.text(out, text)
    if as_json:
        display.show_json(text)
    else:
        display.show(display.pairs("package", "version", versions.items()))


def used_by() -> Mapping[str, frozenset[str]]:
    """The packages that change what a stage writes: the keys of the file that it lists under `params` in dvc.yaml."""
    from compressor import sources, targets
    from compressor.compilation.versions import EVERYWHERE
    from compressor.recognition import schemes

    stages = {
        "export": sources.packages(),
        "detect": schemes.packages(),
        "compress": targets.packages() | schemes.packages(),
        "evaluate": targets.packages() | {"scikit-learn"},
    }
    return {stage: packages | EVERYWHERE for stage, packages in stages.items()}


def installed() -> dict[str, str]:
    """The version of every package that a stage uses."""
    return {package: _version(package) for package in sorted(frozenset[str]().union(*used_by().values()))}


def check(stage: str, params: Path | None, *, strict: bool) -> None:
    """Compare what is installed with `compression/toolchain.json` in the folder of the params file, if it is there.

    A difference is a warning on stderr: the pipeline recorded other versions than those that now run.

    Raises:
        CompressorError: there is one, and `strict` is set; the file is damaged.
    """
    path = (params.parent if params is not None else Path()) / FILE
    if not path.is_file():
        return
    used = used_by()[stage]
    differences = [
        f"{package} {recorded} is recorded, {_version(package)} is installed"
        for package, recorded in _recorded(path).items()
        if package in used and recorded != _version(package)
    ]
    if not differences:
        return
    message = f"{path}: {'; '.join(differences)}. Run `dvc repro`, or install the recorded versions."
    if strict:
        raise CompressorError(message)
    print(f"warning: {visible(message)}", file=sys.stderr)


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ABSENT


def _recorded(path: Path) -> dict[str, object]:
    from . import files

    try:
        content = json.loads(files.read_text(path))
    except (ValueError, RecursionError) as error:
        raise CompressorError(f"{path}: not valid JSON: {error}. Run `compressor toolchain --out {path}`.") from error
    if not isinstance(content, dict):
        raise CompressorError(f"{path}: expected package: version, got a {type(content).__name__}.")
    return content
