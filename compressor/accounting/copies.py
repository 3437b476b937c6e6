"""Constants that are stored twice, found with little reading: only runs that look equal are read to their ends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from compressor.accounting.account import Claim, What
from compressor.accounting.files import opened

SMALLEST = 64
"""Bytes from which a second copy is worth a word: a shorter one costs less than its name."""

SAME, ELSEWHERE = "the same bytes as ", "also in "
"""How the detail of a copy begins: of another constant of the model, or of one in another model, whose file follows."""

CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
"""Suffixes of files whose tensors the code of a model shares or not: those of one value are as they were made."""

_CONSTANTS = {What.WEIGHTS, What.CONSTANTS}
_SAMPLE, _BLOCK, _VALUE = 64, 1 << 20, 8


def marked(claims: Iterable[Claim], root: Path, others: Iterable[Claim] = ()) -> Iterator[Claim]:
    """The claims on the files in `root`, those on what an earlier one has too as copies.

    others: claims of other models, of which copies may be.

    Raises:
        CompressorError, OSError: a file cannot be read.
    """
    known = _Known(root)
    places: set[tuple[str, int, int]] = set()
    for claim in others:
        if _counts(claim):
            known.same(claim)
    for claim in claims:
        place = claim.file, claim.start, claim.end
        if not _counts(claim) or place in places:
            yield claim
            continue
        places.add(place)
        same = known.same(claim)
        if same is None:
            yield claim
        else:
            told = f"{SAME}{same.name}" if same.model == claim.model else f"{ELSEWHERE}{same.model}: {same.name}"
            yield claim._replace(what=What.COPIES, detail=told)


@dataclass(frozen=True)
class _Known:
    """The claims that were seen.

    looks: the first one of a length and a sample, until another looks alike. read: of such, the first of a digest.
    """

    root: Path
    looks: dict[tuple[int, bytes], Claim | None] = field(default_factory=dict)
    read: dict[tuple[int, bytes], Claim] = field(default_factory=dict)

    def same(self, claim: Claim) -> Claim | None:
        """The first claim on the same bytes; None where this is it."""
        nbytes, sample = claim.end - claim.start, _sample(self.root, claim)
        if claim.file.endswith(CHECKPOINTS) and _repeats(sample) and _is_one_value(self.root, claim):
            return None
        look = nbytes, sample
        if look not in self.looks:
            self.looks[look] = claim
            return None
        if (first := self.looks[look]) is not None:
            self.looks[look] = None
            self.read[nbytes, _digest(self.root, first)] = first
        found = self.read.setdefault((nbytes, _digest(self.root, claim)), claim)
        return None if found is claim else found


def _counts(claim: Claim) -> bool:
    return claim.what in _CONSTANTS and claim.end - claim.start >= SMALLEST


def _sample(root: Path, claim: Claim) -> bytes:
    """Some bytes of the beginning, the middle and the end."""
    with opened(root / claim.file) as data:
        end = min(claim.end, len(data))
        starts = (claim.start, (claim.start + end) // 2, end - _SAMPLE)
        return b"".join(data[start : min(start + _SAMPLE, end)] for start in starts if 0 <= start < end)


def _repeats(some: bytes) -> bool:
    """Whether it is one value of up to 8 bytes over and over."""
    return len(some) > _VALUE and some[_VALUE:] == some[:-_VALUE]


def _is_one_value(root: Path, claim: Claim) -> bool:
    """Whether a constant has one value throughout, as the scales of norms have before a training."""
    with opened(root / claim.file) as data:
        end = min(claim.end, len(data))
        starts = range(claim.start, end, _BLOCK)  # each begins with the value that ends the one before
        return all(_repeats(data[max(claim.start, start - _VALUE) : min(start + _BLOCK, end)]) for start in starts)


def _digest(root: Path, claim: Claim) -> bytes:
    digest = hashlib.blake2b()
    with opened(root / claim.file) as data:
        end = min(claim.end, len(data))
        for start in range(claim.start, end, _BLOCK):
            digest.update(data[start : min(start + _BLOCK, end)])
    return digest.digest()
