"""One named constant of a graph, small until it is read."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.arrays import Array
from compressor.encodings import Encoding


@dataclass(frozen=True, eq=False)
class Weight:
    """One named constant of a graph.

    name: unique in the model; the name that training gave it where the source kept that.
    encoding: how it is stored, `Dense` or compressed; arrays lie in files, so a weight is small until it is read.
    uses: the operator types that read it (`Conv`, `MatMul`, ...), sorted.
    pinned: why it must stay stored as it is; empty for a weight that may be encoded.
    note: what its source says about it, for a reader: a declaration that did not hold, codes that were not kept, ...
    linear: whether its source decodes it by `DequantizeLinear`, so that a runtime may compute with its codes.
    n_bits: the `accuracy_level` of the `MatMulNBits` that multiplies by its codes in the source; None where none does.
    values: as the source has them, where the encoding is codes that were found in them; None where it has no others.
    scaled: whether its values are products of those that were trained: what is small there says nothing about training.
    signed: what tells -0.0 from 0.0 where the weight is read (a division, an output, ...): then it keeps both. Empty
        where every reader is linear in it and the like: then 0.0 may stand for -0.0.
    """

    name: str
    encoding: Encoding
    uses: tuple[str, ...] = ()
    pinned: str = ""
    note: str = ""
    linear: bool = False
    n_bits: int | None = None
    scaled: bool = False
    signed: str = ""
    values: Array | None = None
