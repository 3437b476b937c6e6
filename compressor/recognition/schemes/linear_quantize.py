"""Quantization grids: weights that are whole multiples of a scale, as fake-quantized training leaves them.

The scale is recovered from the values: it is the largest one of which every value of a block is an exact multiple after
one rounding, `fl(k * scale) == w`. A block whose multiples do not fit the code type rules the grid out, so values that
merely look regular are never taken for one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from compressor import encodings
from compressor.arrays import CODE_DTYPES, ArraySpec, DType, NDArray, Shape, is_float
from compressor.blocks import row_blocks
from compressor.encodings import Dense, LinearQuantized
from compressor.kernels import expand, select
from compressor.patterns import eps, least_magnitudes
from compressor.recognition.scan import ENTRIES, Scan, distinct
from compressor.recognition.schemes import Candidate

NAME = "linear_quantize"

BLOCK_LENGTHS = (256, 128, 64, 32, 16)
"""Lengths of blocks that are looked for, longest first: fewest scales."""

_ROWS_PROBED, _VALUES_PROBED = 8, 256
_SPAN = 255
_SEARCHED = 1 << 17
_FEW, _TELLING = 8, 32
_APART = 8
_GREATEST = np.arange(1, _SPAN + 1)
_TRIALS = tuple(itertools.product(range(1, _SPAN + 1), (0, 1, -1)))
"""Parts of the least magnitude, and the side of the float beside it, in the order in which they are tried."""

_PARTS_TOWARDS = np.array(_TRIALS).T
_MOST = _SPAN + 2
"""Two roundings move the greatest code by less than 2."""


@dataclass(frozen=True)
class _Grid:
    """The scales of a few rows, and what they are multiplied with.

    scale: `[rows]`.
    low, high: int16 `[rows]`, the least and the greatest multiple, or 0.
    """

    scale: NDArray
    low: NDArray
    high: NDArray


def detect(values: NDArray, scan: Scan, best: float) -> Iterator[Candidate]:  # noqa: ARG001 - a probe costs less
    """The coarsest granularity at which the weight lies on a grid of at most 256 steps: tensor, channel, block."""
    if not is_float(values.dtype):
        return
    if scan.table is not None and (grid := _find(scan.table.entries[None, :])) is not None:
        yield _candidate(values, (1,) * values.ndim, [grid], "per tensor")
        return
    for axis in range(min(values.ndim, 2)):
        found = _along(values, axis)
        if found is not None:
            yield found
            return


def nearest(values: NDArray, tolerance: float, rounding: float = 0.0) -> NDArray | None:
    """The weight on a grid, the coarsest granularity first, from which no value is farther than `tolerance`.

    rounding: added to the tolerance, relative to the largest magnitude of a channel; blocks, of which short ones are
        near some grid, are not looked for then.
    """
    if not is_float(values.dtype):
        return None
    for axis in range(-1, min(values.ndim, 2)):
        granularities = [((1,) * values.ndim, "")] if axis < 0 else [*_granularities(values.shape, axis)]
        granularities = granularities[: 1 if rounding else None]
        if not granularities or not _probably_near(_probed(values, granularities[-1][0]), tolerance, rounding):
            continue
        for scales, _ in granularities:
            if (near := _nearest(values, scales, tolerance, rounding)) is not None:
                return near
    return None


def encode(values: NDArray, spec: LinearQuantized, where: NDArray | None) -> LinearQuantized:
    """The multiples of each block's scale, as codes of the spec's dtype; a zero point makes the least one 0."""
    scales, dtype = spec.scale.shape, encodings.dtype(spec.data)
    rows = math.prod(scales)
    # 2- and 4-bit codes take a byte each in memory, and numpy converts bytes faster than ml_dtypes does.
    codes = np.empty((rows, values.size // rows), np.int8 if dtype.name.startswith("int") else np.uint8)
    scale, least = np.empty(rows, values.dtype), np.zeros(rows, np.int16)
    for part, some in _in_parts(values, scales):
        grid = _grid(some)
        if grid is None:
            raise ValueError(f"values on a grid of {list(scales)} scales for {list(values.shape)}")
        if spec.zero_point is not None:
            least[part] = grid.low
        scale[part] = grid.scale
        np.subtract(_multiples(some, grid.scale), least[part, None], out=codes[part], casting="unsafe")
    whole = _unrows(codes, values.shape, scales)
    chosen = (whole if where is None else select(whole, where)).astype(dtype, copy=False)
    zero_point = None if spec.zero_point is None else (-least).astype(dtype).reshape(scales)
    return LinearQuantized(Dense(chosen), scale.reshape(scales), zero_point)


def centred(encoding: LinearQuantized) -> NDArray:
    """The codes less their zero points, int16: a code is zero where its value is, whatever the scale makes of it."""
    codes = encodings.decode(encoding.data).astype(np.int16)
    if encoding.zero_point is not None:
        codes -= expand(np.asarray(encoding.zero_point), codes.shape).astype(np.int16)
    return codes


def _candidate(values: NDArray, scales: Shape, grids: Sequence[_Grid], granularity: str) -> Candidate:
    code, symmetric = _code_dtype(grids)
    zero_point = None if symmetric else ArraySpec(scales, code)
    spec = LinearQuantized(Dense(ArraySpec(values.shape, code)), ArraySpec(scales, values.dtype), zero_point)
    return Candidate((NAME,), spec, f"{code} grid {granularity}")


def _code_dtype(grids: Sequence[_Grid]) -> tuple[DType, bool]:
    """The narrowest code type that holds the multiples, and whether its zero point is 0."""
    low = min(int(grid.low.min(initial=0)) for grid in grids)
    high = max(int(grid.high.max(initial=0)) for grid in grids)
    span = max(int((grid.high - grid.low).max(initial=0)) for grid in grids)
    for width in (2, 4, 8):
        if -(1 << width - 1) <= low and high < 1 << width - 1:
            return CODE_DTYPES[f"int{width}"], True
        if span < 1 << width:
            return CODE_DTYPES[f"uint{width}"], bool(low >= 0)
    raise AssertionError(f"a span of {span} passed the limit of {_SPAN}")


def _along(values: NDArray, axis: int) -> Candidate | None:
    """A scale a channel of `axis`, or a scale a block within a channel: the coarsest that fits.

    A grid of a channel is one of every block in it, so the finest granularity rules all of them out at once.
    """
    granularities = list(_granularities(values.shape, axis))
    if not granularities or _find(_probed(values, granularities[-1][0])) is None:
        return None
    for scales, granularity in granularities:
        if _find(_probed(values, scales)) is None:
            continue
        if (grids := _grids(values, scales)) is not None:
            return _candidate(values, scales, grids, granularity)
    return None


def _granularities(shape: Shape, axis: int) -> Iterator[tuple[Shape, str]]:
    """Shapes of scales, coarsest first: one a channel of `axis`, then one a block along the last other axis."""
    if shape[axis] > 1:
        yield tuple(dim if place == axis else 1 for place, dim in enumerate(shape)), f"per channel along axis {axis}"
    other = 0 if axis else len(shape) - 1
    for length in BLOCK_LENGTHS:
        if shape[other] % length == 0 and shape[other] > length:
            blocked = tuple(dim // length if place == other else dim for place, dim in enumerate(shape))
            yield blocked, f"per block of {length} along axis {other}"


def _split(shape: Shape, scales: Shape) -> tuple[Shape, tuple[int, ...], int]:
    """How a weight is cut: its shape as (count, length) pairs, the axes with all counts first, the number of rows."""
    pairs = tuple(size for dim, count in zip(shape, scales, strict=True) for size in (count, dim // count))
    order = (*range(0, len(pairs), 2), *range(1, len(pairs), 2))
    return pairs, order, math.prod(scales)


def _rows(values: NDArray, scales: Shape) -> NDArray:
    """The values of each block in a row: `[blocks, n]`."""
    pairs, order, rows = _split(values.shape, scales)
    return values.reshape(pairs).transpose(order).reshape(rows, -1)


def _unrows(rows: NDArray, shape: Shape, scales: Shape) -> NDArray:
    """The inverse of `_rows`."""
    pairs, order, _ = _split(shape, scales)
    moved = rows.reshape([pairs[place] for place in order])
    return np.ascontiguousarray(moved.transpose(np.argsort(order)).reshape(shape))


def _probed(values: NDArray, scales: Shape) -> NDArray:
    """Some values of some blocks, to rule a grid out without reading the weight: `[blocks, n]`."""
    pairs, order, _ = _split(values.shape, scales)
    counts = tuple(slice(0, _ROWS_PROBED) for _ in scales)
    lengths = tuple(slice(0, _VALUES_PROBED) for _ in scales)
    cut = values.reshape(pairs).transpose(order)[counts + lengths]
    rows = math.prod(cut.shape[: len(scales)])
    return cut.reshape(rows, -1)[:_ROWS_PROBED, :_VALUES_PROBED]


def _in_parts(values: NDArray, scales: Shape) -> Iterator[tuple[slice, NDArray]]:
    """The blocks of a weight as rows, a few at a time: where they are, and their values `[blocks, n]`."""
    rows = _rows(values, scales)
    for part in row_blocks(len(rows), rows.size):
        yield part, np.ascontiguousarray(rows[part])


def _grids(values: NDArray, scales: Shape) -> list[_Grid] | None:
    """The grids of all blocks, or None where one has none."""
    grids = []
    for _, rows in _in_parts(values, scales):
        if (grid := _grid(rows)) is None:
            return None
        grids.append(grid)
    return grids


def _grid(rows: NDArray) -> _Grid | None:
    """The grid of a few rows. A long row has more values than a grid: it is looked for in the distinct ones."""
    if rows.size <= _SEARCHED:
        return _find(rows)
    table = distinct(rows)
    return None if table is None or table.entries.size > ENTRIES else _find(table.entries[None, :])


def _find(rows: NDArray) -> _Grid | None:
    """The grid on which every row lies, or None.

    The least magnitude of a row is a multiple of its scale, so the scale is a whole part of it but for a rounding:
    the parts are tried in turn, the largest first, as long as the greatest magnitude has a code.
    """
    if not rows.size:
        return None
    with np.errstate(invalid="ignore"):  # a NaN
        low, high = _wide(rows.min(axis=1)), _wide(rows.max(axis=1))
    if not (np.isfinite(low) & np.isfinite(high)).all():
        return None
    largest, least = np.maximum(high, -low), _wide(least_magnitudes(rows))
    scale = np.ones(len(rows), rows.dtype)  # a row of zeros keeps a finite scale
    left = np.flatnonzero(largest)
    trials = [*_trials(rows[left[0]], least[left[0]], largest[left[0]])] if left.size else []
    if len(left) > 1 and trials:  # what divides one row says nothing about the others
        trials = [*_TRIALS]
    for part, towards in trials:
        if not left.size or (largest[left] * part > least[left] * _MOST).any():
            break
        trial = _trial(least[left] / part, towards, rows.dtype)
        # Most trials fail on the first few values: the others are not worth a look then.
        fits = _fits(rows[left, :_FEW], trial)
        fits[fits] = _fits(rows if fits.size == len(rows) and fits.all() else rows[left[fits]], trial[fits])
        scale[left[fits]] = trial[fits]
        left = left[~fits]
    lowest, highest = (np.minimum(0, np.rint(low / _wide(scale))), np.maximum(0, np.rint(high / _wide(scale))))
    if left.size or (highest - lowest > _SPAN).any():
        return None
    return _Grid(scale, lowest.astype(np.int16), highest.astype(np.int16))


def _nearest(values: NDArray, scales: Shape, tolerance: float, rounding: float) -> NDArray | None:
    """The weight on a grid of such scales, if there is one that is near enough."""
    if not _probably_near(_probed(values, scales), tolerance, rounding):
        return None
    near = np.empty((math.prod(scales), values.size // math.prod(scales)), values.dtype)
    for part, rows in _in_parts(values, scales):
        found = _near_scales(rows, tolerance, rounding)
        if found is None:
            return None
        near[part] = _on_grid(_multiples(rows, found), found)
    return _unrows(near, values.shape, scales)


def _probably_near(rows: NDArray, tolerance: float, rounding: float) -> bool:
    """Whether each of some rows has a scale, looked for one by one: the first has none in most weights.

    A scale that is fitted to a part of a row lies up to three times as far from it as that of the whole row does.
    """
    return all(_near_scales(row[None, :], tolerance, rounding, 3.0) is not None for row in rows)


@np.errstate(divide="ignore", over="ignore", invalid="ignore")  # values too far apart for a grid
def _near_scales(rows: NDArray, tolerance: float, rounding: float, slack: float = 1.0) -> NDArray | None:
    """A scale for every row of which no value is farther from a multiple than is allowed; None if a row has none.

    The largest magnitude of a row is the least affected by noise: it is taken for 1, 2, ... times the scale in turn.
    No more than an eighth of a scale is allowed: it would have a multiple near any value.
    """
    exact = _wide(rows)
    if not np.isfinite(exact).all():
        return None
    largest = np.abs(exact).max(axis=1)
    allowed = tolerance + rounding * largest
    roughly = allowed + eps(rows.dtype) * largest
    scale, left = np.ones(len(rows), rows.dtype), np.flatnonzero(largest > allowed)
    trials = _GREATEST
    if len(left) == 1:
        # The values farthest from zero tell most: zeros are a multiple of anything.
        telling = np.sort(np.abs(exact[left]), axis=1)[:, -_TELLING:]
        trials = trials[_near(telling, largest[left] / trials, roughly[left])]
    for greatest in trials:
        trial = largest[left] / greatest
        if not left.size:
            break
        some = left[_near(exact[left, :_FEW], trial, roughly[left])]
        codes = np.rint(exact[some] / (largest[some] / greatest)[:, None])
        # The scale of least squares is the one that noise moves least.
        fitted = ((codes * exact[some]).sum(axis=1) / (codes * codes).sum(axis=1)).astype(rows.dtype)
        near = _on_grid(_multiples(rows[some], fitted), fitted)
        fits = np.abs(_wide(near) - exact[some]).max(axis=1) <= slack * np.minimum(
            allowed[some], _wide(fitted) / _APART
        )
        scale[some[fits]] = fitted[fits]
        left = np.setdiff1d(left, some[fits], assume_unique=True)
    return None if left.size else scale


def _near(rows: NDArray, trial: NDArray, allowed: NDArray) -> NDArray:
    """Which trials have a multiple near every value: of a scale for each row, or of many scales for one.

    A trial is off by as much as the value it is taken from, and both are rounded.
    """
    quotients = rows / trial[:, None]
    apart = np.abs(quotients - np.rint(quotients)) * trial[:, None]
    return np.asarray((apart <= 3 * np.minimum(allowed, trial / _APART)[:, None]).all(axis=1))


def _trials(row: NDArray, least: float, largest: float) -> Iterator[tuple[int, int]]:
    """The trials that a row passes by its first values: one look at all of them at once, and most rows pass none."""
    parts, towards = _PARTS_TOWARDS
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # values too far apart for a grid
        scale = (least / parts).astype(row.dtype)
        for side in (-1, 1):
            scale = np.where(towards == side, _trial(least / parts, side, row.dtype), scale)
        passed = (largest * parts <= least * _MOST) & _fits(row[row != 0][None, :_TELLING], scale)
    return (_TRIALS[place] for place in np.flatnonzero(passed))


def _trial(quotient: NDArray, towards: int, dtype: DType) -> NDArray:
    """The quotient of a rounded value is at most a rounding away from the scale: it, or the float beside it."""
    trial = quotient.astype(dtype)
    return np.asarray(np.nextafter(trial, dtype.type(np.inf if towards > 0 else 0))) if towards else trial


def _wide(values: NDArray) -> NDArray:
    """Few values in a type in which the search for a scale is exact enough for all of them."""
    return values.astype(np.float64)


def _exact(values: NDArray) -> NDArray:
    """Values in the type in which `dequantize` multiplies."""
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32, copy=False)


def _multiples(rows: NDArray, scale: NDArray) -> NDArray:
    """The nearest multiples of each row's scale, whole numbers in a floating type.

    The quotient's own rounding is far less than a half for multiples of up to 255.
    """
    near = _exact(rows) / _exact(scale)[:, None]
    return np.rint(near, out=near)


def _on_grid(multiples: NDArray, scale: NDArray) -> NDArray:
    """The multiples of each row's scale, rounded once; `multiples` is used up."""
    multiples *= _exact(scale)[:, None]
    return multiples.astype(scale.dtype, copy=False)


def _fits(rows: NDArray, scale: NDArray) -> NDArray:
    """Which rows equal multiples of their scale after one rounding: bool `[rows]`."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return np.asarray((_on_grid(_multiples(rows, scale), scale) == rows).all(axis=1))
