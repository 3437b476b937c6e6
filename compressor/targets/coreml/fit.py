"""From a graph to a skeleton and its weights: frontend, constant folding, batch norms, passes.

graph --frontend--> program --fold--> slots --batch norms--> slots with factors --stubs, passes--> skeleton
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from tempfile import TemporaryFile, gettempdir
from typing import Any

import numpy as np

from compressor.arrays import DType, NDArray
from compressor.encodings import Dense, Encoding, Sparse, decode, nbytes
from compressor.errors import CompressorError
from compressor.formats.coreml.skeleton import Skeleton, rename
from compressor.formats.onnx.dtypes import DTYPES
from compressor.model import UNTRACED, Model
from compressor.recognition.recovery import recovered
from compressor.recognition.schemes import linear_quantize
from compressor.targets import Asked
from compressor.targets.coreml import batch_norm, conversion, origins, slots
from compressor.targets.coreml.request import Request
from compressor.targets.coreml.rounding import as_codes, rounded
from compressor.targets.coreml.session import FOLDED
from compressor.targets.coreml.sharing import share
from compressor.targets.coreml.slots import Slot
from compressor.weight import Weight

LARGEST = float(np.finfo(np.float16).max)

PARAMETERS = 4
"""A batch norm has so many numbers a channel."""

SPILLED = 1 << 20
"""Decoded values of so many bytes lie in a file while a program has them."""

ACTIVATIONS = "activations"
"""The key of what a frontend says about the quantization of all activations."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model as a version of Core ML has it.

    skeleton: without the weights. weights: in its order, rounded to the precision that the program has them in.
    notes: what there is to say of the model as a whole.
    """

    skeleton: Skeleton
    weights: tuple[Weight, ...]
    notes: tuple[str, ...]


def fit(model: Model, request: Request, asked: Asked) -> Prepared:
    """The model as it is asked for.

    Raises:
        CompressorError: Core ML does not have what the model consists of.
    """
    to = np.dtype(request.precision)
    if linear_quantize.NAME in asked.schemes:  # rounded values show no grid: codes are found before
        weights = [recovered(weight, asked.settings, to) for weight in model.weights]
        model = replace(model, weights=weights)
    sources = {weight.name: weight.encoding for weight in model.weights}
    found = _slotted(model, request, partial(_why_not_fold, sources, to, asked))
    wide = frozenset(place for place, slot in enumerate(found.slots) if to == np.float16 and _is_too_large(slot))
    proto, constants = conversion.convert(found.program, found.slots, wide, request)
    names = tuple(slot.name for slot in found.slots)
    rename(proto, names)
    if folded := [slot.name for slot in found.slots if slot.factor is not None]:
        proto.description.metadata.userDefined[FOLDED] = json.dumps(folded, separators=(",", ":"))
    skeleton = Skeleton(proto, names, constants)
    reasons = {found.slots[place].name: f"a value beyond {LARGEST:g}" for place in wide}
    kept = {
        name: f"{reasons.get(name, 'what reads it takes no float16')}: {spec.dtype}"
        for name, spec in skeleton.specs().items()
        if spec.dtype != to
    }
    return _prepared(skeleton, found, model, request, kept)


@dataclass(frozen=True, eq=False)
class _Slotted:
    """A program, its weights, what to say about some of them, and why it is not of the graph that comes first."""

    program: Any
    slots: Sequence[Slot]
    notes: Mapping[str, str]
    instead: str = ""


def _slotted(model: Model, request: Request, why_not: Callable[[Slot, NDArray], str]) -> _Slotted:
    """The program with its constants and batch norms folded; `why_not` is the reason to keep a batch norm."""
    conversion.forget()
    made = _translated(model, request)
    found, kept = batch_norm.fold(made.program, share(made.slots), why_not)
    return replace(made, slots=found, notes={**made.notes, **kept})


def _translated(model: Model, request: Request) -> _Slotted:
    """The program of torch's own graph, if there is one that can be translated, else that of the ONNX graph.

    The ONNX graph comes first too where torch's frontend takes weights apart, so that fewer are found again.
    """
    assert model.onnx is not None
    graph, target = model.onnx, conversion.target(request)
    values = {weight.name: _values(weight) for weight in model.weights}
    by_torch, reason = None, model.metadata.get(UNTRACED, "")
    if model.traced is not None:
        from compressor.targets.coreml import torch

        outputs = [one.name for one in graph.graph.output]
        try:
            program = torch.program(model.traced, values, request.inputs, outputs, target)
            by_torch = _found(program, {}, values)
        except CompressorError as error:
            reason = str(error)
    if by_torch is not None and not _lost(by_torch, values):
        return by_torch
    from compressor.targets.coreml import mil as onnx

    try:
        made = onnx.program(graph, model.path.parent, values, request.inputs, target)
        by_onnx = _found(*made, values)
    except CompressorError as error:
        if by_torch is not None:
            return by_torch
        raise CompressorError(f"{reason}; {error}" if reason else str(error)) from error
    if by_torch is not None:
        taken_apart = _lost(by_torch, values)
        if _lost(by_onnx, values) >= taken_apart:
            return by_torch
        reason = f"Core ML Tools' torch frontend takes {taken_apart} weights apart"
    return replace(by_onnx, instead=f"Converted from the ONNX graph: {reason}." if reason else "")


def _found(program: Any, notes: Mapping[str, str], values: Mapping[str, NDArray]) -> _Slotted:
    known = origins.traced(program, {name: array.shape for name, array in values.items()})
    with conversion.quiet():
        slots.fold(program)
    return _Slotted(program, slots.find(program, known), notes)


def _lost(made: _Slotted, values: Mapping[str, NDArray]) -> int:
    """How many weights the program has not as such."""
    found = {slot.origin.weight for slot in made.slots if slot.origin is not None}
    return sum(array.size >= slots.FEWEST_ELSEWHERE for name, array in values.items() if name not in found)


def _prepared(skeleton: Skeleton, found: _Slotted, model: Model, request: Request, kept: Mapping[str, str]) -> Prepared:
    """The weights of the skeleton. kept: why one has another precision, by its name."""
    assert model.onnx is not None
    specs, signed = skeleton.specs(), skeleton.signed()
    by_name = {weight.name: weight for weight in model.weights}
    sources = {name: weight.encoding for name, weight in by_name.items()}
    # What no pass has left a reader for is not in the model.
    weights: list[Weight] = []
    for slot in (slot for slot in found.slots if slot.name in specs):
        encoding, reason = _rounded(slot, sources, specs[slot.name].dtype)
        source = None if slot.origin is None else by_name.get(slot.origin.weight)
        told = [found.notes.get(slot.name), kept.get(slot.name), reason]
        if source is not None:
            # Whose weights are codes is who asked for quantized activations too.
            told += [source.note, found.notes.get(ACTIVATIONS) if as_codes(source.encoding) is not None else ""]
        note, scaled = "; ".join(filter(None, told)), slot.factor is not None
        shown = signed.get(slot.name, "")
        origin = None if slot.origin is None else replace(slot.origin, factor=slot.factor)
        evidence = "" if source is None else source.evidence
        weights.append(
            Weight(
                slot.name,
                encoding,
                slot.uses,
                note=note,
                evidence=evidence,
                scaled=scaled,
                signed=shown,
                origin=origin,
            )
        )
    return Prepared(skeleton, tuple(weights), tuple(_told(model.onnx.graph, request, found)))


def _told(graph: Any, request: Request, found: _Slotted) -> Iterator[str]:
    """Why it is not of the graph that comes first, what differs on its outside, and how activations are computed."""
    notes = found.notes
    if found.instead:
        yield found.instead
    types = {value.name: DTYPES[value.type.tensor_type.elem_type].name for value in graph.input}
    for each in request.inputs:
        retyped = f"{types[each.name]} became {each.dtype}" if types[each.name] != each.dtype else ""
        if told := ", ".join(filter(None, (notes.get(each.name), retyped))):
            yield f"input {each.name}: {told}"
    yield from (f"output {value.name}: {notes[value.name]}" for value in graph.output if value.name in notes)
    if ACTIVATIONS in notes:
        yield notes[ACTIVATIONS]


def _rounded(slot: Slot, sources: Mapping[str, Encoding], to: DType) -> tuple[Encoding, str]:
    source = None if slot.origin is None else sources.get(slot.origin.weight)
    return rounded(slot.values, source, to, slot.index, slot.factor)


def _why_not_fold(sources: Mapping[str, Encoding], to: DType, asked: Asked, slot: Slot, factor: NDArray) -> str:
    """Why a batch norm stays behind a layer: the weight would lose more than the batch norm takes."""

    def smallest(slot: Slot) -> Encoding:
        return asked.smallest(Weight(slot.name, _rounded(slot, sources, to)[0]))

    form = smallest(slot)
    if isinstance(form.values if isinstance(form, Sparse) else form, Dense):
        return ""  # values and zeros are as many, whatever they are multiplied with
    plain, folded = nbytes(form), nbytes(smallest(replace(slot, factor=factor)))
    if folded <= plain + PARAMETERS * factor.size * to.itemsize:
        return ""
    return f"with it, the weight would take {folded:,} bytes instead of {plain:,}"


def _is_too_large(slot: Slot) -> bool:
    values = slot.values if slot.factor is None else slot.values * slot.factor
    return bool(values.size) and max(float(values.max()), -float(values.min())) > LARGEST


def _values(weight: Weight) -> NDArray:
    """The values of a weight, in no memory of this process: a program has all of its constants at once."""
    if weight.values is not None:
        return np.asarray(weight.values)
    if isinstance(weight.encoding, Dense):
        return np.asarray(weight.encoding.values)
    return _spilled(decode(weight.encoding))


def _spilled(values: NDArray) -> NDArray:
    """The values in a file without a name, mapped.

    Raises:
        CompressorError: the file cannot be written.
    """
    if values.nbytes < SPILLED:
        return values
    try:
        with TemporaryFile(prefix="compressor-") as file:
            file.write(np.ascontiguousarray(values).data)
            file.flush()
            return np.asarray(np.memmap(file, values.dtype, "r", shape=values.shape))
    except OSError as error:
        raise CompressorError(f"{gettempdir()}: cannot be written: {error.strerror}.") from error
