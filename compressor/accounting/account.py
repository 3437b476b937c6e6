"""Claims on the bytes of files, and the account that they make: every byte of every file, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple


class What(StrEnum):
    """What bytes are there for, in the order in which accounts list them."""

    WEIGHTS = "weights"
    CONSTANTS = "other constants"
    QUANTIZATION = "quantization"
    COPIES = "copies"
    DECODING = "decoding of weights"
    NODES = "operators"
    ATTRIBUTES = "attributes of operators"
    NAMES = "names and metadata"
    TRAINING = "training state"
    CONTAINER = "container"
    PADDING = "padding"
    UNREFERENCED = "not referenced"
    OTHER = "other files"
    UNREADABLE = "not readable"


MEANINGS: Mapping[What, str] = {
    What.WEIGHTS: "what training has learned, as it is stored: values, codes, masks, tables, scales",
    What.CONSTANTS: "shapes, axes, indices, numbers that no weight is made of",
    What.QUANTIZATION: "QuantizeLinear, DequantizeLinear and their like; scales and zero points of no weight",
    What.COPIES: "constants that are stored a second time, bit for bit",
    What.DECODING: "operators, and functions, that compute a weight from what is stored",
    What.NODES: "which operators read which values",
    What.ATTRIBUTES: "strides, axes, bodies' frames",
    What.NAMES: "names, shapes, documentation, types of values, opset imports, properties",
    What.TRAINING: "optimizer states, other sets of weights, counters of a training",
    What.CONTAINER: "headers and directories of the file format",
    What.PADDING: "zeros between aligned parts",
    What.UNREFERENCED: "bytes that no part of the model refers to",
    What.OTHER: "files beside the model: its manifest, settings, a tokenizer",
    What.UNREADABLE: "files of a kind, or in a state, that is not understood here",
}


class Claim(NamedTuple):
    """A run of bytes that is for something.

    file: by its path in the account. start, end: where the run begins, and the byte behind its last.
    what: it is for. name: of the weight, the operator, the kind of metadata.
    detail: more of it: the form of a weight, which part of it this is, what it is a copy of.
    model: the file or package whose model it is of; empty for what is no model's.
    """

    file: str
    start: int
    end: int
    what: What
    name: str
    detail: str = ""
    model: str = ""


@dataclass(frozen=True)
class Portion:
    """All bytes of a file that are for the same thing.

    file: by its path in the account.
    what: they are for.
    name: of the weight, the operator, or the kind of metadata.
    nbytes: how many they are.
    detail: more of it: the form of a weight, or what it is a copy of.
    model: the file or package whose model they are of; empty for what is no model's.
    """

    file: str
    what: What
    name: str
    nbytes: int
    detail: str = ""
    model: str = ""


@dataclass(frozen=True)
class Account:
    """Where every byte is.

    files: the size of each, by its path relative to what was asked for.
    portions: of these, the largest first.
    notes: what contradicts itself or could not be understood, a line each.

    Raises:
        AssertionError: a byte is missing or there twice, which is a defect of this package.
    """

    files: Mapping[str, int]
    portions: Sequence[Portion]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sums = dict.fromkeys(self.files, 0)
        for portion in self.portions:
            sums[portion.file] += portion.nbytes
        wrong = [f"{name}: {got} of {self.files[name]} bytes" for name, got in sums.items() if got != self.files[name]]
        if wrong:
            raise AssertionError(f"an account that does not add up: {'; '.join(wrong[:5])}")

    @property
    def nbytes(self) -> int:
        """The bytes of all files."""
        return sum(self.files.values())

    def by_what(self) -> dict[What, int]:
        """The bytes of everything that there is, in the order of `What`."""
        sums = dict.fromkeys(What, 0)
        for portion in self.portions:
            sums[portion.what] += portion.nbytes
        return {what: nbytes for what, nbytes in sums.items() if nbytes}


@dataclass
class Found:
    """What accountants have found so far.

    root: the folder that files are named from. files: the size of each. claims: on their bytes.
    notes: as those of an `Account`.
    """

    root: Path
    files: dict[str, int] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, path: Path) -> str:
        """The name of a file that belongs to the account from now on.

        Raises:
            OSError: it cannot be looked at.
        """
        name = path.relative_to(self.root).as_posix()
        if name not in self.files:
            self.files[name] = path.stat().st_size
        return name


Gap = Callable[[str, int, int], Claim]
"""What the bytes of a file are that nobody claims: asked with its name, where they begin and where they end."""


def account(found: Found, gap: Gap) -> Account:
    """The account of all that was found."""
    by_file: dict[str, list[Claim]] = {name: [] for name in found.files}
    for claim in found.claims:
        by_file[claim.file].append(claim)
    sums: dict[tuple[str, What, str, str, str], int] = {}
    for name, claims in by_file.items():
        for start, end, true in tiled(claims, found.files[name]):
            claim = gap(name, start, end) if true is None else true
            key = (name, claim.what, claim.name, claim.detail, claim.model)
            sums[key] = sums.get(key, 0) + end - start
    portions = [Portion(*key[:3], nbytes, *key[3:]) for key, nbytes in sums.items()]
    portions.sort(key=lambda portion: -portion.nbytes)
    return Account(dict(found.files), tuple(portions), tuple(dict.fromkeys(found.notes)))


def tiled(claims: Sequence[Claim], nbytes: int) -> Iterator[tuple[int, int, Claim | None]]:
    """From where to where what is true of a file of `nbytes` bytes: each byte once.

    Of several claims on a byte the one that begins last is true, so that parts win against the whole; of claims on the
    same run the first is. None is true of what nobody claims.

    >>> whole, part, beyond = Claim("f", 2, 6, What.NODES, "whole"), Claim("f", 3, 4, What.NAMES, "part"), Claim(
    ...     "f", 5, 99, What.WEIGHTS, "beyond"
    ... )
    >>> [(start, end, true and true.name) for start, end, true in tiled([beyond, part, whole], 7)]
    [(0, 2, None), (2, 3, 'whole'), (3, 4, 'part'), (4, 5, 'whole'), (5, 7, 'beyond')]
    """
    open_: list[tuple[int, Claim | None]] = [(nbytes, None)]
    at = 0
    order = sorted(range(len(claims)), key=lambda place: (claims[place].start, -claims[place].end, -place))
    for claim in (*(claims[place] for place in order), None):
        start = nbytes if claim is None else min(max(claim.start, 0), nbytes)
        while at < start:
            end, true = open_[-1]
            if end <= at:
                open_.pop()
                continue
            yield at, min(end, start), true
            at = min(end, start)
        if claim is not None:
            open_.append((min(claim.end, nbytes), claim))
