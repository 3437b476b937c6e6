"""What Core ML Tools makes of a module by itself: packages of its own pipelines, and of what a training declares."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.optimize.torch._utils.metadata_utils import CompressionMetadata, register_metadata_version
from torch import nn

from compressor.sources import InputSpec
from compressor.targets.coreml.conversion import quiet

DECLARED = "declared"
PIPELINES = ("DEFAULT", "DEFAULT_PALETTIZATION", "DEFAULT_PRUNING", DECLARED)
"""Its pipelines, and the default one for a module that says what its training did."""


def packages(
    module: nn.Module,
    declared: Mapping[str, Mapping[str, Any]],
    inputs: Mapping[str, InputSpec],
    target: str,
    folder: Path,
) -> Iterator[tuple[str, Path]]:
    """The package of each pipeline that does not fail."""
    for pipeline in PIPELINES:
        path = folder / f"{target}-{pipeline}.mlpackage"
        said = _declaring(module, declared, target) if pipeline == DECLARED else module
        trace = traced(said, inputs)
        with suppress(Exception):  # it raises whatever its passes stumble over; its other packages are left
            convert(trace, inputs, target, "DEFAULT" if pipeline == DECLARED else pipeline, path)
            yield pipeline, path


def traced(module: nn.Module, inputs: Mapping[str, InputSpec]) -> Any:
    examples = tuple(torch.zeros(*each.shape, dtype=getattr(torch, each.dtype)) for each in inputs.values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module, examples, check_trace=False)


def convert(trace: Any, inputs: Mapping[str, InputSpec], target: str, pipeline: str, path: Path) -> None:
    """Convert a traced module, and save it."""
    with quiet():
        ct.convert(
            trace,
            inputs=[ct.TensorType(name, each.shape, np.dtype(each.dtype)) for name, each in inputs.items()],
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, target),
            pass_pipeline=getattr(ct.PassPipeline, pipeline),
            skip_model_load=True,
        ).save(str(path))


def _declaring(module: nn.Module, declared: Mapping[str, Mapping[str, Any]], target: str) -> nn.Module:
    """A copy with the metadata that its conversion for the target can use.

    It fails for every weight of an LSTM, and before iOS18 for palettes of groups and for joint forms: what was done
    first is left of those, since a palette alone would replace the zeros by its smallest entries.
    """
    module = copy.deepcopy(module)
    register_metadata_version(module)
    for name, fields in declared.items():
        owner_name, _, parameter = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        types, lut = fields.get("compression_type", []), fields.get("lut")
        if target != "iOS18":
            types = [] if lut is not None and len(lut) > 1 else types[:1]
        if types and not isinstance(owner, nn.LSTM):
            CompressionMetadata(parameter, **{**fields, "compression_type": types}).register(owner)
    return module
