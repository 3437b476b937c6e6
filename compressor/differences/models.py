"""The difference of two models."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from compressor import encodings
from compressor.arrays import FLOAT_DTYPES, NDArray
from compressor.differences.pairs import copies, pairs
from compressor.differences.values import Values, compare
from compressor.encodings import Encoding, Quantized, Sparse, decode, full_mask, is_encoded
from compressor.errors import CompressorError, DamageError
from compressor.model import FOLDED, Model, joined
from compressor.weight import Weight


@dataclass(frozen=True)
class Stored:
    """A weight as one of the models has it.

    name: there.
    shape, dtype: of its values, the dtype by numpy's name.
    encoding: as `encodings.name` spells it: `dense`, `sparse(palettized4)`, ...
    encoded: whether that is more than the values as they are.
    nbytes: that it takes.
    folded: whether its values are products of those that were trained with a batch norm.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    encoded: bool
    nbytes: int
    folded: bool = False


@dataclass(frozen=True)
class Difference:
    """A weight in both models.

    before, after: None where the model does not have it.
    values: how far they are apart; None where one side is missing.
    copy: the name of the weight of the second model that has the values of this one, which is gone; empty for none.
    """

    before: Stored | None
    after: Stored | None
    values: Values | None
    copy: str = ""

    @property
    def name(self) -> str:
        """What it is called now, or was."""
        one = self.after or self.before
        assert one is not None
        return one.name

    @property
    def renamed(self) -> bool:
        """Whether both models have it, under two names."""
        return self.before is not None and self.after is not None and self.before.name != self.after.name

    @property
    def form(self) -> str:
        """What became of its encoding: `gained`, `lost`, `other`; empty where it is the same, or a side is missing."""
        if self.before is None or self.after is None or self.before.encoding == self.after.encoding:
            return ""
        if self.before.encoded == self.after.encoded:
            return "other"
        return "gained" if self.after.encoded else "lost"

    @property
    def same_values(self) -> bool:
        """Whether both models have the values, and none differs but by the type that holds it."""
        return self.values is not None and self.values.same

    def told(self, *, values: bool) -> bool:
        """Whether there is something to tell.

        values: only whether the second model has the values of the first one, without counters and a graph's scalars.
        """
        if not values or self.before is None:
            return not (values or self.same)
        trained = self.before.dtype in FLOAT_DTYPES and math.prod(self.before.shape) > 1
        return trained and not self.same_values

    @property
    def same(self) -> bool:
        """Whether nothing is to be told of it."""
        return self.before == self.after and self.values is not None and self.values.verdict == "equal"


@dataclass(frozen=True)
class Differences:
    """Two models side by side.

    weights: each once, in the order of the second model, then those that only the first one has.
    before_nbytes, after_nbytes: of all files of each.
    """

    weights: tuple[Difference, ...]
    before_nbytes: int
    after_nbytes: int

    @property
    def same(self) -> bool:
        """Whether names, forms and values are the same."""
        return all(weight.same for weight in self.weights)

    @property
    def same_values(self) -> bool:
        """Whether the second model has all that was trained of the first, whatever its name and form."""
        return not any(weight.told(values=True) for weight in self.weights)

    def forms(self, what: str) -> Counter[str]:
        """How many weights `gained` an encoding, or `lost` one, by its name; both where one took another's place."""
        sides = [one.after if what == "gained" else one.before for one in self.weights if one.form]
        return Counter(side.encoding for side in sides if side is not None and side.encoded)


def differences(before: Model, after: Model) -> Differences:
    """What is different in `after`; one weight of each is in memory at a time.

    Raises:
        CompressorError: a weight cannot be read.
    """
    mine, theirs = _Reader(before), _Reader(after)
    found = []
    weights = joined(after)
    paired = pairs(joined(before), weights)
    twice = copies([one for one, other in paired if one is not None and other is None], weights)
    for one, other in paired:
        values = None
        if one is not None and other is None and one.name in twice:
            copy = twice[one.name]
            values = compare(mine.values(one), theirs.values(copy))
            found.append(Difference(mine.stored(one), None, values, copy.name))
            continue
        if one is not None and other is not None:
            values = compare(mine.values(one), theirs.values(other))
            if values.verdict == "apart" and _same_codes(one.encoding, other.encoding):
                values = Values("rounded")
        found.append(Difference(mine.stored(one), theirs.stored(other), values))
    return Differences(tuple(found), mine.nbytes, theirs.nbytes)


def _same_codes(one: Encoding, other: Encoding) -> bool:
    """Whether both have the same codes, and scales that differ by the rounding to the other's type alone."""
    if isinstance(one, Sparse) and isinstance(other, Sparse):
        masks = one.shape == other.shape and np.array_equal(full_mask(one), full_mask(other))
        return masks and _same_codes(one.values, other.values)
    if not isinstance(one, Quantized) or not isinstance(other, Quantized):
        return False
    if (one.scale.shape, one.block) != (other.scale.shape, other.block):
        return False
    if not np.array_equal(decode(one.data), decode(other.data)):
        return False
    return (
        bool((_zero_point(one) == _zero_point(other)).all())
        and compare(np.asarray(one.scale), np.asarray(other.scale)).same
    )


def _zero_point(encoding: Quantized) -> NDArray:
    point = encoding.zero_point
    return np.zeros((1,) * len(encoding.scale.shape)) if point is None else np.asarray(point).astype(np.float64)


class _Reader:
    """What is to be told of the weights of a model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.nbytes = sum(file.stat().st_size for file in model.files)
        try:
            self.folded = frozenset(json.loads(model.metadata.get(FOLDED, "[]")))
        except (ValueError, TypeError, RecursionError):  # whoever wrote that: it is a note
            self.folded = frozenset()

    def values(self, weight: Weight) -> NDArray:
        try:
            return decode(weight.encoding)
        except DamageError as error:
            raise CompressorError(f"{self.model.path}: {weight.name} cannot be read: {error}.") from error

    def stored(self, weight: Weight | None) -> Stored | None:
        if weight is None:
            return None
        encoding = weight.as_stored
        shape, dtype = encodings.shape(encoding), encodings.dtype(encoding)
        return Stored(
            weight.name,
            shape,
            dtype.name,
            encodings.name(encoding),
            is_encoded(encoding),
            encodings.nbytes(encoding),
            folded=weight.name in self.folded,
        )
