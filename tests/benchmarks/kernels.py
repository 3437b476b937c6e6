"""Every loop in C against the numpy that defines it: CPU time a value, on one thread."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from compressor import native
from compressor.arrays import BFLOAT16, DType, NDArray, mantissa_bits
from compressor.gaps import gaps_into, gaps_to_mask
from compressor.kernels import dequantize_into, look_up_into, scatter_into, select_into
from compressor.packing import pack_into, packed_nbytes, unpack_into
from compressor.patterns import above_into, compared
from compressor.recognition.rows import codes_into, extremes_into, fits_into
from compressor.recognition.scan import near_zero
from compressor.recognition.schemes.narrow import narrow_into
from compressor.recognition.tables import known, places_into
from compressor.turning import round_into, turn_into
from compressor.widening import widen_into
from tests.benchmarks.measure import Figure

SIZE = 768 * 3072
GROUP = 128
LEAST = 2.0
"""What a loop must gain to be shipped."""

Case = tuple[str, Callable[..., Any], Sequence[Any]]


def figures(times: int) -> Iterator[Figure]:
    if native.described() != "kernels: C":
        return
    for what, loop, arguments in _cases():
        ours, defined = (_nanoseconds(each, arguments, times) for each in (loop, inspect.unwrap(loop)))
        detail = f"{defined:.2f} / {ours:.2f} ns a value"
        yield Figure(f"{what}: numpy / C", defined / ours, LEAST, detail, at_least=True)


def _nanoseconds(called: Callable[..., Any], arguments: Sequence[Any], times: int) -> float:
    """The least of several: noise only adds."""
    called(*arguments)
    taken = []
    for _ in range(times):
        started = time.process_time_ns()
        called(*arguments)
        taken.append(time.process_time_ns() - started)
    return min(taken) / SIZE


def _cases() -> Iterator[Case]:
    random = np.random.default_rng(0)
    for width in (2, 3, 4, 6):
        codes = random.integers(0, 1 << width, SIZE).astype(np.uint8)
        packed = np.empty(packed_nbytes(SIZE, width), np.uint8)
        yield f"pack {width} bits", pack_into, (codes, packed, width)
        yield f"unpack {width} bits", unpack_into, (packed, codes, width)
    yield from _palettes(random)
    yield from _masks(random)
    for dtype in (BFLOAT16, np.dtype(np.float16), np.dtype(np.float32)):
        yield from _rows(random, dtype)
    wide, small = np.empty(SIZE, np.float32), np.empty(SIZE, np.uint16)
    for dtype in (BFLOAT16, np.dtype(np.float16)):
        wide[...] = random.standard_normal(SIZE, np.float32).astype(dtype)
        yield f"narrow to {dtype}", narrow_into, (wide.view(np.uint32), small, mantissa_bits(dtype))
    yield "widen float16", widen_into, (small, wide.view(np.uint32))
    yield "round to float16", round_into, (wide.view(np.uint32), small)
    yield "turn a matrix of float16", turn_into, (small, np.empty_like(small), 768)


def _palettes(random: np.random.Generator) -> Iterator[Case]:
    values, places = np.empty(SIZE, np.uint32), np.empty(SIZE, np.uint8)
    for width in (4, 8):
        table = np.sort(random.standard_normal(1 << width, np.float32)).view(np.uint32)
        packed = random.integers(0, 256, packed_nbytes(SIZE, width)).astype(np.uint8)
        yield f"look up {width} bits", look_up_into, (packed, table, values, width)
        patterns = table[random.integers(0, 1 << width, SIZE)]
        yield f"find a place of {1 << width}", places_into, (patterns, table, places, 1 << 31)
        yield f"see that {1 << width} values are all", known, (patterns, table, 1 << 31)


def _masks(random: np.random.Generator) -> Iterator[Case]:
    where = random.random(SIZE) < 0.5
    values = np.where(where, random.standard_normal(SIZE, np.float32), np.float32(0)).view(np.uint32)
    chosen = values[where]
    yield "select a half", select_into, (values, where, chosen)
    yield "scatter a half", scatter_into, (chosen, where, values)
    for width, kept in ((4, 0.25), (8, 0.05)):
        few = random.random(SIZE) < kept
        codes = np.empty(gaps_into(few, np.empty(0, np.uint8), (1 << width) - 1, 0)[0], np.uint8)
        yield f"count distances of {width} bits", gaps_into, (few, codes[:0], (1 << width) - 1, 0)
        yield f"distances of {width} bits", gaps_into, (few, codes, (1 << width) - 1, 0)
        gaps_into(few, codes, (1 << width) - 1, 0)
        yield f"places from distances of {width} bits", gaps_to_mask, (codes, np.zeros(SIZE, bool), (1 << width) - 1)
    yield "mark zeros", above_into, (values, where, (1 << 31) - 1, 0)
    yield "count zeros", near_zero, (values, (1 << 31) - 1, 0)
    signed = np.where(random.random(SIZE) < 0.5, values | np.uint32(1 << 31), values)  # -0.0 that became 0.0
    yield "compare but for signs of zeros", compared, (np.where(where, values, signed), values, (1 << 31) - 1, 0)


def _rows(random: np.random.Generator, dtype: DType) -> Iterator[Case]:
    """Rows of a group of codes of 4 bits."""
    codes = random.integers(-8, 8, (SIZE // GROUP, GROUP)).astype(np.int8)
    scale = (random.random((len(codes), 1)) * 0.01 + 0.001).astype(dtype)
    values: NDArray = (codes.astype(np.float32) * scale.astype(np.float32)).astype(dtype)
    unsigned = values.view(f"u{dtype.itemsize}")
    scales, mantissa = scale.reshape(-1).view(unsigned.dtype), mantissa_bits(dtype)
    a, b, c = (np.empty(len(codes), unsigned.dtype) for _ in range(3))
    fit, found, zero = np.empty(len(codes), np.bool_), np.empty(codes.shape, np.uint8), np.zeros(len(codes), np.int16)
    yield f"extremes of {dtype} by group", extremes_into, (unsigned, a, b, c, 0)
    yield f"multiples of {dtype} scales by group", fits_into, (unsigned, scales, fit, mantissa, 0)
    yield f"codes of {dtype} by group", codes_into, (unsigned, scales, zero, found, mantissa, 0)
    arguments = (codes.view(np.uint8), scales, zero.astype(np.uint8), unsigned, mantissa, 8, 128)
    yield f"dequantize to {dtype} by group", dequantize_into, arguments
