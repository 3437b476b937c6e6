"""Verification: a weight as it was read back from the artefact equals its source, value by value."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compressor.arrays import Array, NDArray
from compressor.compilation.stream import InexactError
from compressor.cutting import in_blocks, in_rows
from compressor.encodings import Dense, Encoding, decode, dtype, name, shape
from compressor.errors import DamageError
from compressor.patterns import above, bound, compared, magnitude_bits, patterns
from compressor.recognition.schemes import Loss
from compressor.weight import Weight


def verify(weight: Weight, stored: Encoding, loss: Loss) -> None:
    """Compare a source weight with what was read back for it.

    loss: how they may differ: by just so many values.

    Raises:
        InexactError: another value differs: nothing is published.
    """
    source, different, changed = weight.encoding, 0, 0
    expected, got = (dtype(source), shape(source)), (dtype(stored), shape(stored))
    if expected != got:
        raise InexactError(weight.name, source, f"read back as {got[0]}{list(got[1])} from {name(stored)}")
    for values, others in _pairs(weight, stored):
        found = differences(values, others, loss.threshold, loss.max_error, signed=bool(weight.signed))
        different, changed = different + found[0], changed + found[1]
    if different:
        reason = f"{different:,} values read back from {name(stored)} differ from the source"
        raise InexactError(weight.name, source, reason)
    if changed != loss.changed:
        how = f"moved by up to {loss.max_error:g}" if loss.max_error else f"up to {loss.threshold:g} became zero"
        raise InexactError(weight.name, source, f"{changed:,} values {how}, {loss.changed:,} were planned")


def _pairs(weight: Weight, stored: Encoding) -> Iterator[tuple[Array, Array]]:
    """The values of a weight and those that were read back, some rows at a time unless both are stored as such."""
    source = weight.encoding
    if isinstance(source, Dense) and isinstance(stored, Dense):
        yield source.values, stored.values
    else:
        yield from zip(map(decode, in_rows(source)), _read_back(weight, stored), strict=True)


def _read_back(weight: Weight, stored: Encoding) -> Iterator[NDArray]:
    try:
        yield from map(decode, in_rows(stored))
    except DamageError as error:
        raise InexactError(weight.name, weight.encoding, f"{name(stored)} cannot be read back: {error}") from error


def differences(
    source: Array, stored: Array, threshold: float, max_error: float = 0.0, *, signed: bool = False
) -> tuple[int, int]:
    """How many values of `stored` are not the bits of `source`: those that may not differ, and those that may.

    The latter became zero from a magnitude of at most `threshold`, or moved by at most `max_error`. -0.0 equals 0.0
    unless `signed`.
    """
    different = changed = 0
    magnitude, edge = int(magnitude_bits(source.dtype)), int(bound(threshold, source.dtype))
    for values, others in _in_memory(source, stored):
        unequal, forgiven, lost_sign = compared(patterns(values), patterns(others), magnitude, edge)
        if unequal and max_error:
            forgiven = _forgiven(values, others, threshold, max_error)
        changed += forgiven - lost_sign
        different += unequal - forgiven + signed * lost_sign
    return different, changed


def _in_memory(source: Array, stored: Array) -> Iterator[tuple[NDArray, NDArray]]:
    """The values of both, of what is not read yet some at a time."""
    if isinstance(source, np.ndarray) and isinstance(stored, np.ndarray):
        yield source.reshape(-1), stored.reshape(-1)
    else:
        yield from zip(in_blocks(source), in_blocks(stored), strict=True)


def _forgiven(values: NDArray, others: NDArray, threshold: float, max_error: float) -> int:
    """How many values differ, and became zero from up to `threshold` or moved by up to `max_error`."""
    apart = np.abs(values.astype(np.float64) - others.astype(np.float64))
    became_zero = (patterns(others) == 0) & ~above(values, threshold)
    return int(np.count_nonzero((patterns(values) != patterns(others)) & (became_zero | (apart <= max_error))))
