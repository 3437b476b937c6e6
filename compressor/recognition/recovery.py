"""Codes recovered: a weight whose values are codes, or entries of a table, times scales, as what it was trained with.

For a runtime that rounds weights, and would show neither grid nor table afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compressor import encodings
from compressor.arrays import ComputedArray, DType, NDArray, is_float
from compressor.encodings import Dense, Encoding, Palettized, Quantized
from compressor.patterns import eps
from compressor.recognition import schemes
from compressor.recognition.find import described_by, skipped
from compressor.recognition.findings import Settings
from compressor.recognition.scan import Scan, scan
from compressor.recognition.schemes import Candidate, sparsify
from compressor.weight import Weight

Worth = Callable[[Sequence[Encoding]], bool]
"""Whether one of some forms of a weight, specs, is worth it that its scales are rounded, and not its values."""


def recovered(
    weight: Weight, settings: Settings, precision: DType, taking_part: Collection[str], worth: Worth
) -> tuple[Weight, int | None]:
    """A dense weight that scales multiply as its codes or its table, exactly; any other as it is.

    Beside it the bytes of the smallest form of its values, by a sample; None where they were not looked at.

    precision: in which they would be multiplied. A weight of a coarser type keeps its values: the products would lie
        beside them.
    taking_part: the schemes that may.
    worth: asked once for each form that has scales, the smallest first, with what it is under a mask of its zeros.
    """
    encoding = weight.encoding
    if not taking_part or not isinstance(encoding, Dense) or not is_float(encodings.dtype(encoding)):
        return weight, None
    if skipped(weight, settings) or eps(encodings.dtype(encoding)) > eps(precision):
        return weight, None
    values, failed, least = np.asarray(encoding.values), "", None
    for sampled in (True, False):  # a sample tells most; where it has missed a value, all of them do
        facts = scan(values, 0.0, sampled=sampled)
        described = described_by(values, facts)
        least = min([values.nbytes, *(encodings.nbytes(one.spec) for one in described)])
        form = _form(values, facts, described, taking_part, worth)
        if form is None:
            return weight, least
        try:
            return _as_codes(weight, encoding, values, form), least
        except ValueError as error:
            failed = f"kept as values: cannot be stored as {encodings.name(form.spec)}: {error}"
    return replace(weight, note="; ".join(filter(None, (weight.note, failed)))), least


@dataclass(frozen=True, eq=False)
class _Codes:
    """The codes, or the places in a table, of values, found anew: all of them together would fill the memory."""

    source: Dense
    scheme: str
    spec: Quantized

    def __call__(self) -> NDArray:
        found = schemes.get(self.scheme).encode(np.asarray(self.source.values), self.spec, None)
        return encodings.decode(found.data) if isinstance(found.data, Dense) else np.asarray(found.data.indices)


def _form(
    values: NDArray, facts: Scan, described: Sequence[Candidate], taking_part: Collection[str], worth: Worth
) -> Candidate | None:
    """The smallest form of a weight that has scales and is worth it."""
    multiplied = [one for one in described if isinstance(one.spec, Quantized) and one.schemes[-1] in taking_part]
    for one in sorted(multiplied, key=lambda one: encodings.nbytes(one.spec)):
        masked = sparsify.detect(values, facts, [one], 0.0, 0.0) if sparsify.NAME in taking_part else ()
        if worth([one.spec, *(each.spec for each in masked)]):
            return one
    return None


def _as_codes(weight: Weight, source: Dense, values: NDArray, form: Candidate) -> Weight:
    """A weight as its codes, which are computed whenever they are read.

    values: those of the source, which have been read once already.

    Raises:
        ValueError: it is not what the form says.
    """
    spec, (scheme,) = form.spec, form.schemes
    assert isinstance(spec, Quantized)
    found = schemes.get(scheme).encode(values, spec, None)
    later = ComputedArray(encodings.shape(found), _code_dtype(found), _Codes(source, scheme, spec))
    data = replace(found.data, indices=later) if isinstance(found.data, Palettized) else Dense(later)
    return replace(weight, encoding=replace(found, data=data), evidence=form.evidence)


def _code_dtype(found: Quantized) -> DType:
    """Of what is looked up, or of the codes."""
    return found.data.indices.dtype if isinstance(found.data, Palettized) else encodings.dtype(found.data)
