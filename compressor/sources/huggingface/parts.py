"""Parts of a weight of compressed-tensors as an encoding: (codes - zero_point) * scale, in blocks or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from compressor.arrays import Array, ComputedArray, DType, MappedArray, NarrowArray, NDArray, Shape, is_float
from compressor.encodings import Dense, Quantized
from compressor.errors import CompressorError
from compressor.sources.huggingface.bitmask import Masked
from compressor.sources.huggingface.floats import is_narrow
from compressor.sources.huggingface.layers import as_values, groups, reordered
from compressor.sources.huggingface.layouts import FLOAT8, code_dtype, computed
from compressor.sources.huggingface.schemes import LayerScheme
from compressor.weight import Weight

UNSET = -1
"""In every place of a `weight_g_idx` that was never filled."""


@dataclass(frozen=True, eq=False)
class QuantizedParts:
    """The parts of a quantized weight.

    path: of the file. codes: signed, or float8, of the weight's shape. scale: float; one, one a row, or one a block.
    scheme: what the settings say of it. g_idx: the group of each input. masked: the codes under their mask, if any.
    """

    name: str
    path: Path
    codes: MappedArray | ComputedArray
    scale: MappedArray | NarrowArray
    scheme: LayerScheme
    g_idx: MappedArray | None = None
    masked: Masked | None = None

    @property
    def shape(self) -> Shape:
        return tuple(self.codes.shape)

    def weight(self, zero_point: Array | None) -> Weight:
        """The weight, with its codes where an encoding can say it.

        Raises:
            CompressorError: codes, scales and groups contradict each other.
        """
        scale, zero_point = self._by_block(self.scale), None if zero_point is None else self._by_block(zero_point)
        if self.codes.dtype.name in FLOAT8 and (zero_point is not None or not is_narrow(self.codes.dtype)):
            return self._dense(scale, zero_point, f"{self.codes.dtype} codes: not supported, kept as values")
        if self.g_idx is not None and not (np.asarray(self.g_idx) == UNSET).any():
            columns, count = self.shape[-1], scale.shape[-1]
            size = self.scheme.group if self.scheme.group > 0 else -(-columns // count)
            order = groups(self.name, self.g_idx, columns, count, size)
            if order is not None:
                return self._in_order(scale, zero_point, order)
        block = self._short_blocks(scale)
        if self.masked is not None and zero_point is None:
            inner = Quantized(Dense(_wide(self.masked.values, scale.dtype)), scale, block=block)
            return Weight(self.name, self.masked.sparse(inner))
        codes = _wide(self._narrow(), scale.dtype)
        return Weight(self.name, Quantized(Dense(codes), scale, self._codes_of(zero_point), block))

    def _by_block(self, parameter: Array) -> Array:
        """A parameter with the rank of the weight.

        Raises:
            CompressorError: there are more of them than rows or columns, or they do not divide the weight.
        """
        have, rank = tuple(parameter.shape), len(self.shape)
        shape = have if len(have) == rank else (*have, *[1] * rank)[:rank]
        places = zip(shape, self.shape, self._blocks(), strict=True)
        if len(have) > rank or not all(_divides(*place) for place in places):
            raise CompressorError(
                f"{self.path}: {self.name} {list(self.shape)} with a scale {list(have)}: expected one, one for "
                "each output, or one for each block. Save or download the folder again."
            )
        if isinstance(parameter, MappedArray):
            return replace(parameter, shape=shape)
        if isinstance(parameter, NarrowArray) and isinstance(parameter.values, MappedArray):
            return NarrowArray(replace(parameter.values, shape=shape), parameter.dtype)
        return computed(shape, parameter.dtype, partial(np.reshape, shape=shape), parameter)

    def _blocks(self) -> Shape:
        """The sizes of a block that the settings name, 0 where the counts say it."""
        return self.scheme.block if len(self.scheme.block) == len(self.shape) else (0,) * len(self.shape)

    def _short_blocks(self, scale: Array) -> Shape | None:
        """The lengths of a block along each axis where the last one of an axis is cut off."""
        places = zip(scale.shape, self.shape, self._blocks(), strict=True)
        lengths = [dim if count == 1 else 1 if count == dim else block or dim // count for count, dim, block in places]
        cut = any(count * length != dim for count, length, dim in zip(scale.shape, lengths, self.shape, strict=True))
        return tuple(lengths) if cut else None

    def _narrow(self) -> MappedArray | ComputedArray:
        """The codes in the narrowest type that the settings promise to be enough."""
        code = code_dtype(self.scheme.bits or 8, signed=True)
        if self.scheme.bits > 8 or code == self.codes.dtype or self.codes.dtype.name in FLOAT8:
            return self.codes
        return computed(self.shape, code, partial(narrowed, self.name, self.scheme.bits, code), self.codes)

    def _codes_of(self, zero_point: Array | None) -> Array | None:
        code = self._narrow().dtype
        if zero_point is None or zero_point.dtype == code:
            return zero_point
        made = partial(narrowed, f"the zero point of {self.name}", self.scheme.bits or 8, code)
        return computed(tuple(zero_point.shape), code, made, zero_point)

    def _in_order(self, scale: Array, zero_point: Array | None, order: NDArray) -> Weight:
        counts = np.bincount(order, minlength=scale.shape[-1])
        if len(self.shape) != 2 or len(set(counts.tolist())) > 1:
            raise CompressorError(
                f"{self.path}: {self.name}: weight_g_idx gives groups of {int(counts.min())} to "
                f"{int(counts.max())} inputs: expected groups of one size. Save or download the folder again."
            )
        return reordered(self.name, self.codes, scale, zero_point, order)

    def _dense(self, scale: Array, zero_point: Array | None, note: str) -> Weight:
        places = enumerate(zip(self._blocks(), self.shape, scale.shape, strict=True))
        # The last block of an axis may be cut off.
        order = {
            axis: np.arange(dim) // (block or dim // count)
            for axis, (block, dim, count) in places
            if count not in {1, dim}
        }
        return as_values(self.name, self.codes, scale, zero_point, order, note)


def zero_points(
    name: str, stored: MappedArray | None, scale: MappedArray | NarrowArray, code: DType, scheme: LayerScheme
) -> Array | None:
    """The zero points of a weight in the type of its codes; None where all are 0, as those of symmetric ones are.

    Raises:
        CompressorError: they are not as many as the scales, or no codes.
    """
    if stored is None:
        return None
    if tuple(stored.shape) != tuple(scale.shape) or not (stored.dtype.kind in "iu" or is_float(stored.dtype)):
        raise CompressorError(
            f"{stored.path}: {name} is {stored.dtype}{list(stored.shape)}, expected the codes' type and "
            f"{list(scale.shape)}, the scale's shape. Save or download the folder again."
        )
    if scheme.symmetric and not np.asarray(stored).any():
        return None
    if code.name in FLOAT8 or stored.dtype == code:
        return stored
    made = partial(narrowed, f"{stored.path}: {name}", scheme.bits or 8, code)
    return computed(tuple(stored.shape), code, made, stored)


def narrowed(name: str, width: int, code: DType, wide: NDArray) -> NDArray:
    """Integers in the type of codes of `width` bits.

    Raises:
        CompressorError: one does not fit.
    """
    limit = 1 << (min(width, 8) - 1)
    numbers = wide.astype(np.float32)
    if not ((numbers >= -limit) & (numbers < limit) & (numbers == np.rint(numbers))).all():
        text = f"expected codes of {width} bits, as num_bits says. Is config.json of another model?"
        raise CompressorError(f"{name}: {text}")
    return numbers.astype(np.int8).astype(code)


def _wide(codes: Array, dtype: DType) -> Array:
    """Codes as a scale of that dtype multiplies them: 8-bit floats widened."""
    return NarrowArray(codes, dtype) if codes.dtype.name in FLOAT8 else codes


def _divides(count: int, dim: int, block: int) -> bool:
    """Whether `count` parameters are what an axis has: one, one a place, or one a block, whose size may be given."""
    if count in (1, dim):
        return True
    return count == -(-dim // block) if block else count > 0 and dim % count == 0
