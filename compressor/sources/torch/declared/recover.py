"""The codes with which a declared grid or table gives back a weight's very values, or why it does not."""

from __future__ import annotations

import math

import numpy as np

from compressor.arrays import CODE_DTYPES, NDArray, Shape
from compressor.encodings import Dense, Palettized, Quantized, decode
from compressor.kernels import expand

MOST_BITS = 8
MOST_ENTRIES = 1 << MOST_BITS


class ContradictionError(Exception):
    """What was declared is not what the weight is; the message says why."""


def grid(values: NDArray, scale: NDArray, zero_point: NDArray | None, width: int) -> Quantized:
    """`(codes - zero_point) * scale` with codes of `width` bits, where each value is a whole number of scales.

    scale, zero_point: by block of the values, without the last axes where they have one block.

    A zero point that signed codes can do without is left out.

    Raises:
        ContradictionError: the values do not lie on this grid, bit for bit.
    """
    if not 1 <= width <= MOST_BITS:
        raise ContradictionError(f"codes of {width} bits, expected 1 to {MOST_BITS}")
    if not values.size:
        raise ContradictionError("the weight has no elements")
    scale = by_block("scale", scale, values.shape).astype(values.dtype)
    exact = np.dtype(np.float64) if values.dtype == np.float64 else np.dtype(np.float32)
    step = expand(np.where(scale == 0, 1, scale).astype(exact), values.shape)
    steps = np.rint(values.astype(exact) / step)
    # Not `>`: what is no number is no step either.
    if not np.abs(steps).max() < MOST_ENTRIES:
        raise ContradictionError(f"values lie more than {MOST_ENTRIES - 1} steps from zero, or are not finite")
    found = _coded(steps.astype(np.int16), scale, zero_point, width)
    off = np.count_nonzero(decode(found) != values)
    if off:
        raise ContradictionError(f"{off:,} of {values.size:,} values do not lie on the grid")
    return found


def _coded(steps: NDArray, scale: NDArray, zero_point: NDArray | None, width: int) -> Quantized:
    """Whole numbers of scales, int16, as codes of `width` bits."""
    container = next(bits for bits in (2, 4, 8) if bits >= width)
    half = 1 << (width - 1)
    if _within(steps, -half, half - 1):
        return Quantized(Dense(steps.astype(CODE_DTYPES[f"int{container}"])), scale)
    zero = np.zeros(scale.shape, np.int16)
    if zero_point is not None:
        zero = _whole(by_block("zero point", zero_point, steps.shape))
    if zero.size == 1:
        zero = np.broadcast_to(zero, scale.shape)
    if zero.shape != scale.shape:
        raise ContradictionError(f"a zero point {list(zero.shape)} for a scale {list(scale.shape)}")
    codes = steps + expand(zero, steps.shape)
    for kind, low, high in ((f"int{container}", -half, half - 1), (f"uint{container}", 0, 2 * half - 1)):
        if _within(codes, low, high) and _within(zero, low, high):
            dtype = CODE_DTYPES[kind]
            return Quantized(Dense(codes.astype(dtype)), scale, zero.astype(dtype) if zero.any() else None)
    raise ContradictionError(f"codes from {codes.min()} to {codes.max()} do not fit {width} bits")


def _within(codes: NDArray, low: int, high: int) -> bool:
    return bool(low <= codes.min() and codes.max() <= high)


def _whole(zero_point: NDArray) -> NDArray:
    numbers = zero_point.astype(np.float64)
    if not (np.abs(numbers) <= MOST_ENTRIES).all() or (np.rint(numbers) != numbers).any():
        raise ContradictionError(f"a zero point is no whole number of at most {MOST_BITS} bits")
    return numbers.astype(np.int16)


def palette(values: NDArray, tables: NDArray, vector_axis: int | None) -> Palettized:
    """`tables[group, indices]`.

    tables: the values' dtype `[*groups, K, V]`, V neighbours along `vector_axis` where V > 1.

    Raises:
        ContradictionError: the values, or the vectors of them, are not all in the tables.
    """
    (entries, vector), groups = tables.shape[-2:], tables.shape[:-2]
    if not 1 <= entries <= MOST_ENTRIES or not vector:
        raise ContradictionError(f"a table of {entries} entries of {vector} values, expected 1 to {MOST_ENTRIES}")
    if (vector > 1) != (vector_axis is not None):
        raise ContradictionError(f"vectors of {vector} values along axis {vector_axis}")
    rows = values[..., None] if vector_axis is None else _vectors(values, vector, vector_axis)
    by_block("table", np.broadcast_to(np.uint8(0), groups), rows.shape[:-1])
    indices = np.empty(rows.shape[:-1], np.uint8)
    steps = [int(dim) // count for dim, count in zip(rows.shape[:-1], groups, strict=True)]
    for group in np.ndindex(groups):
        part = tuple(slice(place * step, (place + 1) * step) for place, step in zip(group, steps, strict=True))
        indices[part] = _indices(rows[part], tables[group])
    return Palettized(indices, tables, vector_axis)


def _vectors(values: NDArray, vector: int, axis: int) -> NDArray:
    """The values with `vector` neighbours along `axis` in a last axis of their own."""
    whole = values.shape
    if not 0 <= axis < len(whole) or whole[axis] % vector:
        raise ContradictionError(f"vectors of {vector} values along axis {axis} of {list(whole)}")
    split = values.reshape(*whole[:axis], whole[axis] // vector, vector, *whole[axis + 1 :])
    return np.moveaxis(split, axis + 1, -1)


def _indices(rows: NDArray, table: NDArray) -> NDArray:
    """Which row of `table` `[K, V]` each of `rows` `[..., V]` is, by its bytes."""
    keys, known = _keys(rows), _keys(table)
    order = np.argsort(known, kind="stable")
    places = np.minimum(np.searchsorted(known[order], keys), len(known) - 1)
    found: NDArray = order[places]
    missing = np.count_nonzero(known[found] != keys)
    if missing:
        what = "values" if table.shape[-1] == 1 else "vectors"
        raise ContradictionError(f"{missing:,} of {keys.size:,} {what} are in no table")
    return found.astype(np.uint8)


def _keys(rows: NDArray) -> NDArray:
    """The bytes of each row as one item; those of 0.0 for -0.0."""
    nbytes = rows.shape[-1] * rows.dtype.itemsize
    kind = f"<u{nbytes}" if nbytes in {2, 4, 8} else f"V{nbytes}"
    keys: NDArray = np.ascontiguousarray(rows + rows.dtype.type(0)).view(kind)[..., 0]
    return keys


def by_block(what: str, parameter: NDArray, whole: Shape) -> NDArray:
    """A parameter at the rank of the weight, of which it has one for each block.

    Raises:
        ContradictionError: its shape does not divide the weight's.
    """
    missing = len(whole) - parameter.ndim
    counts = (*parameter.shape, *(1,) * missing)
    if missing < 0 or any(count == 0 or dim % count for count, dim in zip(counts, whole, strict=True)):
        raise ContradictionError(f"a {what} {list(parameter.shape)} for a weight {list(whole)}")
    return parameter.reshape(counts)


def scaled(tables: NDArray, scale: NDArray, whole: Shape) -> NDArray:
    """`[*groups, K, V]` tables, each times the scales `[*blocks]` of its block: a table for each block of either.

    Raises:
        ContradictionError: their blocks do not lie inside each other, or the tables are larger than the weight.
    """
    groups, entry = tables.shape[:-2], tables.shape[-2:]
    by_block("table", np.broadcast_to(np.uint8(0), groups), whole)
    counts = tuple(max(pair) for pair in zip(groups, scale.shape, strict=True))
    if any(count % fewer for part in (groups, scale.shape) for count, fewer in zip(counts, part, strict=True)):
        raise ContradictionError(f"tables {list(groups)} and scales {list(scale.shape)} whose blocks overlap")
    if math.prod(counts) * math.prod(entry) > max(math.prod(whole), MOST_ENTRIES):
        raise ContradictionError("its tables for every scale are larger than the weight")
    products: NDArray = expand(tables, (*counts, *entry)) * expand(scale, counts)[..., None, None]
    return products
