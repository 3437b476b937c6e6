"""compressor: a compiler for compressed weights.

It reads a fine-tuned model whose weights were pruned, palettized or quantized in training, finds out which weight is
what, and writes the smallest artefact that a deployment target can hold and that still has exactly those weights.

>>> import compressor
>>> compressor.PIPELINES["auto"].name
'auto'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.accounting.account import Account
    from compressor.accounting.explain import explain
    from compressor.compilation.compile import compress, detect, dry_run, write_baseline
    from compressor.compilation.describe import inspect
    from compressor.compilation.manifest import Manifest
    from compressor.compilation.pipelines import PIPELINES
    from compressor.compilation.plan import Plan
    from compressor.errors import CompressorError, UsageError
    from compressor.recognition.findings import Detection, Settings

__version__ = "0.1.0"

# Imported on first use: `compressor --help` and completion in a shell must not wait for numpy.
_HOMES = {
    "accounting.account": ("Account",),
    "accounting.explain": ("explain",),
    "compilation.compile": ("compress", "detect", "dry_run", "write_baseline"),
    "compilation.describe": ("inspect",),
    "recognition.findings": ("Detection", "Settings"),
    "errors": ("CompressorError", "UsageError"),
    "compilation.manifest": ("Manifest",),
    "compilation.pipelines": ("PIPELINES",),
    "compilation.plan": ("Plan",),
}

__all__ = [
    "PIPELINES",
    "Account",
    "CompressorError",
    "Detection",
    "Manifest",
    "Plan",
    "Settings",
    "UsageError",
    "__version__",
    "compress",
    "detect",
    "dry_run",
    "explain",
    "inspect",
    "write_baseline",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"compressor.{home}"), name)
    raise AttributeError(f"module 'compressor' has no attribute {name!r}")
