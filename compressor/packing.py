"""Codes of 1 to 8 bits, packed and unpacked: the only place that knows in which order bits lie.

Packing is row-major, least significant bit first, and codes whose width does not divide 8 straddle bytes: the layout of
ONNX's 2- and 4-bit tensors and of Core ML's sub-byte tensors.

Eight codes, one a byte, are a 64-bit word, so that numpy moves eight of them at once. Neighbouring lanes of a word are
merged until the codes of a run fill whole bytes; then the bytes that are left empty are dropped. Four codes of 3 bits,
the highest bits on the left:

    8-bit lanes      00000ddd 00000ccc 00000bbb 00000aaa
    16-bit lanes     00000000 00dddccc 00000000 00bbbaaa
    32-bit lanes     00000000 00000000 0000dddc ccbbbaaa

Unpacking goes the same way backwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from compressor import native
from compressor.blocks import blocks

Codes = npt.NDArray[Any]
"""One code an element, of an integer type of 8 bits or bool."""

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]


def packed_nbytes(count: int, width: int) -> int:
    """The bytes that `count` codes of `width` bits take."""
    return -(-count * width // 8)


def pack(codes: Codes, width: int) -> Bytes:
    """Codes of `width` bits, packed: uint8 `[ceil(codes.size * width / 8)]`.

    Code i lies in bits `i * width` to `(i + 1) * width - 1`, counted from the least significant bit of the first byte.
    Bits beyond `width` of a code (the sign of a negative one) are dropped.

    >>> pack(np.array([-8, 7, 3, 4, -2], np.int8), 4).tolist()
    [120, 67, 14]
    >>> pack(np.array([1, 2, 3, 4, 5, 6, 7, 0], np.uint8), 3).tolist()
    [209, 88, 31]

    Raises:
        ValueError: `width` is not 1 to 8.
    """
    _check_width(width)
    flat = np.ascontiguousarray(codes).reshape(-1).view(np.uint8)
    if width == 8:
        return flat
    if width == 1:
        return np.packbits(flat & 1 if flat.size and flat.max() > 1 else flat, bitorder="little")
    packed = np.empty(packed_nbytes(flat.size, width), np.uint8)
    pack_into(flat, packed, width)
    return packed


def pack_runs(runs: Iterable[Codes], count: int, width: int) -> Bytes:
    """The same of `count` codes that come some at a time, of which all but the last fill whole bytes."""
    packed, done = np.empty(packed_nbytes(count, width), np.uint8), 0
    for codes in runs:
        run = pack(codes, width)
        packed[done : done + run.size] = run
        done += run.size
    return packed


def unpack(packed: Codes, width: int, count: int) -> Bytes:
    """The inverse of `pack`: uint8 `[count]`, each code unsigned.

    Raises:
        ValueError: `width` is not 1 to 8, or `packed` is not as long as `count` codes need.
    """
    _check_width(width)
    flat = packed.reshape(-1).view(np.uint8)
    if flat.size != packed_nbytes(count, width):
        raise ValueError(f"{count} codes of {width} bits take {packed_nbytes(count, width)} bytes, got {flat.size}")
    if width == 8:
        return flat
    if width == 1:
        return np.unpackbits(flat, count=count, bitorder="little")
    codes = np.empty(count, np.uint8)
    unpack_into(np.ascontiguousarray(flat), codes, width)
    return codes


@native.loop
def pack_into(codes: Bytes, packed: Bytes, width: int) -> None:
    """Write codes of 1 to 7 bits, a byte each, into the bytes that they take when packed."""
    run, filled = _run(width)
    for part in blocks(codes.size):
        words = _padded(codes[part], 8).view("<u8")
        for lane in _merged_lanes(run):
            words = _merge(words, lane, lane // 8 * width)
        dense = np.empty(words.size * width, np.uint8)
        _heads(dense, filled, filled)[...] = _heads(words.view(np.uint8), run, filled)
        into = packed[part.start // 8 * width :][: dense.size]
        into[...] = dense[: into.size]


@native.loop
def unpack_into(packed: Bytes, codes: Bytes, width: int) -> None:
    """The inverse of `pack_into`."""
    run, filled = _run(width)
    for part in blocks(codes.size):
        into = codes[part]
        dense = _padded(packed[part.start // 8 * width :][: packed_nbytes(into.size, width)], width)
        words = np.zeros(dense.size // width, "<u8")
        _heads(words.view(np.uint8), run, filled)[...] = _heads(dense, filled, filled)
        for lane in reversed(_merged_lanes(run)):
            _part(words, lane, lane // 8 * width)
        into[...] = words.view(np.uint8)[: into.size]


def _check_width(width: int) -> None:
    if not 1 <= width <= 8:
        raise ValueError(f"codes have 1 to 8 bits, got {width}")


def _run(width: int) -> tuple[int, int]:
    """The fewest codes that fill whole bytes, and how many bytes they fill.

    >>> [_run(width) for width in (2, 3, 4, 6)]
    [(4, 1), (8, 3), (2, 1), (4, 3)]
    """
    run = 8 // math.gcd(width, 8)
    return run, run * width // 8


def _merged_lanes(run: int) -> tuple[int, ...]:
    """The lanes whose neighbours are merged in turn until a run of codes lies in one lane.

    >>> [_merged_lanes(run) for run in (2, 4, 8)]
    [(8,), (8, 16), (8, 16, 32)]
    """
    return (8, 16, 32)[: run.bit_length() - 1]


def _merge(words: Words, lane: int, used: int) -> Words:
    """Words whose every `lane` bits have codes in the lowest `used`, as words of lanes twice as wide.

    >>> hex(_merge(np.uint64(0x0000_000d_0000_000c), 32, 4))
    '0xdc'
    """
    low, high = _halves(lane, used)
    return (words & low) | ((words & high) >> np.uint64(lane - used))


def _part(words: Words, lane: int, used: int) -> None:
    """The inverse of `_merge`, in place: whatever is not of the lower lane moves up to the higher one."""
    low = words & _halves(lane, used)[0]
    words ^= low
    words <<= np.uint64(lane - used)
    words |= low


def _halves(lane: int, used: int) -> tuple[np.uint64, np.uint64]:
    """The lowest `used` bits of every second lane of a word, from the first lane on and from the second.

    >>> [hex(mask) for mask in _halves(16, 6)]
    ['0x3f0000003f', '0x3f0000003f0000']
    """
    low = sum(((1 << used) - 1) << start for start in range(0, 64, 2 * lane))
    return np.uint64(low), np.uint64(low << lane)


def _padded(flat: Bytes, multiple: int) -> Bytes:
    """Bytes filled up with zeros to a multiple of a count."""
    missing = -flat.size % multiple
    return np.concatenate([flat, np.zeros(missing, np.uint8)]) if missing else flat


def _heads(flat: Bytes, step: int, kept: int) -> Bytes:
    """The first `kept` of every `step` bytes, as a view."""
    return flat[::step] if kept == 1 else flat.reshape(-1, step)[:, :kept]
