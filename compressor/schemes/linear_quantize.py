"""Quantization grids: weights that are whole multiples of a scale, as fake-quantized training leaves them.

The scale is recovered from the values: it is the largest one of which every value of a block is an exact multiple after
one rounding, `fl(k * scale) == w`. A block whose multiples do not fit the code type rules the grid out, so values that
merely look regular are never taken for one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

from compressor import encodings
from compressor.arrays import CODE_DTYPES, ArraySpec, DType, NDArray, Shape, is_float
from compressor.encodings import Dense, LinearQuantized, dequantize, take
from compressor.scan import ENTRIES, Scan, distinct
from compressor.schemes import Candidate
from compressor.schemes.palettize import select

NAME = "linear_quantize"

BLOCK_LENGTHS = (256, 128, 64, 32, 16)
"""Lengths of blocks that are looked for, longest first: fewest scales."""

_ROWS_PROBED, _VALUES_PROBED = 8, 256
_SPAN = 255
_SEARCHED = 1 << 17
_FEW, _TELLING = 8, 32


@dataclass(frozen=True)
class _Grid:
    """The scales and multiples of a few rows.

    scale: `[rows]`.
    codes: int16 `[rows, n]`, the multiples.
    low, high: int16 `[rows]`, the least and the greatest multiple, or 0.
    """

    scale: NDArray
    codes: NDArray
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


def encode(values: NDArray, spec: LinearQuantized, where: NDArray | None) -> LinearQuantized:
    """The multiples of each block's scale, as codes of the spec's dtype; a zero point makes the least one 0."""
    scales, dtype = spec.scale.shape, encodings.dtype(spec.data)
    rows = math.prod(scales)
    # 2- and 4-bit codes take a byte each in memory, and numpy converts bytes faster than ml_dtypes does.
    codes = np.empty((rows, values.size // rows), np.int8 if dtype.name.startswith("int") else np.uint8)
    scale, least = np.empty(rows, values.dtype), np.zeros(rows, np.int16)
    start = 0
    for grid in _grids(values, scales):
        if grid is None:
            raise ValueError(f"values on a grid of {list(scales)} scales for {list(values.shape)}")
        part = slice(start, start := start + len(grid.scale))
        if spec.zero_point is not None:
            least[part] = grid.low
        scale[part] = grid.scale
        np.subtract(grid.codes, least[part, None], out=codes[part], casting="unsafe")
    whole = _unrows(codes, values.shape, scales)
    chosen = (whole if where is None else select(whole, where)).astype(dtype, copy=False)
    zero_point = None if spec.zero_point is None else (-least).astype(dtype).reshape(scales)
    return LinearQuantized(Dense(chosen), scale.reshape(scales), zero_point)


def centred(encoding: LinearQuantized) -> NDArray:
    """The codes less their zero points, int16: a code is zero where its value is, whatever the scale makes of it."""
    codes = encodings.decode(encoding.data).astype(np.int16)
    if encoding.zero_point is not None:
        codes -= encodings.expand(np.asarray(encoding.zero_point), codes.shape).astype(np.int16)
    return codes


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
    return np.ascontiguousarray(moved.transpose(np.argsort(order)).reshape(shape))


def _probed(values: NDArray, scales: Shape) -> NDArray:
    """Some values of some blocks, to rule a grid out without reading the weight: `[blocks, n]`."""
    pairs, order, _ = _split(values.shape, scales)
    counts = tuple(slice(0, _ROWS_PROBED) for _ in scales)
    lengths = tuple(slice(0, _VALUES_PROBED) for _ in scales)
    cut = values.reshape(pairs).transpose(order)[counts + lengths]
    rows = math.prod(cut.shape[: len(scales)])
    return cut.reshape(rows, -1)[:_ROWS_PROBED, :_VALUES_PROBED]


def _grids(values: NDArray, scales: Shape) -> Iterator[_Grid | None]:
    """The grids of a few rows at a time: the search needs several times their bytes.

    A long row has more values than a grid: it is looked for in the distinct ones, which then name the codes.
    """
    rows = _rows(values, scales)
    some = _SEARCHED // rows.shape[1]
    if not some:
        yield from map(_find_distinct, rows)
        return
    for start in range(0, len(rows), some):
        yield _find(rows[start : start + some])


def _find_distinct(row: NDArray) -> _Grid | None:
    table = distinct(row)
    grid = None if table is None or table.entries.size > ENTRIES else _find(table.entries[None, :])
    if table is None or grid is None:
        return None
    return replace(grid, codes=take(grid.codes[0], table.index(row))[None, :])


def _find(rows: NDArray) -> _Grid | None:
    """The grid on which every row lies, or None.

    The least magnitude of a row is a multiple of its scale, so the scale is a whole part of it but for a rounding:
    the parts are tried in turn, the largest first, as long as the greatest magnitude has a code.
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN
        exact = rows.astype(np.float64)
    if not rows.size or not np.isfinite(exact).all():
        return None
    magnitudes = np.abs(exact)
    largest = magnitudes.max(axis=1)
    least = np.where(magnitudes > 0, magnitudes, np.inf).min(axis=1)
    if not _plausible(exact[np.argmax(largest > 0)], rows.dtype):
        return None
    codes = np.zeros(rows.shape, np.int16)
    scale = np.ones(len(rows), rows.dtype)  # a row of zeros keeps a finite scale
    left = np.flatnonzero(largest)
    # A quotient of a rounded value is at most a rounding away from the scale.
    for part, towards in itertools.product(range(1, _SPAN + 1), (None, np.inf, 0)):
        # Two roundings move the greatest code by less than 2.
        if (largest[left] * part > least[left] * (_SPAN + 2)).any():
            return None
        trial = (least[left] / part).astype(rows.dtype)
        if towards is not None:
            trial = np.nextafter(trial, rows.dtype.type(towards))
        # Most trials fail on the first few values: the others are not worth a look then.
        fits = _multiples(rows[left, :_FEW], exact[left, :_FEW], trial)[1]
        some, trial = left[fits], trial[fits]
        near, fits = _multiples(rows[some], exact[some], trial)
        codes[some[fits]], scale[some[fits]] = near[fits], trial[fits]
        left = np.setdiff1d(left, some[fits], assume_unique=True)
        if not left.size:
            break
    low, high = codes.min(axis=1, initial=0), codes.max(axis=1, initial=0)
    if left.size or (high.astype(int) - low > _SPAN).any():
        return None
    return _Grid(scale, codes, low, high)


def _plausible(row: NDArray, dtype: DType) -> bool:
    """Whether some part of a row's least magnitude divides its values about evenly: one look at all parts at once.

    A value and the scale are rounded once, so a quotient of up to 255 is off by 255 units in the last place of each.
    """
    magnitudes = np.abs(row[row != 0])
    if not magnitudes.size:
        return True
    # The values farthest from the least one tell most, and a few of them are enough.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # values too far apart for a grid
        steps = magnitudes.min() / np.arange(1, _SPAN + 1)
        quotients = np.sort(magnitudes)[-_TELLING:, None] / steps
        tolerance = 4 * (_SPAN + 1) * float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]
        return bool((np.abs(quotients - np.rint(quotients)) <= tolerance).all(axis=0).any())


def _multiples(rows: NDArray, exact: NDArray, scale: NDArray) -> tuple[NDArray, NDArray]:
    """The nearest multiples of each row's scale, and which rows equal theirs after one rounding."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        near = exact / scale.astype(np.float64)[:, None]
        codes = np.rint(np.clip(near, -_SPAN, _SPAN, out=near), out=near).astype(np.int16)
        return codes, (dequantize(codes, scale[:, None]) == rows).all(axis=1)
