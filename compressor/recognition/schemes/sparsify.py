"""Sparse storage: a bit mask and the non-zeros, which may themselves be palettized or quantized.

The structure of the zeros is found in the mask: where it is constant over blocks, one bit a block is enough.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from compressor.arrays import ArraySpec, NDArray, Shape
from compressor.encodings import PLACES, Dense, Encoding, LinearQuantized, Palettized, Sparse, is_places, nbytes, shape
from compressor.errors import plural
from compressor.kernels import expand
from compressor.packing import packed_nbytes
from compressor.patterns import above
from compressor.recognition.scan import ENTRIES, Scan
from compressor.recognition.schemes import Candidate, Values, palettize

NAME = "sparsify"

THRESHOLD = 1e-3
"""Values up to this magnitude are noise in a pruned weight: what Core ML Tools' guide takes."""

EncodeInner = Callable[[NDArray, Values, NDArray], Values]

_BOOL = np.dtype(np.bool_)
_GROUP_LENGTHS = (2, 4, 8, 16, 32)
_TIGHT = 0.5
"""An n:m pattern describes a mask if at least this share of the groups hold all the n non-zeros that it allows."""

_PROBE = 1 << 16
_CORNER = 64

_NEARLY = 0.99
"""An n:m pattern that this share of the groups has was meant."""

_EXPLAINED = 0.4
"""Blocks describe zeros if they hold at least this share of those that chance would leave outside of them."""

_FEWEST_BLOCKS, _LONG_BLOCK = 8, 64


def detect(
    values: NDArray, scan: Scan, inner: Sequence[Candidate], max_thresholded: float, threshold: float
) -> Iterator[Candidate]:
    """The sparse forms of every `inner` candidate (the plain values among them): exact ones, if there are zeros.

    Then those in which magnitudes up to `threshold` become zero too, if there are any and they are at most
    `max_thresholded` of the values that survive.
    """
    if not scan.zeros:  # small values of a weight that was not pruned are no noise
        return
    blocks, structure = mask_structure(values, 0.0)
    if max(blocks) == 1:
        yield from _covered(values, inner)
    yield from _masked(values, scan, inner, (blocks, structure), 0.0)
    # Exact zeros in blocks are the work of training; small survivors between them are then no noise.
    survivors = scan.size - scan.zeros - scan.small
    if 0 < scan.small <= max_thresholded * survivors and max(blocks) == 1:
        yield from _masked(values, scan, inner, mask_structure(values, threshold), threshold)


def _masked(
    values: NDArray, scan: Scan, inner: Sequence[Candidate], mask: tuple[Shape, str], threshold: float
) -> Iterator[Candidate]:
    """The sparse form of every `inner` candidate by a mask of these blocks, magnitudes up to `threshold` left out."""
    blocks, structure = mask
    changed = scan.small if threshold else 0
    count = scan.size - scan.zeros - changed
    counts = tuple(dim // block for dim, block in zip(values.shape, blocks, strict=True))
    share = f"{1 - count / scan.size:.1%} zeros, {structure}"
    if changed:
        share += f", {changed:,} of them values up to {threshold:g}"
    stored = ArraySpec(counts, _BOOL)
    if count * PLACES.itemsize < packed_nbytes(stored.size, 1):
        stored = ArraySpec((count,), PLACES)
    for candidate in inner:
        if (nonzeros := _nonzeros(values, candidate.spec, count, threshold, scan)) is not None:
            evidence = "; ".join(filter(None, (share, _without_zero(candidate, nonzeros))))
            spec = Sparse(stored, nonzeros, values.shape)
            yield Candidate((NAME, *candidate.schemes), spec, evidence, threshold, changed, structure)
    if scan.table is not None and scan.table.entries.size > ENTRIES:
        entries = int(np.count_nonzero(above(scan.table.entries, threshold)))
        if entries <= ENTRIES:  # zero, or what the threshold makes zero, was too much for a palette
            one = palettize.spec((count,), values.dtype, (1,) * values.ndim, entries)
            evidence = f"{share}; {plural(entries, 'distinct non-zero value')}"
            spec = Sparse(stored, one, values.shape)
            yield Candidate((NAME, palettize.NAME), spec, evidence, threshold, changed, structure)


def mask(values: NDArray, spec: Sparse, threshold: float) -> tuple[NDArray, NDArray]:
    """The stored mask or places, and the mask at full size: a block with any non-zero is kept as a whole.

    Raises:
        ValueError: it does not keep as many values as `spec` has.
    """
    full = above(values, threshold)
    if is_places(spec.mask):
        places = np.flatnonzero(full).astype(PLACES)
        if places.size != spec.mask.size:
            raise ValueError(f"{spec.mask.size:,} values, got {places.size:,}")
        return places, full
    lengths = tuple(dim // count for dim, count in zip(values.shape, spec.mask.shape, strict=True))
    stored = full if max(lengths, default=1) == 1 else _kept(full, lengths)
    full = np.ascontiguousarray(expand(stored, full.shape))
    kept, planned = int(np.count_nonzero(full)), math.prod(shape(spec.values))
    if kept != planned:
        raise ValueError(f"{planned:,} values in blocks of {list(lengths)}, got {kept:,}")
    return stored, full


def _covered(values: NDArray, inner: Sequence[Candidate]) -> Iterator[Candidate]:
    """The sparse forms by blocks that hold most of the zeros, where the blocks that are kept have zeros of their own.

    A weight that is pruned in blocks and lies on a grid, say: zero is one of its codes.
    """
    least = min(nbytes(candidate.spec) for candidate in inner) / values.size
    corners: dict[Shape, NDArray] = {}
    full, best = None, math.inf
    for lengths, name in _block_shapes(values.shape):
        corner = _corner(values, lengths)
        if corner.shape not in corners:
            corners[corner.shape] = above(corner, 0.0)
        if not _explains(corners[corner.shape], lengths):
            continue
        full = above(values, 0.0) if full is None else full
        if not _explains(full, lengths):
            continue
        stored = _kept(full, lengths)
        count = int(np.count_nonzero(stored)) * math.prod(lengths)
        if (size := stored.size / 8 + count * least) < best:
            best, chosen = size, (stored.shape, count, name)
    if best < math.inf:
        counts, count, name = chosen
        share = f"{1 - count / values.size:.1%} zeros in {name}"
        for candidate in inner:
            if (leaf := _leaf(candidate.spec, count)) is not None:
                evidence = "; ".join(filter(None, (share, candidate.evidence)))
                spec = Sparse(ArraySpec(counts, _BOOL), leaf, values.shape)
                yield Candidate((NAME, *candidate.schemes), spec, evidence, structure=name)


def _leaf(spec: Encoding, count: int) -> Values | None:
    """`spec` for `count` of its values, zeros among them."""
    match spec:
        case Dense(plain):
            return Dense(ArraySpec((count,), plain.dtype))
        case Palettized(indices, _, None):
            return replace(spec, indices=ArraySpec((count,), indices.dtype))
        case LinearQuantized(data):
            inner = _leaf(data, count)
            return replace(spec, data=inner) if isinstance(inner, Dense | Palettized) else None
        case _:
            return None


def _block_shapes(whole: Shape) -> Iterator[tuple[Shape, str]]:
    """The blocks that are looked for where zeros lie outside of them too, each with its name."""
    for axis in range(min(len(whole), 2)):
        lengths = tuple(1 if place == axis else dim for place, dim in enumerate(whole))
        yield lengths, _block_name(lengths, whole)
    if len(whole) > 2 and max(whole[2:]) > 1:
        lengths = (1, 1, *whole[2:])
        yield lengths, _block_name(lengths, whole)
    for axis, length in _patterns_of(whole):
        lengths = tuple(length if place == axis else 1 for place in range(len(whole)))
        yield lengths, _block_name(lengths, whole)


def _corner(values: NDArray, lengths: Shape) -> NDArray:
    """Some of the weight, of channels the beginning of each: a head that is pruned is many of them."""
    size = math.prod(lengths)
    return values[tuple(slice(None if size * dim == values.size else _CORNER) for dim in values.shape)]


def _kept(mask: NDArray, lengths: Shape) -> NDArray:
    """The blocks of a mask that have any place set."""
    pairs = [size for dim, length in zip(mask.shape, lengths, strict=True) for size in (dim // length, length)]
    return np.asarray(mask.reshape(pairs).any(axis=tuple(range(1, len(pairs), 2))))


def _explains(mask: NDArray, lengths: Shape) -> bool:
    """Whether far more blocks hold zeros alone than chance makes, given how many zeros each channel has."""
    lengths = tuple(min(length, dim) for length, dim in zip(lengths, mask.shape, strict=True))
    cut = mask[tuple(slice(dim // length * length) for dim, length in zip(mask.shape, lengths, strict=True))]
    kept, size = _kept(cut, lengths), math.prod(lengths)
    empty = kept.size - int(np.count_nonzero(kept))
    if empty < (1 if size >= _LONG_BLOCK else _FEWEST_BLOCKS):
        return False
    zeros, by_chance = 1 - np.count_nonzero(cut) / cut.size, 0.0
    for axis in range(min(cut.ndim, 2)):
        if size * cut.shape[axis] != cut.size:  # a channel does not explain itself
            rates = 1 - cut.mean(axis=tuple(place for place in range(cut.ndim) if place != axis))
            by_chance = max(by_chance, float((rates**size).mean()))
    return bool(empty / kept.size - by_chance > _EXPLAINED * (zeros - by_chance))


def mask_structure(values: NDArray, threshold: float) -> tuple[Shape, str]:
    """The blocks over which the mask is constant, and the structure's name.

    A probe of the first rows, and a corner of it, rule most structures out: an unstructured weight is not read again.
    """
    longest = _GROUP_LENGTHS[-1]
    rows = -(-_PROBE // (values.size // values.shape[0] * longest)) * longest
    probe = above(values[:rows], threshold)
    if any(length > 1 for length in _block_lengths(probe, values.shape)):
        lengths = _block_lengths(above(values, threshold), values.shape)
        if any(length > 1 for length in lengths):
            return lengths, _block_name(lengths, values.shape)
    corner = probe[(slice(longest),) * probe.ndim]
    for axis, m in _patterns_of(values.shape):
        if _pattern(corner, axis, m)[1] == 1 and (found := _pattern(above(values, threshold), axis, m))[1] == 1:
            return (1,) * values.ndim, f"{found[0]}:{m} along axis {axis}"
    if _crosses(probe) and _crosses(above(values, threshold)):
        return (1,) * values.ndim, "channels along axis 0 and 1"
    return (1,) * values.ndim, "unstructured"


def almost(values: NDArray) -> Iterator[str]:
    """The n:m pattern that nearly all groups of an unstructured weight have."""
    corner = above(values[(slice(_CORNER),) * values.ndim], 0.0)
    for axis, m in _patterns_of(values.shape):
        if _pattern(corner, axis, m)[1] >= _NEARLY and (found := _pattern(above(values, 0.0), axis, m))[1] >= _NEARLY:
            yield f"{found[0]}:{m} along axis {axis} in all but {1 - found[1]:.2%} of the groups"
            return


def _patterns_of(shape: Shape) -> Iterator[tuple[int, int]]:
    """The axes and lengths of groups that an n:m pattern may have."""
    for axis, m in itertools.product(range(len(shape)), _GROUP_LENGTHS):
        if shape[axis] % m == 0 and shape[axis] >= 2 * m:
            yield axis, m


def _crosses(mask: NDArray) -> bool:
    """Whether the mask is set just where a channel of axis 0 that is kept meets one of axis 1 that is."""
    planes = mask.reshape(*mask.shape[:2], -1)
    rows, columns = np.asarray(planes.any(axis=(1, 2))), np.asarray(planes.any(axis=(0, 2)))
    crossed = rows[:, None] & columns
    return not (rows.all() or columns.all()) and np.array_equal(
        planes, np.broadcast_to(crossed[..., None], planes.shape)
    )


def _block_lengths(mask: NDArray, shape: Shape) -> Shape:
    """The longest block along each axis of a weight of `shape` over which the mask of its first rows is constant.

    It divides every place where the mask changes.
    """
    lengths = []
    for axis, dim in enumerate(shape):
        moved = np.moveaxis(mask, axis, 0)
        others = tuple(range(1, mask.ndim))
        changes = np.flatnonzero((moved[1:] != moved[:-1]).any(axis=others)) + 1
        lengths.append(math.gcd(dim, *changes.tolist()))
    return tuple(lengths)


def _block_name(lengths: Shape, shape: Shape) -> str:
    varying = [axis for axis, length in enumerate(lengths) if length < shape[axis]]
    if not varying:
        return "all of it"
    whole = len(varying) < len(shape) and all(length in (1, dim) for length, dim in zip(lengths, shape, strict=True))
    if whole and len(varying) == 1:
        return f"channels along axis {varying[0]}"
    if len(varying) == 1 and all(
        length == dim for axis, (length, dim) in enumerate(zip(lengths, shape, strict=True)) if axis not in varying
    ):
        return f"blocks of {lengths[varying[0]]} channels along axis {varying[0]}"
    blocked = [axis for axis, length in enumerate(lengths) if length > 1]
    sizes = "x".join(str(lengths[axis]) for axis in blocked)
    return f"blocks of {sizes} along axis {' and '.join(map(str, blocked))}"


def _pattern(mask: NDArray, axis: int, m: int) -> tuple[int, float]:
    """The n of which most groups of m neighbours along `axis` have just so many set, and the share that has no more.

    (0, 0.0) if there is none.
    """
    grouped = mask[(slice(None),) * axis + (slice(mask.shape[axis] // m * m),)]
    grouped = grouped.reshape(*mask.shape[:axis], -1, m, *mask.shape[axis + 1 :])
    counts = np.bincount(np.add.reduce(grouped, axis=axis + 1, dtype=np.uint8).reshape(-1), minlength=m + 1)
    n, groups = int(counts.argmax()), int(counts.sum())
    if not 0 < n < m or counts[n] < _TIGHT * groups:
        return 0, 0.0
    return n, int(counts[: n + 1].sum()) / groups


def _nonzeros(values: NDArray, spec: Encoding, count: int, threshold: float, scan: Scan) -> Values | None:
    """`spec` for the `count` non-zeros alone, or None where nothing or no smaller form is left."""
    match spec:
        case Dense(plain):
            return Dense(ArraySpec((count,), plain.dtype))
        case Palettized(indices, lut):
            entries = 0 if spec.vector_axis is not None else palettize.without_zero(values, spec, threshold, scan)
            if entries == 0:
                return None
            shorter = ArraySpec((*lut.shape[:-2], entries, 1), lut.dtype)
            return Palettized(ArraySpec((count,), indices.dtype), shorter)
        case LinearQuantized(data):
            inner = _nonzeros(values, data, count, threshold, scan)
            return replace(spec, data=inner) if isinstance(inner, Dense | Palettized) else None
        case _:
            return None


def _without_zero(candidate: Candidate, nonzeros: Values) -> str:
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
