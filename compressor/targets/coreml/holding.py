"""What a weight is before it is rounded: values, codes, or parts, whichever a version holds in the fewest bytes."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from compressor.arrays import ArraySpec, ComputedArray, DType
from compressor.encodings import Concatenated, Dense, Encoding, decode, dtype, map_arrays, nbytes, shape
from compressor.formats.coreml.opsets import IOS18
from compressor.recognition import parts
from compressor.recognition.find import of_part
from compressor.recognition.recovery import recovered
from compressor.targets import Asked
from compressor.targets.coreml import legality, splitting
from compressor.targets.coreml.floats import Move, Traced, later
from compressor.targets.coreml.rounding import as_table, rounded
from compressor.targets.coreml.slots import Slot
from compressor.weight import Weight

_LITTLE = 1.01
"""What a form of rounded values may take more than codes before scales are rounded instead."""

_SAVED = 1 / 16
"""What parts must save of a weight: each costs an operator, and their results are copied side by side at every run."""

_OPERATOR = 1 << 10
"""The bytes of one more operator in a program, about."""


@dataclass(frozen=True, eq=False)
class Source:
    """What a weight is made of.

    given: as the model has it. weight: with its codes, where they are kept, else its values.
    least: the bytes of the smallest form of its values as they are; None where none was looked for.
    """

    given: Weight
    weight: Weight
    least: int | None


@dataclass(frozen=True, eq=False)
class Sources:
    """What slots are made of.

    weights: by the names that the model has. parts: by the name of a slot that is a part of one, in the part's order.
    """

    weights: Mapping[str, Source]
    parts: Mapping[str, Source] = field(default_factory=dict)

    def of(self, slot: Slot) -> tuple[Source | None, Move | None]:
        """What a slot is made of, and how its elements were moved since."""
        if slot.name in self.parts:
            return self.parts[slot.name], None
        return None if slot.origin is None else self.weights.get(slot.origin.weight), slot.move


@dataclass(frozen=True)
class Room:
    """What holds weights: a version of the specification, in a precision, as it was asked for."""

    version: int
    to: DType
    asked: Asked

    def sources(self, weights: Iterable[Weight]) -> Sources:
        """The weights of a model, as codes where these take fewer bytes than the rounded values."""
        return Sources({weight.name: self._source(weight) for weight in weights})

    def rounded(self, slot: Slot, sources: Sources, to: DType) -> tuple[Encoding, str]:
        """A slot in the type `to`, and what to say about its codes."""
        source, move = sources.of(slot)
        known = None if source is None else source.weight.encoding
        return rounded(slot.values, known, to, move, slot.factor, partial(_why_not, self.version))

    def smallest(self, slot: Slot, sources: Sources) -> Encoding:
        """The smallest form of a slot: a spec."""
        return self.asked.smallest(Weight(slot.name, self.rounded(slot, sources, self.to)[0], origin=slot.origin))

    def _source(self, weight: Weight) -> Source:
        if isinstance(weight.encoding, Concatenated):  # which parts there are is found anew, where they may be
            values = ComputedArray(shape(weight.encoding), dtype(weight.encoding), Traced(weight.encoding, None))
            weight = replace(weight, encoding=Dense(values))

        @functools.cache
        def as_values() -> int:
            values, _ = rounded(decode(weight.encoding), None, self.to, None)
            return nbytes(self.asked.smallest(replace(weight, encoding=values)))

        def worth(forms: Sequence[Encoding]) -> bool:
            held = (_in_precision(form, self.to) for form in forms)
            sizes = [nbytes(legality.legalize(one, self.version)) for one in held if not _why_not(self.version, one)]
            return bool(sizes) and min(sizes) * _LITTLE < as_values()

        schemes = self.asked.schemes(weight)
        return Source(weight, *recovered(weight, self.asked.settings_of(weight), self.to, schemes, worth))

    def split(self, slots: Sequence[Slot], sources: Sources) -> tuple[list[Slot], Sources, dict[str, list[int]]]:
        """The slots, with parts in the place of those whose parts take fewer bytes, where what reads them can be split.

        And what all of them are made of; and by the name of a slot that was split, the axis and where its parts end.
        """
        made: list[Slot] = []
        parts_: dict[str, Source] = {}
        cuts: dict[str, list[int]] = {}
        for slot in slots:
            along = splitting.axis(slot)
            pieces = {} if along is None else self._pieces(slot, sources, along)
            if along is None or not pieces:
                made.append(slot)
                continue
            found = splitting.split(slot, list(pieces))
            made += found
            parts_ |= {piece.name: source for piece, source in pieces.items()}
            cuts[slot.name] = [along, *itertools.accumulate(piece.values.shape[along] for piece in found)]
        return made, replace(sources, parts=parts_), cuts

    def _pieces(self, slot: Slot, sources: Sources, along: int) -> dict[Slot, Source]:
        """The parts of a slot with what they are made of; none where they are no smaller."""
        source, _ = sources.of(slot)
        if source is None or source.least is None:
            return {}
        ends = self._ends(slot, source.given, source.least, along)
        pieces = {piece: self._source(_part(piece, source.given)) for piece in splitting.parts(slot, along, ends)}
        known = Sources({}, {piece.name: one for piece, one in pieces.items()})
        if not pieces:
            return {}
        own = sum(nbytes(self.smallest(piece, known)) + _OPERATOR for piece in pieces)
        return pieces if own <= nbytes(self.smallest(slot, sources)) * (1 - _SAVED) else {}

    def _ends(self, slot: Slot, weight: Weight, least: int, along: int) -> list[int]:
        """Where the parts of a slot end, as far as they are seen; nowhere if it has none."""
        describe = partial(of_part, settings=self.asked.settings_of(weight), sampled=True)
        share = slot.values.size / max(1, math.prod(shape(weight.encoding)))
        for form in parts.detect(slot.values, least * share, describe, (along,)):
            assert isinstance(form.spec, Concatenated)
            return list(itertools.accumulate(shape(part)[along] for part in form.spec.parts))
        return []


def _part(piece: Slot, weight: Weight) -> Weight:
    """A part of a weight as a weight of its own, read where that lies."""
    values = later(piece.values, piece.values.dtype, None, Traced(weight.encoding, piece.move))
    return Weight(piece.name, Dense(values), piece.uses, origin=piece.origin)


def _in_precision(form: Encoding, to: DType) -> Encoding:
    """A spec whose values are of the dtype `to`."""
    of = dtype(form)
    return map_arrays(lambda array, _: ArraySpec(tuple(array.shape), to) if array.dtype == of else array, form)


def _why_not(version: int, form: Encoding) -> str:
    """Why a version does not have codes or a table with scales; one table of products is rounded as values are."""
    if version < IOS18 and as_table(form) is not None:
        return "scales over tables need iOS18"
    return legality.why_not(form, version)
