"""Sparse storage: where the non-zeros are, and themselves, which may be palettized or quantized.

The structure of the zeros is found in the mask: where it is constant over blocks, one bit a block is enough. Elsewhere
the distances between the non-zeros may take less, or their places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from compressor import gaps
from compressor.arrays import ArraySpec, DType, NDArray, Shape, is_float, spec_of
from compressor.cutting import in_blocks
from compressor.encodings import (
    PLACES,
    Dense,
    Encoding,
    Palettized,
    Quantized,
    Sparse,
    Values,
    is_gaps,
    is_listed,
    nbytes,
    shape,
)
from compressor.errors import plural
from compressor.gaps import GAPS
from compressor.kernels import expand, select
from compressor.patterns import above
from compressor.recognition import masks
from compressor.recognition.masks import Structure
from compressor.recognition.scan import Scan
from compressor.recognition.schemes import Candidate, Loss, palettize
from compressor.recognition.tables import ENTRIES

NAME = "sparsify"

THRESHOLD = 1e-3
"""Values up to this magnitude are noise in a pruned weight: what Core ML Tools' guide takes."""

SOONER = 1.02
"""Distances are stored instead of a mask where all of it takes at most so many times as much: a runtime that has to
find the set bits of a mask by a branch for each takes three times as long."""

EncodeInner = Callable[[NDArray, Values, NDArray], Values]

_BOOL = np.dtype(np.bool_)


def detect(
    values: NDArray, scan: Scan, inner: Sequence[Candidate], max_thresholded: float, threshold: float
) -> Iterator[Candidate]:
    """The sparse forms of every `inner` candidate (the plain values among them): exact ones, if there are zeros.

    Then those in which magnitudes up to `threshold` become zero too, if there are any and they are at most
    `max_thresholded` of the values that survive.
    """
    if not scan.zeros:  # small values of a weight that was not pruned are no noise
        return
    structure = masks.structure(values, 0.0)
    unblocked = max(structure.lengths) == 1
    if unblocked and inner:
        yield from _covered(values, inner)
    yield from _masked(values, scan, inner, structure, 0.0)
    # Exact zeros in blocks are the work of training; small survivors between them are then no noise.
    survivors = scan.size - scan.zeros - scan.small
    if 0 < scan.small <= max_thresholded * survivors and unblocked:
        yield from _masked(values, scan, inner, masks.structure(values, threshold), threshold)


def _masked(
    values: NDArray, scan: Scan, inner: Sequence[Candidate], zeros: Structure, threshold: float
) -> Iterator[Candidate]:
    """The sparse form of every `inner` candidate by a mask of these blocks, magnitudes up to `threshold` left out."""
    changed = scan.small if threshold else 0
    count = scan.size - scan.zeros - changed
    share = f"{1 - count / scan.size:.1%} zeros, {zeros.name}"
    if changed:
        share += f", {changed:,} of them values up to {threshold:g}"
    where = _Where(values, zeros.lengths, count, threshold)
    for schemes, nonzeros, told, width in _nonzeros(values, scan, inner, count, threshold):
        spec, evidence = where.smallest(nonzeros), "; ".join(filter(None, (share, told)))
        yield Candidate((NAME, *schemes), spec, evidence, Loss(threshold, changed), zeros.name, width=width)


@dataclass
class _Where:
    """The ways to say where the `count` values above `threshold` are. lengths: of the blocks of a mask."""

    values: NDArray
    lengths: Shape
    count: int
    threshold: float
    codes: dict[DType, ArraySpec] = field(default_factory=dict)

    def smallest(self, nonzeros: Values) -> Sparse:
        """The smallest form of the non-zeros with any of them; distances where they take hardly more than a mask."""
        bits = self._of(ArraySpec(_counts(self.values.shape, self.lengths), _BOOL), nonzeros)
        most = SOONER * nbytes(bits)
        # As if no distance took a second code: most weights are ruled out by that.
        short = [dtype for dtype in GAPS if nbytes(self._of(ArraySpec((self.count,), dtype), nonzeros)) <= most]
        listed = [self._of(self._gaps(dtype), nonzeros) for dtype in short if max(self.lengths, default=1) == 1]
        if self.count * PLACES.itemsize < bits.mask.size / 8 and self.values.size <= 1 << 31:
            listed.append(self._of(ArraySpec((self.count,), PLACES), nonzeros))
        least = min(listed, key=nbytes, default=bits)
        return least if nbytes(least) <= most else bits

    def _of(self, mask: ArraySpec, nonzeros: Values) -> Sparse:
        return Sparse(mask, nonzeros, self.values.shape)

    def _gaps(self, dtype: DType) -> ArraySpec:
        if dtype not in self.codes:
            places = (above(some, self.threshold) for some in in_blocks(self.values))
            self.codes[dtype] = ArraySpec((gaps.count_of(places, dtype),), dtype)
        return self.codes[dtype]


def _nonzeros(
    values: NDArray, scan: Scan, inner: Sequence[Candidate], count: int, threshold: float
) -> Iterator[tuple[tuple[str, ...], Values, str, int]]:
    """The forms of the `count` values above `threshold`.

    Yields: the schemes, a spec, what it was recognised by, and the bits that codes need.
    """

    def without_zero(one: Palettized) -> int:
        return palettize.without_zero(values, one, threshold, scan)

    for candidate in inner:
        entries = without_zero if candidate.schemes == (palettize.NAME,) else _whole
        if (spec := _under_mask(candidate.spec, count, entries)) is not None:
            yield candidate.schemes, spec, _told(candidate, spec), candidate.width
    # Codes without their zero points may be more than there are codes; a table holds what the source has.
    if scan.table is not None and scan.table.entries.size > ENTRIES and is_float(values.dtype):
        left = int(np.count_nonzero(above(scan.table.entries, threshold)))
        if left <= ENTRIES:  # zero, or what the threshold makes zero, was too much for a palette
            spec = palettize.spec((count,), values.dtype, (1,) * values.ndim, left)
            yield (palettize.NAME,), spec, plural(left, "distinct non-zero value"), 0


def sparse(values: NDArray) -> Sparse:
    """A weight as its non-zeros, whatever blocks its zeros come in, in the smallest form."""
    count = int(np.count_nonzero(values))
    where = _Where(values, (1,) * values.ndim, count, 0.0)
    spec = where.smallest(Dense(ArraySpec((count,), values.dtype)))
    return encode(values, spec, 0.0, lambda _, __, kept: Dense(select(values, kept)))


def mask(values: NDArray, spec: Sparse, threshold: float) -> tuple[NDArray, NDArray]:
    """The stored mask, distances or places, and the mask at full size: a block with any non-zero is kept as a whole.

    Raises:
        ValueError: it does not keep as many values as `spec` has.
    """
    full = above(values, threshold)
    if is_listed(spec.mask):
        listed = gaps.of_mask(full, spec.mask.dtype) if is_gaps(spec.mask) else np.flatnonzero(full).astype(PLACES)
        kept, planned = int(np.count_nonzero(full)), math.prod(shape(spec.values))
        if (kept, listed.size) != (planned, spec.mask.size):
            raise ValueError(f"{planned:,} values at {spec.mask.size:,} stored places, got {kept:,} at {listed.size:,}")
        return listed, full
    lengths = tuple(dim // count for dim, count in zip(values.shape, spec.mask.shape, strict=True))
    stored = full if max(lengths, default=1) == 1 else masks.kept(full, lengths)
    full = np.ascontiguousarray(expand(stored, full.shape))
    kept, planned = int(np.count_nonzero(full)), math.prod(shape(spec.values))
    if kept != planned:
        raise ValueError(f"{planned:,} values in blocks of {list(lengths)}, got {kept:,}")
    return stored, full


def _covered(values: NDArray, inner: Sequence[Candidate]) -> Iterator[Candidate]:
    """The sparse forms by blocks that explain the zeros, where the blocks that are kept have zeros of their own."""
    found = masks.cover(values, min(nbytes(candidate.spec) for candidate in inner) / values.size)
    if found is None:
        return
    blocks, count = found
    stored = ArraySpec(_counts(values.shape, blocks.lengths), _BOOL)
    share = f"{1 - count / values.size:.1%} zeros in {blocks.name}"
    for candidate in inner:
        if (leaf := _under_mask(candidate.spec, count, _whole)) is not None:
            evidence = "; ".join(filter(None, (share, candidate.evidence)))
            spec = Sparse(stored, leaf, values.shape)
            yield Candidate((NAME, *candidate.schemes), spec, evidence, structure=blocks.name)


def _counts(shape: Shape, lengths: Shape) -> Shape:
    """How many blocks there are along each axis."""
    return tuple(dim // length for dim, length in zip(shape, lengths, strict=True))


def _whole(one: Palettized) -> int:
    """The entries of tables that stay as they are, zero among them."""
    return int(one.lut.shape[-2])


def _under_mask(spec: Encoding, count: int, entries: Callable[[Palettized], int]) -> Values | None:
    """`spec` for `count` of its values and tables of `entries`; None where no entry is left, and for vectors."""
    match spec:
        case Dense(plain):
            return Dense(replace(spec_of(plain), shape=(count,)))
        case Palettized(indices, lut, None) if left := entries(spec):
            return Palettized(
                ArraySpec((count,), indices.dtype), replace(spec_of(lut), shape=(*lut.shape[:-2], left, 1))
            )
        case Quantized(data):
            inner = _under_mask(data, count, entries)
            return replace(spec, data=inner) if isinstance(inner, Dense | Palettized) else None
        case _:
            return None


def _told(candidate: Candidate, nonzeros: Values) -> str:
    """What a candidate was recognised by, said of the non-zeros."""
    if isinstance(nonzeros, Palettized) and math.prod(nonzeros.lut.shape[:-2]) == 1:
        return plural(nonzeros.lut.shape[-2], "distinct non-zero value")
    if isinstance(nonzeros, Palettized):
        return f"non-zeros of {candidate.evidence}"
    return candidate.evidence


def encode(values: NDArray, spec: Sparse, threshold: float, encode_inner: EncodeInner) -> Sparse:
    """The mask, and what `encode_inner(values, spec, where)` makes of the non-zeros."""
    stored, full = mask(values, spec, threshold)
    return replace(spec, mask=stored, values=encode_inner(values, spec.values, full))
