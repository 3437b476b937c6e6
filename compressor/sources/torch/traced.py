"""The module as torch itself traces it, without its weights: what Core ML Tools' own torch frontend reads."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.nn import Module
from torch.utils._pytree import tree_leaves

from compressor.sources import InputSpec
from compressor.sources.onnx import TRACED
from compressor.sources.torch.trace import example_inputs, first_line

PROGRAM = "torch.jit traces modules, and this is an ExportedProgram"
"""Why there is no trace of one."""
OTHERS = (3, 32)
"""By how much a size differs when a trace is compared with its module: no usual size is a multiple of sums with the
first; a network that halves its input some times takes the second."""


def trace(model: Module | ExportedProgram, inputs: Mapping[str, InputSpec]) -> tuple[Any, str]:
    """`model` as a TorchScript module that returns the flattened outputs; None and the reason where there is none."""
    return _traced(model, inputs) if isinstance(model, Module) else (None, PROGRAM)


def write(made: Any, model: Module, held: Collection[str], directory: Path) -> None:
    """Write what `model` was traced to. The tensors that are `held` elsewhere keep their shape, not their values."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in held and isinstance(tensor, torch.Tensor) and not tensor.is_quantized:
            tensor.data = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
    with TemporaryDirectory(dir=directory) as folder:
        whole = Path(folder, TRACED)
        torch.jit.save(made, whole)
        _strip(whole, directory / TRACED)


def _strip(whole: Path, bare: Path) -> None:
    """The archive of a program without where on this machine its code lay, and a number that comes of that."""
    with zipfile.ZipFile(whole) as read, zipfile.ZipFile(bare, "w") as written:
        for entry in read.infolist():
            if not entry.filename.endswith((".debug_pkl", "/.data/serialization_id")):
                written.writestr(zipfile.ZipInfo(entry.filename), read.read(entry))  # dated as all such entries are


def _traced(model: Module, inputs: Mapping[str, InputSpec]) -> tuple[Any, str]:
    """What Python computes from sizes becomes constant in a trace, so it must compute what the model does where axes
    that are dynamic have other sizes.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    flattening = model.register_forward_hook(lambda *called: tuple(_tensors(called[2])))
    traced: Any = torch.jit.trace
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # a single operator for a layer, which nobody else knows
        made = traced(model, example_kwarg_inputs=_examples(inputs), strict=False, check_trace=False)
        reason = _difference(model, made, inputs)
    except Exception as error:  # noqa: BLE001 - any code may fail under the tracer, and the graph is there all the same
        return None, f"torch.jit cannot trace the module ({first_line(error)})"
    finally:
        flattening.remove()
        torch.backends.mha.set_fastpath_enabled(fast)
    return (None if reason else made), reason


def _examples(inputs: Mapping[str, InputSpec], more: int = 0) -> dict[str, torch.Tensor]:
    """Inputs of the very sizes that are declared, dynamic axes with so many more."""
    larger = {
        name: replace(spec, shape=tuple(size + more * (axis in spec.dynamic) for axis, size in enumerate(spec.shape)))
        for name, spec in inputs.items()
    }
    return {
        name: tensor[tuple(slice(size) for size in larger[name].shape)]
        for name, tensor in example_inputs(larger).items()
    }


def _difference(model: Module, made: Any, inputs: Mapping[str, InputSpec]) -> str:
    """Why the trace is not the model at other sizes of the axes that are dynamic; empty where it is."""
    if not any(spec.dynamic for spec in inputs.values()):
        return ""
    what = "torch.jit makes sizes of axes that are dynamic constant"
    given, expected = _elsewhere(model, inputs)
    try:
        found = made(**given)
    except RuntimeError:
        return what
    same = all(
        one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)
        for one, other in zip(expected, found, strict=True)
    )
    return "" if same else what


def _elsewhere(model: Module, inputs: Mapping[str, InputSpec]) -> tuple[dict[str, torch.Tensor], Any]:
    """Inputs of other sizes that the model takes, and what it makes of them. Raises what it raises if it takes none."""
    *some, last = (_examples(inputs, more) for more in OTHERS)
    for given in some:
        with suppress(Exception):
            return given, model(**given)
    return last, model(**last)


def _tensors(returned: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(returned) if isinstance(leaf, torch.Tensor)]
