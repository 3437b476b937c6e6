"""The verify pass: a weight as it was read back from the artefact equals its source, value by value."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from compressor.arrays import NDArray, blocks
from compressor.encodings import Encoding, decode, dtype, name, shape
from compressor.model import Weight
from compressor.passes import InexactError, Pass
from compressor.scan import above, patterns


def verify(read_back: Mapping[str, Encoding], allowed: Mapping[str, tuple[float, int]]) -> Pass:
    """The pass that compares each source weight with what was read back under its name.

    allowed: by name, the magnitude up to which values may have become zero, and how many have: just so many.

    Raises (the pass):
        InexactError: a value differs: nothing is published.
    """
    return partial(_run, read_back, allowed)


def _run(read_back: Mapping[str, Encoding], allowed: Mapping[str, tuple[float, int]], weight: Weight) -> Weight:
    stored, (threshold, planned) = read_back[weight.name], allowed[weight.name]
    expected, got = (dtype(weight.encoding), shape(weight.encoding)), (dtype(stored), shape(stored))
    if expected != got:
        raise InexactError(
            f"weight {weight.name}: read back as {got[0]}{list(got[1])} from {name(stored)}, "
            f"expected {expected[0]}{list(expected[1])}"
        )
    different, zeroed = differences(decode(weight.encoding), decode(stored), threshold)
    if different:
        raise InexactError(
            f"weight {weight.name} {expected[0]}{list(expected[1])}: {different:,} values read back from "
            f"{name(stored)} differ from the source. Nothing was published."
        )
    if zeroed != planned:
        raise InexactError(
            f"weight {weight.name} {expected[0]}{list(expected[1])}: {zeroed:,} values up to {threshold:g} became "
            f"zero, {planned:,} were planned. Was another model detected? Run `detect` again."
        )
    return weight


def differences(source: NDArray, stored: NDArray, threshold: float) -> tuple[int, int]:
    """How many values of `stored` are not the bits of `source`: those that differ, and those that became zero.

    The latter have a magnitude of at most `threshold`. -0.0 equals 0.0.
    """
    left, right = patterns(source), patterns(stored)
    different = zeroed = 0
    for part in blocks(left.size):
        unequal = left[part] != right[part]
        if unequal.any():
            values = source.reshape(-1)[part]
            forgiven = unequal & (right[part] == 0) & ~above(values, threshold)
            zeroed += int(np.count_nonzero(forgiven & above(values, 0.0)))
            different += int(np.count_nonzero(unequal & ~forgiven))
    return different, zeroed
