"""The module as torch itself traces it, without its weights: what Core ML Tools' own torch frontend reads."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module

from compressor.sources import InputSpec
from compressor.sources.torch.trace import example_inputs


def write(model: Module, inputs: Mapping[str, InputSpec], stored: Collection[str], path: Path) -> None:
    """Trace `model` into the TorchScript file `path`; nothing is written for one that cannot be traced.

    stored: the tensors that the graph beside it holds. They keep their shapes and lose their values, for good.
    """
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in stored and isinstance(tensor, torch.Tensor) and not tensor.is_quantized:
            tensor.data = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
    # Of the very sizes that are declared, since what Python computes from them becomes constant.
    examples = {
        name: tensor[tuple(slice(size) for size in inputs[name].shape)]
        for name, tensor in example_inputs(inputs).items()
    }
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # a single operator for a layer, which nobody else knows
        trace: Any = torch.jit.trace
        torch.jit.save(trace(model, example_kwarg_inputs=examples, strict=False, check_trace=False), path)
    except Exception:  # noqa: BLE001 - any code may fail under the tracer, and the graph is there all the same
        path.unlink(missing_ok=True)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
