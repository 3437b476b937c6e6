"""Weights whose making is known, and what there is to check of every finding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor import encodings
from compressor.arrays import FLOAT_DTYPES, NDArray, Shape
from compressor.compilation.encode import encode
from compressor.compilation.pipelines import get
from compressor.compilation.plan import choose
from compressor.compilation.verify import differences
from compressor.encodings import Dense, Encoding, Quantized
from compressor.kernels import dequantize, expand
from compressor.recognition.findings import Finding, Settings
from compressor.weight import Weight

EVERY = Settings(min_elements=0)


PLACES_64 = np.arange(64 * 64).reshape(64, 64)


SHAPES: tuple[Shape, ...] = ((96, 64), (64, 32, 3, 3), (48, 128), (32, 16, 5), (7, 350))


@dataclass(frozen=True)
class Anything:
    """A target that holds every encoding as it is."""

    name: str = "anything"

    def legalize(self, encoding: Encoding) -> Encoding:
        return encoding

    def write(self, *_: Any) -> None:
        raise AssertionError("no plan writes")

    def read(self, *_: Any) -> Any:
        raise AssertionError("no plan reads")


def weight(values: NDArray, **fields: Any) -> Weight:
    return Weight("w", Dense(values), **fields)


def chosen(finding: Finding) -> str:
    return encodings.name(choose(finding, Anything(), get("auto")).form.spec)


def rng(*seed: Any) -> np.random.Generator:
    """A generator of its own for every case, the same in every run."""
    return np.random.default_rng([ord(letter) for letter in repr(seed)])


def normal(shape: Shape, dtype: str = "float32", *seed: Any) -> NDArray:
    """Values as training leaves them; of a magnitude that no threshold reaches."""
    values = rng(shape, dtype, *seed).normal(0, 0.05, shape)
    return np.where(np.abs(values) < 2e-3, 0.01, values).astype(FLOAT_DTYPES[dtype])


def check_every_candidate(values: NDArray, finding: Finding) -> None:
    for candidate in finding.candidates:
        encoded, loss = encode(weight(values), candidate), candidate.loss
        assert encodings.spec(encoded) == candidate.spec
        decoded = encodings.decode(encoded)
        assert (decoded.shape, decoded.dtype) == (values.shape, values.dtype)
        assert differences(values, decoded, loss.threshold) == (0, loss.changed)
        assert int(np.count_nonzero((decoded == 0) & (values != 0))) == loss.changed


def n_of_m(shape: Shape, axis: int, n: int, m: int) -> NDArray:
    """A mask with n of every m neighbours along an axis set."""
    moved = (*shape[:axis], *shape[axis + 1 :], shape[axis] // m, m)
    ranks = rng(shape, axis, n, m).random(moved).argsort(axis=-1).argsort(axis=-1)
    return np.moveaxis((ranks < n).reshape(*moved[:-2], shape[axis]), -1, axis)


def blocked(shape: Shape, lengths: Shape, rate: float = 0.6) -> NDArray:
    """A mask that is constant over blocks."""
    counts = tuple(dim // length for dim, length in zip(shape, lengths, strict=True))
    mask = rng(shape, lengths).random(counts) >= rate
    return expand(mask, shape)


def grouped(shape: Shape, axis: int, group: int, entries: int) -> NDArray:
    """A table of its own for every `group` channels along an axis."""
    random = rng(shape, axis, group, entries)
    tables = random.normal(size=(shape[axis] // group, entries)).astype(np.float32)
    channels = random.integers(0, entries, (shape[axis], math.prod(shape) // shape[axis]))
    values = tables[np.arange(shape[axis])[:, None] // group, channels]
    others = tuple(dim for place, dim in enumerate(shape) if place != axis)
    return np.ascontiguousarray(np.moveaxis(values.reshape(shape[axis], *others), 0, axis))


def on_grid(low: int, high: int, shape: Shape, scales: Shape, dtype: str) -> NDArray:
    """Values on a grid: each block has the least and the greatest code and 1, so that no coarser grid fits."""
    random = rng(low, high, shape, scales)
    codes = random.integers(low, high + 1, shape).astype(np.int16)
    blocks = [dim // count for dim, count in zip(shape, scales, strict=True)]
    for place in np.ndindex(*scales):
        part = codes[tuple(slice(at * length, (at + 1) * length) for at, length in zip(place, blocks, strict=True))]
        part[np.unravel_index([0, 1, 2], part.shape)] = (low, high, 1)
    scale = (random.uniform(0.5, 2, scales) * 0.01).astype(FLOAT_DTYPES[dtype])
    return dequantize(codes, expand(scale, shape))


def ambiguous(high: int, granularity: str, dtype: str) -> bool:
    """bfloat16 has fewer values between 128 and 256 than there are codes, and scales that have common multiples."""
    return dtype == "bfloat16" and (high > 127 or (high < 4 and "block" in granularity))


def check_every_candidate_quietly(values: NDArray, finding: Finding) -> None:
    with np.errstate(invalid="ignore"):  # the check itself compares signalling NaNs
        check_every_candidate(values, finding)


def quantized(codes: NDArray, scale: Any, zero_point: int | None = None) -> Quantized:
    scales = np.full((1, 1), scale, np.float32)
    return Quantized(Dense(codes), scales, None if zero_point is None else np.full((1, 1), zero_point, codes.dtype))
