"""Scaled tables: one table of floats for all of a weight, and a scale for each channel or block.

So are NF4, MXFP4 and FP8 where they were computed in training, and palettes whose channels were scaled. What is seen is
exact, `fl(entry * scale) == w` throughout, so values that merely look alike are never taken for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from compressor.arrays import UINT8, ArraySpec, DType, NDArray, is_float
from compressor.encodings import Palettized, Quantized, nbytes
from compressor.kernels import select
from compressor.patterns import magnitude_bits, starts, unique
from compressor.recognition import granularity, lookup, scaled
from compressor.recognition.granularity import Granularity
from compressor.recognition.lookup import Lookup
from compressor.recognition.scan import Scan
from compressor.recognition.schemes import Candidate, scales
from compressor.recognition.tables import ENTRIES

NAME = "scaled_table"

_LEAST = 1 << 12
"""Smaller weights save too little for a table and scales of their own."""

_SAVED = 7 / 8
"""Where few distinct values are a palette, scales must leave so much of its bytes at most."""

_RUN = 256
"""So many neighbours along an axis tell whether values recur."""

_SHORT = 16
"""Tables of so few entries are looked for first: no other one is smaller by much."""

_ROWS, _TOGETHER, _LEARNED = 8, 64, 1 << 18
"""So many blocks rule a granularity out; from so many or more, of fewer values than that, a table is learned."""


_PARTS = 4
"""Parts of a weight whose scales tell what all of them take at least."""


def detect(values: NDArray, scan: Scan, best: float) -> Iterator[Candidate]:
    """The granularity and the table that take the fewest bytes, if they are fewer than `best`."""
    if not is_float(values.dtype) or values.size < _LEAST or values.ndim < 2 or not recurs(values):
        return
    # Of few values in all, those that differ by powers of two alone may be one entry, times other scales.
    if scan.table is not None and _nbytes(values, scan, _fractions(scan.table.entries)) > best * _SAVED:
        return
    found: Candidate | None = None
    for chain in granularity.chains(values.shape):
        codes = math.inf  # of a table that serves longer blocks: it serves shorter ones, which take more scales
        for cut in chain:
            for called, table in _promises(values, scan, cut, best, codes):
                indices = _nbytes(values, scan, table.entries.size)
                if (served := _served(values, cut, table, best - indices)) is None:
                    continue
                blocks, spec = served
                codes = indices
                if (size := codes + _beside(spec)) < best:
                    name = called or f"one table of {table.entries.size} values"
                    best, found = size, Candidate((NAME,), spec, f"{name}, scaled {blocks.name}")
                break  # the shortest are tried first
    if found is not None:
        yield found


def nearest(values: NDArray, tolerance: float) -> NDArray | None:  # noqa: ARG001 - a scheme's protocol
    """None: what is near a product of some entry and some scale says nothing."""
    return None


def encode(values: NDArray, spec: Quantized, where: NDArray | None) -> Quantized:
    """The place of every value in the one table, and the scale of every block.

    Raises:
        ValueError: there is no such table of that many entries.
    """
    assert isinstance(spec.data, Palettized)
    counts, entries = spec.scale.shape, spec.data.lut.shape[-2]
    lengths = spec.block or tuple(dim // count for dim, count in zip(values.shape, counts, strict=True))
    cut = Granularity(values.shape, lengths)
    for _, table in _tables(values, cut, cut.some(values, _ROWS), entries):
        alike = (table.entries.size, table.entries.dtype) == (entries, spec.data.lut.dtype)
        scale = _scales(values, cut, table) if alike else None
        if scale is not None:
            indices = np.empty(values.shape, np.uint8)
            for part in cut.parts():
                part.put(indices, scaled.index(part.rows(values), scale[part.blocks].reshape(-1), table))
            data = Palettized(
                indices if where is None else select(indices, where), table.entries.reshape(spec.data.lut.shape)
            )
            return Quantized(data, scales.encode(scale, spec.scale), None, spec.block, spec.rounded)
    raise ValueError(f"one table of {entries} values times {list(counts)} scales, got others")


def _promises(values: NDArray, scan: Scan, cut: Granularity, best: float, codes: float) -> Iterator[tuple[str, Lookup]]:
    """The tables that serve some blocks of a granularity and may take fewer bytes than `best`, with their names.

    codes: of how many bytes indices must take fewer.
    """
    rows, blocks = cut.some(values, _ROWS), math.prod(cut.counts)
    distinct, share = _distinct(rows)
    # Few values tell little: by sixteen bits, a fifth of 256 random ones is there twice.
    most = 0.9 if values.dtype.itemsize > 2 else max(0.6, 0.98 - rows.shape[1] / 512)
    if share > most or distinct > ENTRIES or _nbytes(values, scan, distinct) >= min(codes, best - blocks):
        return
    longest, entries = _worth(values, scan, cut, lambda least: min(codes, best - max(blocks, least)))
    if distinct > entries:
        return
    for name, table in _tables(values, cut, rows, entries):
        # Float32 scales are two bytes at the least: codes on a grid of the type's own are no smaller as a table.
        least = blocks * 2 if table.entries.dtype != values.dtype else blocks
        least = max(least, _fewest_beside((cut, longest), table.entries.dtype))
        size = _nbytes(values, scan, table.entries.size) + least
        if not distinct <= table.entries.size <= entries or size >= best:
            continue
        if all(scaled.scales(some, table) is not None for some in (rows[:1], rows)):
            yield name, table


def _served(values: NDArray, cut: Granularity, table: Lookup, most: float) -> tuple[Granularity, Quantized] | None:
    """The blocks that a table serves, of these or several times as long, and the form; None if it serves none.

    most: of how many bytes scales must take fewer, as far as those of some blocks tell: all of them take no fewer.
    """
    longer = granularity.longer(cut, values, lambda rows: scaled.scales(rows, table) is not None)
    for blocks in (longer, cut):
        if blocks is None:
            continue
        parts = [*blocks.parts()]
        some = [scaled.scales(part.rows(values), table) for part in parts[:: max(1, len(parts) // _PARTS)]]
        few = [scale for scale in some if scale is not None]
        if len(few) < len(some) or _beside(_spec(values, blocks, np.concatenate(few), table)) >= most:
            continue
        if (scale := _scales(values, blocks, table)) is not None:
            return blocks, _spec(values, blocks, scale, table)
    return None


def _scales(values: NDArray, cut: Granularity, table: Lookup) -> NDArray | None:
    """The scale of every block, of the shape of their counts; None where a block has none."""
    scale = np.empty(cut.counts, table.entries.dtype)
    for part in cut.parts():
        found = scaled.scales(part.rows(values), table)
        if found is None:
            return None
        scale[part.blocks] = found.reshape(part.counts)
    return scale


def _spec(values: NDArray, cut: Granularity, scale: NDArray, table: Lookup) -> Quantized:
    lut = ArraySpec((*(1,) * len(cut.shape), table.entries.size, 1), scale.dtype)
    data = Palettized(ArraySpec(cut.shape, UINT8), lut)
    rounded = None if scale.dtype == values.dtype else values.dtype
    return Quantized(data, scales.spec(scale, cut.counts), None, cut.block, rounded)


def _beside(spec: Quantized) -> int:
    """The bytes of the scales."""
    return nbytes(spec) - nbytes(spec.data)


def _tables(values: NDArray, cut: Granularity, rows: NDArray, most: int) -> Iterator[tuple[str, Lookup]]:
    """The tables that may serve all blocks: the short ones of formats, one that is learned, the long ones.

    rows: some blocks.
    most: entries that are worth it.
    """
    known = lookup.known(values.dtype)
    yield from (one for one in known if one[1].entries.size <= _SHORT)
    if scaled.learned(rows, most) is not None:
        many, few = (max(_ROWS, size // rows.shape[1]) for size in (_LEARNED, _LEARNED // 8))
        table = scaled.learned(cut.some(values, min(many, max(few, _TOGETHER))), most)
        if table is not None:
            yield "", Lookup.of(table)
    yield from (one for one in known if one[1].entries.size > _SHORT)


def recurs(values: NDArray) -> bool:
    """Whether values recur along either of some axes, as they do under one scale: hardly any do in dense weights."""
    middle = tuple(dim // 2 for dim in values.shape)
    for axis, dim in enumerate(values.shape):
        if dim > 1:
            run = values[(*middle[:axis], slice(max(0, dim // 2 - _RUN), dim // 2 + _RUN), *middle[axis + 1 :])][:_RUN]
            if _distinct(np.ascontiguousarray(run)[None, :])[1] <= (0.9 if values.dtype.itemsize > 2 else 0.82):
                return True
    return False


def _distinct(rows: NDArray) -> tuple[int, float]:
    """The most distinct values of a row, and their share of all that are not zero."""
    patterns = np.sort(rows.view(f"<u{rows.dtype.itemsize}"), axis=1)
    above = (patterns & magnitude_bits(rows.dtype)) != 0
    each = np.count_nonzero(starts(patterns) & above, axis=1)
    return int(each.max()), float(each.sum() / max(1, np.count_nonzero(above)))


@np.errstate(invalid="ignore")  # a signalling NaN
def _fractions(entries: NDArray) -> int:
    """How many distinct values are left of some when they are scaled by powers of two into one range."""
    return unique(np.frexp(entries.astype(np.float64))[0].view(np.uint64)).size


def _worth(values: NDArray, scan: Scan, cut: Granularity, left: Callable[[int], float]) -> tuple[Granularity, int]:
    """The longest blocks that a table may serve, and the entries of the longest one worth its scales; 0 if none is.

    Few scales take all of their bytes: where a grid of such blocks was found, hardly any table is.

    left: of how many bytes indices must take fewer beside scales of so many bytes at least.
    """
    entries = _entries(values, scan, left(0))
    while True:
        # A table may serve several blocks as one, if they have no more distinct values than it has.
        longest = granularity.longer(cut, values, lambda rows: _distinct(rows)[0] <= entries) or cut  # noqa: B023
        fewer = _entries(values, scan, left(_fewest_beside((cut, longest), values.dtype)))
        if fewer >= entries:
            return longest, entries
        entries = fewer


def _fewest_beside(cuts: Sequence[Granularity], dtype: DType) -> int:
    """The fewest bytes of the scales of any of some blocks: many may be a table that few are not worth."""
    return min(scales.least_nbytes(math.prod(cut.counts), dtype) for cut in cuts)


def _entries(values: NDArray, scan: Scan, most: float) -> int:
    """The entries of the longest table whose indices take fewer bytes than that; 0 if there is none."""
    return next((1 << width for width in range(8, 0, -1) if _nbytes(values, scan, 1 << width) < most), 0)


def _nbytes(values: NDArray, scan: Scan, entries: int) -> float:
    """The bytes of the indices into a table, or of those of non-zeros under a mask: whichever is fewer."""
    width = max(1, (entries - 1).bit_length()) / 8
    return min(values.size * width, values.size / 8 + (values.size - scan.zeros) * width)
