"""Sparse storage: a bit mask and the non-zeros, which may themselves be palettized or quantized.

The structure of the zeros is found in the mask: where it is constant over blocks, one bit a block is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from compressor.arrays import ArraySpec, NDArray, Shape
from compressor.encodings import Dense, Encoding, LinearQuantized, Palettized, Sparse, expand
from compressor.scan import ENTRIES, Scan, above
from compressor.schemes import Candidate, Values, palettize

NAME = "sparsify"

EncodeInner = Callable[[NDArray, Values, NDArray], Values]

_BOOL = np.dtype(np.bool_)
_GROUP_LENGTHS = (2, 4, 8, 16, 32)
_TIGHT = 0.75
"""An n:m pattern describes a mask if at least this share of the groups hold all the n non-zeros that it allows."""

_PROBE = 1 << 16


def detect(
    values: NDArray, scan: Scan, inner: Iterable[Candidate], max_thresholded: float, threshold: float
) -> Iterator[Candidate]:
    """The sparse form of every `inner` candidate (the plain values among them), if there are zeros.

    Magnitudes up to `threshold` count as zeros where they are at most `max_thresholded` of the values that survive.
    """
    survivors = scan.size - scan.zeros - scan.small
    rule = scan.small > 0 and scan.small <= max_thresholded * survivors
    if not rule and not scan.zeros:
        return
    blocks, structure = mask_structure(values, 0.0) if scan.zeros else ((1,) * values.ndim, "unstructured")
    used, changed = 0.0, 0
    # Exact zeros in blocks are the work of training; small survivors between them are then no noise.
    if rule and max(blocks) == 1:
        used, changed = threshold, scan.small
        blocks, structure = mask_structure(values, used)
    count = scan.size - scan.zeros - changed
    counts = tuple(dim // block for dim, block in zip(values.shape, blocks, strict=True))
    share = f"{1 - count / scan.size:.1%} zeros, {structure}"
    if changed:
        share += f", {changed:,} of them values up to {used:g}"
    mask = ArraySpec(counts, _BOOL)
    for candidate in inner:
        if (nonzeros := _nonzeros(values, candidate.spec, count, used, scan)) is not None:
            evidence = "; ".join(filter(None, (share, _without_zero(candidate, nonzeros))))
            spec = Sparse(mask, nonzeros, values.shape)
            yield Candidate((NAME, *candidate.schemes), spec, evidence, used, changed, structure)
    if scan.table is not None and scan.table.entries.size > ENTRIES:
        entries = int(np.count_nonzero(above(scan.table.entries, used)))
        if entries <= ENTRIES:  # zero, or what the threshold makes zero, was too much for a palette
            one = palettize.spec((count,), values.dtype, (1,) * values.ndim, entries)
            evidence = f"{share}; {palettize.plural(entries, 'distinct non-zero value')}"
            yield Candidate((NAME, palettize.NAME), Sparse(mask, one, values.shape), evidence, used, changed, structure)


def mask(values: NDArray, spec: Sparse, threshold: float) -> tuple[NDArray, NDArray]:
    """The stored mask, and the same one at full size.

    Raises:
        ValueError: the mask is not constant over the blocks that `spec` names.
    """
    full = above(values, threshold)
    stored = full[tuple(slice(None, None, dim // n) for dim, n in zip(values.shape, spec.mask.shape, strict=True))]
    if stored.shape != full.shape and not np.array_equal(expand(stored, full.shape), full):
        raise ValueError(f"a mask that is constant over blocks of {list(values.shape)} to {list(spec.mask.shape)}")
    return np.ascontiguousarray(stored), full


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
    for axis in range(values.ndim):
        for m in _GROUP_LENGTHS:
            if values.shape[axis] % m or values.shape[axis] < 2 * m:
                continue
            if _pattern(corner, axis, m) and (n := _pattern(above(values, threshold), axis, m)):
                return (1,) * values.ndim, f"{n}:{m} along axis {axis}"
    return (1,) * values.ndim, "unstructured"


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
    blocked = [axis for axis, length in enumerate(lengths) if length > 1]
    sizes = "x".join(str(lengths[axis]) for axis in blocked)
    return f"blocks of {sizes} along axis {' and '.join(map(str, blocked))}"


def _pattern(mask: NDArray, axis: int, m: int) -> int:
    """n, if the mask has at most n of every m neighbours along `axis` set, and mostly just n; else 0."""
    grouped = mask.reshape(*mask.shape[:axis], -1, m, *mask.shape[axis + 1 :])
    counts = np.add.reduce(grouped, axis=axis + 1, dtype=np.uint8)
    n = int(counts.max())
    return n if 0 < n < m and np.count_nonzero(counts == n) >= _TIGHT * counts.size else 0


def _nonzeros(values: NDArray, spec: Encoding, count: int, threshold: float, scan: Scan) -> Values | None:
    """`spec` for the `count` non-zeros alone, or None where nothing or no smaller form is left."""
    match spec:
        case Dense(plain):
            return Dense(ArraySpec((count,), plain.dtype))
        case Palettized(indices, lut):
            entries = palettize.without_zero(values, spec, threshold, scan)
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
        return palettize.plural(nonzeros.lut.shape[-2], "distinct non-zero value")
    if isinstance(nonzeros, Palettized):
        return f"non-zeros of {candidate.evidence}"
    return candidate.evidence


def encode(values: NDArray, spec: Sparse, threshold: float, encode_inner: EncodeInner) -> Sparse:
    """The mask, and what `encode_inner(values, spec, where)` makes of the non-zeros."""
    stored, full = mask(values, spec, threshold)
    return replace(spec, mask=stored, values=encode_inner(values, spec.values, full))
