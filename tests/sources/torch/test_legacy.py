"""What torch is about to drop is imported only where a file needs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.ao.nn.quantized as nnq
from torch import nn

EXPORT = """
import builtins, sys
from pathlib import Path

import torch
from torch import nn


def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def quantized():
    import torch.ao.nn.quantized as nnq

    return nn.Sequential(nnq.Quantize(0.1, 0, torch.quint8), nnq.Conv2d(3, 4, 3), nnq.DeQuantize())


def refusing(name, globals=None, *rest, real=builtins.__import__):
    # torch imports torch.ao itself: only this package must do without.
    if (globals or {}).get("__name__", "").startswith("compressor.") and name.startswith("torch.ao"):
        raise ModuleNotFoundError(name, name=name)
    return real(name, globals, *rest)


if __name__ == "__main__":
    builtins.__import__ = refusing
    from compressor.errors import CompressorError
    from compressor.sources import InputSpec
    from compressor.sources.torch import export

    inputs = {"input": InputSpec((1, 3, 8, 8))}
    try:
        export(Path("model.pt"), Path("."), factory=f"exporting:{sys.argv[1]}", inputs=inputs)
    except CompressorError as error:
        print(error)
    else:
        print(*(name for name in sys.modules if name.startswith("compressor.sources.torch.legacy")))
"""


def convolution(kind: str) -> nn.Module:
    if kind == "quantized":
        return nn.Sequential(nnq.Quantize(0.1, 0, torch.quint8), nnq.Conv2d(3, 4, 3), nnq.DeQuantize())
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("plain", r"\n"),
        (
            "quantized",
            r"model\.pt: holds what torch\.ao\.\S+ makes, which torch \S+ does not have\. Install an older.*\n",
        ),
    ],
)
def test_only_a_file_that_needs_it_imports_it(tmp_path: Path, kind: str, says: str) -> None:
    (tmp_path / "exporting.py").write_text(EXPORT)
    torch.save(convolution(kind).state_dict(), tmp_path / "model.pt")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "exporting.py", kind], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(says, done.stdout)
    assert (tmp_path / "model.onnx").exists() == (kind == "plain")
