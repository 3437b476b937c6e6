"""What an artefact is: the typed form of `manifest.json`, and of what `inspect` reads from an artefact itself."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from compressor.errors import CompressorError


@dataclass(frozen=True)
class WeightFacts:
    """One weight of an artefact.

    name: of the weight.
    shape: of its values.
    dtype: of its values, by numpy's name.
    encoding: as `encodings.name` spells it: `dense`, `sparse(palettized4)`, ...
    nbytes: as it is stored, in bytes.
    dense_nbytes: uncompressed on the same target, in bytes.
    evidence: what it was recognised by, or why it stays dense.
    exact: whether every value is the source's: its bits, but that -0.0 may be 0.0 where no reader tells them apart.
    changed: how many values up to the threshold became zero, or moved within the tolerance; counted when the artefact
        was compared with its source. A -0.0 that became 0.0 is none of them.
    rejected: (encoding, reason) of the forms that were not chosen; of sparse ones also by what: `sparse by a mask`.
    max_error: how far a value that moved is from the source's at most.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    nbytes: int
    dense_nbytes: int
    evidence: str = ""
    exact: bool | None = None
    changed: int = 0
    rejected: tuple[tuple[str, str], ...] = ()
    max_error: float = 0.0


@dataclass(frozen=True)
class FileFacts:
    """One file of an artefact.

    name: its path inside the artefact, with slashes.
    nbytes: its size in bytes.
    sha256: its digest, 64 hexadecimal digits.
    """

    name: str
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """An artefact: what it was made for and by, its files, and its weights.

    target: as it was asked for.
    pipeline: as it was asked for.
    versions: of the packages that shaped the bytes, by name.
    files: those that the artefact consists of.
    nbytes: of all files, in bytes.
    dense_nbytes: of the same model written for the same target without compression.
    source_nbytes: of the files of the model that it was made from, 0 where they are not known.
    weights_nbytes: of the weights alone, as they are stored.
    weights_dense_nbytes: of the weights alone, uncompressed.
    notes: what there is to say of the artefact as a whole: that it is the source as it was, or opens no more than that,
        what a conversion has made otherwise, in which way and why, constants that no encoding
        describes.
    weights: each weight, in the order of the model.
    """

    target: str
    pipeline: str
    versions: dict[str, str]
    files: tuple[FileFacts, ...]
    nbytes: int
    dense_nbytes: int
    source_nbytes: int
    weights_nbytes: int
    weights_dense_nbytes: int
    notes: tuple[str, ...]
    weights: tuple[WeightFacts, ...]

    def to_json(self) -> str:
        """The text of `manifest.json`: deterministic, keys in the order of the fields."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The inverse of `to_json`.

        Raises:
            CompressorError: the text is not what `to_json` writes.
        """
        try:
            facts: dict[str, Any] = json.loads(text)
            facts["files"] = tuple(_checked(FileFacts(**file)) for file in facts["files"])
            facts["notes"] = tuple(facts["notes"])
            facts["weights"] = tuple(map(_weight, facts["weights"]))
            return _checked(cls(**facts))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CompressorError(f"not a manifest: {error!r}. Write the artefact again.") from error


def _weight(plain: dict[str, Any]) -> WeightFacts:
    shape, rejected = tuple(plain["shape"]), tuple((encoding, reason) for encoding, reason in plain["rejected"])
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise TypeError(f"WeightFacts.shape: {shape!r}")
    return _checked(WeightFacts(**{**plain, "shape": shape, "rejected": rejected}))


Record = TypeVar("Record", "Manifest", FileFacts, WeightFacts)

_TYPES: dict[object, tuple[type, ...]] = {"int": (int,), "str": (str,), "float": (int, float)}


def _checked(record: Record) -> Record:
    """The record, whose numbers are numbers and texts are texts: a manifest may come from anywhere.

    Raises:
        TypeError: one is something else.
    """
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if not isinstance(value, _TYPES.get(field.type, (object,))) or (isinstance(value, int) and value < 0):
            raise TypeError(f"{type(record).__name__}.{field.name}: {value!r}")
    return record
