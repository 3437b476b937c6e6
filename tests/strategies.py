"""Hypothesis strategies: arrays of every bit pattern, weights with structure, and encodings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compressor.arrays import CODE_DTYPES, FLOAT_DTYPES, STORED_DTYPES, DType, NarrowArray, NDArray, Shape, bits
from compressor.encodings import Concatenated, Dense, Encoding, Palettized, Quantized, Sparse, Whole, decode
from compressor.encodings import shape as shape_of
from compressor.gaps import GAPS, of_mask
from compressor.kernels import expand
from compressor.patterns import patterns

dtypes = st.sampled_from([*FLOAT_DTYPES.values(), *CODE_DTYPES.values(), np.dtype(np.bool_)])
float_dtypes = st.sampled_from([*FLOAT_DTYPES.values()])
code_dtypes = st.sampled_from([*CODE_DTYPES.values()])
shapes = hnp.array_shapes(min_dims=2, max_dims=5, min_side=1, max_side=7)
empty_shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3).filter(lambda shape: 0 in shape)


Draw = Callable[[st.SearchStrategy[Any]], Any]


def random(draw: Draw) -> np.random.Generator:
    """A generator that hypothesis seeds: shrinking a hundred thousand elements one by one tells nobody anything."""
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def codes(generator: np.random.Generator, shape: Shape, dtype: DType) -> NDArray:
    """Every code of an integer type."""
    count = 1 << bits(dtype)
    low = -count // 2 if dtype.name.startswith("int") else 0
    return generator.integers(low, low + count, shape).astype(np.int16).astype(dtype)


def bits_of(values: NDArray) -> bytes:
    """What has to survive: shape, dtype and every bit."""
    return repr((values.shape, values.dtype.name)).encode() + np.ascontiguousarray(values).tobytes()


def any_bits(generator: np.random.Generator, shape: Shape, dtype: DType) -> NDArray:
    """Every bit pattern: NaN payloads, infinities, subnormals, both zeros."""
    raw = generator.integers(0, 256, (math.prod(shape), dtype.itemsize)).astype(np.uint8)
    return raw.reshape(-1).view(dtype).reshape(shape)


SPECIAL = ("nan", "inf", "-inf", "0.0", "-0.0", "smallest", "largest", "payload")


def special(dtype: DType, name: str) -> NDArray:
    """A value that a careless step loses, as `[1]`."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    beside = {"smallest": "0.0", "payload": "nan", "largest": "inf"}.get(name, name)
    pattern = int(np.array([float(beside)]).astype(dtype).view(unsigned)[0])
    pattern += {"smallest": 1, "payload": 5, "largest": -1}.get(name, 0)
    return np.array([pattern], unsigned).view(dtype)


@st.composite
def arrays(draw: st.DrawFn, dtypes: st.SearchStrategy[DType] = dtypes) -> NDArray:
    """An array of any shape and dtype with any bits that its dtype can have."""
    dtype, shape = draw(dtypes), draw(shapes | empty_shapes | st.just(()))
    generator = random(draw)
    if dtype == np.bool_:
        return generator.integers(0, 2, shape).astype(np.bool_)
    return codes(generator, shape, dtype) if dtype in CODE_DTYPES.values() else any_bits(generator, shape, dtype)


@st.composite
def weights(draw: st.DrawFn) -> NDArray:
    """A weight as training or a fault leaves it: palettes of ordinary and special values, zeros, grids, noise."""
    dtype, shape, generator = draw(float_dtypes), draw(shapes), random(draw)
    kind = draw(st.sampled_from(["bits", "palette", "equal", "zero", "normal", "grid"]))
    if kind == "bits":
        return any_bits(generator, shape, dtype)
    if kind == "zero":
        return np.zeros(shape, dtype)
    scale = draw(st.sampled_from([1.0, 1e-3, 1e-6, 1e3]))
    if kind == "equal":
        return np.full(shape, generator.normal() * scale).astype(dtype)
    if kind == "palette":
        table = (generator.normal(size=draw(st.sampled_from([2, 3, 17, 256]))) * scale).astype(dtype)
        odd = [special(dtype, name) for name in draw(st.lists(st.sampled_from(SPECIAL), max_size=3))]
        table = np.concatenate([table, *odd])
        values = table[generator.integers(0, len(table), shape)]
    elif kind == "grid":
        values = (generator.integers(-8, 8, shape) * scale).astype(dtype)
    else:
        values = (generator.normal(size=shape) * scale).astype(dtype)
    zeros = generator.random(shape) < draw(st.sampled_from([0, 0.1, 0.75]))
    return np.where(zeros, dtype.type(0), values)


@st.composite
def counts(draw: st.DrawFn, shape: Shape) -> Shape:
    """The shape of a parameter by block: a divisor of each dimension."""
    return tuple(draw(st.sampled_from([n for n in range(1, dim + 1) if dim % n == 0])) for dim in shape)


def palettized(
    draw: st.DrawFn,
    shape: Shape,
    codes_of: DType,
    leaf: Shape,
    generator: np.random.Generator,
    floats: Callable[[np.random.Generator, Shape, DType], NDArray] = any_bits,
) -> Palettized:
    entries = draw(st.sampled_from([1, 2, 3, 4, 5, 16, 17, 255, 256]))
    groups = draw(counts(shape))
    indices = generator.integers(0, entries, leaf).astype(np.uint8)
    lut = (*groups, entries, 1)
    table = codes(generator, lut, codes_of) if codes_of in CODE_DTYPES.values() else floats(generator, lut, codes_of)
    return Palettized(indices, table)


@st.composite
def encodings(draw: st.DrawFn) -> Encoding:
    """Every node and every nesting, over every dtype."""
    first = draw(wholes())
    if draw(st.integers(0, 4)):
        return first
    return Concatenated((first, Dense(decode(first))), draw(st.integers(0, len(shape_of(first)) - 1)))


def rounded(draw: st.DrawFn, dtype: DType) -> DType | None:
    """What products of a type may be rounded to last."""
    narrower = [FLOAT_DTYPES["float16"], FLOAT_DTYPES["bfloat16"]] if dtype == np.float32 else []
    return draw(st.sampled_from([None, *narrower]))


@st.composite
def wholes(draw: st.DrawFn) -> Whole:
    """Every node but a concatenation, and every nesting."""
    dtype, shape, generator = draw(float_dtypes), draw(shapes), random(draw)
    outer = draw(st.sampled_from(["", "sparse"]))
    inner = draw(st.sampled_from(["dense", "palettized", "vector", "linear", "linear palettized"]))
    leaf: Shape = shape
    wrap: Callable[[Any], Whole] = lambda encoding: encoding  # noqa: E731 - see below
    if outer:
        blocked = generator.random(draw(counts(shape))) < draw(st.sampled_from([0, 0.3, 1]))
        leaf = (int(np.count_nonzero(expand(blocked, shape))),)
        mask: Any = blocked
        if draw(st.booleans()):
            mask = of_mask(expand(blocked, shape), draw(st.sampled_from(GAPS)))
        wrap = lambda encoding: Sparse(mask, encoding, shape)  # noqa: E731 - the one that belongs to this mask
    if inner == "dense" or (outer and inner == "vector"):
        return wrap(Dense(any_bits(generator, leaf, dtype)))
    if inner == "palettized":
        return wrap(palettized(draw, shape, dtype, leaf, generator))
    if inner == "vector":
        return vector(draw, shape, dtype, generator)
    code = draw(code_dtypes)
    scales, block = draw(short_blocks(shape) if draw(st.booleans()) else counts(shape).map(lambda one: (one, None)))
    scale: Any = generator.uniform(-2, 2, scales).astype(dtype)
    if draw(st.booleans()):
        scale = palettized(draw, scales, dtype, scales, generator, finite)
    if draw(st.booleans()):  # floats of few bits, or in a table
        if inner == "linear":
            stored = draw(st.sampled_from([*STORED_DTYPES.values()]))
            return wrap(Quantized(Dense(NarrowArray(finite(generator, leaf, stored), dtype)), scale, None, block))
        table = palettized(draw, shape, dtype, leaf, generator, finite)
        return wrap(Quantized(table, scale, None, block, rounded(draw, dtype)))
    zero_point = codes(generator, scales, code) if draw(st.booleans()) else None
    if inner == "linear":
        return wrap(Quantized(Dense(codes(generator, leaf, code)), scale, zero_point, block, rounded(draw, dtype)))
    return wrap(Quantized(palettized(draw, shape, code, leaf, generator), scale, zero_point, block))


@st.composite
def short_blocks(draw: st.DrawFn, shape: Shape) -> tuple[Shape, Shape]:
    """Lengths of a block, most of which do not divide their axis, and how many there are."""
    block = tuple(draw(st.integers(1, dim)) for dim in shape)
    return tuple(-(-dim // size) for dim, size in zip(shape, block, strict=True)), block


def finite(generator: np.random.Generator, shape: Shape, dtype: DType) -> NDArray:
    """Floats whose products are numbers: NaN times a scale has a sign that no two processors agree on."""
    return generator.uniform(0.1, 4, shape).astype(dtype)


def vector(draw: Draw, shape: Shape, dtype: DType, generator: np.random.Generator) -> Palettized:
    axis, length = draw(st.integers(0, len(shape) - 1)), draw(st.sampled_from([2, 4]))
    groups = draw(counts(shape))
    lut: Any = any_bits(generator, (*groups, 5, length), dtype)
    return Palettized(generator.integers(0, 5, shape).astype(np.uint8), lut, axis)


def wide(values: NDArray) -> NDArray:
    """The values in a type that holds all of them."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return values.astype(np.float64)


def merged(values: NDArray) -> NDArray:
    """The patterns, that of -0.0 as 0.0."""
    return np.where(wide(values).reshape(-1) == 0, 0, patterns(values))


def as_rounded(threshold: float, dtype: DType) -> float:
    """The threshold as the type has it, at most its largest finite value."""
    with np.errstate(over="ignore"):
        rounded = float(np.array([threshold]).astype(dtype)[0])
    return rounded if np.isfinite(rounded) else float(ml_dtypes.finfo(dtype).max)
