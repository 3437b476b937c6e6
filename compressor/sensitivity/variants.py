"""Variants: the ways in which a weight is compressed on trial, as what a training with that aim could end with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from compressor.arrays import INT4, INT8, DType, NDArray
from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse
from compressor.recognition.schemes import sparsify
from compressor.sensitivity import means


@dataclass(frozen=True)
class Variant:
    """One way to compress a weight on trial.

    name: in tables, files and configs. summary: what it is, for a reader.
    method: `prune`, `palettize` or `quantize`. amount: the share of zeros, or the bits of a code.
    encode: (values, the axis of their output channels) -> the encoding whose value takes the weight's place.
    """

    name: str
    summary: str
    method: str
    amount: float
    encode: Callable[[NDArray, int], Encoding]


def pruned(values: NDArray, axis: int, share: float) -> Sparse:  # noqa: ARG001 - the signature of all
    """The smallest `share` of all magnitudes become zero; of equal ones those that come first.

    >>> pruned(np.array([[1.0, -3.0, 2.0, 1.0]]), 0, 0.25).mask.tolist()
    [[False, True, True, True]]
    """
    flat = np.abs(values.reshape(-1))
    mask = flat > 0
    if (count := round(flat.size * share)) > 0:
        edge = np.partition(flat, count - 1)[count - 1]
        mask &= flat >= edge
        mask[np.flatnonzero(flat == edge)[: count - np.count_nonzero(flat < edge)]] = False
    return sparsify.sparse(np.where(mask.reshape(values.shape), values, 0).astype(values.dtype))


def palettized(values: NDArray, axis: int, bits: int) -> Palettized:  # noqa: ARG001 - the signature of all
    """One table for the weight, by k-means."""
    table = means.means(values, 1 << bits)
    return Palettized(means.nearest(values, table), table.reshape(*(1,) * values.ndim, -1, 1))


def quantized(values: NDArray, axis: int, codes: DType) -> Quantized:
    """A symmetric grid for each output channel, its scale by the largest magnitude: codes from -7 or -127 on."""
    most = 7 if codes == INT4 else 127
    others = tuple(place for place in range(values.ndim) if place != axis)
    exact = values.astype(np.float64)
    scale = (np.abs(exact).max(axis=others, keepdims=True) / most).astype(values.dtype)
    scale[scale == 0] = 1  # a channel of zeros keeps a finite scale
    whole = np.clip(np.rint(exact / scale.astype(np.float64)), -most, most)
    return Quantized(Dense(whole.astype(np.int8).astype(codes)), scale)


VARIANTS: Mapping[str, Variant] = {
    one.name: one
    for one in (
        Variant("pruned50", "50 % zeros by magnitude", "prune", 0.5, partial(pruned, share=0.5)),
        Variant("pruned75", "75 % zeros by magnitude", "prune", 0.75, partial(pruned, share=0.75)),
        Variant("int8", "int8 per channel, symmetric", "quantize", 8, partial(quantized, codes=INT8)),
        Variant("int4", "int4 per channel, symmetric", "quantize", 4, partial(quantized, codes=INT4)),
        Variant("palette4", "16 values by k-means", "palettize", 4, partial(palettized, bits=4)),
        Variant("palette2", "4 values by k-means", "palettize", 2, partial(palettized, bits=2)),
    )
}
"""All of them, in the order in which they are tried and shown. Activations stay as they are."""
