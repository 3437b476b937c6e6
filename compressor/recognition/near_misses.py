"""What a weight almost is, for whoever trains it again: a line each, and the bytes that it would save."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from compressor.arrays import NDArray, is_float
from compressor.encodings import Palettized, nbytes
from compressor.patterns import distance, eps, largest
from compressor.recognition import clusters, masks
from compressor.recognition.scan import Scan, sample
from compressor.recognition.scan import scan as scan_
from compressor.recognition.schemes import Candidate, linear_quantize, palettize, sparsify
from compressor.recognition.tables import ENTRIES

_FEW = 0.01
"""Less than this share of zeros is no near miss of a sparse weight."""

_NOISE = 1e-4
"""Clusters that are wider than this, relative to the largest magnitude, are no noise of arithmetic."""

_OUTLIERS = 2
"""So few clusters are a weight with a value far away from all others."""


@dataclass(frozen=True)
class NearMiss:
    """What a weight almost is.

    text: what it is, in a line.
    kind: of what would be done about it: `values`, `folded`, `tolerance`, `mask` or `threshold`.
    saves: how many bytes less than the weight's smallest form it would take; 0 where that is not known.
    """

    text: str
    kind: str
    saves: int = 0


VALUES, FOLDED, TOLERANCE, MASK, THRESHOLD = "values", "folded", "tolerance", "mask", "threshold"
"""The kinds: fewer values, batch norm unfolded, a tolerance, a better mask, a threshold."""


def near_misses(
    values: NDArray, scan: Scan, candidates: Sequence[Candidate], source: int, threshold: float | None
) -> Iterator[NearMiss]:
    """What would make the weight smaller than its smallest form, most telling first.

    source: the bytes of the form that the source has.
    threshold: values up to this magnitude were asked to count as zero; None if nothing was asked.
    """
    exact = [one for one in candidates if not one.loss.max_error and one.loss.threshold <= (threshold or 0.0)]
    best = min((source, *(nbytes(candidate.spec) for candidate in exact)))
    yield from _about_distinct_values(values, scan, best)
    if is_float(values.dtype):
        noise = [] if any(one.loss.max_error for one in candidates) else _about_noise(values, scan, exact, best)
        yield from _first(_about_factors(values, scan, exact), noise)
    yield from _about_zeros(values, scan, exact, source)
    yield from _about_small_values(scan, candidates, best, threshold)


def _palettized(values: NDArray, entries: int) -> int:
    """The bytes of a weight with one table of so many values."""
    return nbytes(palettize.spec(values.shape, values.dtype, (1,) * values.ndim, entries))


def _about_distinct_values(values: NDArray, scan: Scan, best: int) -> Iterator[NearMiss]:
    count = 0 if scan.table is None else scan.table.entries.size
    if count > ENTRIES:
        saves = max(0, best - _palettized(values, ENTRIES))
        yield NearMiss(f"{count} distinct values: a palette has at most {ENTRIES}", VALUES, saves)
        return
    width = (count - 1).bit_length()
    fewer = 1 << width - 1 if width else 0
    if count > 4 and not scan.zeros and count - fewer <= 2:
        saves = max(0, best - _palettized(values, fewer))
        yield NearMiss(f"{count} distinct values; {fewer} would save {1 / width:.0%}", VALUES, saves)


def _about_factors(values: NDArray, scan: Scan, exact: Sequence[Candidate]) -> Iterator[NearMiss]:
    """A palette for each channel that is the same one times a factor."""
    if any(candidate.schemes == (linear_quantize.NAME,) for candidate in exact):
        return
    for candidate in exact:
        spec = candidate.spec
        found = palettize.factored(values.dtype, spec, scan) if isinstance(spec, Palettized) else None
        if found is None:
            continue
        axis, entries, error = found
        one, now = _palettized(values, entries), nbytes(spec)
        text = (
            f"a palette of {entries} behind a factor per channel along axis {axis}, max relative error {error:.0e}: "
            f"batch norm was folded before export; one table would save {1 - one / now:.0%}"
        )
        yield NearMiss(text, FOLDED, max(0, now - one))
        return


def _about_noise(values: NDArray, scan: Scan, exact: Sequence[Candidate], best: int) -> Iterator[NearMiss]:
    """A grid or a palette but for noise, and the tolerance that would take it for one."""
    if scan.table is not None and scan.table.entries.size <= ENTRIES:
        return
    on_grid = any(candidate.schemes == (linear_quantize.NAME,) for candidate in exact)
    yield from _first([] if on_grid else _about_noisy_grids(values, best), _about_clusters(values, best))


def _about_noisy_grids(values: NDArray, best: int) -> Iterator[NearMiss]:
    near = linear_quantize.nearest(values, 0.0, max(0.6 * eps(values.dtype), 4e-7))
    error = 0.0 if near is None else distance(values, near)[1]
    if near is None or not error:  # without an error the source itself has stored the codes
        return
    for grid in linear_quantize.detect(near, scan_(near, 0.0), 0):
        tolerance = _rounded_up(error / largest(values))
        cause = f"it was rounded to {values.dtype}"
        if values.dtype.itemsize > 2:
            cause = "batch norm was folded before export"
        text = (
            f"{grid.evidence} but for a relative error of {tolerance:.0e}: {cause}; "
            f"`detect.tolerance: {tolerance:.0e}` would store it so"
        )
        yield NearMiss(text, TOLERANCE, max(0, best - nbytes(grid.spec)))


def _about_clusters(values: NDArray, best: int) -> Iterator[NearMiss]:
    found = clusters.find(values, _NOISE * largest(sample(values.reshape(-1))))
    if found is not None and found.middle.size > _OUTLIERS:
        tolerance = _rounded_up(found.error / largest(values))
        bits = (found.middle.size - 1).bit_length()
        text = (
            f"{found.middle.size} clusters within {tolerance:.0e}; `detect.tolerance: {tolerance:.0e}` would store "
            f"{bits} bits a weight"
        )
        yield NearMiss(text, TOLERANCE, max(0, best - _palettized(values, found.middle.size)))


def _first(*stories: Iterable[NearMiss]) -> Iterator[NearMiss]:
    """What the first of several searches finds that finds anything; the others, which cost more, are not begun then."""
    return next((iter(found) for each in stories if (found := list(each))), iter(()))


def _rounded_up(relative: float) -> float:
    """A tolerance of one digit."""
    unit = 10.0 ** math.floor(math.log10(relative))
    return math.ceil(relative / unit) * unit


def _about_zeros(values: NDArray, scan: Scan, exact: Sequence[Candidate], source: int) -> Iterator[NearMiss]:
    sparse = [candidate for candidate in exact if candidate.schemes[:1] == (sparsify.NAME,)]
    if scan.zeros <= _FEW * scan.size or not sparse:
        return
    if sparse[0].structure == "unstructured":
        yield from (NearMiss(text, MASK) for text in masks.almost(values))
    if min(nbytes(candidate.spec) for candidate in sparse) >= source:
        yield NearMiss(f"{scan.zeros / scan.size:.1%} zeros: a mask costs more than it saves", MASK)


def _about_small_values(
    scan: Scan, candidates: Sequence[Candidate], best: int, threshold: float | None
) -> Iterator[NearMiss]:
    """What a threshold would save, or why the one that was asked for does nothing."""
    lossy = [candidate for candidate in candidates if candidate.loss.changed and not candidate.loss.max_error]
    if threshold and scan.zeros and scan.small > _FEW * scan.size and not lossy:
        text = f"{scan.small:,} values up to {threshold:g} are not zero: too many to be taken for noise"
        yield NearMiss(text, THRESHOLD)
    if threshold is None and lossy:
        smallest = min(lossy, key=lambda candidate: nbytes(candidate.spec))
        if (saved := best - nbytes(smallest.spec)) > 0:
            text = (
                f"{smallest.loss.changed:,} values up to {smallest.loss.threshold:g} are not zero; "
                f"`detect.threshold: {smallest.loss.threshold:g}` would make them so and save {saved:,} bytes"
            )
            yield NearMiss(text, THRESHOLD, saved)
