"""How a layer is quantized, as the settings of the format say it."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.arrays import Array, bits, is_float, stored_type
from compressor.encodings import Palettized, Quantized, dtype, index_bits, shape
from compressor.formats.narrow_floats import E8M0

PACKED, FLOATS = "pack-quantized", "float-quantized"
MXFP4, MXFP6, MXFP8 = "mxfp4-pack-quantized", "mxfp6-pack-quantized", "mxfp8-quantized"
NVFP4 = "nvfp4-pack-quantized"
MX_GROUP, NV_GROUP = 32, 16
"""Inputs that have a power of two, or a float of 8 bits."""


@dataclass(frozen=True)
class Scheme:
    """How a layer is quantized.

    format: one of those above. type: of codes, int or float. bits: of a code.
    strategy: what has a scale: tensor, channel, group, tensor_group (and all of them another one), block.
    group: inputs of a group; None for others. block: outputs and inputs of a block; None for others.
    symmetric: whether all zero points are 0. scale: how the library calls the type of scales that has 8 bits; or None.
    """

    format: str
    type: str
    bits: int
    strategy: str
    group: int | None = None
    block: tuple[int, int] | None = None
    symmetric: bool = True
    scale: str | None = None


def scheme(encoding: Quantized) -> Scheme:
    """That of a matrix as a layer stores it. Data are not looked at."""
    data = encoding.data
    if not is_float(dtype(data)):
        width = index_bits(data.lut) if isinstance(data, Palettized) else bits(dtype(data))
        strategy, group, block = _blocks(encoding)
        return Scheme(PACKED, "int", width, strategy, group, block, encoding.zero_point is None)
    if isinstance(encoding.scale, Palettized):
        return Scheme(NVFP4, "float", 4, "tensor_group", NV_GROUP, scale="torch.float8_e4m3fn")
    if isinstance(data, Palettized):
        width = index_bits(data.lut)
        return Scheme(MXFP4 if width == 4 else MXFP6, "float", width, "group", MX_GROUP, scale="torch.uint8")
    if is_power(encoding.scale):
        return Scheme(MXFP8, "float", 8, "group", MX_GROUP, scale="torch.uint8")
    strategy, group, block = _blocks(encoding)
    return Scheme(FLOATS, "float", 8, strategy, group, block)


def is_power(scale: Array | Palettized) -> bool:
    """Whether scales are stored as exponents of two."""
    return not isinstance(scale, Palettized) and stored_type(scale) == E8M0


def lengths(encoding: Quantized) -> tuple[int, int]:
    """The outputs and inputs of a block."""
    (rows, columns), counts = shape(encoding.data), encoding.scale.shape
    if encoding.block is not None:
        return encoding.block[0], encoding.block[1]
    return rows // max(1, counts[0]), columns // max(1, counts[1])


def _blocks(encoding: Quantized) -> tuple[str, int | None, tuple[int, int] | None]:
    """The strategy, and what is said of it."""
    (rows, _), counts, size = shape(encoding.data), tuple(encoding.scale.shape), lengths(encoding)
    if counts == (1, 1):
        return "tensor", None, None
    if counts == (rows, 1):
        return "channel", None, None
    if counts[0] == rows and encoding.block is None:
        return "group", size[1], None
    return "block", None, size
