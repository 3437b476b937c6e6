"""One named constant of a graph, small until it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from compressor import encodings
from compressor.arrays import NDArray, Shape
from compressor.encodings import Encoding, Quantized


@dataclass(frozen=True, eq=False)
class Origin:
    """Where the values of a weight of another model come from.

    weight: the name that they have there.
    move: takes an array of that weight's shape the way of its values; None where they are the weight as it is.
    factor: what they were multiplied with, float64, of the rank here; None for 1.
    """

    weight: str
    move: Callable[[NDArray], NDArray] | None = None
    factor: NDArray | None = None


@dataclass(frozen=True)
class Copy:
    """How the values of a constant lie in a weight that is stored in its place.

        copy = weight.reshape(frame).transpose(order).reshape(shape)

    weight: its name.
    shape: the copy's.
    frame, order: a shape of the weight's elements, and its axes in the copy's order; empty where rows stay rows.
    """

    weight: str
    shape: Shape
    frame: Shape = ()
    order: tuple[int, ...] = ()

    def __call__(self, values: NDArray) -> NDArray:
        """The copy's values."""
        turned = values.reshape(self.frame).transpose(self.order) if self.order else values
        return turned.reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Weight:
    """One named constant of a graph.

    name: unique in the model; the name that training gave it where the source kept that.
    encoding: how it is stored, `Dense` or compressed; arrays lie in files, so a weight is small until it is read.
    uses: the operator types that read it (`Conv`, `MatMul`, ...), sorted.
    pinned: why it must stay stored as it is; empty for a weight that may be encoded.
    note: what its source says about it, for a reader: a declaration that did not hold, codes that were not kept, ...
    evidence: what its codes were recognised by, where they were found in values; empty for codes of the source.
    linear: whether its source decodes it by `DequantizeLinear`, so that a runtime may compute with its codes.
    n_bits: the `accuracy_level` of the `MatMulNBits` that multiplies by its codes in the source; None where none does.
    scaled: whether its values are products of those that were trained: what is small there says nothing about training.
    signed: what tells -0.0 from 0.0 where the weight is read (a division, an output, ...): then it keeps both. Empty
        where every reader is linear in it and the like: then 0.0 may stand for -0.0.
    shapes: others under which readers have it, elements in the same order: its form must be one under these, too.
    origin: of a weight that a target has in another way than its source: the one that it was made of, if it is one.
    width: the bits that a code takes where it lies, where that is fewer than those of its type; 0 where it is not.
    """

    name: str
    encoding: Encoding
    uses: tuple[str, ...] = ()
    pinned: str = ""
    note: str = ""
    evidence: str = ""
    linear: bool = False
    n_bits: int | None = None
    scaled: bool = False
    signed: str = ""
    shapes: tuple[Shape, ...] = ()
    origin: Origin | None = None
    width: int = 0

    @property
    def as_stored(self) -> Encoding:
        """How it is stored, to be told: of codes in fewer bits than those of their type a spec, or the encoding."""
        if not self.width or not isinstance(self.encoding, Quantized):
            return self.encoding
        spec = encodings.spec(self.encoding)
        return replace(spec, data=encodings.counted(spec.data, self.width))
