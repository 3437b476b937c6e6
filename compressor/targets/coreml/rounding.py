"""What a weight is at the precision of a program: its floats rounded once, its codes kept.

The values of a dense weight are rounded; a quantized weight keeps its codes, and its scales are rounded: a value is
then `(code - zero_point) * float16(scale)`, rounded to float16. So does one of floats in a table that scales multiply,
and of floats of 8 bits: `float16(table[index]) * float16(scale)`, rounded to float16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from compressor.arrays import UINT8, ComputedArray, DType, NarrowArray, NDArray, Shape
from compressor.encodings import (
    Dense,
    Encoding,
    Palettized,
    Quantized,
    Sparse,
    codes_of,
    decode,
    dtype,
    full_mask,
    plain,
    shape,
    spec,
    tabled,
)
from compressor.kernels import expand
from compressor.targets.coreml.floats import Move, Traced, later
from compressor.targets.coreml.rewriting import even

WhyNot = Callable[[Encoding], str]
"""The reason for which a form, a spec, is refused; empty if it is not."""


def rounded(
    values: NDArray,
    source: Encoding | None,
    to: DType,
    move: Move | None,
    factor: NDArray | None = None,
    why_not: WhyNot = lambda _: "",
) -> tuple[Encoding, str]:
    """The weight in the dtype `to`, and what to say about its codes.

    values: of the weight, moved. source: how the model has it; None if the model does not have it.
    move: of the source's values to these; None where nothing was moved.
    factor: what the values are multiplied with, float64, of their rank.
    why_not: the reason for which codes or a table with scales are none that the program can have; empty if they are.
    """
    made, told = (None, "") if source is None else _multiplied(source, to, move, factor, values.shape)
    if made is not None and (reason := why_not(spec(made))):
        made, told = None, f"kept as values: {reason}"
    if made is not None:
        return made, told
    known = None if source is None else Traced(source, move)
    return Dense(later(values, to, factor, known)), told


def _multiplied(
    source: Encoding, to: DType, move: Move | None, factor: NDArray | None, dims: Shape
) -> tuple[Quantized | None, str]:
    """The codes, or the table, with rounded scales, and what to say; None where there are none, or they do not fit."""
    if (codes := as_codes(source)) is not None:
        made = _scaled(moved(codes, move, dims), factor, to)
        if made is None:
            return None, f"its scales are too small for {to}"
        return made, "" if factor is None and made.scale.dtype == codes.scale.dtype else f"scales rounded to {to}"
    if (table := as_table(source)) is not None:
        turned = moved_table(table, move, dims)
        made = None if turned is None else _of_table(turned, factor, to)
        if made is None:
            return None, f"its table or its scales are beyond {to}, or its vectors are turned"
        return made, "" if dtype(table) == to and factor is None else f"table and scales rounded to {to}"
    return None, ""


def as_codes(encoding: Encoding) -> Quantized | None:
    """A quantized weight as all of its codes, those of zeros too, computed whenever they are read.

    None for a weight that is not quantized, or whose products are rounded to another type.
    """
    inner = codes_of(encoding)
    if inner is None or inner.rounded is not None:
        return None
    codes = inner.data
    if isinstance(encoding, Sparse):
        codes = _later(encoding.shape, dtype(inner.data), partial(_filled, encoding, inner))
    elif not isinstance(codes, Dense):
        codes = _later(shape(codes), dtype(codes), partial(decode, codes))
    return even(replace(inner, data=codes, scale=plain(inner.scale)), shape(encoding))


def as_table(encoding: Encoding) -> Quantized | None:
    """A weight of floats in tables times scales, those of 8 bits as the codes that they are; None for any other."""
    if not isinstance(encoding, Quantized) or encoding.rounded is not None or codes_of(encoding) is not None:
        return None
    data, scale = encoding.data, plain(encoding.scale)
    if isinstance(data, Dense) and isinstance(data.values, NarrowArray) and data.values.values.dtype.itemsize == 1:
        data = tabled(data.values, len(scale.shape))
    if not isinstance(data, Palettized):
        return None
    return even(replace(encoding, data=data, scale=scale), shape(encoding))


def moved_table(encoding: Quantized, move: Move | None, to: Shape) -> Quantized | None:
    """The indices as `move` takes them, to the shape `to`, each with the table and the scale that it had.

    None where a move would part the values of a vector.
    """
    data, whole = encoding.data, shape(encoding)
    assert isinstance(data, Palettized)
    if move is None:
        return encoding
    if data.vector_axis is not None:
        return None
    scale = by_block(move(expand(np.asarray(encoding.scale), whole)))
    groups, entries = data.lut.shape[:-2], data.lut.shape[-2:]
    tables = by_block(move(expand(np.arange(math.prod(groups)).reshape(groups), whole)))
    indices = ComputedArray(to, UINT8, Traced(Dense(data.indices), move))
    return Quantized(Palettized(indices, np.asarray(data.lut).reshape(-1, *entries)[tables]), scale)


_SHIFTS = (0, 4, 8, 12, -4, -8)
"""The powers of two that are tried where scales are too small, or too large."""


def _of_table(encoding: Quantized, factor: NDArray | None, to: DType) -> Quantized | None:
    """The table rounded, and the scales multiplied and rounded; None where one is beyond the type's precision.

    A power of two goes from one to the other where it must: small scales of floats of 8 bits, which may be large.
    """
    data, scale = encoding.data, np.asarray(encoding.scale).astype(np.float64)
    assert isinstance(data, Palettized)
    exact = np.asarray(data.lut).astype(np.float64)
    for shift in _SHIFTS:
        lut = _rounded_closely(exact * 2.0**-shift, to)
        shifted = replace(encoding, scale=scale * 2.0**shift)
        made = None if lut is None else _scaled(shifted, factor, to, replace(data, lut=lut))
        if made is not None:
            return made
    return None


def _later(dims: Shape, kind: DType, compute: Callable[[], NDArray]) -> Dense:
    return Dense(ComputedArray(dims, kind, compute))


def _filled(encoding: Sparse, inner: Quantized) -> NDArray:
    """The codes of all elements: those of zeros are the zero point."""
    kept = decode(inner.data)
    zero = np.zeros((), kept.dtype)
    if inner.zero_point is not None:
        zero = expand(np.asarray(inner.zero_point), encoding.shape, inner.block)
    codes = np.array(np.broadcast_to(zero, encoding.shape))
    codes[full_mask(encoding)] = kept
    return codes


def moved(encoding: Quantized, move: Move | None, to: Shape) -> Quantized:
    """The codes as `move` takes them, to the shape `to`, each with the scale that it had."""
    if move is None:
        return encoding
    whole = shape(encoding)
    scale = by_block(move(expand(np.asarray(encoding.scale), whole)))
    zero_point = encoding.zero_point
    if zero_point is not None:
        zero_point = by_block(move(expand(np.asarray(zero_point), whole)))
        if zero_point.shape != scale.shape:
            counts = tuple(math.lcm(*pair) for pair in zip(scale.shape, zero_point.shape, strict=True))
            scale, zero_point = expand(scale, counts), expand(zero_point, counts)
    return Quantized(_later(to, dtype(encoding.data), Traced(encoding.data, move)), scale, zero_point)


def by_block(whole: NDArray) -> NDArray:
    """The smallest array that `expand` makes `whole` of.

    >>> by_block(np.array([[1, 1, 2, 2], [1, 1, 2, 2]])).tolist()
    [[1, 2]]
    """
    whole = whole[tuple(slice(None if step else 1) for step in whole.strides)]  # one value all along these axes
    for axis, dim in enumerate(whole.shape):
        ahead = np.moveaxis(whole, axis, 0)
        steps = np.flatnonzero((ahead[1:] != ahead[:-1]).any(axis=tuple(range(1, whole.ndim)))) + 1
        block = math.gcd(dim, *steps.tolist())
        whole = whole.take(np.arange(0, dim, block), axis=axis)
    return np.ascontiguousarray(whole)


def _scaled(
    encoding: Quantized, factor: NDArray | None, to: DType, data: Dense | Palettized | None = None
) -> Quantized | None:
    """The scales multiplied and rounded; None where one is too small to keep its precision, or too large.

    data: what they multiply then; None for what they multiply now.
    """
    exact, zero_point = np.asarray(encoding.scale).astype(np.float64), encoding.zero_point
    if factor is not None:
        counts = tuple(math.lcm(*pair) for pair in zip(exact.shape, factor.shape, strict=True))
        exact = expand(exact, counts) * factor
        zero_point = None if zero_point is None else expand(np.asarray(zero_point), counts)
    scale = _rounded_closely(exact, to)
    if scale is None or not np.isfinite(scale).all():
        return None
    return Quantized(encoding.data if data is None else data, scale, zero_point)


def _rounded_closely(exact: NDArray, to: DType) -> NDArray | None:
    """Numbers rounded; None where a finite one is too small to keep its precision, or too large."""
    with np.errstate(over="ignore", invalid="ignore"):
        made = exact.astype(to)
        close = np.abs(made.astype(np.float64) - exact) <= np.abs(exact) * np.finfo(to).eps / 2
    return made if (close | ~np.isfinite(exact)).all() else None
