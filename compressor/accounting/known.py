"""The weights of a model as its source reads them: by where their parts lie, and by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
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
        forms[weight.name] = encodings.name(weight.encoding)
        for array in encodings.arrays(weight.encoding):
            if isinstance(array, MappedArray):
                places.setdefault((array.path, array.offset), weight.name)
    return Known(places, forms)
