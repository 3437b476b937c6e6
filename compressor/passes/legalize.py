"""The legalize pass: the target turns an encoding into one that it can hold, as it did with the spec while planning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from compressor.encodings import Encoding
from compressor.model import Weight
from compressor.passes import Pass


def legalize(target: Callable[[Encoding], Encoding]) -> Pass:
    """The pass that applies a target's `legalize` to the data."""
    return partial(_run, target)


def _run(target: Callable[[Encoding], Encoding], weight: Weight) -> Weight:
    return replace(weight, encoding=target(weight.encoding))
