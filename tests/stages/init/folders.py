"""What the folders of the fixture hold."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

TRAINING = "stages:\n  train:\n    cmd: python train.py\n    outs:\n      - net.onnx\n"  # as the fixture has it
SIZES_ONLY = ("--data", "none")


def values(path: str = "dvc.yaml") -> Any:
    return YAML(typ="safe").load(Path(path).read_text(encoding="utf-8"))


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".git/" not in path.as_posix())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
