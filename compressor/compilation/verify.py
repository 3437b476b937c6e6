"""The verify pass: a weight as it was read back from the artefact equals its source, value by value."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from compressor.arrays import NDArray
from compressor.blocks import blocks
from compressor.compilation.stream import InexactError, Pass
from compressor.encodings import Encoding, decode, dtype, name, shape
from compressor.errors import DamageError
from compressor.patterns import above, patterns
from compressor.weight import Weight


class Allowed(NamedTuple):
    """How a weight may differ from its source.

    threshold: values up to this magnitude may have become zero.
    changed: just so many values differ.
    max_error: other values may be as far from the source's as this.
    """

    threshold: float = 0.0
    changed: int = 0
    max_error: float = 0.0


def verify(read_back: Mapping[str, Encoding], allowed: Mapping[str, Allowed]) -> Pass:
    """The pass that compares each source weight with what was read back under its name.

    allowed: by name, how it may differ.

    Raises (the pass):
        InexactError: a value differs: nothing is published.
    """
    return partial(_run, read_back, allowed)


def _run(read_back: Mapping[str, Encoding], allowed: Mapping[str, Allowed], weight: Weight) -> Weight:
    source, stored, (threshold, planned, max_error) = weight.encoding, read_back[weight.name], allowed[weight.name]
    expected, got = (dtype(source), shape(source)), (dtype(stored), shape(stored))
    if expected != got:
        raise InexactError(weight.name, source, f"read back as {got[0]}{list(got[1])} from {name(stored)}")
    values = decode(source)
    try:
        different, changed = differences(values, decode(stored), threshold, max_error, signed=bool(weight.signed))
    except DamageError as error:
        raise InexactError(weight.name, source, f"{name(stored)} cannot be read back: {error}") from error
    if different:
        reason = f"{different:,} values read back from {name(stored)} differ from the source"
        raise InexactError(weight.name, source, reason)
    if changed != planned:
        how = f"moved by up to {max_error:g}" if max_error else f"up to {threshold:g} became zero"
        raise InexactError(weight.name, source, f"{changed:,} values {how}, {planned:,} were planned")
    return weight


def differences(
    source: NDArray, stored: NDArray, threshold: float, max_error: float = 0.0, *, signed: bool = False
) -> tuple[int, int]:
    """How many values of `stored` are not the bits of `source`: those that may not differ, and those that may.

    The latter became zero from a magnitude of at most `threshold`, or moved by at most `max_error`. -0.0 equals 0.0
    unless `signed`.
    """
    left, right = patterns(source), patterns(stored)
    different = changed = 0
    for part in blocks(left.size):
        unequal = left[part] != right[part]
        if unequal.any():
            values = source.reshape(-1)[part]
            forgiven = unequal & (right[part] == 0) & ~above(values, threshold)
            if max_error:
                apart = values.astype(np.float64) - stored.reshape(-1)[part].astype(np.float64)
                forgiven |= unequal & (np.abs(apart) <= max_error)
            same = forgiven & (right[part] == 0) & ~above(values, 0.0)
            changed += int(np.count_nonzero(forgiven & ~same))
            different += int(np.count_nonzero(unequal & ~forgiven)) + signed * int(np.count_nonzero(same))
    return different, changed
