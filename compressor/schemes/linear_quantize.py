"""Quantization grids: weights that are whole multiples of a scale, as fake-quantized training leaves them.

The scale is recovered from the values: it is the largest one of which every value of a block is an exact multiple after
one rounding, `fl(k * scale) == w`. A block whose multiples do not fit the code type rules the grid out, so values that
merely look regular are never taken for one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compressor.arrays import CODE_DTYPES, ArraySpec, DType, NDArray, Shape, is_float
from compressor.encodings import Dense, LinearQuantized, dequantize, take
from compressor.scan import Scan, distinct
from compressor.schemes import Candidate
from compressor.schemes.palettize import select

NAME = "linear_quantize"

BLOCK_LENGTHS = (256, 128, 64, 32, 16)
"""Lengths of blocks that are looked for, longest first: fewest scales."""

_ROWS_PROBED, _VALUES_PROBED = 8, 256
_SPAN = 255
_SEARCHED = 1 << 19


@dataclass(frozen=True)
class _Grid:
    """scale: `[rows]`; codes: int16 `[rows, n]`, the multiples; low, high: `[rows]`, the least and greatest multiple."""

    scale: NDArray
    codes: NDArray
    low: NDArray
    high: NDArray


def detect(values: NDArray, scan: Scan) -> Iterator[Candidate]:
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


def encode(values: NDArray, spec: LinearQuantized, where: NDArray | None) -> LinearQuantized:
    """The multiples of each block's scale, as codes of the spec's dtype."""
    scales, dtype = spec.scale.shape, spec.data.values.dtype  # type: ignore[union-attr]  # detect proposes Dense codes
    stored = np.dtype(np.int8 if dtype.name.startswith("int") else np.uint8)
    if math.prod(scales) == 1:
        grids, codes = _tensor(values, stored, spec)
    else:
        grids = [_on_grid(grid, values, scales) for grid in _grids(values, scales)]
        codes = np.concatenate([_codes(grid, spec, stored) for grid in grids])
        codes = _unrows(codes, values.shape, scales)
    codes = codes if where is None else select(codes, where)
    scale = np.concatenate([grid.scale for grid in grids]).reshape(scales)
    zero_point = None
    if spec.zero_point is not None:
        zero_point = (-np.concatenate([grid.low for grid in grids])).astype(dtype).reshape(scales)
    return LinearQuantized(Dense(codes.astype(dtype, copy=False)), scale, zero_point)


def _tensor(values: NDArray, stored: DType, spec: LinearQuantized) -> tuple[list[_Grid], NDArray]:
    """One grid for the whole weight: it is looked for in the distinct values, which then name the codes."""
    table = distinct(values)
    grid = _on_grid(None if table is None else _find(table.entries[None, :]), values, spec.scale.shape)
    assert table is not None  # else there is no grid
    return [grid], take(_codes(grid, spec, stored)[0], table.index(values))


def _codes(grid: _Grid, spec: LinearQuantized, stored: DType) -> NDArray:
    """The multiples as codes: moved by the zero point, which makes the least one 0."""
    return (grid.codes if spec.zero_point is None else grid.codes - grid.low[:, None]).astype(stored)


def _on_grid(grid: _Grid | None, values: NDArray, scales: Shape) -> _Grid:
    if grid is None:
        raise ValueError(f"values on a grid of {list(scales)} scales for {list(values.shape)}")
    return grid


def _ranges(grids: Iterable[_Grid | None]) -> Iterator[_Grid | None]:
    """The grids without their codes, up to the first block that has none."""
    for grid in grids:
        yield None if grid is None else replace(grid, codes=grid.codes[:, :0])
        if grid is None:
            return


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
        grids = list(_ranges(_grids(values, scales)))
        if grids[-1] is not None:
            return _candidate(values, scales, grids, granularity)  # type: ignore[arg-type]  # only the last may be None
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
    return moved.transpose(np.argsort(order)).reshape(shape)


def _probed(values: NDArray, scales: Shape) -> NDArray:
    """Some values of some blocks, to rule a grid out without reading the weight: `[blocks, n]`."""
    pairs, order, _ = _split(values.shape, scales)
    counts = tuple(slice(0, _ROWS_PROBED) for _ in scales)
    lengths = tuple(slice(0, _VALUES_PROBED) for _ in scales)
    cut = values.reshape(pairs).transpose(order)[counts + lengths]
    rows = math.prod(cut.shape[: len(scales)])
    return cut.reshape(rows, -1)[:_ROWS_PROBED, :_VALUES_PROBED]


def _grids(values: NDArray, scales: Shape) -> Iterator[_Grid | None]:
    """The grids of a few rows at a time: the search needs several times their bytes."""
    rows = _rows(values, scales)
    some = max(1, _SEARCHED // rows.shape[1])
    for start in range(0, len(rows), some):
        yield _find(rows[start : start + some])


def _find(rows: NDArray) -> _Grid | None:
    """The grid on which every row lies, or None."""
    exact = rows.astype(np.float64)
    if not rows.size or not np.isfinite(exact).all():
        return None
    largest = np.abs(exact).max(axis=1)
    step = _steps(exact, largest)
    if step is None:
        return None
    # A row of zeros keeps a finite scale.
    scale = np.where(largest > 0, largest / np.maximum(np.rint(largest / step), 1), 1.0).astype(rows.dtype)
    return _refined(rows, exact, scale)


def _steps(exact: NDArray, largest: NDArray) -> NDArray | None:
    """About the greatest common divisor of each row's values: Euclid's algorithm with a tolerance for rounding.

    A step shorter than 1/255 of the largest value rules the row out. Remainders under a quarter of that are rounding.
    """
    magnitudes = np.abs(exact)
    step = np.where(magnitudes > 0, magnitudes, np.inf).min(axis=1)
    step[largest == 0] = 1.0
    while True:
        if (largest > step * (_SPAN + 0.5)).any():
            return None
        rest = np.abs(exact - np.rint(exact / step[:, None]) * step[:, None])
        rest[rest <= largest[:, None] / (4 * (_SPAN + 1))] = np.inf
        shorter = rest.min(axis=1)
        if not np.isfinite(shorter).any():
            return step
        step = np.minimum(step, shorter)


def _refined(rows: NDArray, exact: NDArray, scale: NDArray) -> _Grid | None:
    """The quotient of the largest value is at most a rounding away from the scale: try its neighbours too."""
    codes = np.zeros(rows.shape, np.int16)
    found = np.zeros(len(rows), np.bool_)
    chosen = scale.copy()
    for trial in (scale, *(np.nextafter(scale, scale.dtype.type(end)) for end in (np.inf, 0))):
        open_rows = np.flatnonzero(~found)
        if not open_rows.size:
            break
        usable = trial[open_rows]
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            near = np.rint(exact[open_rows] / usable.astype(np.float64)[:, None])
        fits = np.isfinite(near).all(axis=1) & (np.abs(near).max(axis=1) <= _SPAN)
        open_rows, usable, near = open_rows[fits], usable[fits], near[fits].astype(np.int16)
        equal = (dequantize(near, usable[:, None], None) == rows[open_rows]).all(axis=1)
        codes[open_rows[equal]], chosen[open_rows[equal]] = near[equal], usable[equal]
        found[open_rows[equal]] = True
    low, high = codes.min(axis=1, initial=0), codes.max(axis=1, initial=0)
    if not found.all() or not (high.astype(int) - low <= _SPAN).all():
        return None
    return _Grid(chosen, codes, low, high)

