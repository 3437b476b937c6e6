"""A weight becomes the encoding that the plan chose, computed by the schemes that take part, as the target holds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np

from compressor import packing
from compressor.arrays import Array, ArraySpec, ComputedArray, NDArray, PackedArray, bits, stored_type
from compressor.compilation import by_rows
from compressor.compilation.plan import Choice
from compressor.compilation.stream import InexactError
from compressor.cutting import in_rows
from compressor.encodings import (
    Concatenated,
    Dense,
    Encoding,
    Palettized,
    Quantized,
    Sparse,
    Values,
    Whole,
    codes_of,
    decode,
    dtype,
    is_encoded,
    map_arrays,
    name,
    nbytes,
    shape,
)
from compressor.encodings import spec as spec_of
from compressor.errors import DamageError
from compressor.kernels import select
from compressor.levelling import levelled
from compressor.recognition import schemes
from compressor.recognition.schemes import (
    Candidate,
    Scheme,
    linear_quantize,
    narrow,
    palettize,
    scales,
    sparsify,
)
from compressor.targets import Illegal
from compressor.weight import Weight


def stored(legalize: Callable[[Encoding], Encoding], weight: Weight, choice: Choice) -> Weight:
    """A weight as it is stored: in its form, as the target holds that, what takes less than a byte packed.

    legalize: the target's, which did the same with the spec while planning.

    Raises:
        InexactError: the weight is not what its form says, or the target refuses the data whose spec it took.
    """
    encoding = encode(weight, choice.form)
    try:
        legal = legalize(encoding)
    except Illegal as refusal:
        if refusal.instead is None:
            raise InexactError(weight.name, encoding, refusal.reason) from refusal
        legal = refusal.instead
    if choice.alike and isinstance(legal, Quantized) and isinstance(choice.legal, Quantized):
        legal = levelled(legal, choice.legal)
    return replace(weight, encoding=map_arrays(_packed, legal))


def _packed(array: Array, width: int) -> Array:
    """An array in memory whose elements take `width` bits, packed if that is less than a byte."""
    if not isinstance(array, np.ndarray) or width >= 8:
        return array
    return PackedArray(packing.pack(array, width), array.shape, array.dtype, width)


def encode(weight: Weight, form: Candidate) -> Encoding:
    """The encoding of a weight in a form, with no other loss than the form's own.

    Raises:
        InexactError: the weight is not what the form says.
    """
    spec = form.spec
    if isinstance(spec, Concatenated) and form.parts:
        return _side_by_side(weight, form, spec)
    try:
        source = weight.encoding
        describing = [name for name in form.schemes if name != sparsify.NAME]
        scheme = schemes.get(describing[-1]) if describing else None
        if isinstance(source, Dense) and isinstance(source.values, ComputedArray) and source.values.rows is None:
            source = Dense(np.asarray(source.values))  # once: what follows reads it several times
        if scheme is not None and form.loss.max_error:
            source = Dense(_nearest(decode(source), scheme, form.loss.max_error))
        encoded = _encoded(source, spec, scheme, form.loss.threshold)
        if spec_of(encoded) != spec:
            raise ValueError(f"it takes {nbytes(encoded):,} bytes, {nbytes(spec):,} were planned")
    except DamageError:  # of the source
        raise
    except ValueError as error:
        raise InexactError(weight.name, spec, f"cannot be stored as {name(spec)}: {error}") from error
    return encoded


def _side_by_side(weight: Weight, form: Candidate, spec: Concatenated) -> Concatenated:
    """The parts of a weight, each in its own form."""
    ends = np.cumsum([shape(part)[spec.axis] for part in spec.parts])
    pieces = np.split(decode(weight.encoding), ends[:-1], spec.axis)
    try:
        parts = [
            encode(replace(weight, encoding=Dense(np.ascontiguousarray(piece))), one)
            for piece, one in zip(pieces, form.parts, strict=True)
        ]
    except InexactError as error:
        raise InexactError(weight.name, spec, error.reason) from error
    return Concatenated(tuple(cast("Whole", part) for part in parts), spec.axis)


def _encoded(source: Encoding, spec: Encoding, scheme: Scheme[Any] | None, threshold: float) -> Encoding:
    """`source` in the form of `spec`; codes of a quantized source are kept, never computed again.

    scheme: what describes the values; None where they are stored as they are.
    """

    def inner(values: NDArray, spec: Values, where: NDArray | None) -> Values:
        if isinstance(source, Quantized) and isinstance(spec, Quantized) and codes_of(source):
            return replace(source, data=_described(decode(source.data), spec.data, scheme, where))
        described: Values = _described(values, spec, scheme, where)
        return described

    if spec_of(source) == spec:
        return source
    if not is_encoded(spec):
        return Dense(decode(source))
    if scheme is linear_quantize and isinstance(source, Dense) and isinstance(spec, Quantized) and _has_own(spec):
        return _row_by_row(source, spec)
    if isinstance(source, Dense) and isinstance(spec, Sparse) and by_rows.is_mask(spec):
        return by_rows.masked(source, spec, threshold, lambda values: _described(values, spec.values, scheme, None))
    if scheme is palettize and isinstance(source, Dense) and isinstance(spec, Palettized) and by_rows.is_palette(spec):
        return _with_narrow_table(by_rows.palettized(source, spec), spec)
    if isinstance(source, Quantized) and codes_of(source) and isinstance(spec, Sparse) and codes_of(spec):
        values = linear_quantize.centred(source)
    else:
        values = np.asarray(source.values) if isinstance(source, Dense) else decode(source)
    if isinstance(spec, Sparse):
        return sparsify.encode(values, spec, threshold, inner)
    assert not isinstance(spec, Concatenated)  # has parts, or is the source's own
    return inner(values, spec, None)


def _has_own(spec: Quantized) -> bool:
    """Whether rows have scales and bytes of codes of their own."""
    count, size = spec.scale.shape[0], math.prod(shape(spec.data)[1:])
    return count == shape(spec.data)[0] and isinstance(spec.data, Dense) and size * bits(dtype(spec.data)) % 8 == 0


def _row_by_row(source: Dense, spec: Quantized) -> Quantized:
    """Codes of some rows at a time, packed at once: neither all values nor all codes are in memory as such."""
    counts, code = spec.scale.shape, dtype(spec.data)
    found, zero_points = [], []

    def runs() -> Iterator[NDArray]:
        for some in in_rows(source):
            each = ArraySpec((shape(some)[0], *counts[1:]), spec.scale.dtype)
            moved = None if spec.zero_point is None else replace(each, dtype=code)
            part = Quantized(Dense(ArraySpec(shape(some), code)), each, moved, spec.block)
            made = linear_quantize.encode(decode(some), part, None)
            found.append(np.asarray(made.scale))
            zero_points.extend([] if made.zero_point is None else [np.asarray(made.zero_point)])
            yield decode(made.data)

    codes = packing.pack_runs(runs(), math.prod(shape(spec.data)), bits(code))
    scale = scales.encode(np.concatenate(found), spec.scale)
    zero_point = np.concatenate(zero_points) if zero_points else None
    stored = PackedArray(codes, shape(spec.data), code, bits(code))
    data = np.asarray(stored) if bits(code) == 8 else stored
    return Quantized(Dense(data), scale, zero_point, spec.block)


def _nearest(values: NDArray, scheme: Scheme[Any], max_error: float) -> NDArray:
    """The weight that the scheme finds within `max_error`."""
    near = scheme.nearest(values, max_error)
    if near is None:
        raise ValueError(f"no such values within {max_error:g}")
    return near


def _described(values: NDArray, spec: Values, scheme: Scheme[Any] | None, where: NDArray | None) -> Any:
    if not is_encoded(spec):
        return Dense(values if where is None else select(values, where))
    if scheme is None:
        raise ValueError("no scheme describes the values")
    encoded = scheme.encode(values, spec, where)
    return _with_narrow_table(encoded, spec) if isinstance(spec, Palettized) else encoded


def _with_narrow_table(encoded: Palettized, spec: Palettized) -> Palettized:
    """A palette whose table is stored in the type in which that of `spec` is."""
    stored = stored_type(spec.lut)
    if stored == spec.lut.dtype:
        return encoded
    return replace(encoded, lut=narrow.narrowed(np.asarray(encoded.lut), stored))
