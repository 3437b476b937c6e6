"""Parts of one tensor: rows of different kinds side by side, as fused projections, merged gates and experts are.

A few values of a few rows along an axis say of what kind each is: with zeros, of few distinct values, of a narrower
float type, or none of these. Where neighbours differ, the place is searched, and each part is looked at like a weight
of its own; neighbours that are no larger as one are one. Parts of equal length are tried where all rows have few
distinct values, and so has the first part, and the whole has no table of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import cast

import numpy as np

from compressor import encodings
from compressor.arrays import NDArray
from compressor.encodings import Concatenated, Encoding, Palettized, Quantized, Sparse, Whole, index_bits, shape
from compressor.packing import packed_nbytes
from compressor.patterns import magnitude_bits, starts
from compressor.recognition.scan import distinct
from compressor.recognition.schemes import Candidate
from compressor.recognition.schemes.narrow import narrower

Describe = Callable[[NDArray], Sequence[Candidate]]
"""The ways to store the values of a part exactly, as they are among them."""

_ROWS, _VALUES = 64, 256
"""So many rows along an axis, and values of each, are looked at."""

_SOME, _FEW = 3 / 4, 1 / 10
"""A row has some, or few, distinct values where they are at most this share of a sample: 256 values of a float32 are
all distinct, of a bfloat16 nine in ten, of a grid of 8 bits about half, of a palette of 16 one in sixteen."""

_ZEROS = 1 / 8
"""The share of zeros in a row above which a mask can pay; as one entry of a palette zero is rarer."""

_DISTINCT = 1
"""The column of `_kinds` that tells how few distinct values there are."""

_STEP = 37
"""By so much later in its stretch a place is than that of the stretch before."""

_MOST = 16
"""The most parts along an axis; experts, the first axis of three, may be as many as they are."""

_EQUAL = (2, 3, 4)
"""Into so many equal parts a weight is cut on trial: gates, fused projections."""

_SAVED = 1 / 16
"""The share of the bytes that parts must save."""

_WORTH, _BITS, _LEAST = 1 / 4, 5, 1 << 13
"""Parts are looked for where the best form takes more than this share of the values' bytes and more than so many bits a
value, in weights of so many values; and where tables and scales, or zeros, leave something to be saved."""


def detect(
    values: NDArray,
    best: float,
    describe: Describe,
    axes: Iterable[int] | None = None,
    codes: float = math.inf,
    zeros: int = 0,
) -> Iterator[Candidate]:
    """The smallest concatenation of parts, if one saves a sixteenth of `best`: a mask of channels has parts too.

    best: the bytes of the smallest form of the whole. axes: along which parts may lie; all if none are given.
    codes: how many of the bytes are those of codes, or of values, if that is known. zeros: how many values are zero.
    """
    found: tuple[dict[int, Candidate], int] | None = None
    worth = _worth(values.size, values.itemsize, best, codes, zeros)
    if values.size < _LEAST or values.ndim < 2 or not any(worth):
        return
    large, beside, _ = worth
    best *= 1 - _SAVED
    for axis in range(values.ndim) if axes is None else axes:
        cuts = [*_cuts(values, axis, equal=large or beside, least=1 if large else 2)]
        needed = best
        for ends in cuts:  # which become more
            parts = _smallest(values, axis, ends, describe)
            size = sum(encodings.nbytes(one.spec) for one in parts.values())
            if len(parts) > 1 and size < needed:
                found, best, needed = (parts, axis), size, size * (1 - _SAVED)
                cuts += _finer(parts, values.shape[axis])
    if found:
        yield _candidate(*found)


def _worth(size: int, itemsize: int, best: float, codes: float, zeros: int) -> tuple[bool, bool, bool]:
    """What parts may save in a weight of `size` values: values, tables and scales, zeros.

    Where codes take nearly all, equal parts of one kind save nothing: each has as many of them.
    """
    large = best > size * max(itemsize * _WORTH, _BITS / 8)
    return large, best - codes > best * _SAVED, zeros > size * _ZEROS / 2


def are_seen(spread: NDArray, size: int, best: float, codes: float, zeros: int) -> bool:
    """Whether `detect` would look for the place where two parts meet in a matrix of `size` values.

    spread: its rows that are looked at: those at `places`. best, codes, zeros: as those of `detect`.
    """
    worth = _worth(size, spread.itemsize, best, codes, zeros)
    every = (_differing(spread, axis, places(spread.shape[axis]), _MOST) for axis in range(spread.ndim))
    return any(worth) and any(_are_ends(differ, at, _MOST, least=1 if worth[0] else 2) for differ, at, *_ in every)


def _finer(parts: Mapping[int, Candidate], length: int) -> Iterator[list[int]]:
    """The ends of parts, and of equal parts of those that have more beside their codes than parts would save."""
    starts_ = [*parts]
    ends = [*starts_[1:], length]
    for count in _EQUAL:
        more = {
            start + (end - start) // count * place
            for start, end, one in zip(starts_, ends, parts.values(), strict=True)
            if encodings.nbytes(one.spec) - codes_nbytes(one.spec) > encodings.nbytes(one.spec) * _SAVED
            for place in range(1, count if (end - start) % count == 0 else 1)
        }
        if more:
            yield sorted({*starts_[1:], *more})


def codes_nbytes(spec: Encoding) -> float:
    """The bytes of a form's codes, or of its values, and of their mask: all but tables and scales."""
    match spec:
        case Palettized(indices, lut):
            return packed_nbytes(indices.size, index_bits(lut))
        case Quantized(data):
            return codes_nbytes(data)
        case Sparse(_, values):
            return encodings.nbytes(spec) - encodings.nbytes(values) + codes_nbytes(values)
        case _:
            return encodings.nbytes(spec)


def _smallest(values: NDArray, axis: int, ends: Sequence[int], describe: Describe) -> dict[int, Candidate]:
    """The smallest form of each part, by the place where it begins; neighbours that are no larger as one are one.

    ends: where the parts end, the last one aside.
    """

    def smallest(start: int, end: int) -> Candidate:
        piece = values[(slice(None),) * axis + (slice(start, end),)]
        return min(describe(piece), key=lambda one: encodings.nbytes(one.spec))

    found: dict[int, Candidate] = {}
    for start, end in pairwise([0, *ends, values.shape[axis]]):
        one, begun = smallest(start, end), start
        if found:
            last = max(found)
            joined = smallest(last, end)
            if encodings.nbytes(joined.spec) <= encodings.nbytes(found[last].spec) + encodings.nbytes(one.spec):
                one, begun = joined, last
        found[begun] = one
    return found


def _candidate(parts: Mapping[int, Candidate], axis: int) -> Candidate:
    """The form of parts by the places where they begin."""
    spec = Concatenated(tuple(cast("Whole", one.spec) for one in parts.values()), axis)
    ends = (*parts, shape(spec)[axis])[1:]
    told = "; ".join(
        f"{start}:{end} {one.evidence or 'dense'}" for (start, one), end in zip(parts.items(), ends, strict=True)
    )
    schemes = dict.fromkeys(scheme for one in parts.values() for scheme in one.schemes)
    evidence = f"{len(parts)} parts along axis {axis}: {told}"
    return Candidate(tuple(schemes), spec, evidence, parts=tuple(parts.values()))


def _cuts(values: NDArray, axis: int, *, equal: bool, least: int) -> Iterator[list[int]]:
    """The places along an axis at which the parts may end, but for the last one.

    equal: whether parts of equal length are tried. least: how many of the rows that are looked at a part has.
    """
    rows = values.shape[axis]
    most = rows if axis == 0 and values.ndim > 2 else _MOST
    if rows < 2:
        return
    differ, at, kinds, some = _differing(values, axis, places(rows), most)
    if _are_ends(differ, at, most, least):
        yield [_edge(values, axis, at[place : place + 2], kinds[place], some) for place in differ]
    elif equal and not differ.size and kinds[0, _DISTINCT]:
        for parts in (parts for parts in _EQUAL if rows % parts == 0):
            length = rows // parts
            if distinct(values[(slice(None),) * axis + (slice(length),)], sampled=True) is not None:
                yield [length * end for end in range(1, parts)]


def _differing(values: NDArray, axis: int, at: NDArray, most: int) -> tuple[NDArray, NDArray, NDArray, float]:
    """After which of the rows at some places another kind begins; the places, the kinds, and what told them apart."""
    for some in (_SOME, _FEW):  # of rows that have hardly few enough values some would be of one kind, some of another
        kinds = _kinds(values, axis, at, some)
        differ = np.flatnonzero((kinds[1:] != kinds[:-1]).any(axis=1))
        if differ.size < most:
            break
    return differ, at, kinds, some


def _are_ends(differ: NDArray, at: NDArray, most: int, least: int) -> bool:
    """Whether parts may end there: they are not too many, nor too short."""
    return 0 < differ.size < most and np.diff([-1, *differ, at.size - 1]).min() >= least


def places(length: int, most: int = _ROWS) -> NDArray:
    """So many places at most, ascending, the first and the last among them; uneven, unlike what stands in turn."""
    if length <= most:
        return np.arange(length)
    begun = np.arange(most) * length // most
    within = np.arange(most) * _STEP % (length // most)
    within[[0, -1]] = 0, length - 1 - begun[-1]
    return begun + within


def _edge(values: NDArray, axis: int, between: NDArray, kind: NDArray, some: float) -> int:
    """Where the rows end that are of the kind of the first of two rows, before the second, which is of another."""
    left, right = between
    while right - left > 1:
        middle = (left + right) // 2
        same = np.array_equal(_kinds(values, axis, np.array([middle]), some)[0], kind)
        left, right = (middle, right) if same else (left, middle)
    return int(right)


def are_alike(values: NDArray, axis: int, at: NDArray) -> bool:
    """Whether the rows along an axis at some places are all of one kind."""
    kinds = _kinds(values, axis, at, _SOME)
    return bool((kinds == kinds[0]).all())


def _kinds(values: NDArray, axis: int, at: NDArray, some: float) -> NDArray:
    """Whether rows have zeros, how few their distinct values are (0, 1, 2), and whether all are of a narrower type.

    By a sample: int `[rows, 3]`. some: the share of distinct values up to which they are not all.
    """
    few = _taken(values, axis, at, places(values.size // values.shape[axis], _VALUES))
    patterns = np.sort(few.view(f"<u{few.dtype.itemsize}"), axis=1)
    zeros = np.count_nonzero(patterns & magnitude_bits(few.dtype) == 0, axis=1)
    others = np.count_nonzero(starts(patterns), axis=1) - (zeros > 0)
    share = others / np.maximum(1, few.shape[1] - zeros)
    return np.stack([zeros > few.shape[1] * _ZEROS, (share <= some) * 1 + (share <= _FEW), narrower(few)], axis=1)


def _taken(values: NDArray, axis: int, at: NDArray, columns: NDArray) -> NDArray:
    """Some values of some rows, `[rows, columns]`; taken in the order in which they lie in memory."""
    strides = [math.prod(values.shape[one + 1 :]) for one in range(values.ndim)]
    others = [one for one in range(values.ndim) if one != axis]
    along, across = at * strides[axis], np.zeros(columns.size, np.intp)
    for one, some in zip(others, np.unravel_index(columns, [values.shape[one] for one in others]), strict=True):
        across += some * strides[one]
    flat = values.reshape(-1)
    if axis == 0:
        return np.asarray(flat.take(along[:, None] + across))
    return np.ascontiguousarray(flat.take(across[:, None] + along).T)
