"""From a graph to a program and its slots, by the frontend that keeps the most weights whole.

graph --frontend--> program, its moves noted --fold--> slots
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from compressor.arrays import NDArray
from compressor.errors import CompressorError
from compressor.model import UNTRACED, Model
from compressor.targets.coreml import conversion, origins, slots
from compressor.targets.coreml.maps import held, keeping
from compressor.targets.coreml.request import Request
from compressor.targets.coreml.slots import Slot
from compressor.weight import Copy


@dataclass(frozen=True, eq=False)
class Translated:
    """A program and the weights that it has.

    notes: what there is to say, by what it is about. lost: how many weights of the model it has not as such.
    instead: why it is not of the graph that comes first.
    """

    program: Any
    slots: Sequence[Slot]
    notes: Mapping[str, str]
    lost: int
    instead: str = ""


def translated(model: Model, request: Request) -> Translated:
    """The program of torch's own graph, the shorter way, unless the ONNX graph gives a better one.

    That is where torch's graph is not known or cannot be translated, and where its frontend takes more weights apart:
    their codes would not be found again.

    Raises:
        CompressorError: there is no program, and why not by either way.
    """
    conversion.forget()
    values = {weight.name: held(weight.encoding) for weight in model.weights}
    by_torch = _by_torch(model, request, values)
    if isinstance(by_torch, Translated) and not by_torch.lost:
        return by_torch
    try:
        by_onnx = _by_onnx(model, request, values)
    except CompressorError as error:
        if isinstance(by_torch, Translated):
            return by_torch
        raise CompressorError(f"{by_torch}; {error}" if by_torch else str(error)) from error
    if isinstance(by_torch, Translated):
        if by_torch.lost <= by_onnx.lost:
            return by_torch
        by_torch = f"Core ML Tools' torch frontend takes {by_torch.lost} weights apart"
    return replace(by_onnx, instead=f"Converted from the ONNX graph: {by_torch}." if by_torch else "")


def _by_torch(model: Model, request: Request, values: Mapping[str, NDArray]) -> Translated | str:
    """By Core ML Tools' torch frontend; or why not, which is nothing for a model that torch has not made."""
    if model.traced is None:
        return model.metadata.get(UNTRACED, "")
    from compressor.targets.coreml import torch

    assert model.onnx is not None
    outputs = [one.name for one in model.onnx.graph.output]
    copies = {name: copy(values[copy.weight]) for name, copy in model.copies.items()}  # the module has both
    try:
        made = torch.program(model.traced, {**values, **copies}, request.inputs, outputs, conversion.target(request))
        return _found(made, {}, values, model.copies)
    except CompressorError as error:
        return str(error)


def _by_onnx(model: Model, request: Request, values: Mapping[str, NDArray]) -> Translated:
    from compressor.targets.coreml import mil

    assert model.onnx is not None
    made = mil.program(model.onnx, model.path.parent, values, request.inputs, conversion.target(request))
    return _found(*made, values)


def _found(
    program: Any,
    notes: Mapping[str, str],
    values: Mapping[str, NDArray],
    copies: Mapping[str, Copy] = MappingProxyType({}),
) -> Translated:
    shapes = {name: array.shape for name, array in values.items()}
    known = origins.traced(program, {**shapes, **{name: copy.shape for name, copy in copies.items()}})
    known = origins.of_copies(known, copies, shapes)
    with conversion.quiet():
        slots.fold(program)
    found = slots.find(program, known, keeping(values.values()))
    whole = {slot.origin.weight for slot in found if slot.origin is not None}
    lost = sum(array.size >= slots.FEWEST_ELSEWHERE for name, array in values.items() if name not in whole)
    return Translated(program, found, notes, lost)
