"""What the peer's passes take on the same weights: a conversion with the pass minus one without it."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

NDArray = npt.NDArray[Any]

PIPELINES = {"palettized": "DEFAULT_PALETTIZATION", "pruned": "DEFAULT_PRUNING"}


def seconds(kind: str, weights: list[NDArray]) -> float:
    """The CPU seconds that Core ML Tools' pass for `kind` (`palettized` or `pruned`) adds to a conversion.

    The weights are the constants of linear layers in a MIL program, converted to an `mlprogram` for iOS17.

    Raises:
        RuntimeError: the pass left a weight dense, so its time says nothing.
    """
    warnings.simplefilter("ignore")
    import coremltools as ct

    _conversion(weights[:1], ct.PassPipeline.DEFAULT)  # imports what conversions need
    without, _ = _conversion(weights, ct.PassPipeline.DEFAULT)
    passed, compressed = _conversion(weights, getattr(ct.PassPipeline, PIPELINES[kind]))
    if compressed != len(weights):
        raise RuntimeError(f"Core ML Tools compressed {compressed} of {len(weights)} weights")
    return passed - without


def _conversion(weights: list[NDArray], pipeline: Any) -> tuple[float, int]:
    """Seconds of the processors, and how many weights came out compressed."""
    import coremltools as ct
    from coremltools.converters.mil import Builder

    @Builder.program(  # type: ignore[untyped-decorator]
        input_specs=[Builder.TensorSpec((1, weights[0].shape[0]))], opset_version=ct.target.iOS17
    )
    def program(x: Any) -> Any:
        for weight in weights:
            bias = np.zeros(weight.shape[1], np.float32)
            x = Builder.linear(x=x, weight=np.ascontiguousarray(weight.T), bias=bias)
        return x

    started = time.process_time()
    model = ct.convert(
        program,
        source="milinternal",
        convert_to="mlprogram",
        pass_pipeline=pipeline,
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
    )
    taken = time.process_time() - started
    (block,) = model.get_spec().mlProgram.functions["main"].block_specializations.values()
    return taken, sum(operation.type.startswith("constexpr_") for operation in block.operations)
