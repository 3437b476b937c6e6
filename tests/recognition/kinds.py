"""Kinds of weights: what has no structure, and what has one, with the name that it should be given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from compressor import encodings
from compressor.arrays import DType, NDArray, Shape
from compressor.encodings import Encoding, Palettized
from compressor.kernels import dequantize, expand
from compressor.recognition.findings import Finding

Random = np.random.Generator
SHAPES: tuple[Shape, ...] = ((64, 96), (32, 32, 3, 3))


def with_outlier(values: NDArray) -> NDArray:
    values.reshape(-1)[77] = 40
    return values


def by_channel(shape: Shape, axis: int) -> Shape:
    return tuple(dim if place == axis else 1 for place, dim in enumerate(shape))


# What training leaves without any compression: nothing may be seen in it.
NOTHING: Mapping[str, Callable[[Random, Shape], NDArray]] = {
    "normal": lambda random, shape: random.normal(0, 0.05, shape),
    "uniform": lambda random, shape: random.uniform(-0.1, 0.1, shape),
    "positive": lambda random, shape: random.uniform(0.5, 1.5, shape),
    "heavy tails": lambda random, shape: random.standard_t(2, shape) * 0.02,
    "log-normal": lambda random, shape: random.lognormal(-3, 2, shape),
    "scales by channel": lambda random, shape: (
        random.normal(size=shape) * random.lognormal(-3, 1, by_channel(shape, 0))
    ),
    "scales by input": lambda random, shape: random.normal(size=shape) * random.lognormal(-3, 1, by_channel(shape, 1)),
    "low rank": lambda random, shape: (
        random.normal(size=(shape[0], 3)) @ random.normal(size=(3, math.prod(shape[1:])))
    ).reshape(shape),
    "one outlier": lambda random, shape: with_outlier(random.normal(0, 0.05, shape)),
    "sorted": lambda random, shape: np.sort(random.normal(size=math.prod(shape))).reshape(shape),
    "smooth": lambda random, shape: np.cos(np.arange(math.prod(shape)) * random.uniform(0.01, 0.02)).reshape(shape),
    "large": lambda random, shape: random.normal(0, 1e4, shape),
    "far from zero": lambda random, shape: 1 + 0.01 * random.normal(size=shape),
    "few zeros": lambda random, shape: random.normal(0, 0.05, shape) * (random.random(shape) > 0.002),
}


COARSE = {"positive", "far from zero", "large", "smooth", "sorted", "uniform"}


@dataclass(frozen=True)
class Kind:
    """A way to make a weight.

    make: (random, shape, dtype) -> values of that dtype.
    found: whether a finding tells what was made.
    shapes: in which it is made.
    tolerance: as it is asked for.
    """

    make: Callable[[Random, Shape, DType], NDArray]
    found: Callable[[Finding, Encoding], bool]
    shapes: tuple[Shape, ...] = SHAPES
    tolerance: float = 0.0


def table(random: Random, size: int, dtype: DType) -> NDArray:
    """Distinct values, none of them zero, that 16-bit types keep apart."""
    values = (np.arange(size) - size / 2 + 0.5 + random.uniform(-0.3, 0.3, size)) * 0.01
    return values.astype(np.float32).astype(dtype)


def palette(entries: int) -> Kind:
    def make(random: Random, shape: Shape, dtype: DType) -> NDArray:
        return table(random, entries, dtype)[random.permutation(np.arange(math.prod(shape)) % entries)].reshape(shape)

    def found(finding: Finding, spec: Encoding) -> bool:
        return finding.distinct == entries and isinstance(spec, Palettized) and spec.vector_axis is None

    return Kind(make, found)


def grouped(entries: int, group: int, axis: int) -> Kind:
    def make(random: Random, shape: Shape, dtype: DType) -> NDArray:
        moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
        tables = [table(random, entries, dtype) * dtype.type(1 + place / 64) for place in range(shape[axis] // group)]
        codes = random.integers(0, entries, (shape[axis], math.prod(moved[1:])))
        values = np.stack([tables[place // group][codes[place]] for place in range(shape[axis])])
        return np.ascontiguousarray(np.moveaxis(values.reshape(moved), 0, axis))

    scope = f"per {group} channels along axis {axis}" if group > 1 else f"per channel along axis {axis}"
    return Kind(
        make,
        lambda finding, _: finding.palette == f"{entries} distinct values {scope}",
        ((48, 256),) if axis == 0 else ((256, 48),),
    )


def vectors(entries: int, length: int, axis: int) -> Kind:
    def make(random: Random, shape: Shape, dtype: DType) -> NDArray:
        entry = random.normal(0, 0.05, (entries, length)).astype(np.float32).astype(dtype)
        counts = tuple(dim // length if place == axis else dim for place, dim in enumerate(shape))
        values = entry[random.permutation(np.arange(math.prod(counts)) % entries)].reshape(*counts, length)
        return np.ascontiguousarray(np.moveaxis(values, -1, axis + 1).reshape(shape))

    def found(_: Finding, spec: Encoding) -> bool:
        return isinstance(spec, Palettized) and (spec.vector_axis, spec.lut.shape[-2:]) == (axis, (entries, length))

    return Kind(make, found, ((32, 384), (32, 32, 3, 3)))


SCALES: Mapping[str, Callable[[Shape], Shape]] = {
    "per tensor": lambda shape: (1,) * len(shape),
    "per channel along axis 0": lambda shape: by_channel(shape, 0),
    "per channel along axis 1": lambda shape: by_channel(shape, 1),
    "per block of 32 along axis 1": lambda shape: (shape[0], shape[1] // 32),
}


def codes(random: Random, low: int, high: int, shape: Shape, scales: Shape) -> NDArray:
    """Codes of which each block has the least, the greatest and 1, so that no coarser grid fits."""
    made = random.integers(low, high + 1, shape).astype(np.int16)
    lengths = [dim // count for dim, count in zip(shape, scales, strict=True)]
    for place in np.ndindex(*scales):
        part = made[tuple(slice(at * length, (at + 1) * length) for at, length in zip(place, lengths, strict=True))]
        part[np.unravel_index([0, 1, 2], part.shape)] = (low, high, 1)
    return made


def grid(low: int, high: int, code: str, granularity: str) -> Kind:
    def make(random: Random, shape: Shape, dtype: DType) -> NDArray:
        scales = SCALES[granularity](shape)
        scale = (random.uniform(0.5, 2, scales) * 0.01).astype(np.float32).astype(dtype)
        return dequantize(codes(random, low, high, shape, scales), expand(scale, shape))

    shapes = ((64, 96), (16, 384)) if "block" in granularity else SHAPES
    return Kind(make, lambda finding, _: finding.grid == f"{code} grid {granularity}", shapes)


def masked(inner: Kind | None, mask: Callable[[Random, Shape], NDArray], structure: str, form: str) -> Kind:
    """What `inner` makes, or values as training leaves them, with zeros where `mask` is not set."""

    def make(random: Random, shape: Shape, dtype: DType) -> NDArray:
        if inner is None:
            values = (np.abs(random.normal(0, 0.05, shape)) + 0.01).astype(np.float32).astype(dtype)
        else:
            values = inner.make(random, shape, dtype)
        return np.where(mask(random, shape), values, dtype.type(0))

    def found(finding: Finding, spec: Encoding) -> bool:
        return finding.structure == structure and encodings.name(spec) == form

    return Kind(make, found, SHAPES)


def n_of_m(n: int, m: int, axis: int) -> Callable[[Random, Shape], NDArray]:
    def mask(random: Random, shape: Shape) -> NDArray:
        moved = (*shape[:axis], *shape[axis + 1 :], shape[axis] // m, m)
        ranks = random.random(moved).argsort(axis=-1).argsort(axis=-1)
        return np.moveaxis((ranks < n).reshape(*moved[:-2], shape[axis]), -1, axis)

    return mask


def blocks(rate: float, *lengths: int) -> Callable[[Random, Shape], NDArray]:
    """Blocks of `lengths`, 0 for a whole axis; the further axes are blocks of 1."""

    def mask(random: Random, shape: Shape) -> NDArray:
        padded = (*lengths, *(1,) * len(shape))[: len(shape)]
        sizes = [length or dim for length, dim in zip(padded, shape, strict=True)]
        counts = tuple(dim // size for dim, size in zip(shape, sizes, strict=True))
        kept = random.permutation(np.arange(math.prod(counts)) >= rate * math.prod(counts)).reshape(counts)
        return expand(kept, shape)

    return mask


def folded(inner: Kind) -> Kind:
    """What `inner` makes, each channel times a factor after it was rounded: batch norm, folded before export."""

    def make(random: Random, shape: Shape, dtype: DType) -> NDArray:
        factor = random.uniform(0.5, 2, (shape[0], *[1] * (len(shape) - 1))) * random.choice([-1, 1])
        return (inner.make(random, shape, dtype).astype(np.float64) * factor).astype(dtype)

    def found(finding: Finding, _: Encoding) -> bool:
        return any("batch norm was folded before export" in miss for miss in finding.near_misses)

    return Kind(make, found, ((32, 384), (32, 32, 3, 3)))


def noisy(inner: Kind, noise: float, tolerance: float, form: str) -> Kind:
    """What `inner` makes, each value off by up to `noise` of the largest magnitude, and a tolerance for it."""

    def make(random: Random, shape: Shape, dtype: DType) -> NDArray:
        values = inner.make(random, shape, dtype).astype(np.float64)
        return (values + random.uniform(-noise, noise, shape) * np.abs(values).max()).astype(dtype)

    return Kind(make, lambda _, spec: encodings.name(spec) == form, inner.shapes, tolerance)


INT8 = grid(-127, 127, "int8", "per channel along axis 0")
INT4 = grid(-8, 7, "int4", "per channel along axis 0")


KINDS: Mapping[str, Kind] = {
    **{f"palette of {entries}": palette(entries) for entries in (2, 3, 8, 16, 17, 64, 200)},
    **{
        f"palette of {entries} per {group} along {axis}": grouped(entries, group, axis)
        for entries, group, axis in ((4, 1, 0), (16, 8, 0), (4, 1, 1), (16, 8, 1))
    },
    **{
        f"{entries} vectors of {length} along {axis}": vectors(entries, length, axis)
        for entries, length, axis in ((64, 2, 0), (64, 2, 1), (64, 4, 0), (256, 4, 1))
    },
    **{
        f"{code} {low}..{high} {granularity}": grid(low, high, code, granularity)
        for (low, high, code), granularity in itertools.product(
            (
                (-127, 127, "int8"),
                (-128, 127, "int8"),
                (-55, 200, "uint8"),
                (-8, 7, "int4"),
                (-3, 12, "uint4"),
                (-2, 1, "int2"),
            ),
            SCALES,
        )
    },
    "75% zeros": masked(None, blocks(0.75), "unstructured", "sparse"),
    **{
        f"{n}:{m} along {axis}": masked(None, n_of_m(n, m, axis), f"{n}:{m} along axis {axis}", "sparse")
        for (n, m), axis in itertools.product(((1, 2), (1, 4), (2, 4), (3, 4), (4, 8), (2, 8)), (0, 1))
    },
    **{
        f"2:4 along {axis} of 16 values": masked(
            palette(16), n_of_m(2, 4, axis), f"2:4 along axis {axis}", "sparse(palettized4)"
        )
        for axis in (0, 1)
    },
    "2:4 along 1 of int4": masked(INT4, n_of_m(2, 4, 1), "2:4 along axis 1", "sparse(int4)"),
    **{
        f"blocks of {length} along {axis}": masked(
            None,
            blocks(0.6, *((length,) if axis == 0 else (1, length))),
            f"blocks of {length} along axis {axis}",
            "sparse",
        )
        for length, axis in itertools.product((2, 4, 8, 16, 32), (0, 1))
    },
    **{
        f"blocks of {length} along 1 of int8": masked(
            INT8, blocks(0.6, 1, length), f"blocks of {length} along axis 1", "sparse(int8)"
        )
        for length in (2, 4, 8)
    },
    **{
        f"blocks of 4 along {axis} of int4": masked(
            INT4, blocks(0.6, *((4,) if axis == 0 else (1, 4))), f"blocks of 4 along axis {axis}", "sparse(int4)"
        )
        for axis in (0, 1)
    },
    "channels along 0": masked(None, blocks(0.5, 1, 0, 0, 0), "channels along axis 0", "sparse"),
    "channels along 1": masked(None, blocks(0.5, 0, 1, 0, 0), "channels along axis 1", "sparse"),
    "channels along 0 of int8": masked(
        grid(-127, 127, "int8", "per channel along axis 1"),
        blocks(0.5, 1, 0, 0, 0),
        "channels along axis 0",
        "sparse(int8)",
    ),
    "channels along 1 of 16 values": masked(
        palette(16), blocks(0.5, 0, 1, 0, 0), "channels along axis 1", "sparse(palettized4)"
    ),
    "heads of 16": masked(None, blocks(0.25, 16, 0, 0, 0), "blocks of 16 channels along axis 0", "sparse"),
    "palette of 16, folded": folded(palette(16)),
    "int8, folded": folded(INT8),
    "palette of 16, noise": noisy(palette(16), 1e-3, 2e-3, "palettized4"),
    "int4 per channel, noise": noisy(INT4, 1e-3, 5e-3, "int4"),
}
