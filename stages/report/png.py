"""Pictures of masks as PNG, in one colour whose opacity is the share of values that are there."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from compressor.arrays import NDArray

LEVELS = 16


def data_uri(density: NDArray, colour: tuple[int, int, int]) -> str:
    """A picture as text: what is not there is transparent, so that it suits a light page and a dark one.

    density: float `[rows, columns]`, 0 to 1.

    Source: PNG specification (third edition), 11.2.1 IHDR, 11.2.2 PLTE, 11.3.1.1 tRNS.
    """
    rows, columns = density.shape
    levels = np.rint(density * (LEVELS - 1)).astype(np.uint8)
    if columns % 2:  # two pixels a byte
        levels = np.pad(levels, ((0, 0), (0, 1)))
    packed = (levels[:, ::2] << 4) | levels[:, 1::2]
    lines = np.hstack([np.zeros((rows, 1), np.uint8), packed])  # each line begins with its filter: none
    opacity = bytes(round(255 * level / (LEVELS - 1)) for level in range(LEVELS))
    content = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 4, 3, 0, 0, 0))
        + _chunk(b"PLTE", bytes(colour) * LEVELS)
        + _chunk(b"tRNS", opacity)
        + _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + _chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
