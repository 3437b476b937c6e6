"""From a traced torch module to a MIL program, by Core ML Tools' own torch frontend."""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.mil import Program

from compressor.arrays import NDArray
from compressor.errors import CompressorError
from compressor.targets.coreml import torch_operators
from compressor.targets.coreml.conversion import line, quiet
from compressor.targets.coreml.request import Input


def program(
    traced: Path, values: Mapping[str, NDArray], inputs: Sequence[Input], outputs: Sequence[str], version: Any
) -> Program:
    """The program of the TorchScript file `traced`, no pass run; a constant is called like its parameter.

    values: the weights by name, which the file has in shape alone. inputs: in the order of `forward`.
    outputs: the names of the results. version: a `coremltools.target`.

    Raises:
        CompressorError: the file cannot be read, or the frontend cannot translate it.
    """
    with quiet(), torch.no_grad(), torch_operators.known():
        try:
            module = torch.jit.load(str(traced))  # type: ignore[no-untyped-call]
            for name, tensor in module.state_dict(keep_vars=True).items():
                if name in values:
                    tensor.data = torch.from_numpy(np.asarray(values[name]))
            return ct.convert(
                module,
                convert_to="milinternal",
                inputs=[ct.TensorType(each.name, _shape(each), np.dtype(each.dtype)) for each in inputs],
                outputs=[ct.TensorType(name) for name in outputs],
                minimum_deployment_target=version,
                compute_precision=ct.precision.FLOAT32,  # else results become float16, whatever is asked for
                pass_pipeline=ct.PassPipeline.EMPTY,
            )
        except Exception as error:  # the frontend raises whatever it stumbles over
            raise CompressorError(f"Core ML Tools' torch frontend cannot translate the model: {line(error)}") from error


def _shape(declared: Input) -> tuple[Any, ...]:
    return tuple(ct.RangeDim(*size) if isinstance(size, tuple) else size for size in declared.shape)
