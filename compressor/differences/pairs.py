"""Which weight of one model is which of another: by its name, by its name in another spelling, by its values."""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from compressor.arrays import NDArray
from compressor.differences.values import transposed
from compressor.encodings import decode, shape
from compressor.errors import CompressorError, DamageError
from compressor.weight import Weight

MOST_COMPARED = 1 << 16
"""Of names of weights that are equal otherwise."""

Pair = tuple[Weight | None, Weight | None]

# What wraps a module puts a name before all of its own; converters append how they have stored one.
_WRAPPED = re.compile(r"^(?:(?:module|model|_orig_mod|base_model)[._])+")
_STORED = re.compile(r"_(?:to_fp16|to_fp32|quantized|palettized|sparsified)$")


def pairs(before: Sequence[Weight], after: Sequence[Weight]) -> list[Pair]:
    """Each weight of both models once, with its counterpart if it has one: in the order of `after`, then what is gone.

    Values are read only of weights whose names say nothing.

    Raises:
        CompressorError: one cannot be read.
    """
    found: dict[str, Weight] = {}  # by the name in `after`
    gone, new = {one.name: one for one in before}, {one.name: one for one in after}

    def match(name: Callable[[Weight], object]) -> None:
        mine, theirs = _by(gone.values(), name), _by(new.values(), name)
        for key in mine.keys() & theirs.keys():
            for one, other in _closest(mine[key], theirs[key]):
                found[other.name] = one
                del gone[one.name], new[other.name]

    match(lambda weight: weight.name)
    match(lambda weight: (_plain(weight.name), _size(weight)))
    if gone and new:
        sizes = {_size(weight) for weight in gone.values()} & {_size(weight) for weight in new.values()}
        match(lambda weight: (_size(weight), _content(weight) if _size(weight) in sizes else weight.name))
    return [(found.get(weight.name), weight) for weight in after] + [(weight, None) for weight in gone.values()]


def copies(gone: Sequence[Weight], after: Sequence[Weight]) -> dict[str, Weight]:
    """Of those that are gone, by name, the weight that has their values: tied ones lie in some files twice.

    Raises:
        CompressorError: one cannot be read.
    """
    sizes = {_size(weight) for weight in gone}
    known = {(_size(weight), _content(weight)): weight for weight in after if _size(weight) in sizes}
    found = {weight.name: known.get((_size(weight), _content(weight))) for weight in gone} if known else {}
    return {name: weight for name, weight in found.items() if weight is not None}


def _size(weight: Weight) -> int:
    return math.prod(shape(weight.encoding))


def _plain(name: str) -> str:
    """A name without what frameworks and converters make of it.

    >>> _plain("module.fc1.bias"), _plain("fc1_bias_to_fp16")
    ('fc1_bias', 'fc1_bias')
    """
    return _WRAPPED.sub("", _STORED.sub("", re.sub(r"[^0-9a-z]+", "_", name.lower())))


def _by(weights: Iterable[Weight], name: Callable[[Weight], object]) -> dict[object, list[Weight]]:
    groups: dict[object, list[Weight]] = defaultdict(list)
    for weight in weights:
        groups[name(weight)].append(weight)
    return groups


def _closest(mine: Sequence[Weight], theirs: Sequence[Weight]) -> Iterable[tuple[Weight, Weight]]:
    """As many as there are on both sides: those whose names end alike, or in order where there are very many."""
    if len(mine) * len(theirs) > MOST_COMPARED:
        yield from zip(mine, theirs, strict=False)
        return
    left = list(mine)
    for other in theirs:
        if not left:
            return
        one = max(left, key=lambda each: _alike(each.name, other.name))
        left.remove(one)
        yield one, other


def _alike(name: str, other: str) -> int:
    """How many letters at the end of both are the same."""
    return next((place for place, (a, b) in enumerate(zip(name[::-1], other[::-1], strict=False)) if a != b), len(name))


def _content(weight: Weight) -> bytes:
    try:
        return _digest(decode(weight.encoding))
    except DamageError as error:
        raise CompressorError(f"{weight.name} cannot be read: {error}.") from error


def _digest(values: NDArray) -> bytes:
    """Of the values as float16, the same in every order of the axes; of integers as they are."""
    with np.errstate(over="ignore", invalid="ignore"):
        kept = values.astype(np.float16 if values.dtype.kind not in "biu" else np.int64)
    kept = kept + np.zeros((), kept.dtype)  # -0.0 is 0.0
    ways = list(transposed(kept, tuple(sorted(kept.shape)))) or [kept]
    return min(hashlib.blake2b(np.ascontiguousarray(way).tobytes(), digest_size=16).digest() for way in ways)
