"""Weights of every kind, drawn at random from a number: dense, pruned, of few values, on grids, and mixes of these."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np

from compressor.arrays import FLOAT_DTYPES, DType, NDArray, Shape
from compressor.kernels import dequantize, expand

Random = np.random.Generator


def weight(seed: int, dtype: DType, ranks: tuple[int, ...] = (1, 2, 3, 4, 5)) -> NDArray:
    """The weight of a number: the same one on every machine."""
    random = np.random.default_rng([seed, dtype.itemsize])
    shape = _shape(random, int(random.choice(ranks)))
    if dtype not in FLOAT_DTYPES.values():
        return _codes(random, shape, dtype)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        values = _KINDS[str(random.choice([*_KINDS]))](random, shape, dtype)
        if random.random() < 0.4:
            values = _pruned(random, values)
        if random.random() < 0.15:
            values = _with_rare(random, values)
        if random.random() < 0.1:  # saved in half precision, and loaded in full
            values = values.astype(FLOAT_DTYPES[str(random.choice(["float16", "bfloat16"]))]).astype(dtype)
    assert (values.shape, values.dtype) == (shape, dtype)
    return np.ascontiguousarray(values)


def _shape(random: Random, rank: int) -> Shape:
    """Few elements to some thousands, sides odd and even; once in a while more than a block of a pass, or none."""
    if random.random() < 0.02:
        return tuple(int(side) for side in random.integers(0, 3, rank))
    size = float(2 ** random.uniform(5, 13)) if random.random() < 0.97 else 2 ** random.uniform(16, 17.5)
    sides = []
    for left in range(rank, 0, -1):
        side = max(1, round(size ** (1 / left) * 2 ** random.uniform(-1, 1)))
        if random.random() < 0.6:  # what blocks and groups divide
            side = max(1, side // 8 * 8 or side // 2 * 2)
        sides.append(side)
        size = max(1.0, size / side)
    return tuple(int(side) for side in random.permutation(sides))


def _codes(random: Random, shape: Shape, dtype: DType) -> NDArray:
    """Integers as weights: all codes, or few of them, or mostly zeros."""
    limits = np.iinfo(dtype)
    few = random.integers(limits.min, limits.max + 1, int(random.choice([1, 2, 5, 16, 300])))
    values = few[random.integers(0, few.size, shape)]
    return np.where(random.random(shape) < random.choice([0, 0, 0.8]), 0, values).astype(dtype)


def _scale(random: Random) -> float:
    """A magnitude as weights have it, or one that some type hardly holds."""
    return float(2 ** (random.uniform(-8, 1) if random.random() < 0.85 else random.uniform(-60, 40)))


def _normal(random: Random, shape: Shape, dtype: DType) -> NDArray:
    return (random.normal(size=shape) * _scale(random)).astype(dtype)


def _skewed(random: Random, shape: Shape, dtype: DType) -> NDArray:
    values = random.standard_t(1, shape) * random.lognormal(-3, 3, shape) * _scale(random)
    return values.astype(dtype)


def _any_bits(random: Random, shape: Shape, dtype: DType) -> NDArray:
    raw = random.integers(0, 256, (math.prod(shape), dtype.itemsize)).astype(np.uint8)
    return raw.reshape(-1).view(dtype).reshape(shape)


def _constant(random: Random, shape: Shape, dtype: DType) -> NDArray:
    return np.full(shape, random.choice([0.0, -0.0, 1.0, random.normal(), 1e-30, 3e38]), np.float64).astype(dtype)


def _subnormal(random: Random, shape: Shape, dtype: DType) -> NDArray:
    unsigned = np.dtype(f"u{dtype.itemsize}")
    few = random.integers(0, int(random.choice([2, 9, 300])), shape).astype(unsigned)
    signs = random.integers(0, 2, shape).astype(unsigned) << unsigned.type(dtype.itemsize * 8 - 1)
    return (few | signs).view(dtype).reshape(shape)


def _table(random: Random, entries: int, dtype: DType) -> NDArray:
    if random.random() < 0.2:
        return _any_bits(random, (entries,), dtype)
    return (random.normal(size=entries) * _scale(random)).astype(dtype)


def _indices(random: Random, entries: int, shape: Shape) -> NDArray:
    """Places in a table, each as often as any other, or most of them rarely."""
    if random.random() < 0.5:
        return random.integers(0, entries, shape)
    return np.minimum(random.geometric(0.2, shape) - 1, entries - 1)


def _palette(random: Random, shape: Shape, dtype: DType) -> NDArray:
    entries = int(random.choice([2, 3, 4, 5, 8, 9, 16, 17, 32, 64, 65, 128, 200, 255, 256, 257]))
    return _table(random, entries, dtype)[_indices(random, entries, shape)]


def _grouped(random: Random, shape: Shape, dtype: DType) -> NDArray:
    """A table of its own for every few channels along an axis."""
    axis = int(random.integers(0, len(shape)))
    groups = _divisor(random, shape[axis])
    entries = int(random.choice([2, 4, 7, 16, 64]))
    tables = np.stack([_table(random, entries, dtype) for _ in range(groups)])
    own = np.arange(shape[axis]).reshape([-1 if place == axis else 1 for place in range(len(shape))])
    return tables[own // max(1, shape[axis] // groups), _indices(random, entries, shape)]


def _vectors(random: Random, shape: Shape, dtype: DType) -> NDArray:
    """Neighbours along an axis that occur together in few combinations."""
    axis = int(random.integers(0, len(shape)))
    length = int(random.choice([2, 4]))
    entries = int(random.choice([2, 16, 100, 256]))
    table = _table(random, entries * length, dtype).reshape(entries, length)
    counts = tuple(-(-dim // length) if place == axis else dim for place, dim in enumerate(shape))
    values = np.moveaxis(table[_indices(random, entries, counts)], -1, axis + 1)
    whole = tuple(dim * length if place == axis else dim for place, dim in enumerate(counts))
    return values.reshape(whole)[tuple(slice(dim) for dim in shape)]


def _grid(random: Random, shape: Shape, dtype: DType) -> NDArray:
    """Codes times a scale by tensor, channel or block, rounded once."""
    low, high = _RANGES[int(random.integers(0, len(_RANGES)))]
    scales = _parameter(random, shape)
    factors = random.uniform(0.5, 2, scales) * _scale(random)
    if random.random() < 0.2:  # many scales that are powers of two
        factors = 2.0 ** np.round(np.log2(factors))
    codes = random.integers(low, high + 1, shape).astype(np.int16)
    return dequantize(codes, np.ascontiguousarray(expand(factors.astype(dtype), shape)))


def _table_and_scale(random: Random, shape: Shape, dtype: DType) -> NDArray:
    """One table for all, a factor for each channel: what a palette is behind a batch norm."""
    entries = int(random.choice([4, 16, 64]))
    values = _table(random, entries, dtype)[_indices(random, entries, shape)].astype(np.float64)
    factors = random.uniform(0.5, 2, _parameter(random, shape))
    return (values * expand(factors, shape)).astype(dtype)


def _noisy(random: Random, shape: Shape, dtype: DType) -> NDArray:
    """A palette or a grid but for noise: neither, bit for bit."""
    made = (_palette if random.random() < 0.5 else _grid)(random, shape, dtype)
    return (made.astype(np.float64) * (1 + 1e-7 * random.normal(size=shape))).astype(dtype)


def _narrow(random: Random, shape: Shape, dtype: DType) -> NDArray:
    """Values that a narrower type holds too."""
    kinds = [kind for kind in FLOAT_DTYPES.values() if kind.itemsize <= dtype.itemsize]
    return _normal(random, shape, dtype).astype(kinds[int(random.integers(0, len(kinds)))]).astype(dtype)


def _rows_alike(random: Random, shape: Shape, dtype: DType) -> NDArray:
    """Few different rows, some of them the same."""
    rows = _normal(random, (int(random.integers(1, 5)), *shape[1:]), dtype)
    return rows[random.integers(0, len(rows), shape[0])]


_RANGES = (
    (-128, 127),
    (-127, 127),
    (0, 255),
    (-55, 200),
    (-8, 7),
    (-7, 7),
    (0, 15),
    (-3, 12),
    (-2, 1),
    (-1, 1),
    (0, 3),
)

_KINDS: Mapping[str, Callable[[Random, Shape, DType], NDArray]] = {
    "normal": _normal,
    "skewed": _skewed,
    "any bits": _any_bits,
    "constant": _constant,
    "subnormal": _subnormal,
    "palette": _palette,
    "palette again": _palette,
    "palettes by group": _grouped,
    "vectors": _vectors,
    "grid": _grid,
    "grid again": _grid,
    "a table and a scale": _table_and_scale,
    "noise": _noisy,
    "narrow": _narrow,
    "rows alike": _rows_alike,
}


def _divisor(random: Random, size: int) -> int:
    return int(random.choice([count for count in range(1, max(1, size) + 1) if size % count == 0]))


def _parameter(random: Random, shape: Shape) -> Shape:
    """The shape of a parameter by tensor, by channel along an axis, or by block."""
    match int(random.integers(0, 3)):
        case 0:
            return (1,) * len(shape)
        case 1:
            axis = int(random.integers(0, len(shape)))
            return tuple(dim if place == axis else 1 for place, dim in enumerate(shape))
        case _:
            axis = int(random.integers(0, len(shape)))
            blocked = next((shape[axis] // size for size in (128, 64, 32, 16) if shape[axis] % size == 0), 1)
            return tuple(blocked if place == axis else dim for place, dim in enumerate(shape))


def _pruned(random: Random, values: NDArray) -> NDArray:
    """Zeros here and there, n of m, by block or by channel; by a product, which leaves some of them negative."""
    shape, rate = values.shape, random.choice([0.03, 0.3, 0.5, 0.75, 0.95, 1.0])
    axis = int(random.integers(0, len(shape)))
    match int(random.integers(0, 4)):
        case 0:
            kept = random.random(shape) >= rate
        case 1:
            counts = tuple(_divisor(random, dim) if place == axis else dim for place, dim in enumerate(shape))
            kept = expand(random.random(counts) >= rate, shape)
        case 2:
            counts = tuple(dim if place == axis else 1 for place, dim in enumerate(shape))
            kept = np.broadcast_to(random.random(counts) >= rate, shape)
        case _:
            m = next((m for m in (8, 4, 2) if shape[axis] % m == 0), 1)
            moved = (*shape[:axis], *shape[axis + 1 :], shape[axis] // m, m)
            ranks = random.random(moved).argsort(axis=-1).argsort(axis=-1) < int(random.integers(0, m + 1))
            kept = np.moveaxis(ranks.reshape(*moved[:-2], shape[axis]), -1, axis)
    if random.random() < 0.5:
        return np.asarray(values * kept.astype(values.dtype))
    return np.where(kept, values, values.dtype.type(0))


def _with_rare(random: Random, values: NDArray) -> NDArray:
    """Some values of which there are few: one far away, no number, the least there is, zeros of either sign."""
    values = values.copy()
    flat = values.reshape(-1)
    if not flat.size:
        return values
    rare = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-3, -5e-4, 1e30, 65504.0, 65520.0]
    for value in itertools.islice(random.permutation(rare), int(random.integers(1, 4))):
        places = random.integers(0, flat.size, int(random.choice([1, 1, 2, 30])))
        flat[places] = np.array([value]).astype(values.dtype)
    if random.random() < 0.2:
        flat[random.integers(0, flat.size)] = _any_bits(random, (1,), values.dtype)[0]
    return values
