"""The verify pass: a weight as it was read back from the artefact equals its source, value by value."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from compressor.arrays import NDArray, blocks
from compressor.encodings import Encoding, decode, dtype, name, shape
from compressor.model import Weight
from compressor.passes import InexactError, Pass
from compressor.scan import above, patterns


def verify(read_back: Callable[[str], Encoding], threshold: Callable[[str], float]) -> Pass:
    """The pass that compares each source weight with what `read_back` has under its name.

    Raises (the pass):
        InexactError: a value differs: a defect of this package or of the disk, so nothing is published.
    """
    return partial(_run, read_back, threshold)


def _run(read_back: Callable[[str], Encoding], threshold: Callable[[str], float], weight: Weight) -> Weight:
    stored = read_back(weight.name)
    expected, got = (dtype(weight.encoding), shape(weight.encoding)), (dtype(stored), shape(stored))
    if expected != got:
        raise InexactError(
            f"weight {weight.name}: read back as {got[0]}{list(got[1])} from {name(stored)}, "
            f"expected {expected[0]}{list(expected[1])}"
        )
    different = differences(decode(weight.encoding), decode(stored), threshold(weight.name))
    if different:
        raise InexactError(
            f"weight {weight.name} {expected[0]}{list(expected[1])}: {different:,} values read back from "
            f"{name(stored)} differ from the source. Nothing was published."
        )
    return weight


def differences(source: NDArray, stored: NDArray, threshold: float) -> int:
    """How many values of `stored` are not the bits of `source`, or 0.0 where the magnitude is at most `threshold`."""
    left, right = patterns(source), patterns(stored)
    different = 0
    for part in blocks(left.size):
        unequal = left[part] != right[part]
        if unequal.any():
            forgiven = (right[part] == 0) & ~above(source.reshape(-1)[part], threshold)
            different += int(np.count_nonzero(unequal & ~forgiven))
    return different
