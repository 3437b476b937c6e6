"""Small weights of one form as one: side by side along their first axis, decoded together, cut by one `Split`.

What ONNX Runtime 1.31 takes to open a model grows with the square of the nodes that are ready at once and of the
constants. Thousands of small weights that each have nodes of their own take longer to open than to compress; side by
side, 256 of them have those of one. What lies side by side is again an encoding: each weight's rows of every array
follow those of the weight before, so that a weight is still written, and read, by itself. Only gaps are not: those of
each weight count from its own beginning, see `bodies.places_by_gaps_of_weights`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any, cast

import numpy as np

from compressor.arrays import Array, ArraySpec, MappedArray, PackedArray, bits
from compressor.cutting import rows
from compressor.encodings import (
    Concatenated,
    Encoding,
    Palettized,
    Quantized,
    Sparse,
    Values,
    arrays,
    dtype,
    is_encoded,
    is_gaps,
    is_places,
    kept,
    map_arrays,
    shape,
    stored,
)

LARGEST = 1 << 17
"""Bytes of a dense weight: the copy that `Split` makes takes memory, and of one twice as large as long as its nodes."""

FEWEST = 16
"""Weights that are worth it: fewer open as fast by themselves."""

MOST = 256
"""Of so many at a time the nodes no longer count, and what decodes them is small beside a model that has so many."""

NAME = "compressor.stacked"
"""What the names of several weights' parts begin with."""

_VALUE = re.compile(rf"{re.escape(NAME)}\d+_*\.values_of_all$")
"""How the name of their values ends: other tools put prefixes before names."""


def value_of(prefix: str) -> str:
    """The name of the values of weights whose parts' names begin with `prefix`."""
    return f"{prefix}.values_of_all"


def is_called(value: str) -> bool:
    """Whether a value's name is one of these."""
    return _VALUE.search(value) is not None


def alike(specs: Mapping[str, Encoding]) -> Iterator[tuple[str, ...]]:
    """The names of weights that are decoded together, in the order of `specs`."""
    kinds: dict[Encoding, list[str]] = defaultdict(list)
    for name, one in specs.items():
        kind = _kind(one)
        if kind is not None:
            kinds[kind].append(name)
    for names in kinds.values():
        some = (tuple(names[start : start + MOST]) for start in range(0, len(names), MOST))
        yield from (one for one in some if len(one) >= FEWEST)


def stacked(specs: Sequence[Encoding]) -> Encoding:
    """The spec of weights of one form side by side."""
    lengths = (sum(array.shape[0] for array in column) for column in zip(*map(arrays, specs), strict=True))

    def longer(array: Array, _: int) -> Array:
        assert isinstance(array, ArraySpec)
        return replace(array, shape=(next(lengths), *array.shape[1:]))

    first = specs[0]
    if isinstance(first, Sparse):
        mask, values = longer(first.mask, 0), _mapped(longer, first.values)
        return Sparse(mask, values, (first.shape[0] * len(specs), *first.shape[1:]))
    return map_arrays(longer, first)


def ends(specs: Sequence[Encoding]) -> tuple[int, ...]:
    """Where the gaps end of every weight but the last; nothing for what has none."""
    masks = [one.mask for one in specs if isinstance(one, Sparse) and is_gaps(one.mask)]
    return tuple(accumulate(mask.size for mask in masks[:-1]))


def cut(encoding: Encoding, count: int, ends: Sequence[int]) -> Iterator[Encoding]:
    """The weights that lie side by side: `count` of one shape. ends: see above.

    Raises:
        ValueError: the parts of the encoding are none of so many weights.
    """
    if isinstance(encoding, Sparse):
        yield from _cut_sparse(encoding, count, ends)
        return
    if any(array.shape[0] % count for array in arrays(encoding)):
        raise ValueError(f"parts of {count} weights, got {[list(array.shape) for array in arrays(encoding)]}")
    for number in range(count):
        yield map_arrays(_taking(number, count), encoding)


def _cut_sparse(encoding: Sparse, count: int, ends: Sequence[int]) -> Iterator[Sparse]:
    mask, whole = encoding.mask, encoding.shape
    if is_gaps(mask):
        masks = [_rows(mask, *places) for places in pairwise((0, *ends, mask.size))]
    else:
        masks = [_share(mask, number, count) for number in range(count)]
    to = (whole[0] // count, *whole[1:])
    done = [0, *accumulate(kept(np.asarray(one), math.prod(to)) for one in masks)]
    if len(masks) != count or whole[0] % count or done[-1] != math.prod(shape(encoding.values)):
        raise ValueError(f"{count} masks of {math.prod(shape(encoding.values))} values, got {len(masks)} of {done[-1]}")
    for number, one in enumerate(masks):

        def own(array: Array, _: int, number: int = number) -> Array:
            if len(array.shape) == 1:
                return _rows(array, done[number], done[number + 1])
            return _share(array, number, count)

        yield Sparse(one, _mapped(own, encoding.values), to)


def _mapped(function: Callable[[Array, int], Array], values: Values) -> Values:
    return cast("Values", map_arrays(function, values))


def _taking(number: int, count: int) -> Callable[[Array, int], Array]:
    return lambda array, _: _share(array, number, count)


def _share(array: Array, number: int, count: int) -> Array:
    """The rows of one of `count` weights."""
    each = array.shape[0] // count
    return _rows(array, number * each, (number + 1) * each)


def _rows(array: Array, start: int, stop: int) -> Array:
    """Some rows; of what begins inside of a byte, in memory.

    Raises:
        ValueError: there are none such.
    """
    if not 0 <= start <= stop <= array.shape[0]:
        raise ValueError(f"rows {start} to {stop} of {array.shape[0]}")
    if isinstance(array, MappedArray | PackedArray):
        width = array.width or bits(array.dtype)
        array = np.asarray(array) if start * math.prod(array.shape[1:]) * width % 8 else array
    return rows(array, start, stop)


def _kind(one: Encoding) -> Encoding | None:
    """What weights have in common that can lie side by side: their spec, but how many non-zeros each has.

    None for a weight that lies beside no other: each part of a weight must take whole bytes.
    """
    whole = shape(one)
    if isinstance(one, Concatenated) or not is_encoded(one) or len(whole) < 2:
        return None
    if math.prod(whole) * dtype(one).itemsize > LARGEST or any(not _is_whole(*part) for part in stored(one)):
        return None
    inner: Any = one.values if isinstance(one, Sparse) else one
    if isinstance(inner, Quantized) and inner.block is not None:
        return None
    if not isinstance(one, Sparse):
        return one
    table = inner.data if isinstance(inner, Quantized) else inner
    if is_places(one.mask) or (isinstance(table, Palettized) and table.lut.shape[-1] > 1):
        return None
    return Sparse(_unsized(one.mask, 0), _mapped(_unsized, one.values), whole)


def _is_whole(array: Array, width: int) -> bool:
    return array.size > 0 and array.size * width % 8 == 0


def _unsized(array: Array, _: int) -> Array:
    """A list without its length."""
    assert isinstance(array, ArraySpec)
    return replace(array, shape=(0,)) if len(array.shape) == 1 else array
