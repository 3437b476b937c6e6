"""The legalize pass: the target turns an encoding into one that it can hold, as it did with the spec while planning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from compressor.compilation.stream import InexactError, Pass
from compressor.encodings import Encoding
from compressor.targets import Illegal
from compressor.weight import Weight


def legalize(target: Callable[[Encoding], Encoding]) -> Pass:
    """The pass that applies a target's `legalize` to the data.

    Raises (the pass):
        InexactError: the target refuses the encoding, whose spec it took, and has no other form of it.
    """
    return partial(_run, target)


def _run(target: Callable[[Encoding], Encoding], weight: Weight) -> Weight:
    try:
        return replace(weight, encoding=target(weight.encoding))
    except Illegal as refusal:
        if refusal.instead is not None:
            return replace(weight, encoding=refusal.instead)
        raise InexactError(weight.name, weight.encoding, refusal.reason) from refusal
