"""What torch is about to drop is imported only where a file needs it."""

from __future__ import annotations

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


def imported(name, globals=None, *rest, real=builtins.__import__):
    # torch imports torch.ao itself: only this package must not.
    if (globals or {}).get("__name__", "").startswith("compressor.") and name.startswith("torch.ao"):
        ours.append(name)
    return real(name, globals, *rest)


ours = []
builtins.__import__ = imported
from compressor.sources import InputSpec
from compressor.sources.torch import export

export(Path(sys.argv[1]), Path("."), factory=f"exporting:{sys.argv[2]}", inputs={"input": InputSpec((1, 3, 8, 8))})
ours += [name for name in sys.modules if name.startswith("compressor.sources.torch.legacy")]
print(*ours)
"""


def convolution(kind: str) -> nn.Module:
    if kind == "quantized":
        return nn.Sequential(nnq.Quantize(0.1, 0, torch.quint8), nnq.Conv2d(3, 4, 3), nnq.DeQuantize())
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("kind", "module"),
    [("plain", ""), ("quantized", "compressor.sources.torch.legacy.lower")],
)
def test_only_a_file_that_needs_it_imports_it(tmp_path: Path, kind: str, module: str) -> None:
    (tmp_path / "exporting.py").write_text(EXPORT)
    torch.save(convolution(kind).state_dict(), tmp_path / "model.pt")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "exporting.py", "model.pt", kind],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "model.onnx").exists()
    imported = done.stdout.split()
    assert module in imported if module else not imported
