"""What ggml's blocks stand for: codes times scales, or a table for each group of codes that has a minimum too.

    Q4_0, Q6_K, MXFP4, ...   scale * table[code], the table one of small integers, or of 4-bit floats
    Q4_1, Q4_K, ...          scale * code + minimum, rounded twice: on no grid

The scale of a block is stored in 8 or 16 bits; what is a product of two of them, in 32. All is computed in float32, in
ggml's order. Source: ggml's `dequantize_row_*`, which define the types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compressor.arrays import DType, NDArray
from compressor.formats.narrow_floats import E4M3, E8M0

FLOAT16, FLOAT32 = np.dtype(np.float16), np.dtype(np.float32)
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""4-bit floats: ggml doubles them and halves their scales. Its second zero has no sign."""
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class Blocks:
    """A type of blocks.

    record: the fields of a block. groups: of a block, each of as many neighbours.
    codes: uint8 `[n, elements]` of `n` blocks. table: what a code stands for.
    scales: `[n, groups]`, floats that are stored as `stored` and computed with in float32.
    minima: float32 `[n, groups]`, what is added to a code times its scale; None for nothing.
    """

    record: DType
    groups: int
    codes: Callable[[NDArray], NDArray]
    table: Sequence[int] | Sequence[float]
    scales: Callable[[NDArray], NDArray]
    stored: DType
    minima: Callable[[NDArray], NDArray] | None = None


def planes(packed: NDArray, width: int, run: int) -> NDArray:
    """Codes of `width` bits of which each run of so many bytes holds the lowest first, then the next: uint8 `[n, ...]`.

    >>> planes(np.uint8([[0x21, 0x43]]), 4, 2).tolist(), planes(np.uint8([[0x21, 0x43]]), 4, 1).tolist()
    ([[1, 3, 2, 4]], [[1, 2, 3, 4]])
    """
    count, nbytes = packed.shape
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    codes = packed.reshape(count, nbytes // run, 1, run) >> shifts
    codes &= np.uint8((1 << width) - 1)
    return codes.reshape(count, nbytes * 8 // width)


def _joined(low: NDArray, high: NDArray, width: int) -> NDArray:
    """Codes of which `width` bits lie apart from the others."""
    high <<= np.uint8(width)
    low |= high
    return low


def _nibbles(run: int) -> Callable[[NDArray], NDArray]:
    return lambda block: planes(block["qs"], 4, run)


def _fifth_bits(run: int, high: int) -> Callable[[NDArray], NDArray]:
    return lambda block: _joined(planes(block["qs"], 4, run), planes(block["qh"], 1, high), 4)


def _signed(block: NDArray) -> NDArray:
    """int8 codes, counted from -128."""
    codes: NDArray = block["qs"] ^ np.uint8(128)
    return codes


def _q3_codes(block: NDArray) -> NDArray:
    return _joined(planes(block["qs"], 2, 32), planes(block["hmask"], 1, 32), 2)


def _q6_codes(block: NDArray) -> NDArray:
    return _joined(planes(block["ql"], 4, 64), planes(block["qh"], 2, 32), 4)


def _ternary(block: NDArray) -> NDArray:
    """Five digits to the base 3 in a byte, as a fraction of 256, and four in each of the last bytes."""
    count = len(block)
    parts = ((block["qs"][:, :32], 5), (block["qs"][:, 32:], 5), (block["qh"], 4))
    powers = np.array([1, 3, 9, 27, 81], np.uint8)[:, None]
    shifted = [(part[:, None] * powers[:digits]).reshape(count, part.shape[1] * digits) for part, digits in parts]
    fractions: NDArray = np.concatenate(shifted, 1).astype(np.uint16)
    return (fractions * np.uint16(3) >> 8).astype(np.uint8)


def _own(name: str) -> Callable[[NDArray], NDArray]:
    """A float of a block: `[n, 1]`."""
    return lambda block: block[name][:, None]


def _widened(name: str) -> Callable[[NDArray], NDArray]:
    return lambda block: block[name].astype(FLOAT32)[:, None]


def _times(scale: str, factors: Callable[[NDArray], NDArray]) -> Callable[[NDArray], NDArray]:
    return lambda block: _widened(scale)(block) * factors(block).astype(FLOAT32)


def _centred(scales: NDArray) -> NDArray:
    """6-bit scales, signed."""
    signed: NDArray = scales.astype(np.int8) - np.int8(32)
    return signed


def _q3_scales(block: NDArray) -> NDArray:
    packed = block["scales"]
    return _centred(_joined(planes(packed[:, :8], 4, 8), planes(packed[:, 8:], 2, 4), 4))


def _q45_scales(block: NDArray) -> NDArray:
    low, _, both = (block["scales"][:, start : start + 4] for start in (0, 4, 8))
    return np.concatenate([low & 63, both & 15 | low >> 2 & 48], 1)


def _q45_minima(block: NDArray) -> NDArray:
    _, low, both = (block["scales"][:, start : start + 4] for start in (0, 4, 8))
    return np.concatenate([low & 63, both >> 4 | low >> 2 & 48], 1)


def _iq4_scales(block: NDArray) -> NDArray:
    high = np.ascontiguousarray(block["scales_h"])[:, None].view(np.uint8)
    return _centred(_joined(planes(block["scales_l"], 4, 1), planes(high, 2, 1), 4))


def _powers(block: NDArray) -> NDArray:
    """Powers of two by their exponents; of 255 ggml makes a number, and it is none."""
    return np.ascontiguousarray(block["e"])[:, None].view(E8M0)


def _without_sign(block: NDArray) -> NDArray:
    """8-bit floats whose sign does not count; the one that is no number is 0."""
    codes = block["d"]
    return np.where(codes == 0x7F, np.uint8(0), codes & np.uint8(0x7F)).view(E4M3)


def _negated(minima: Callable[[NDArray], NDArray]) -> Callable[[NDArray], NDArray]:
    return lambda block: -minima(block)


def _record(*fields: tuple[str, str] | tuple[str, str, int]) -> DType:
    return np.dtype(list(fields))


_D, _M, _DMIN, _K_SCALES = ("d", "<f2"), ("m", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12)
_PER_BLOCK = _own("d")

BLOCKS: Mapping[str, Blocks] = {
    "Q4_0": Blocks(_record(_D, ("qs", "u1", 16)), 1, _nibbles(16), range(-8, 8), _PER_BLOCK, FLOAT16),
    "Q4_1": Blocks(_record(_D, _M, ("qs", "u1", 16)), 1, _nibbles(16), range(16), _PER_BLOCK, FLOAT16, _widened("m")),
    "Q5_0": Blocks(
        _record(_D, ("qh", "u1", 4), ("qs", "u1", 16)), 1, _fifth_bits(16, 1), range(-16, 16), _PER_BLOCK, FLOAT16
    ),
    "Q5_1": Blocks(
        _record(_D, _M, ("qh", "u1", 4), ("qs", "u1", 16)),
        1,
        _fifth_bits(16, 1),
        range(32),
        _PER_BLOCK,
        FLOAT16,
        _widened("m"),
    ),
    "Q8_0": Blocks(_record(_D, ("qs", "u1", 32)), 1, _signed, range(-128, 128), _PER_BLOCK, FLOAT16),
    "Q8_1": Blocks(_record(_D, ("s", "<f2"), ("qs", "u1", 32)), 1, _signed, range(-128, 128), _PER_BLOCK, FLOAT16),
    "Q8_K": Blocks(
        _record(("d", "<f4"), ("qs", "u1", 256), ("bsums", "<i2", 16)),
        1,
        _signed,
        range(-128, 128),
        _PER_BLOCK,
        FLOAT32,
    ),
    "Q2_K": Blocks(
        _record(("scales", "u1", 16), ("qs", "u1", 64), _D, _DMIN),
        16,
        lambda block: planes(block["qs"], 2, 32),
        range(4),
        _times("d", lambda block: block["scales"] & 15),
        FLOAT32,
        _negated(_times("dmin", lambda block: block["scales"] >> 4)),
    ),
    "Q3_K": Blocks(
        _record(("hmask", "u1", 32), ("qs", "u1", 64), _K_SCALES, _D),
        16,
        _q3_codes,
        range(-4, 4),
        _times("d", _q3_scales),
        FLOAT32,
    ),
    "Q4_K": Blocks(
        _record(_D, _DMIN, _K_SCALES, ("qs", "u1", 128)),
        8,
        _nibbles(32),
        range(16),
        _times("d", _q45_scales),
        FLOAT32,
        _negated(_times("dmin", _q45_minima)),
    ),
    "Q5_K": Blocks(
        _record(_D, _DMIN, _K_SCALES, ("qh", "u1", 32), ("qs", "u1", 128)),
        8,
        _fifth_bits(32, 32),
        range(32),
        _times("d", _q45_scales),
        FLOAT32,
        _negated(_times("dmin", _q45_minima)),
    ),
    "Q6_K": Blocks(
        _record(("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), _D),
        16,
        _q6_codes,
        range(-32, 32),
        _times("d", lambda block: block["scales"]),
        FLOAT32,
    ),
    "IQ4_NL": Blocks(_record(_D, ("qs", "u1", 16)), 1, _nibbles(16), _IQ4, _PER_BLOCK, FLOAT16),
    "IQ4_XS": Blocks(
        _record(_D, ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)),
        8,
        _nibbles(16),
        _IQ4,
        _times("d", _iq4_scales),
        FLOAT32,
    ),
    "TQ1_0": Blocks(_record(("qs", "u1", 48), ("qh", "u1", 4), _D), 1, _ternary, range(-1, 2), _PER_BLOCK, FLOAT16),
    "TQ2_0": Blocks(
        _record(("qs", "u1", 64), _D), 1, lambda block: planes(block["qs"], 2, 32), range(-1, 3), _PER_BLOCK, FLOAT16
    ),
    "MXFP4": Blocks(_record(("e", "u1"), ("qs", "u1", 16)), 1, _nibbles(16), _E2M1, _powers, E8M0),
    "NVFP4": Blocks(_record(("d", "u1", 4), ("qs", "u1", 32)), 4, _nibbles(8), _E2M1, _without_sign, E4M3),
    "Q1_0": Blocks(
        _record(_D, ("qs", "u1", 16)), 1, lambda block: planes(block["qs"], 1, 1), (-1, 1), _PER_BLOCK, FLOAT16
    ),
    "Q2_0": Blocks(
        _record(_D, ("qs", "u1", 16)), 1, lambda block: planes(block["qs"], 2, 1), range(-1, 3), _PER_BLOCK, FLOAT16
    ),
}
"""By the name of the type."""
