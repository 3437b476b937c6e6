"""The loops in C against their definitions in numpy, and what refuses arguments that do not fit."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor import native
from compressor.arrays import DType, NDArray, mantissa_bits
from compressor.gaps import gaps_into, gaps_to_mask
from compressor.kernels import dequantize_into, look_up_into, scatter_into, select_into
from compressor.packing import pack_into, packed_nbytes, unpack_into
from compressor.patterns import above_into, compared, magnitude_bits, unique
from compressor.recognition.grids import search_into
from compressor.recognition.row_tables import distinct_into, row_places_into
from compressor.recognition.rows import codes_into, extremes_into, fits_into
from compressor.recognition.scan import near_zero
from compressor.recognition.schemes.narrow import narrow_into
from compressor.recognition.tables import known, places_into
from compressor.turning import round_into, turn_into
from compressor.widening import widen_into
from tests import strategies

LOOPS: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        above_into, codes_into, compared, dequantize_into, distinct_into, extremes_into, fits_into, gaps_into,
        gaps_to_mask, known, look_up_into, narrow_into, near_zero, pack_into, places_into, round_into, row_places_into,
        scatter_into, search_into, select_into, turn_into, unpack_into, widen_into,
    )
}  # fmt: skip

compiled = pytest.mark.skipif(native.described() != "kernels: C", reason=native.described())

sizes = st.integers(0, 300) | st.integers(2**16 - 9, 2**16 + 9) | st.integers(0, 40).map(lambda eights: 8 * eights)
widths = st.integers(1, 8)
unsigned = st.sampled_from([np.dtype(name) for name in ("u1", "u2", "u4", "u8")])


def unaligned(values: NDArray) -> NDArray:
    """The same values at an address that is no multiple of anything."""
    moved = np.empty(values.nbytes + 1, np.uint8)[1:].view(values.dtype).reshape(values.shape)
    moved[...] = values
    return moved


def answers(name: str, *arguments: Any) -> tuple[list[Any], list[Any]]:
    """What the loop and its definition return and write."""

    def answer(function: Callable[..., Any], given: list[Any]) -> list[Any]:
        return [function(*given), *(each.tobytes() for each in given if isinstance(each, np.ndarray))]

    copies = [unaligned(each) if isinstance(each, np.ndarray) else each for each in arguments]
    return answer(LOOPS[name], copies), answer(inspect.unwrap(LOOPS[name]), [*arguments])


def both(loop: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The loop, and its definition."""
    return loop, inspect.unwrap(loop)


def agree(name: str, *arguments: Any) -> bool:
    ours, defined = answers(name, *arguments)
    return ours == defined


def filled(generator: np.random.Generator, size: int, dtype: np.dtype[Any]) -> NDArray:
    """What stands in an array before a loop writes to it: the same for both, and nothing that it would write."""
    return strategies.any_bits(generator, (size,), dtype)


@compiled
def test_every_loop_is_that_of_a_definition():
    from compressor.native import loops  # type: ignore[attr-defined] # where it is compiled

    assert {name for name in vars(loops) if not name.startswith("_")} == {"SOURCES", *LOOPS}
    assert all(inspect.unwrap(each) is not each for each in LOOPS.values())


@compiled
@given(sizes, st.integers(1, 7), st.data())
def test_packing(size: int, width: int, data: st.DataObject) -> None:
    generator = strategies.random(data.draw)
    codes = filled(generator, size, np.dtype("u1"))  # bits beyond the width too
    packed = filled(generator, packed_nbytes(size, width), np.dtype("u1"))
    assert agree("pack_into", codes, packed, width)
    assert agree("unpack_into", packed, codes, width)


@compiled
@given(sizes, widths, unsigned, st.data())
def test_looking_up(size: int, width: int, dtype: np.dtype[Any], data: st.DataObject) -> None:
    generator = strategies.random(data.draw)
    entries = data.draw(st.integers(1, 1 << width))
    packed = filled(generator, packed_nbytes(size, width), np.dtype("u1"))
    table, values = filled(generator, entries, dtype), filled(generator, size, dtype)
    assert look_up_into(packed, table, values.copy(), width) == inspect.unwrap(look_up_into)(
        packed, table, values.copy(), width
    )
    whole = filled(generator, 1 << width, dtype)  # then every code has a value
    assert agree("look_up_into", packed, whole, values, width)


@compiled
@given(sizes, unsigned, st.data())
def test_finding_places(size: int, dtype: np.dtype[Any], data: st.DataObject) -> None:
    generator, signed = strategies.random(data.draw), data.draw(st.booleans())
    minus_zero = 1 << 8 * dtype.itemsize - 1 if signed else 0
    keys = unique(filled(generator, data.draw(st.integers(1, 18) | st.integers(1, 256)), dtype))
    keys[0] = data.draw(st.sampled_from([0, int(keys[0])]))
    keys = generator.permutation(keys[keys != minus_zero]) if signed else generator.permutation(keys)
    if not keys.size:
        return
    have = np.append(keys, dtype.type(minus_zero)) if signed and 0 in keys else keys
    patterns = have[generator.integers(0, have.size, size)]
    assert agree("places_into", patterns, keys, filled(generator, size, np.dtype("u1")), minus_zero)
    assert known(patterns, keys, minus_zero) == inspect.unwrap(known)(patterns, keys, minus_zero) == size
    if size:
        patterns[generator.integers(0, size, 3)] ^= dtype.type(1)
        assert agree("known", patterns, keys, minus_zero)


@compiled
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
@pytest.mark.parametrize("key", [0, 1, 7, 255])
def test_no_pattern_is_taken_for_the_only_key(dtype: str, key: int) -> None:
    """Every slot of the hash but one holds the place of another key."""
    patterns = np.arange(1 << min(8 * np.dtype(dtype).itemsize, 12)).astype(dtype)
    found = [known(patterns[place : place + 1], np.array([key], dtype), 0) for place in range(patterns.size)]
    assert np.flatnonzero(found).tolist() == [key]


@compiled
@pytest.mark.parametrize("dtype", ["u2", "u4"])
@pytest.mark.parametrize("count", [1, 3, 16, 17, 18])
def test_what_short_tables_do_not_have(dtype: str, count: int) -> None:
    """Of many patterns, in which those of few keys are looked up at once."""
    generator = np.random.default_rng(count)
    keys = generator.choice(np.arange(1, 1 << 15, dtype=dtype), count, replace=False)
    patterns = keys[generator.integers(0, count, 20_003)]
    others = generator.permutation(np.setdiff1d(np.arange(1 << 16).astype(dtype), keys))
    for other, place in zip(others[:2000].tolist(), generator.integers(0, patterns.size, 2000).tolist(), strict=True):
        before = int(patterns[place])
        patterns[place] = other
        assert known(patterns, keys, 0) == place
        patterns[place] = before


@compiled
@given(sizes, unsigned, st.sampled_from([0.0, 0.1, 0.5, 0.8, 0.95, 1.0]), st.data())
def test_selecting_and_scattering(size: int, dtype: np.dtype[Any], share: float, data: st.DataObject) -> None:
    generator = strategies.random(data.draw)
    where = generator.random(size) < share
    if data.draw(st.booleans()):  # a mask of other bytes than 0 and 1 is a mask all the same
        where = (where * generator.integers(1, 256, size)).astype(np.uint8).view(np.bool_)
    values, count = filled(generator, size, dtype), int(np.count_nonzero(where.view(np.uint8)))
    assert agree("select_into", values, where, filled(generator, count, dtype))
    assert agree("scatter_into", values[:count].copy(), where, filled(generator, size, dtype))


@compiled
@pytest.mark.parametrize("before", [0, 8, 11])
def test_masks_end_in_every_way(before: int) -> None:
    """What is beyond the last value is neither read nor written; sanitizers see it."""
    for last in range(256):
        where = np.concatenate([np.ones(before, np.bool_), np.unpackbits(np.array([last], np.uint8)).view(np.bool_)])
        values = np.arange(1, where.size + 1, dtype=np.uint64)
        count = int(np.count_nonzero(where))
        assert agree("select_into", values, where, np.zeros(count, np.uint64))
        assert agree("scatter_into", values[:count].copy(), where, np.zeros(where.size, np.uint64))


@compiled
@given(sizes, widths, st.sampled_from([0.0, 0.004, 0.1, 0.5, 1.0]), st.data())
def test_distances(size: int, width: int, share: float, data: st.DataObject) -> None:
    generator, most = strategies.random(data.draw), (1 << width) - 1
    where = generator.random(size) < share
    if data.draw(st.booleans()):
        where = (where * generator.integers(1, 256, size)).astype(np.uint8).view(np.bool_)
    before = data.draw(st.integers(0, 3 * most))
    assert agree("gaps_into", where, BYTES[:0], most, before)
    count, _ = gaps_into(where, BYTES[:0], most, before)
    codes = filled(generator, count + data.draw(st.integers(0, 20)), np.dtype("u1"))
    if codes.size:
        ours, defined = answers("gaps_into", where, codes, most, before)
        assert (ours[0], ours[2][:count]) == (defined[0], defined[2][:count])
    # Any bytes, too: what has to be refused is, before anything is written beyond the mask.
    ours, defined = answers("gaps_to_mask", filled(generator, size // 4, np.dtype("u1")), np.zeros(size, bool), most)
    assert ours == defined or ours[0] is defined[0] is False


@compiled
@given(sizes, unsigned, st.data())
def test_counting_what_is_near_zero(size: int, dtype: np.dtype[Any], data: st.DataObject) -> None:
    generator = strategies.random(data.draw)
    patterns = filled(generator, size, dtype)
    patterns[generator.random(size) < 0.3] = 0
    every = (1 << 8 * dtype.itemsize) - 1
    patterns[generator.random(size) < 0.1] = every - (every >> 1)
    for magnitude in (every, every >> 1):
        edge = data.draw(st.integers(0, magnitude))
        assert agree("near_zero", patterns, magnitude, edge)
        assert agree("near_zero", np.zeros_like(patterns), magnitude, edge)
        assert agree("above_into", patterns, np.empty(size, np.bool_), magnitude, edge)


@compiled
@given(sizes, unsigned, st.data())
def test_comparing(size: int, dtype: np.dtype[Any], data: st.DataObject) -> None:
    generator = strategies.random(data.draw)
    patterns, every = filled(generator, size, dtype), (1 << 8 * dtype.itemsize) - 1
    patterns[generator.random(size) < 0.2] = every - (every >> 1)  # -0.0
    assert compared(patterns, patterns.copy(), every, 0) == inspect.unwrap(compared)(patterns, patterns, every, 0)
    other = patterns.copy()
    other[generator.random(size) < data.draw(st.sampled_from([0.01, 0.3]))] = 0
    other[generator.random(size) < 0.1] ^= dtype.type(1)
    for magnitude in (every, every >> 1):
        assert agree("compared", patterns, other, magnitude, data.draw(st.integers(0, magnitude)))


lengths, counts = st.integers(1, 70), st.integers(1, 40)


def on_grids(generator: np.random.Generator, rows: int, size: int, dtype: DType) -> tuple[NDArray, NDArray]:
    """Rows that are whole multiples of their scale, some but for a value, and the scales: of any magnitude."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scale = (generator.random((rows, 1)) * 2.0 ** generator.integers(-30, 8, (rows, 1))).astype(dtype)
        wide = np.float64 if dtype == np.float64 else np.float32
        values = (generator.integers(-128, 256, (rows, size)).astype(wide) * scale.astype(wide)).astype(dtype)
        unsigned = values.view(f"u{dtype.itemsize}")
        unsigned ^= (generator.random(values.shape) < 0.01).astype(unsigned.dtype)
    return unsigned, scale.view(unsigned.dtype).reshape(-1)


@compiled
@given(strategies.float_dtypes, counts, lengths, st.booleans(), st.data())
def test_rows_on_grids(dtype: DType, rows: int, size: int, beside: bool, data: st.DataObject) -> None:  # noqa: FBT001
    generator = strategies.random(data.draw)
    patterns, scale = on_grids(generator, rows, size, dtype)
    patterns = np.ascontiguousarray(patterns.T) if beside else patterns
    low, fit = generator.integers(-128, 1, rows).astype(np.int16), np.zeros(rows, np.bool_)
    with np.errstate(all="ignore"):  # a scale that was too small for its type
        assert agree("fits_into", patterns, scale, fit, mantissa_bits(dtype), beside)
    fits_into(patterns, scale, fit, mantissa_bits(dtype), beside)
    fit &= scale != 0
    fitting = patterns[:, fit] if beside else patterns[fit]
    found = np.zeros(fitting.shape, np.uint8)
    assert agree("codes_into", np.ascontiguousarray(fitting), scale[fit], low[fit], found, mantissa_bits(dtype), beside)


@compiled
@given(strategies.float_dtypes, counts, lengths, st.data())
def test_searching_scales(dtype: DType, rows: int, size: int, data: st.DataObject) -> None:
    generator = strategies.random(data.draw)
    patterns, _ = on_grids(generator, rows, size, dtype)
    magnitudes = patterns & magnitude_bits(dtype)
    infinite = np.array([np.inf]).astype(dtype).view(patterns.dtype)[0]
    kept = (magnitudes != 0).any(axis=1) & (magnitudes < infinite).all(axis=1)
    kept[data.draw(st.sampled_from([1, 4, rows])) :] = False
    patterns, magnitudes = patterns[kept].reshape(-1), magnitudes[kept]
    given_ = patterns, np.where(magnitudes, magnitudes, infinite).min(axis=1), magnitudes.max(axis=1)
    if not patterns.size:
        return
    scales = [np.zeros(len(magnitudes), patterns.dtype) for _ in range(2)]
    with np.errstate(all="ignore"):
        loops = zip(both(search_into), scales, strict=True)
        found = [each(*given_, scale, mantissa_bits(dtype)) for each, scale in loops]
    assert found[0] == found[1]
    assert not found[0] or np.array_equal(scales[0], scales[1])


@compiled
@given(strategies.float_dtypes, counts, lengths, st.booleans(), st.data())
def test_rows_of_any_bits(dtype: DType, rows: int, size: int, beside: bool, data: st.DataObject) -> None:  # noqa: FBT001
    generator, unsigned = strategies.random(data.draw), np.dtype(f"u{dtype.itemsize}")
    shape = (size, rows) if beside else (rows, size)
    patterns = filled(generator, rows * size, unsigned).reshape(shape)
    patterns[generator.random(shape) < 0.3] = 0
    assert agree("extremes_into", patterns, *(np.zeros(rows, unsigned) for _ in range(3)), beside)
    with np.errstate(all="ignore"):
        fit, mantissa = np.zeros(rows, np.bool_), mantissa_bits(dtype)
        assert agree("fits_into", patterns, filled(generator, rows, unsigned), fit, mantissa, beside)


@compiled
@given(strategies.float_dtypes, counts, lengths, st.sampled_from([2, 4, 8]), st.booleans(), st.data())
def test_dequantizing(dtype: DType, rows: int, size: int, width: int, signed: bool, data: st.DataObject) -> None:  # noqa: FBT001
    generator, unsigned = strategies.random(data.draw), np.dtype(f"u{dtype.itemsize}")
    scale = filled(generator, rows, unsigned)
    infinite = np.array([np.inf]).astype(dtype).view(unsigned)[0]
    scale[(scale & (infinite | infinite - 1)) >= infinite] = 1  # the least subnormal
    codes, zero_point = filled(generator, rows * size, np.dtype("u1")), filled(generator, rows, np.dtype("u1"))
    values, sign = np.zeros(rows * size, unsigned), 1 << width - 1 if signed else 0
    assert agree("dequantize_into", codes, scale, zero_point, values, mantissa_bits(dtype), width, sign)


@compiled
@given(sizes, st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)]), strategies.float_dtypes, st.data())
def test_narrowing(size: int, dtype: DType, narrower: DType, data: st.DataObject) -> None:
    if narrower.itemsize >= dtype.itemsize:
        return
    generator, mantissa = strategies.random(data.draw), mantissa_bits(narrower)
    small = filled(generator, size, narrower)
    if data.draw(st.booleans()):
        with np.errstate(invalid="ignore"):
            small[np.isnan(small)] = 0
    with np.errstate(invalid="ignore"):
        nan = bool(np.isnan(small).any())
        values = small.astype(dtype).view(f"u{dtype.itemsize}")
    room = np.zeros(size, f"u{narrower.itemsize}")
    ours, defined = answers("narrow_into", values, room, mantissa)
    assert ours[0] is defined[0] is not nan
    assert ours == defined or not ours[0]
    for bit in range(8 * dtype.itemsize):  # any other value is none of the type
        if size:
            other = values[:1] ^ values.dtype.type(1 << bit)
            ours, defined = answers("narrow_into", other, room[:1], mantissa)
            assert ours == defined or ours[0] is defined[0] is False


@compiled
@given(sizes, st.data())
def test_rounding(size: int, data: st.DataObject) -> None:
    """Of any values, and of those around the middle between two halves."""
    generator = strategies.random(data.draw)
    wide = filled(generator, size, np.dtype(np.float32)).view(np.uint32)
    if data.draw(st.booleans()):
        near = filled(generator, size, np.dtype(np.float16)).astype(np.float32).view(np.uint32)
        wide = near + generator.integers(0xFFE, 0x1003, size).astype(np.uint32)
    assert agree("round_into", wide, filled(generator, size, np.dtype("u2")))


@compiled
def test_every_middle_between_two_halves_is_rounded_to_the_even_one():
    with np.errstate(invalid="ignore"):
        exact = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    for step in (0, 0xFFF, 0x1000, 0x1001, 0x1FFF):
        assert agree("round_into", exact + np.uint32(step), np.empty(exact.size, np.uint16))


@compiled
@given(st.integers(1, 70), st.integers(0, 70), unsigned, st.data())
def test_turning(rows: int, columns: int, dtype: np.dtype[Any], data: st.DataObject) -> None:
    generator = strategies.random(data.draw)
    values, room = (filled(generator, rows * columns, dtype) for _ in range(2))
    assert agree("turn_into", values, room, rows)


@compiled
def test_every_half_is_widened():
    halves = np.arange(1 << 16, dtype=np.uint16)
    wide = np.empty(halves.size, np.uint32)
    assert agree("widen_into", halves, wide)
    widen_into(halves, wide)
    numbers = ~np.isnan(halves.view(np.float16))
    assert np.array_equal(wide[numbers], halves.view(np.float16)[numbers].astype(np.float32).view(np.uint32))


@compiled
@given(unsigned, counts, lengths | st.integers(250, 600), st.integers(0, 1), st.integers(0, 1), st.data())
def test_tables_of_rows(
    dtype: DType,
    rows: int,
    size: int,
    beside: int,
    signed: int,
    data: st.DataObject,
) -> None:
    generator, minus_zero = strategies.random(data.draw), 1 << 8 * dtype.itemsize - 1 if signed else 0
    few = filled(generator, data.draw(st.sampled_from([1, 2, 16, 256, 257])), dtype)
    few[: 2 if signed else 0] = [0, minus_zero][: few.size if signed else 0]
    patterns = few[generator.integers(0, few.size, (rows, size))]
    flat = np.ascontiguousarray(patterns.T if beside else patterns).reshape(-1)
    tables = [np.zeros(rows * min(size, 256), dtype) for _ in range(2)]
    longest = [
        each(flat, table, rows, minus_zero, beside) for each, table in zip(both(distinct_into), tables, strict=True)
    ]
    assert longest[0] == longest[1]
    if not longest[0]:
        return
    ours, defined = (np.sort(table.reshape(rows, -1), axis=1) for table in tables)
    assert np.array_equal(ours, defined)
    keys = generator.permuted(np.unique(defined, axis=1) if rows == 1 else defined, axis=1).reshape(-1)
    assert agree("row_places_into", flat, keys, filled(generator, flat.size, np.dtype("u1")), rows, minus_zero, beside)


BYTES, WORDS = np.zeros(16, np.uint8), np.zeros(16, np.uint32)
SHORT, MASK = np.zeros(16, np.int16), np.zeros(16, np.bool_)
KEYS = np.arange(16, dtype=np.uint32)


@compiled
@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("pack_into", (BYTES, BYTES[:7], 4), "as many bytes as codes take"),
        ("pack_into", (BYTES, BYTES[:9], 4), "as many bytes as codes take"),
        ("pack_into", (BYTES, BYTES[:16], 8), "codes of 1 to 7 bits"),
        ("pack_into", (BYTES, BYTES[:0], 0), "codes of 1 to 7 bits"),
        ("pack_into", (WORDS, BYTES[:8], 4), "a byte a code"),
        ("unpack_into", (BYTES[:7], BYTES, 4), "as many bytes as codes take"),
        ("unpack_into", (BYTES[:3], WORDS, 4), "a byte a code"),
        ("unpack_into", (BYTES, BYTES, 2**32 + 4), "codes of 1 to 7 bits"),
        ("look_up_into", (BYTES[:7], WORDS, WORDS, 4), "as many bytes as codes take"),
        ("look_up_into", (BYTES[:8], BYTES, WORDS, 4), "a table of the values' type"),
        ("look_up_into", (BYTES, np.zeros(257, np.uint32), WORDS, 8), "a table of at most 256 values"),
        ("look_up_into", (BYTES, WORDS, WORDS, 9), "codes of 1 to 8 bits"),
        ("places_into", (WORDS, WORDS[:0], BYTES, 0), "1 to 256 keys"),
        ("places_into", (WORDS, np.arange(257, dtype=np.uint32), BYTES, 0), "1 to 256 keys"),
        ("places_into", (WORDS, KEYS, BYTES[:15], 0), "a byte a pattern"),
        ("places_into", (WORDS, KEYS, WORDS, 0), "a byte a pattern"),
        ("places_into", (WORDS, BYTES[:1], BYTES, 0), "keys of the patterns' type"),
        ("places_into", (WORDS, WORDS, BYTES, 0), "distinct keys"),
        ("known", (WORDS, WORDS, 0), "distinct keys"),
        ("known", (WORDS, BYTES, 0), "keys of the patterns' type"),
        ("known", (WORDS, np.arange(513, dtype=np.uint32), 0), "1 to 512 keys"),
        ("distinct_into", (WORDS, BYTES, 4, 0, 0), "tables of the patterns' type"),
        ("distinct_into", (WORDS, KEYS, 0, 0, 0), "rows of one length"),
        ("distinct_into", (WORDS, KEYS, 3, 0, 0), "rows of one length"),
        ("distinct_into", (WORDS[:0], KEYS, 4, 0, 0), "rows of one length"),
        ("distinct_into", (WORDS, KEYS[:0], 4, 0, 0), "1 to 256 entries a row"),
        ("distinct_into", (WORDS, KEYS[:15], 4, 0, 0), "1 to 256 entries a row"),
        ("distinct_into", (WORDS, np.zeros(1028, np.uint32), 4, 0, 0), "1 to 256 entries a row"),
        ("row_places_into", (WORDS, KEYS[:15], BYTES, 4, 0, 0), "1 to 256 entries a row"),
        ("row_places_into", (WORDS, KEYS, BYTES[:15], 4, 0, 0), "a byte a pattern"),
        ("select_into", (WORDS, MASK[:15], WORDS[:0]), "a mask of the values' length"),
        ("select_into", (WORDS, MASK, WORDS[:1]), "room for as many values as the mask has set"),
        ("select_into", (WORDS, ~MASK, WORDS[:15]), "room for as many values as the mask has set"),
        ("select_into", (WORDS, MASK, BYTES[:0]), "room for the values' type"),
        ("scatter_into", (WORDS[:1], MASK, WORDS), "as many values as the mask has set"),
        ("scatter_into", (WORDS[:15], ~MASK, WORDS), "as many values as the mask has set"),
        ("scatter_into", (WORDS[:0], MASK[:15], WORDS), "a mask of the weight's length"),
        ("scatter_into", (BYTES[:0], MASK, WORDS), "room for the values' type"),
        ("gaps_into", (~MASK, BYTES[:15], 15, 0), "room for as many codes as the mask takes"),
        ("gaps_into", (~MASK, BYTES, 15, 15), "room for as many codes as the mask takes"),
        ("gaps_into", (WORDS, BYTES, 15, 0), "a byte a place and a code"),
        ("gaps_into", (MASK, BYTES, 256, 0), "codes of 1 to 8 bits"),
        ("gaps_into", (MASK, BYTES, 15, 2**63), "a distance within memory"),
        ("above_into", (WORDS, MASK[:15], 1, 0), "a byte a pattern"),
        ("above_into", (WORDS, SHORT, 1, 0), "a byte a pattern"),
        ("gaps_to_mask", (BYTES, WORDS, 15), "a byte a code and a place"),
        ("gaps_to_mask", (BYTES, MASK, 0), "codes of 1 to 8 bits"),
        ("compared", (BYTES, BYTES[:15], 0, 0), "arrays of one length"),
        ("compared", (BYTES, WORDS, 0, 0), "arrays of one type"),
        ("compared", (BYTES, np.zeros(1, np.complex128), 0, 0), "elements of 1, 2, 4 or 8 bytes, got 16"),
        ("extremes_into", (WORDS, WORDS[:3], WORDS[:3], WORDS[:3], 0), "rows of one length"),
        ("extremes_into", (WORDS, WORDS[:0], WORDS[:0], WORDS[:0], 0), "rows of one length"),
        ("extremes_into", (WORDS, WORDS[:4], WORDS[:4], WORDS[:3], 0), "a pattern a row"),
        ("extremes_into", (WORDS, WORDS[:4], BYTES[:4], WORDS[:4], 0), "a pattern a row"),
        ("fits_into", (WORDS, WORDS[:4], BYTES[:4], 52, 0), "patterns of floats"),
        ("fits_into", (WORDS, WORDS[:4], BYTES[:4], 24, 0), "patterns of floats"),
        ("fits_into", (WORDS, BYTES[:4], BYTES[:4], 23, 0), "scales of the values' type"),
        ("fits_into", (WORDS, WORDS[:4], BYTES[:3], 23, 0), "a byte a row"),
        ("fits_into", (WORDS, WORDS[:5], BYTES[:5], 23, 0), "rows of one length"),
        ("search_into", (WORDS, WORDS[:4], WORDS[:4], WORDS[:4], 24), "patterns of floats"),
        ("search_into", (WORDS, WORDS[:4], WORDS[:3], WORDS[:4], 23), "a pattern a row"),
        ("search_into", (WORDS, WORDS[:4], WORDS[:4], BYTES[:4], 23), "a pattern a row"),
        ("search_into", (WORDS, WORDS[:5], WORDS[:5], WORDS[:5], 23), "rows of one length"),
        ("codes_into", (WORDS, WORDS[:4], BYTES[:4], BYTES, 23, 0), "a least code of 16 bits a row"),
        ("codes_into", (WORDS, WORDS[:4], SHORT[:3], BYTES, 23, 0), "a least code of 16 bits a row"),
        ("codes_into", (WORDS, WORDS[:4], SHORT[:4], BYTES[:15], 23, 0), "a byte a value"),
        ("codes_into", (WORDS, WORDS[:5], SHORT[:5], BYTES, 23, 0), "rows of one length"),
        ("codes_into", (SHORT, WORDS[:4], SHORT[:4], BYTES, 10, 0), "scales of the values' type"),
        ("dequantize_into", (BYTES, WORDS[:4], BYTES[:4], WORDS[:15], 23, 8, 0), "a byte a value"),
        ("dequantize_into", (BYTES, WORDS[:4], BYTES[:3], WORDS, 23, 8, 0), "a zero point a row"),
        ("dequantize_into", (BYTES, WORDS[:5], BYTES[:5], WORDS, 23, 8, 0), "rows of one length"),
        ("dequantize_into", (BYTES, WORDS[:4], BYTES[:4], WORDS, 23, 9, 0), "codes of 1 to 8 bits"),
        ("dequantize_into", (BYTES, WORDS[:4], BYTES[:4], WORDS, 23, 8, 256), "codes of 1 to 8 bits"),
        ("dequantize_into", (BYTES, SHORT[:4], BYTES[:4], WORDS, 23, 8, 0), "scales of the values' type"),
        ("narrow_into", (WORDS, SHORT[:15], 10), "arrays of one length"),
        ("narrow_into", (WORDS, SHORT, 23), "patterns of floats"),
        ("narrow_into", (WORDS, WORDS, 23), "a narrower type"),
        ("narrow_into", (SHORT, SHORT, 10), "float32 or float64"),
        ("widen_into", (SHORT, WORDS[:15]), "arrays of one length"),
        ("widen_into", (BYTES, WORDS), "float16 to float32"),
        ("round_into", (WORDS, SHORT[:15]), "arrays of one length"),
        ("round_into", (WORDS, WORDS), "float32 to float16"),
        ("turn_into", (WORDS, SHORT, 4), "elements of one width"),
        ("turn_into", (WORDS, WORDS[:15], 5), "arrays of one length"),
        ("turn_into", (WORDS, WORDS, 3), "rows of one length"),
        ("turn_into", (WORDS, WORDS, 0), "rows of one length"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(name: str, arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LOOPS[name](*arguments)


@compiled
@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("compared", (BYTES,), TypeError),
        ("compared", (BYTES, 3, 0, 0), TypeError),
        ("compared", (BYTES[::2], BYTES[::2], 0, 0), ValueError),  # not contiguous
        ("near_zero", (BYTES, 1.5, 0), TypeError),
        ("near_zero", (BYTES, -1, 0), OverflowError),
        ("near_zero", (BYTES, 2**64, 0), OverflowError),
        ("pack_into", (BYTES, bytes(8), 4), BufferError),  # not writable
    ],
)
def test_other_arguments_are_refused(name: str, arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        LOOPS[name](*arguments)


@compiled
def test_buffers_are_given_back_whatever_happens():
    """An array that is held cannot be made longer."""
    held = bytearray(16)
    for arguments in ((held, BYTES, 0, 0), (held, BYTES[:15], 0, 0), (held, 3, 0, 0), (held, BYTES, 0, -1)):
        with suppress(TypeError, ValueError, OverflowError):
            compared(*arguments)
        held.append(0)
        del held[-1]


@compiled
def test_the_interpreter_is_not_held_up_meanwhile():
    """While one thread counts a gigabyte, another one goes on."""
    import threading
    import time

    large, ticks = np.zeros(1 << 28, np.uint8), [time.perf_counter()]
    thread = threading.Thread(target=lambda: [near_zero(large, 255, 0) for _ in range(4)])
    thread.start()
    while thread.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0)
    thread.join()
    assert max(later - earlier for earlier, later in pairwise(ticks)) < (ticks[-1] - ticks[0]) / 2


def test_numpy_serves_where_it_is_asked_for():
    code = "from compressor import native, packing; print(native.described(), packing.pack_into.__module__)"
    code += "; import inspect; print(inspect.unwrap(packing.pack_into) is packing.pack_into)"
    env = {**os.environ, native.VARIABLE: "numpy"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
    assert said == "kernels: numpy (COMPRESSOR_KERNELS=numpy) compressor.packing\nTrue\n"


@compiled
def test_loops_that_were_built_of_other_sources_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(native.__file__).parent
    sources = list(folder.glob("*.[ch]"))
    for file in sources:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    assert native._compiled()[1] == ""
    for file in sources:
        (tmp_path / file.name).write_bytes(file.read_bytes() + b" ")
        assert native._compiled() == (None, "the sources have changed since it was installed")
        (tmp_path / file.name).write_bytes(file.read_bytes())
