"""The weights of a model as its source reads them: by where their parts lie, and by name."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from compressor import encodings
from compressor.arrays import MappedArray
from compressor.errors import CompressorError, line
from compressor.model import Model


@dataclass(frozen=True)
class Known:
    """Names of weights, and the form in which each is stored.

    places: the name of a weight by the file and the byte where a part of it begins. forms: by name.
    """

    places: Mapping[tuple[Path, int], str] = field(default_factory=dict)
    forms: Mapping[str, str] = field(default_factory=dict)

    def at(self, path: Path, start: int) -> str | None:
        """The weight of which a part begins there."""
        return self.places.get((path, start))

    def within(self, path: Path, start: int, end: int) -> Iterator[tuple[int, str]]:
        """The places between two, neither of them, at which a part of a weight begins, and its name."""
        held = self._sorted.get(path, [])
        for place in held[bisect_right(held, start) : bisect_left(held, end)]:
            yield place, self.places[path, place]

    @cached_property
    def _sorted(self) -> Mapping[Path, Sequence[int]]:
        held: dict[Path, list[int]] = defaultdict(list)
        for path, place in sorted(self.places):
            held[path].append(place)
        return held

    def named(self, names: Iterable[str]) -> str | None:
        """The weight that is called as one of these."""
        return next((name for name in names if name in self.forms), None)


def known(read: Callable[[], Model], notes: list[str]) -> Known | None:
    """What is known of the weights of the model that `read` gives; None, and a note, where it cannot be read."""
    places: dict[tuple[Path, int], str] = {}
    forms: dict[str, str] = {}
    try:
        weights = read().weights
    except CompressorError as error:
        notes.append(f"what its weights are is not known, and guessed from their types: {line(error)}")
        return None
    for weight in weights:
        forms[weight.name] = encodings.name(weight.as_stored)
        for array in encodings.arrays(weight.encoding):
            if isinstance(array, MappedArray):
                places.setdefault((array.path, array.offset), weight.name)
    return Known(places, forms)
