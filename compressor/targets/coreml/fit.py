"""From a graph to a skeleton and its weights: frontend, batch norms, passes.

graph --frontend--> program, slots --batch norms--> slots with factors --stubs, passes--> skeleton
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from compressor.arrays import DType, NDArray, Shape
from compressor.cutting import in_blocks
from compressor.encodings import Dense, Sparse, map_arrays, nbytes, shape
from compressor.formats.coreml.skeleton import Skeleton, rename
from compressor.formats.coreml.values import Held
from compressor.formats.onnx.dtypes import DTYPES
from compressor.model import FOLDED, SPLIT, Model, part_name
from compressor.targets import Asked
from compressor.targets.coreml import batch_norm, conversion
from compressor.targets.coreml.frontends import Translated, translated
from compressor.targets.coreml.holding import Room, Sources
from compressor.targets.coreml.maps import bound, lying, read
from compressor.targets.coreml.moves import InTurn
from compressor.targets.coreml.request import Request
from compressor.targets.coreml.rounding import as_codes
from compressor.targets.coreml.sharing import share, stored_again
from compressor.targets.coreml.slots import Slot
from compressor.targets.coreml.spilling import computed_once
from compressor.weight import Copy, Weight

LARGEST = float(np.finfo(np.float16).max)

PARAMETERS = 4
"""A batch norm has so many numbers a channel."""

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
    room = Room(request.version, to, asked)
    # Rounded values show neither grid nor table: codes are found before.
    sources = room.sources(model.weights)
    found = translated(model, request)
    slots, stay = batch_norm.fold(found.program, share(found.slots), partial(_why_not_fold, room, sources))
    again = stored_again(slots, {weight.name: math.prod(shape(weight.encoding)) for weight in model.weights})
    slots, sources, cuts = room.split(slots, sources)
    found = replace(found, slots=slots, notes={**found.notes, **again, **stay})
    wide = frozenset(place for place, slot in enumerate(slots) if to == np.float16 and _is_too_large(slot))
    skeleton = _skeleton(*conversion.convert(found.program, slots, wide, request), slots, cuts)
    kept = _other_precisions(skeleton, {slots[at].name for at in wide}, to)
    return _prepared(skeleton, found, sources, room, model, request, kept)


def _skeleton(proto: Any, constants: Held, slots: Sequence[Slot], cuts: Mapping[str, Sequence[int]]) -> Skeleton:
    """The converted model, in which each stub is called like its weight, and which says what was folded and split."""
    names = tuple(slot.name for slot in slots)
    rename(proto, names)
    folded = [slot.name for slot in slots if slot.factor is not None]
    # Of a weight that was split, all parts are folded or none is.
    folded += [name for name, (_, end, *_) in cuts.items() if part_name(name, 0, end) in folded]
    if folded:
        proto.description.metadata.userDefined[FOLDED] = json.dumps(folded, separators=(",", ":"))
    if cuts:
        proto.description.metadata.userDefined[SPLIT] = json.dumps(cuts, separators=(",", ":"))
    return Skeleton(proto, names, constants)


def _other_precisions(skeleton: Skeleton, wide: AbstractSet[str], to: DType) -> dict[str, str]:
    """Why weights have another dtype than `to`, by their names. wide: those that float16 cannot hold."""
    return {
        name: f"{f'a value beyond {LARGEST:g}' if name in wide else 'what reads it takes no float16'}: {spec.dtype}"
        for name, spec in skeleton.specs().items()
        if spec.dtype != to
    }


def _prepared(
    skeleton: Skeleton,
    found: Translated,
    sources: Sources,
    room: Room,
    model: Model,
    request: Request,
    kept: Mapping[str, str],
) -> Prepared:
    """The weights of the skeleton. kept: why one has another precision, by its name."""
    assert model.onnx is not None
    specs, shapes, signed = skeleton.specs(), skeleton.shapes(), skeleton.signed()
    # What no pass has left a reader for is not in the model.
    weights: list[Weight] = []
    for slot in (_in_shape(slot, specs[slot.name].shape) for slot in found.slots if slot.name in specs):
        encoding, reason = room.rounded(slot, sources, specs[slot.name].dtype)
        encoding = map_arrays(lambda array, _: computed_once(array), encoding)
        (known, _) = sources.of(slot)
        source = None if known is None else known.weight
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
                shapes=shapes.get(slot.name, ()),
                origin=origin,
            )
        )
    return Prepared(skeleton, tuple(weights), tuple(_told(model.onnx.graph, request, found)))


def _in_shape(slot: Slot, to: Shape) -> Slot:
    """The slot under the shape that the program has first."""
    if slot.values.shape == to:
        return slot
    assert slot.factor is None
    origin = slot.origin
    if origin is not None:
        way = Copy(origin.weight, to)
        origin = replace(origin, move=way if origin.move is None else InTurn((origin.move, way)))
    return replace(slot, values=slot.values.reshape(to), origin=origin)


def _told(graph: Any, request: Request, found: Translated) -> Iterator[str]:
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


def _why_not_fold(room: Room, sources: Sources, slot: Slot, factor: NDArray) -> str:
    """Why a batch norm stays behind a layer: the weight would lose more than the batch norm takes."""
    form = room.smallest(slot, sources)
    if isinstance(form.values if isinstance(form, Sparse) else form, Dense):
        return ""  # values and zeros are as many, whatever they are multiplied with
    plain, folded = nbytes(form), nbytes(room.smallest(replace(slot, factor=factor), sources))
    if folded <= plain + PARAMETERS * factor.size * room.to.itemsize:
        return ""
    return f"with it, the weight would take {folded:,} bytes instead of {plain:,}"


def _is_too_large(slot: Slot) -> bool:
    """Whether a value, multiplied, is beyond float16."""
    factor = slot.factor
    if bound(slot.values) * (1 if factor is None else np.abs(factor).max()) <= LARGEST:
        return False
    if factor is None:
        array, _ = lying(slot.values)
        return any(max(part.max(), -part.min()) > LARGEST for part in in_blocks(array))
    axes, values = tuple(axis for axis, count in enumerate(factor.shape) if count == 1), read(slot.values)
    largest = np.maximum(values.max(axes, keepdims=True), -values.min(axes, keepdims=True))
    return bool((largest * np.abs(factor)).max() > LARGEST)
