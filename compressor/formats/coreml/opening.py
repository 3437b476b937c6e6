"""Whether Core ML opens a package; elsewhere than on Apple's systems, whether Core ML Tools' loader does."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from compressor.errors import line
from compressor.formats.coreml.importing import coremltools


def refusal(path: Path) -> str:
    """Why the package at `path` is not opened, in the loader's words; empty if it is."""
    tools = coremltools()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of systems that cannot run it
            tools.models.MLModel(
                str(path), compute_units=tools.ComputeUnit.CPU_ONLY, skip_model_load=sys.platform != "darwin"
            )
    except Exception as error:  # noqa: BLE001 - a loader raises whatever it stumbles over
        return f"Core ML Tools {tools.__version__}: {line(error)}"
    return ""
